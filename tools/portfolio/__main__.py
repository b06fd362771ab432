"""python -m tools.portfolio: what engines ship for a GPU, measured.

Exit 0 good, 1 something is missing, 2 bad use or impossible here.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from tools.cli import command, run, say
from tools.portfolio import survey
from tools.text import printable


def parser() -> argparse.ArgumentParser:
    """The command line."""
    found = argparse.ArgumentParser(prog="python -m tools.portfolio", description=__doc__.partition("\n")[0])
    survey.add_parser(found.add_subparsers(dest="command", required=True))
    return found


@command("portfolio")
def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code."""
    options = parser().parse_args(sys.argv[1:] if arguments is None else arguments)
    is_whole, text = survey.run(survey.request_of(options), _say)
    print(text, end="")
    return 0 if is_whole else 1


def _say(line: str) -> None:
    say(f"portfolio: {printable(line)}")


if __name__ == "__main__":
    run(main, "portfolio")
