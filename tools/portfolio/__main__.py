"""`python -m tools.portfolio`: which tuned files people need, what is there of them, and a driver for the rest."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

from tools.cli import command, run
from tools.portfolio import listing, survey
from tools.portfolio import run as run_

COMMANDS: Mapping[str, tuple[Callable[[argparse.ArgumentParser], None], Callable[[argparse.Namespace], int]]] = (
    MappingProxyType(
        {
            "status": (listing.add_status, listing.status),
            "next": (listing.add_next, listing.next_names),
            "run": (run_.add_run, run_.run),
            "survey": (survey.add_survey, survey.survey),
        }
    )
)
"""What each command adds to its parser, which describes it, and what runs it; the latter returns the exit code."""


def parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m tools.portfolio",
        description="Says which tuned files people need for a GPU, and tunes and judges those that aren't there.",
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar=f"{{{','.join(COMMANDS)}}}")
    for name, (add, _) in COMMANDS.items():
        add(commands.add_parser(name))
    return parser


@command("portfolio")
def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code."""
    options = parser().parse_args(sys.argv[1:] if arguments is None else arguments)
    _, run_command = COMMANDS[options.command]
    return run_command(options)


if __name__ == "__main__":
    run(main, "portfolio")
