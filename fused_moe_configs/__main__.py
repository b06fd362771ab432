"""The published command, as `fused-moe-configs` and as `python -m fused_moe_configs`."""

import sys


def run() -> int:
    """The command's exit code; 130 for a Ctrl-C, also while modules are imported, and never with a traceback."""
    try:
        from .cli import main

        code = main()
        # The verdict is out: a Ctrl-C while Python ends changes nothing.
        import signal

        signal.signal(signal.SIGINT, signal.SIG_IGN)
    except KeyboardInterrupt:
        return 130
    return code


if __name__ == "__main__":
    sys.exit(run())
