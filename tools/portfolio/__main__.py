"""`python -m tools.portfolio`: what engines ship for a GPU, measured."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

from tools.cli import command, run
from tools.portfolio import survey

COMMANDS: Mapping[str, tuple[Callable[[argparse.ArgumentParser], None], Callable[[argparse.Namespace], int]]] = (
    MappingProxyType({"survey": (survey.add_survey, survey.survey)})
)
"""What each command adds to its parser, which describes it, and what runs it; the latter returns the exit code."""


def parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m tools.portfolio", description="Says what the tuned files that an engine ships are worth."
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
