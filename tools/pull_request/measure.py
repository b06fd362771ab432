"""`measure`: one device's leg of a plan, on a GPU runner. Main's code works on the plan's numbers and nothing else.

Each file is benched (claimed beside main's beside the heuristic) and, where the pull request changes its entries,
re-tuned, in a child process each. What goes wrong with one is a reason in its result; the others go on.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from tools.checkout import installed_triton, reference_triton
from tools.cli import command, path_argument, say
from tools.errors import UserError
from tools.launch.heuristics import UnknownHeuristicError, vllm_heuristic
from tools.measure.gpu import find_gpu
from tools.pull_request.child import BenchedFile, NotMeasuredError, bench_in_child, tune_in_child
from tools.pull_request.documents import (
    CONFIGS,
    RESULTS,
    FileId,
    MeasuredFile,
    PlannedFile,
    Results,
    read_plan,
)
from tools.pull_request.judge import rows_of
from tools.registry.devices import load_devices
from tools.registry.shapes import quant_mode_of
from tools.scratch import Scratch
from tools.store.files import canonical_entries, record_path, version_folder, write_file
from tools.store.record import Environment
from tools.store.tiers import DEFAULT_TIER, LEGACY
from tools.text import shown, shown_path

MOST_SECONDS = 7 * 24 * 3600
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


class Backend(Protocol):
    """Where planned files are measured: a GPU, or recorded landscapes that stand in for one."""

    def bench(self, file: PlannedFile, limit_s: float) -> BenchedFile:
        """Claimed beside main's beside the heuristic. NotMeasuredError: it can't be benched here."""

    def tune(self, file: PlannedFile, output: Path, time_budget_s: float, limit_s: float) -> Mapping[int, float]:
        """The new entries' times in µs, by batch size; writes below `output`. NotMeasuredError: as of `bench`."""


@dataclass(frozen=True)
class GpuBackend:
    """This machine's GPU. device_name: as the driver reports it, None: no GPU. triton: None: not installed.

    wanted: the Triton that default files are measured with on purpose, to see whether they hold under it.
    """

    device_name: str | None
    triton: str | None
    wanted: str

    @classmethod
    def here(cls, wanted: str) -> GpuBackend:
        """What this machine has; torch is not imported for it."""
        return cls(find_gpu(), installed_triton(), wanted)

    def bench(self, file: PlannedFile, limit_s: float) -> BenchedFile:
        self.check(file)
        return bench_in_child(file, None, limit_s)

    def tune(self, file: PlannedFile, output: Path, time_budget_s: float, limit_s: float) -> Mapping[int, float]:
        self.check(file)
        if file.id.tier == DEFAULT_TIER and version_folder(self.wanted) != version_folder(reference_triton()):
            raise NotMeasuredError("wrong_triton")  # its answer would be a version file
        return tune_in_child(file, None, output, time_budget_s, limit_s)

    def check(self, file: PlannedFile) -> None:
        """NotMeasuredError: no figures of this machine would be of the file's GPU and Triton."""
        if self.device_name is None:
            raise NotMeasuredError("no_gpu")
        device = load_devices().get(self.device_name)
        if device is None or file.id.workload.device_name not in device.names:
            raise NotMeasuredError("wrong_device")
        if self.triton is None or file.id.triton_folder(self.wanted) not in (None, version_folder(self.triton)):
            raise NotMeasuredError("wrong_triton")


@dataclass(frozen=True)
class ReplayBackend:
    """Recorded landscapes. folder: holds `NAME.jsonl.gz` for a tuned file `NAME.json`."""

    folder: Path

    def bench(self, file: PlannedFile, limit_s: float) -> BenchedFile:
        return bench_in_child(file, self.landscape(file), limit_s)

    def tune(self, file: PlannedFile, output: Path, time_budget_s: float, limit_s: float) -> Mapping[int, float]:
        return tune_in_child(file, self.landscape(file), output, time_budget_s, limit_s)

    def landscape(self, file: PlannedFile) -> Path:
        """NotMeasuredError: there is none of the file."""
        path = self.folder / f"{file.id.relative.stem}.jsonl.gz"
        if not path.is_file():
            raise NotMeasuredError("unsupported")
        return path


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


@command("measure")
def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code."""
    options = parser().parse_args(arguments)
    _check(options)
    plan = read_plan(options.plan)
    leg = plan.leg(options.device)
    backend: Backend = GpuBackend.here(options.triton) if options.replay is None else ReplayBackend(options.replay)
    limits = TimeLimits(options.time_budget, time.monotonic() + options.limit)
    environment: Environment | None = None
    files: list[MeasuredFile] = []
    for number, file in enumerate(leg.files, start=1):
        say(f"measure: {number} of {len(leg.files)}: {file.id.relative}")
        measured, bench = measure(file, backend, limits, options.out / CONFIGS)
        environment = environment or (bench.environment if bench else None)
        files.append(measured)
        say(f"measure: {file.id.relative}: {_told(measured)}")
    results = Results(plan.number, plan.head_sha, leg.device_name, environment, tuple(files))
    write_file(options.out / RESULTS, results.to_bytes())
    return 0


def _check(options: argparse.Namespace) -> None:
    """UserError: a value that no leg can be measured with."""
    for flag, value in (("--time-budget", options.time_budget), ("--limit", options.limit)):
        if not 1 <= value <= MOST_SECONDS:
            raise UserError(f"{flag}: expected from 1 to {MOST_SECONDS}, found {value}. Fix: give seconds.")
    try:
        version_folder(options.triton)
    except ValueError as error:
        found = f"found {shown(options.triton, 60)!r}. Fix: name a release of Triton."
        raise UserError(f"--triton: expected X.Y.Z, {found}") from error
    if options.replay is not None and not options.replay.is_dir():
        found = f"found {shown_path(options.replay)}. Fix: correct the path."
        raise UserError(f"--replay: expected a folder, {found}")


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
    with Scratch("retune-") as root:
        claimed = canonical_entries(file.claimed)
        write_file(root / file.id.relative, claimed)
        limit_s = limits.cut(limits.time_budget_s + TUNE_SPARE_S)
        us = backend.tune(file, root, limits.time_budget_s, limit_s)
        try:
            config, record = (path.read_bytes() for path in (root / found.relative, record_path(root, found.relative)))
        except OSError as error:
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
