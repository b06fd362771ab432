"""`python -m tools.convert`: takes over an engine's tuned files into a store like this one."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from datetime import UTC, datetime

from tools.cli import path_argument, run
from tools.convert import converter
from tools.errors import reason_of
from tools.findings import Finding, Report, as_text, emit
from tools.registry.models import load_models
from tools.registry.reading import RegistryError
from tools.store import schemas
from tools.store.files import discover
from tools.store.tiers import Role
from tools.store.workload import Layout
from tools.text import counted, printable


def parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m tools.convert",
        description="Takes over tuned files: names, keys and bytes as in this store, a record with source: published.",
        epilog="Exit 0: all taken over. 1: some were not, each with its reason. 2: bad use.",
    )
    parser.add_argument("path", type=path_argument, metavar="PATH", help="a tuned file, or a folder of them")
    parser.add_argument(
        "--layout",
        type=Layout,
        choices=[Layout.VLLM, Layout.SGLANG],
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


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code."""
    args = parser().parse_args(arguments)
    if not args.attribution.strip() or not args.attribution.isprintable():
        return _refuse(f"--attribution: expected one line of readable text, found {args.attribution!a}")
    attribution = {"attribution": args.attribution.strip()}
    # Alone it lacks the rest of a record; what counts is what is said of the line itself.
    for fault in (fault for fault in schemas.faults("record", attribution) if fault.where == "attribution"):
        return _refuse(f"--attribution: {fault.message}")
    if os.path.lexists(args.to) and not os.path.isdir(args.to):  # noqa: PTH112 (never raises)
        return _refuse(f"--to: expected a folder, found a file: {args.to}")
    source = converter.Attribution(args.layout, args.attribution.strip(), datetime.now(UTC).date())
    try:
        found = discover([args.path], args.layout)
        taken, refused = converter.convert(found, source, load_models())
    except FileNotFoundError as error:
        return _refuse(f"no such file or folder: {error}")
    except RegistryError as error:
        return _refuse(str(error))
    except OSError as error:
        return _refuse(f"{error.filename}: expected to read and write there, found: {reason_of(error)}")
    if not any(file.role in (Role.CONFIG, Role.UNREADABLE) for file in found):
        _print_findings(0, refused)
        return _refuse(f"found no tuned file in the {args.layout} layout below {args.path}; is it another --layout?")
    written, clashes = converter.write(taken, args.to)
    findings = (*refused, *clashes)
    _print_findings(written, findings)
    emit(f"{counted(written, 'file')} taken over into {printable(str(args.to))}, {len(findings)} not")
    return 1 if findings else 0


def _print_findings(written: int, findings: tuple[Finding, ...]) -> None:
    if findings:
        print(as_text(Report(written + len(findings), findings)), file=sys.stderr)


def _refuse(message: str) -> int:
    print(f"convert: {printable(message)}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    run(main)
