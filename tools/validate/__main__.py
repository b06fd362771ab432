"""`python -m tools.validate`: proves tuned files without a GPU."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from tools.checkout import CONFIGS
from tools.cli import command, one_of, path_argument, run, say
from tools.errors import reason_of
from tools.findings import FORMATS, Finding, Report, Severity, emit
from tools.registry.devices import load_devices
from tools.registry.engines import load_engines
from tools.registry.models import load_models
from tools.registry.reading import RegistryError
from tools.store.files import discover
from tools.store.tiers import REGISTRY, Role
from tools.store.workload import Layout
from tools.text import printable, shown_path
from tools.validate import fixer, runner
from tools.validate.exceptions import Exceptions, ExceptionsError
from tools.validate.model import Context


def parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m tools.validate",
        description="Proves tuned files without a GPU: names, JSON, schema, coverage, values, memory, records.",
        epilog="Exit 0: no errors (warnings and infos may be printed). 1: errors found. 2: bad use.",
    )
    parser.add_argument(
        "paths", nargs="*", type=path_argument, metavar="PATH", help="files or folders; default: configs/"
    )
    parser.add_argument(
        "--layout",
        type=one_of(Layout),
        default=Layout.REPO,
        metavar="{repo,vllm,sglang}",
        help="repo: this store (default); vllm: a flat folder; sglang: a tree of triton_X_Y_Z/",
    )
    parser.add_argument("--format", choices=list(FORMATS), default="text", help="default: text")
    parser.add_argument("--fix", action="store_true", help="rewrite files to canonical bytes; no value changes")
    return parser


@command("validate")
def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code."""
    args = parser().parse_args(arguments)
    paths = args.paths or [CONFIGS]
    if args.fix and args.layout is not Layout.REPO:
        return _refuse(
            f"--fix: expected --layout repo, whose canonical bytes it writes, found --layout {args.layout}. "
            "Fix: leave out --fix"
        )
    try:
        fixed = fixer.fix(paths, args.layout) if args.fix else fixer.Fixed((), ())
        for path in fixed.rewritten:
            print(f"fixed {shown_path(path)}", file=sys.stderr)
        report = fixed.add_to(_report(paths, args.layout))
        nothing_there = args.paths and not report.failed and not _anything_to_prove(paths, args.layout)
    except FileNotFoundError as error:
        return _refuse(f"no such file or folder: {error}. Fix: correct the path")
    except ExceptionsError as error:
        return _refuse(str(error))
    except OSError as error:
        return _refuse(
            f"{error.filename or 'the files'}: expected to read it, found: {reason_of(error)}. Fix: make it readable"
        )
    if report.findings or not nothing_there:
        emit(FORMATS[args.format](report))
    if nothing_there:
        below = ", ".join(map(shown_path, paths))
        return _refuse(
            f"{below}: expected tuned files in the {args.layout} layout, found none. "
            "Fix: name a file, a folder that holds some, or another --layout"
        )
    return 1 if report.failed else 0


def _refuse(message: str) -> int:
    say(f"validate: {printable(message)}")
    return 2


def _anything_to_prove(paths: Sequence[Path], layout: Layout) -> bool:
    """Whether a tuned file, a record or a registry lies there; a README alone is nothing that could be proved."""
    found = discover(paths, layout)
    roles = {file.role for file in found}
    in_registry = any(file.role is Role.KNOWN and file.folder == REGISTRY for file in found)
    return bool(roles & {Role.CONFIG, Role.RECORD}) or (layout is Layout.REPO and in_registry)


def _report(paths: Sequence[Path], layout: Layout) -> Report:
    """A registry that can't be read is one finding, not hundreds of unknown devices or shapes."""
    try:
        context = Context(layout, load_devices(), load_models())
        load_engines()  # which rules ask of every record
    except RegistryError as error:
        fix = f"{error.fix or 'repair it'}; nothing else was checked"
        path = shown_path(error.path or CONFIGS / REGISTRY)
        return Report(0, (Finding(path, "registry", Severity.ERROR, error.reason, fix),))
    return runner.validate(paths, context, Exceptions.load())


if __name__ == "__main__":
    run(main, "validate")
