"""`python -m tools.pull_request`: hands its arguments to one of its commands."""

from __future__ import annotations

import importlib
import sys

from tools.console import run

COMMANDS = ("measure", "report", "verify")


def main() -> int:
    """Runs the command; returns its exit code."""
    name, *arguments = sys.argv[1:] or [""]
    if name not in COMMANDS:
        print(f"pull_request: expected one of {', '.join(COMMANDS)}.", file=sys.stderr)
        return 2
    command = importlib.import_module(f"tools.pull_request.{name}")
    return int(command.main(arguments))


if __name__ == "__main__":
    run(main)
