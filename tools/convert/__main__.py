"""`python -m tools.convert`: takes over an engine's tuned files into a store like this one."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from tools.cli import command, one_of, path_argument, run
from tools.convert import converter
from tools.dates import today
from tools.errors import reason_of
from tools.findings import Finding, Report, Severity, as_text, emit
from tools.registry.devices import load_devices
from tools.registry.models import load_models
from tools.registry.reading import RegistryError
from tools.store import schemas
from tools.store.files import discover
from tools.store.tiers import Role
from tools.store.workload import Layout
from tools.text import counted, printable, shown_path
from tools.validate.exceptions import Exceptions, ExceptionsError
from tools.validate.model import Context


def parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m tools.convert",
        description="Takes over tuned files: names, keys and bytes as in this store, a record with source: published.",
        epilog="Exit 0: all taken over; each with its tier. 1: some were not, each with its reason; what `validate` "
        "would refuse is left out. 2: bad use.",
    )
    parser.add_argument("path", type=path_argument, metavar="PATH", help="a tuned file, or a folder of them")
    parser.add_argument(
        "--layout",
        type=one_of((Layout.VLLM, Layout.SGLANG)),
        required=True,
        metavar="{vllm,sglang}",
        help="vllm: a flat folder; sglang: a tree of triton_X_Y_Z/",
    )
    parser.add_argument(
        "--to", type=path_argument, required=True, metavar="DIR", help="a configs folder; made if missing"
    )
    parser.add_argument(
        "--attribution",
        required=True,
        metavar="TEXT",
        help="who measured the figures, and their licence: 'vLLM contributors, Apache-2.0' for vLLM's own files",
    )
    return parser


@command("convert")
def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code."""
    args = parser().parse_args(arguments)
    if not args.attribution.strip() or not args.attribution.isprintable():
        return _refuse(
            f"--attribution: expected one line of readable text, found {args.attribution!a}. Fix: name who measured"
        )
    attribution = {"attribution": args.attribution.strip()}
    # Alone it lacks the rest of a record; what counts is what is said of the line itself.
    for fault in (fault for fault in schemas.faults("record", attribution) if fault.where == "attribution"):
        return _refuse(f"--attribution: {fault.message}. Fix: name who measured, in plain words")
    if os.path.lexists(args.to) and not os.path.isdir(args.to):  # noqa: PTH112 (never raises)
        return _refuse(f"--to: expected a folder, found a file: {args.to}. Fix: name a folder; it is made if missing")
    source = converter.Attribution(args.layout, args.attribution.strip(), today())
    try:
        found = discover([args.path], args.layout)
        context, exceptions = Context(Layout.REPO, load_devices(), load_models()), Exceptions.load()
        taken, refused = converter.convert(found, source, context.models)
    except FileNotFoundError as error:
        return _refuse(f"no such file or folder: {error}. Fix: correct the path")
    except (RegistryError, ExceptionsError) as error:
        return _refuse(str(error))
    except OSError as error:
        return _refuse(f"{error.filename}: expected to read it, found: {reason_of(error)}. Fix: make it readable")
    if not any(file.role in (Role.CONFIG, Role.UNREADABLE) for file in found):
        _print_findings(len(refused), refused)
        return _refuse(
            f"{args.path}: expected tuned files in the {args.layout} layout, found none. "
            "Fix: name a file, a folder that holds some, or another --layout"
        )
    if (own := converter.its_own_source(taken, args.to)) is not None:
        return _refuse(
            f"--to: expected another folder than the one that is read, found {args.to}, where {own} lies. "
            "Fix: name a store's configs folder"
        )
    unsound = converter.refused_by_validate(taken, args.to, context, exceptions)
    written, said = converter.write([file for file in taken if file not in unsound], args.to)
    left = [finding for finding in (*refused, *said) if finding.severity is not Severity.INFO]
    errors = [finding for of_file in unsound.values() for finding in of_file]
    _print_findings(len(written) + len(left) + len(unsound), (*refused, *said, *errors))
    for file in written:
        emit(_line(file, args.to))
    for file, of_file in unsound.items():
        emit(f"left out: {printable(file.name)} (validate refuses it: {', '.join(sorted({e.rule for e in of_file}))})")
    emit(f"{counted(len(written), 'file')} taken over into {printable(str(args.to))}, {len(left) + len(unsound)} not")
    if kept := [finding for finding in said if finding.severity is Severity.INFO]:
        emit(f"{counted(len(kept), 'record')} stayed with another attribution")
    return 1 if left or unsound else 0


def _line(file: converter.Taken, destination: Path) -> str:
    """Into which tier a file went, what the loader reads in its place, and whether anybody is known to ask for it."""
    tier = "default tier" if len(file.relative.parts) == 1 else f"{file.relative.parent}/"
    hidden = converter.hidden_by(file, destination)
    why = "" if hidden is None else f" (hidden: {shown_path(hidden)} is read before it)"
    unknown = "" if file.is_explained else " (no registered model has its E and N on a rank: are both right?)"
    return f"{tier}: {printable(file.name)}{why}{unknown}"


def _print_findings(files: int, findings: Sequence[Finding]) -> None:
    if findings:
        print(as_text(Report(files, tuple(findings))), file=sys.stderr)


def _refuse(message: str) -> int:
    print(f"convert: {printable(message)}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    run(main, "convert")
