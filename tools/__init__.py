"""Everything behind a nox session. `python -m tools.NAME --help` tells what each tool does."""

import os
import signal
import sys

# `python -m tools.NAME`: while its modules are imported, nothing is begun that would have to be undone, and Ctrl-C
# would show where in the imports it struck. From `tools.cli.run` on, the command answers signals itself.
if sys.argv[:1] == ["-m"] and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, lambda number, _: os._exit(128 + number))
