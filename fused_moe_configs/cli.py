"""The published command's edge: arguments, errors for people, exit codes. What each subcommand does is in commands/."""

from __future__ import annotations

from . import __version__
from .commands import doctor, explain, export, list_files, where
from .commands.console import Parser, StdoutError, flush_streams, open_streams, say, without_output
from .lookup import ConfigError, printable

COMMANDS = {"where": where, "list": list_files, "explain": explain, "export": export, "doctor": doctor}


def main(arguments: list[str] | None = None) -> int:
    """Exit code: 0 good, 1 nothing found or a broken file, 2 bad use or impossible on this machine, 130 Ctrl-C.

    A closed or full output is no traceback.
    """
    open_streams()
    try:
        code = _run(arguments)
    except StdoutError as error:
        code = without_output(error.__cause__)
    except KeyboardInterrupt:
        code = 130
    flush_streams()
    return code


def _run(arguments: list[str] | None) -> int:
    try:
        options = vars(_parser().parse_args(arguments))
    except SystemExit as end:  # --help, --version, bad use
        return int(end.code or 0)
    command = options.pop("command")
    try:
        return int(options.pop("run")(**options))
    except OSError as error:
        place = printable(error.filename or options.get("destination"))
        found = error.strerror or error
        say(f"error: {place}: expected to write there, found: {found}. Fix: name another place")
    except (ValueError, RuntimeError) as error:
        way_out = "" if "Fix: " in str(error) else f". Fix: correct it; `fused-moe-configs {command} --help` helps"
        say(f"error: {error}{way_out}")
        return 1 if isinstance(error, ConfigError) else 2
    return 2


def _parser() -> Parser:
    parser = Parser("fused-moe-configs", description="Tuned configs of the fused MoE Triton kernel.")
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(required=True, dest="command", metavar=" | ".join(COMMANDS))
    for command in COMMANDS.values():
        command.add_to(commands)
    return parser
