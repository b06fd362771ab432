"""`python -m tools.validate`: proves tuned files without a GPU."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from tools import store
from tools.findings import FORMATS, Finding, Report, Severity, emit
from tools.registry import RegistryError, load_devices
from tools.validate import runner
from tools.validate.exceptions import Exceptions, ExceptionsError
from tools.workload import Layout


def parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m tools.validate",
        description="Proves tuned files without a GPU: names, JSON, schema, coverage, values, memory, records.",
        epilog="Exit 0: no errors (warnings and infos may be printed). 1: errors found. 2: bad use.",
    )
    parser.add_argument("paths", nargs="*", type=Path, metavar="PATH", help="files or folders; default: configs/")
    parser.add_argument(
        "--layout",
        type=Layout,
        choices=list(Layout),
        default=Layout.REPO,
        metavar="{repo,vllm,sglang}",
        help="repo: this store (default); vllm: a flat folder; sglang: a tree of triton_X_Y_Z/",
    )
    parser.add_argument("--format", choices=list(FORMATS), default="text", help="default: text")
    parser.add_argument("--fix", action="store_true", help="rewrite files to canonical bytes; no value changes")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code."""
    args = parser().parse_args(arguments)
    paths = args.paths or [store.CONFIGS]
    if args.fix and args.layout is not Layout.REPO:
        print("validate: --fix writes this store's canonical bytes and needs --layout repo", file=sys.stderr)
        return 2
    try:
        if args.fix:
            for path in runner.fix(paths, args.layout):
                print(f"fixed {store.shown(path)}", file=sys.stderr)
        report = _report(paths, args.layout)
    except FileNotFoundError as error:
        print(f"validate: no such file or folder: {store.printable(str(error))}", file=sys.stderr)
        return 2
    except (ExceptionsError, OSError) as error:
        print(f"validate: {store.printable(str(error))}", file=sys.stderr)
        return 2
    if not report.files:
        print(f"validate: found no tuned file in the {args.layout} layout there", file=sys.stderr)
    emit(FORMATS[args.format](report))
    return 1 if report.failed else 0


def _report(paths: Sequence[Path], layout: Layout) -> Report:
    """A registry that can't be read is one finding, not hundreds of unknown devices."""
    try:
        devices = load_devices()
    except RegistryError as error:
        path = store.shown(store.CONFIGS / store.REGISTRY / "devices.json")
        return Report(0, (Finding(path, "registry", Severity.ERROR, str(error), "repair it first; nothing else ran"),))
    return runner.validate(paths, layout, devices, Exceptions.load())


if __name__ == "__main__":
    sys.exit(main())
