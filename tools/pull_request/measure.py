"""`measure`: one device's leg of a plan, on a GPU runner. Main's code works on the plan's numbers and nothing else.

Each workload goes through `tools.bench` (claimed beside main's beside the heuristic) and, where the pull request
changes its entries, through `tools.tune`. What goes wrong with one is a reason in its result; the others go on.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from tools.checkout import reference_triton
from tools.cli import path_argument, say
from tools.launch.heuristics import UnknownHeuristicError, vllm_heuristic
from tools.pull_request.children import run_tool
from tools.pull_request.documents import (
    CONFIGS,
    DEFAULT_TIER,
    RESULTS,
    DocumentError,
    FileId,
    MeasuredFile,
    PlannedFile,
    Results,
    read_plan,
    results_json,
)
from tools.pull_request.gpu_site import GpuBackend
from tools.pull_request.judgement import rows_of
from tools.pull_request.replay_site import ReplayBackend
from tools.pull_request.site import Backend, BenchedFile, NotMeasuredError
from tools.registry.shapes import quant_mode_of
from tools.store.files import canonical_entries, record_path, version_folder, write_file
from tools.store.strict_json import Json
from tools.store.tiers import LEGACY
from tools.text import shown, shown_path

BENCH_LIMIT_S = 900.0
TUNE_SPARE_S = 300.0
"""Beyond its budget, for start, check and confirmation."""


@dataclass(frozen=True)
class TimeLimits:
    """Seconds: what the tuner may search, and when everything must be written. until_s on the monotonic clock."""

    time_budget_s: float
    until_s: float

    def cut(self, wanted_s: float) -> float:
        """NotMeasuredError: the leg's time is over."""
        left_s = min(wanted_s, self.until_s - time.monotonic())
        if left_s <= 0:
            raise NotMeasuredError("timeout")
        return left_s


@dataclass(frozen=True)
class Retuned:
    """us: by batch size. is_other: the file differs from the claimed one, and was kept."""

    us: Mapping[int, float]
    is_other: bool


def parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m tools.pull_request measure",
        description="Measures one device's leg of a plan: benches claimed files beside main's, and re-tunes them.",
        epilog="Exit 0: results were written, whatever they say. 2: bad use; nothing was written.",
    )
    parser.add_argument("--plan", type=path_argument, required=True, metavar="FILE", help="what `plan` wrote")
    parser.add_argument("--device", required=True, metavar="NAME", help="which leg")
    parser.add_argument("--out", type=path_argument, required=True, metavar="DIR", help=f"{RESULTS} and {CONFIGS}/")
    parser.add_argument("--replay", type=path_argument, metavar="FOLDER", help="landscapes NAME.jsonl.gz, no GPU")
    parser.add_argument("--time-budget", type=float, default=45.0, metavar="S", help="of the tuner, a workload (45)")
    parser.add_argument(
        "--triton",
        default=reference_triton(),
        metavar="X.Y.Z",
        help="measure default files under this one, which must be installed; default: the reference, %(default)s",
    )
    parser.add_argument("--limit", type=float, default=6000.0, metavar="S", help="of the whole leg (6000)")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code."""
    options = parser().parse_args(arguments)
    try:
        for flag, value in (("--time-budget", options.time_budget), ("--limit", options.limit)):
            if not 1 <= value <= 7 * 24 * 3600:
                found = f"found {value}. Fix: give seconds."
                raise DocumentError(f"{flag}: expected from 1 to {7 * 24 * 3600}, {found}")
        try:
            version_folder(options.triton)
        except ValueError as error:
            found = f"found {shown(options.triton, 60)!r}. Fix: name a release of Triton."
            raise DocumentError(f"--triton: expected X.Y.Z, {found}") from error
        if options.replay is not None and not options.replay.is_dir():
            found = f"found {shown_path(options.replay)}. Fix: correct the path."
            raise DocumentError(f"--replay: expected a folder, {found}")
        plan = read_plan(options.plan)
        leg = plan.leg(options.device)
    except DocumentError as error:
        say(f"measure: {error}")
        return 2
    backend: Backend = GpuBackend.here(options.triton) if options.replay is None else ReplayBackend(options.replay)
    limits = TimeLimits(options.time_budget, time.monotonic() + options.limit)
    environment: Mapping[str, Json] | None = None
    files: list[MeasuredFile] = []
    for number, file in enumerate(leg.files, start=1):
        say(f"measure: {number} of {len(leg.files)}: {file.id.relative}")
        measured, bench = measure(file, backend, limits, options.out / CONFIGS)
        environment = environment or (bench.environment if bench else None)
        files.append(measured)
        say(f"measure: {file.id.relative}: {_told(measured)}")
    results = Results(plan.number, plan.head_sha, leg.device_name, environment, tuple(files))
    write_file(options.out / RESULTS, results_json(results))
    return 0


def measure(
    file: PlannedFile, backend: Backend, limits: TimeLimits, configs: Path
) -> tuple[MeasuredFile, BenchedFile | None]:
    """One workload's result, and its bench where there was one. A re-tuned file is written below `configs`."""
    try:
        if not is_supported(file):
            raise NotMeasuredError("unsupported")
        bench = backend.bench(file, limits.cut(BENCH_LIMIT_S))
    except NotMeasuredError as failed:
        return MeasuredFile(file.id, {}, failed.reason, is_measured=False), None
    reason, retuned = None, Retuned({}, is_other=False)
    # Unchanged entries (a nightly sample, a corrected record) have nothing to be tuned for, removed ones no file.
    if file.claimed and file.claimed != file.main:
        try:
            retuned = retune(file, backend, limits, configs)
        except NotMeasuredError as failed:
            reason = failed.reason
    return MeasuredFile(file.id, rows_of(file, bench.rows, retuned.us), reason, retuned.is_other), bench


def is_supported(file: PlannedFile) -> bool:
    """Whether our kernel runs the workload, and an engine would run it without a file."""
    workload = file.id.workload
    try:
        vllm_heuristic(workload, 1)
    except UnknownHeuristicError:
        return False
    return quant_mode_of(workload) is not None and not workload.down


def retune(file: PlannedFile, backend: Backend, limits: TimeLimits, configs: Path) -> Retuned:
    """Tunes with the claimed file as incumbent, in a scratch folder: only what the tuner wrote itself is handed on.

    NotMeasuredError: it ended without a file.
    """
    found = tuned_id(file.id)
    with TemporaryDirectory() as scratch:
        root = Path(scratch)
        claimed = canonical_entries(file.claimed)
        write_file(root / file.id.relative, claimed)
        arguments = (
            *backend.tune_arguments(file),
            *("--num-tokens", *map(str, file.batch_sizes)),
            *("--time-budget", str(limits.time_budget_s), "--output", scratch, "--format", "json"),
        )
        document = run_tool("tools.tune", arguments, limits.cut(limits.time_budget_s + TUNE_SPARE_S))
        try:
            us = {row["num_tokens"]: float(row["new_us"]) for row in document["rows"]}
            config, record = (path.read_bytes() for path in (root / found.relative, record_path(root, found.relative)))
        except (KeyError, TypeError, ValueError, OSError) as error:
            raise NotMeasuredError("crashed") from error
        is_other = config != claimed
        if is_other:
            write_file(configs / found.relative, config)
            write_file(record_path(configs, found.relative), record)
    return Retuned(us, is_other)


def tuned_id(file: FileId) -> FileId:
    """Where the tuner puts its answer: figures of today have no place among the legacy ones."""
    return FileId(file.workload, DEFAULT_TIER) if file.tier == LEGACY else file


def _told(file: MeasuredFile) -> str:
    if not file.is_measured:
        return f"not measured ({file.reason})"
    kept = "re-tuning found another file" if file.retuned_file else "no other file"
    return f"{len(file.rows)} rows, {kept}" + (f", not re-tuned ({file.reason})" if file.reason else "")
