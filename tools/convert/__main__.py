"""`python -m tools.convert`: takes over an engine's tuned files into a store like this one."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from tools import store
from tools.convert import converter
from tools.findings import Report, as_text, emit
from tools.registry import RegistryError, load_models
from tools.workload import Layout


def parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m tools.convert",
        description="Takes over tuned files: names, keys and bytes as in this store, a record with source: published.",
        epilog="Exit 0: all taken over. 1: some were not, each with its reason. 2: bad use.",
    )
    parser.add_argument("path", type=Path, metavar="PATH", help="a tuned file, or a folder of them")
    parser.add_argument(
        "--layout",
        type=Layout,
        choices=[Layout.VLLM, Layout.SGLANG],
        required=True,
        metavar="{vllm,sglang}",
        help="vllm: a flat folder; sglang: a tree of triton_X_Y_Z/",
    )
    parser.add_argument("--to", type=Path, required=True, metavar="DIR", help="a configs folder; made if missing")
    parser.add_argument("--attribution", help="whose figures they are and their licence; default: the engine's own")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code."""
    args = parser().parse_args(arguments)
    source = converter.Source(
        args.layout, args.attribution or converter.ATTRIBUTION[args.layout], datetime.now(UTC).date()
    )
    try:
        found = store.discover([args.path], args.layout)
        taken, refused = converter.convert(found, source, load_models())
        written, clashes = converter.write(taken, args.to)
    except FileNotFoundError as error:
        print(f"convert: no such file or folder: {store.printable(str(error))}", file=sys.stderr)
        return 2
    except (RegistryError, OSError, UnicodeError) as error:
        print(f"convert: {store.printable(str(error))}", file=sys.stderr)
        return 2
    findings = (*refused, *clashes)
    if findings:
        print(as_text(Report(written + len(findings), findings)), file=sys.stderr)
    emit(f"{written} files taken over into {store.printable(str(args.to))}, {len(findings)} not")
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main())
