"""The command line `python -m tools.bench PATH…`, checked before anything runs. Standard library only."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tools.bench.request import HEURISTIC, MAX_JOBS, MAX_NUM_TOKENS, RequestError, check_counts
from tools.child_process import usable_cores
from tools.cli import path_argument
from tools.store.workload import Layout


@dataclass(frozen=True)
class FilesRequest:
    """engine_path None: our own kernel. batch_sizes empty: each file's own. output None: only printed."""

    paths: tuple[Path, ...]
    layout: Layout
    against: tuple[str, ...]
    engine_path: Path | None
    batch_sizes: tuple[int, ...]
    routing: str
    jobs: int
    output: Path | None
    writes_record: bool
    as_json: bool


def parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m tools.bench",
        description="Measures tuned files side by side with what would run without them.",
        epilog="Exit 0: no row slower. 1: a row is slower beyond noise or fails, or a record isn't written. "
        "2: bad use, or impossible here. "
        "With --workload instead of PATH: our kernel against the engine's own (see --workload X --help).",
    )
    parser.add_argument(
        "paths",
        nargs="+",
        type=path_argument,
        metavar="PATH",
        help="tuned files, or folders of them; _down files are left out: the up file's entries run both projections",
    )
    parser.add_argument(
        "--layout", type=Layout, choices=list(Layout), default=Layout.REPO, metavar="{repo,vllm,sglang}"
    )
    parser.add_argument(
        "--against", action="append", metavar="heuristic|FILE|GIT-REV", help="may be given several times (heuristic)"
    )
    parser.add_argument("--kernel", default="own", metavar="own|vllm=FILE", help="on whose kernel (own)")
    parser.add_argument("--num-tokens", type=int, nargs="+", default=[], metavar="M", help="default: the file's keys")
    parser.add_argument("--routing", choices=("uniform", "skew"), default="uniform")
    parser.add_argument("--jobs", type=int, default=usable_cores(), help="compiling processes (one a core)")
    parser.add_argument("--output", type=path_argument, metavar="DIR", help="write markdown and JSON there as well")
    parser.add_argument("--write-record", action="store_true", help="note the outcome in the files' records")
    parser.add_argument("--format", choices=("markdown", "json"), default="markdown")
    return parser


def parse(arguments: Sequence[str]) -> FilesRequest:
    """SystemExit(2) with a usage line, or RequestError."""
    options = parser().parse_args(arguments)
    engine, _, path = options.kernel.partition("=")
    if options.kernel != "own" and (engine != "vllm" or not path):
        raise RequestError(f"--kernel: expected own or vllm=PATH/fused_moe.py, found {options.kernel!r}.")
    check_counts("--num-tokens", options.num_tokens, MAX_NUM_TOKENS)
    check_counts("--jobs", [options.jobs], MAX_JOBS)
    against = tuple(dict.fromkeys(options.against or [HEURISTIC]))
    if options.write_record:
        _check_evidence(options.num_tokens, against, options.kernel)
    return FilesRequest(
        tuple(options.paths),
        options.layout,
        against,
        Path(path) if path else None,
        tuple(sorted(set(options.num_tokens))),
        options.routing,
        options.jobs,
        options.output,
        options.write_record,
        options.format == "json",
    )


def _check_evidence(num_tokens: Sequence[int], against: Sequence[str], kernel: str) -> None:
    """A record speaks of the whole file, and of an engine only beside that engine's own answer."""
    if num_tokens:
        raise RequestError("--write-record: expected every batch size of the file, found --num-tokens. Fix: drop one.")
    if kernel != "own" and HEURISTIC not in against:
        raise RequestError(
            f"--write-record with --kernel {kernel}: expected --against heuristic among what it meets, found "
            f"{', '.join(against)}. Fix: add --against heuristic."
        )
