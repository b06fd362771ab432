"""The command line: `bench files PATH…` and `bench kernels --workload …`, checked before anything runs.

Standard library only.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from kernels.problem import Flavour
from tools.checkout import MEASUREMENTS
from tools.child_process import MAX_JOBS, usable_cores
from tools.cli import check_within, engine_path, one_of, path_argument
from tools.errors import UserError
from tools.launch.engine_package import KERNEL_FILES
from tools.measure.panel import (
    DRAWN_KINDS,
    LEAST_SKEWED_TOKENS,
    MAX_DRAWS,
    MAX_NUM_TOKENS,
    MIN_BLOCKS,
    RoutingKind,
)
from tools.measure.seeds import NUM_SERIES
from tools.store.workload import Layout

FILES, KERNELS = "files", "kernels"
"""The file that each engine's kernel stands in."""
HEURISTIC = "heuristic"
BATCH_SIZES = (1, 4, 16, 64, 128, 256, 512, 1024, 4096)
DRAWN_NAMES = tuple(kind.value for kind in DRAWN_KINDS)


Say = Callable[[str], None]
"""Tells a person of the progress, a line at a time."""


@dataclass(frozen=True)
class EngineFile:
    """An engine and the installed source that its kernel is cut out of."""

    flavour: Flavour
    path: Path


@dataclass(frozen=True)
class FilesRequest:
    """`bench files`. engine None: our own kernel. batch_sizes empty: the files'. output None: only printed.

    routing: the only kind that is drawn, or the file of a recorded one; None: every kind. series: of draws.
    most_blocks: of a part; None: as many as its verdict needs.
    """

    paths: tuple[Path, ...]
    layout: Layout
    against: tuple[str, ...]
    engine: EngineFile | None
    batch_sizes: tuple[int, ...]
    routing: RoutingKind | Path | None
    series: int
    most_blocks: int | None
    jobs: int
    output: Path | None
    writes_record: bool
    as_json: bool


@dataclass(frozen=True)
class KernelsRequest:
    """`bench kernels`, but for what only the device can tell. workloads: as asked for, «MODEL tp=N».

    ep=N and dtype=D may follow.
    """

    engine: EngineFile
    workloads: tuple[str, ...]
    batch_sizes: tuple[int, ...]
    launch_configs: int
    jobs: int
    output: Path
    as_json: bool


def parse(arguments: Sequence[str]) -> FilesRequest | KernelsRequest:
    """What is asked for; `PATH…` alone is short for `files PATH…`. SystemExit(2) with a usage line, or UserError."""
    if arguments and arguments[0] not in (FILES, KERNELS, "-h", "--help"):
        _check_short(arguments)
        arguments = [FILES, *arguments]
    options = parser().parse_args(arguments)
    check_within("--num-tokens", options.num_tokens, MAX_NUM_TOKENS)
    check_within("--jobs", [options.jobs], MAX_JOBS)
    return _files_request(options) if options.command == FILES else _kernels_request(options)


def parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m tools.bench",
        description="Measures tuned files, or kernels, side by side on a GPU. "
        f"PATH without a command before it is short for {FILES} PATH.",
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar=f"{{{FILES},{KERNELS}}}")
    _add_files(commands)
    _add_kernels(commands)
    return parser


def _add_files(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser(
        FILES,
        help="tuned files beside what would run without them",
        description="Measures tuned files side by side with what would run without them.",
        epilog="Exit 0: no row slower. 1: a row is slower beyond doubt or fails, or a record isn't written. "
        "2: bad use, or impossible here.",
    )
    parser.add_argument(
        "paths",
        nargs="+",
        type=path_argument,
        metavar="PATH",
        help="tuned files, or folders of them; a _down file beside one runs down for SGLang",
    )
    parser.add_argument("--layout", type=one_of(Layout), default=Layout.REPO, metavar="{repo,vllm,sglang}")
    parser.add_argument(
        "--against", action="append", metavar="heuristic|FILE|GIT-REV", help="may be given several times (heuristic)"
    )
    parser.add_argument("--kernel", default="own", metavar="own|vllm=FILE|sglang=FILE", help="on whose kernel (own)")
    _add_batch_sizes(parser, "the file's keys")
    parser.add_argument(
        "--routing",
        type=_routing,
        metavar="|".join((*DRAWN_NAMES, "FILE.npy")),
        help="how tokens choose experts, drawn or as recorded (all that are drawn; no skew below "
        f"M={LEAST_SKEWED_TOKENS})",
    )
    parser.add_argument(
        "--series",
        type=int,
        default=0,
        metavar="N",
        help=f"of draws, 0 to {NUM_SERIES - 1} (0): another one shares no draw with it, nor does the tuner",
    )
    parser.add_argument(
        "--blocks",
        type=int,
        metavar="N",
        help=f"of draws, at most so many a verdict, {MIN_BLOCKS} or more (until it is clear, up to {MAX_DRAWS} draws)",
    )
    _add_jobs(parser)
    parser.add_argument("--output", type=path_argument, metavar="DIR", help="write markdown and JSON there as well")
    parser.add_argument("--write-record", action="store_true", help="note the outcome in the files' records")
    parser.add_argument("--format", choices=("markdown", "json"), default="markdown")


def _add_kernels(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser(
        KERNELS,
        help="our kernel beside an engine's own",
        description="Times our kernel beside an engine's with the same inputs and launch configs.",
        epilog="Exit 0: every criterion holds. 1: one doesn't. 2: bad use, or impossible here.",
    )
    parser.add_argument(
        "--kernel",
        required=True,
        metavar="vllm=FILE|sglang=FILE",
        help=f"the engine's installed {' or '.join(KERNEL_FILES.values())}; ours runs in that engine's flavour",
    )
    parser.add_argument(
        "--workload",
        action="append",
        required=True,
        metavar='"MODEL tp=N [ep=N] [dtype=D]"',
        help="may be given several times",
    )
    _add_batch_sizes(parser, " ".join(map(str, BATCH_SIZES)))
    parser.add_argument("--launch-configs", type=int, default=60, metavar="N", help="how many a workload (60)")
    _add_jobs(parser)
    parser.add_argument("--output", type=path_argument, default=MEASUREMENTS, metavar="DIR")
    parser.add_argument("--format", choices=("text", "json"), default="text")


def _routing(text: str) -> RoutingKind | Path:
    if text in DRAWN_NAMES:
        return RoutingKind(text)
    if not text.endswith(".npy"):
        raise argparse.ArgumentTypeError(f"expected {', '.join(DRAWN_NAMES)} or FILE.npy, found {text!r}")
    return path_argument(text)


def _add_batch_sizes(parser: argparse.ArgumentParser, default: str) -> None:
    parser.add_argument(
        "--num-tokens", type=int, action="extend", nargs="+", default=[], metavar="M", help=f"default: {default}"
    )


def _add_jobs(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--jobs", type=int, default=usable_cores(), help="compiling processes (one a core)")


def _check_short(arguments: Sequence[str]) -> None:
    """Kernels were once compared without a command's name."""
    if any(argument.partition("=")[0] == "--workload" for argument in arguments):
        command = f"python -m tools.bench {KERNELS} --kernel vllm=PATH/fused_moe.py --workload …"
        raise UserError(f"--workload: expected the command {KERNELS}, found none. Fix: {command}")


def _files_request(options: argparse.Namespace) -> FilesRequest:
    against = tuple(dict.fromkeys(options.against or [HEURISTIC]))
    engine = None if options.kernel == "own" else _engine_file(options.kernel, "own, ")
    check_within("--series", [options.series], NUM_SERIES - 1, least=0)
    if options.blocks is not None:
        check_within("--blocks", [options.blocks], MAX_DRAWS, least=MIN_BLOCKS)
    if options.write_record:
        _check_evidence(options, against)
    return FilesRequest(
        tuple(options.paths),
        options.layout,
        against,
        engine,
        _batch_sizes(options),
        options.routing,
        options.series,
        options.blocks,
        options.jobs,
        options.output,
        options.write_record,
        options.format == "json",
    )


def _kernels_request(options: argparse.Namespace) -> KernelsRequest:
    check_within("--launch-configs", [options.launch_configs], 10_000)
    return KernelsRequest(
        _engine_file(options.kernel),
        tuple(options.workload),
        _batch_sizes(options) or BATCH_SIZES,
        options.launch_configs,
        options.jobs,
        options.output,
        options.format == "json",
    )


def _engine_file(text: str, others: str = "") -> EngineFile:
    ends = {engine: f"/{file}" for engine, file in KERNEL_FILES.items()}
    engine, path = engine_path("--kernel", text, ends, others)
    return EngineFile(Flavour(engine), path)


def _batch_sizes(options: argparse.Namespace) -> tuple[int, ...]:
    return tuple(sorted(set(options.num_tokens)))


def _check_evidence(options: argparse.Namespace, against: Sequence[str]) -> None:
    """A record speaks of the whole file under every routing, and of an engine only beside that engine's own answer."""
    every_of = {
        "--num-tokens": (options.num_tokens, "batch size of the file"),
        "--routing": (options.routing, "drawn routing"),
        "--blocks": (options.blocks, "block that a verdict needs"),
    }
    for flag, (given, every) in every_of.items():
        if given:
            raise UserError(f"--write-record: expected every {every}, found {flag}. Fix: drop one.")
    if options.kernel != "own" and HEURISTIC not in against:
        raise UserError(
            f"--write-record with --kernel {options.kernel}: expected --against heuristic among what it meets, found "
            f"{', '.join(against)}. Fix: add --against heuristic."
        )
