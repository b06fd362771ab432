"""python -m fused_moe_configs: the published command."""

import sys

from .cli import main

if __name__ == "__main__":
    sys.exit(main())
