"""`python -m tools.compile`: proves without a GPU that every launch config compiles and fits its device."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from tools.checkout import CHECKOUT, CONFIGS, installed_triton
from tools.child_process import MAX_JOBS, usable_cores
from tools.cli import check_within, command, one_of, run, say
from tools.compile import check
from tools.compile.plan import concerned, concerns_all
from tools.compile.pool import DEFAULT_TIMEOUT_S, CompilePool
from tools.errors import UserError, reason_of
from tools.findings import FORMATS, Report, ordered
from tools.git import CommitError, Repository
from tools.registry.devices import load_devices
from tools.registry.models import load_models
from tools.store.config_file import Tree, load
from tools.store.files import discover
from tools.store.workload import Layout
from tools.text import counted, printable, shown_path

MAX_SECONDS = 86_400


def parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m tools.compile",
        description="Compiles each distinct launch config of tuned files for its device's architecture, without a GPU.",
        epilog="Exit 0: everything compiles and fits. 1: errors found. 2: bad use, or no Triton here.",
    )
    parser.add_argument("paths", nargs="*", type=Path, metavar="PATH", help="files or folders; default: configs/")
    parser.add_argument("--layout", type=one_of(Layout), default=Layout.REPO, metavar="{repo,vllm,sglang}")
    parser.add_argument("--jobs", type=int, default=usable_cores(), metavar="N", help="processes; default: cores")
    parser.add_argument(
        "--timeout", type=float, default=DEFAULT_TIMEOUT_S, metavar="S", help="seconds a kernel may take"
    )
    parser.add_argument("--format", choices=list(FORMATS), default="text", help="default: text")
    parser.add_argument(
        "--since", metavar="REV", help="only files that changed since HEAD's history left this git revision's"
    )
    parser.add_argument(
        "--every-version",
        action="store_true",
        help="compile files of other Triton versions too, as an engine that falls back to them would",
    )
    return parser


@command("compile")
def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code."""
    parsed = parser()
    args = parsed.parse_args(arguments)
    check_within("--jobs", [args.jobs], MAX_JOBS)
    if not 0 < args.timeout <= MAX_SECONDS:
        parsed.error(f"--timeout: expected above 0 and at most {MAX_SECONDS} seconds, found {args.timeout:g}")
    triton = installed_triton()
    if triton is None:
        raise UserError("expected Triton, found none. Fix: run `nox -s compile`, which installs it")
    registries = check.Registries(load_devices(), load_models())
    paths = args.paths or [CONFIGS]
    tree = _read(paths, args.layout)
    files, closed = list(tree.configs), check.closed_folders(tree.others)
    if not files and not closed:
        below = ", ".join(map(shown_path, paths))
        expected = f"expected tuned files in the {args.layout} layout, found none"
        raise UserError(f"{below}: {expected}. Fix: name a file, a folder that holds some, or another --layout")
    if args.since is not None:
        changed = _changed_since(args.since)
        if every := concerns_all(changed):
            more = f" and {len(every) - 1} more" if len(every) > 1 else ""
            why = f"{printable(every[0])}{more} changed since {args.since}, on which every file's outcome hangs"
            say(f"compile: {counted(len(files), 'file')} compiled, which is all: {why}")
        files = concerned(files, changed)
    own, others = (files, []) if args.every_version else check.split_by_triton(files, triton)
    with CompilePool(args.jobs, timeout_s=args.timeout) as pool, _progress() as on_progress:
        result = check.check(own, registries, pool, on_progress)
    report = Report(len(files), ordered([*closed, *result.report.findings, *check.unchecked(others, triton)]))
    print(FORMATS[args.format](report))
    if args.format != "json":
        print(_table(result.summary, triton))
    return 1 if report.failed else 0


def _read(paths: Sequence[Path], layout: Layout) -> Tree:
    """UserError: a path isn't there, or can't be read."""
    try:
        return load(discover(paths, layout), layout)
    except FileNotFoundError as error:
        raise UserError(f"no such file or folder: {error}. Fix: correct the path.") from error
    except OSError as error:
        found = reason_of(error)
        raise UserError(f"{error.filename}: expected to read it, found: {found}. Fix: make it readable.") from error


def _changed_since(revision: str) -> tuple[str, ...]:
    """UserError: git can't tell."""
    try:
        return Repository(CHECKOUT).changed_since(revision)
    except CommitError as error:
        raise UserError(f"--since {error}") from error


def _table(summary: check.CheckSummary, triton: str) -> str:
    outcomes = ", ".join(f"{count} {status}" for status, count in summary.outcomes.items()) or "none"
    rows = {
        "Triton": triton,
        "files compiled": str(summary.files),
        "distinct kernels": str(summary.kernels),
        "seconds": f"{summary.seconds:.1f}",
        "outcomes": outcomes,
    }
    return "\n".join(f"{name:<17} {value}" for name, value in rows.items())


@contextmanager
def _progress() -> Iterator[check.OnProgress]:
    """A progress bar on a terminal, nothing elsewhere."""
    if not sys.stderr.isatty():
        yield lambda *_: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("compiling"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("compiling", total=None)
        yield lambda done, total: progress.update(task, completed=done, total=total)


if __name__ == "__main__":
    run(main, "compile")
