"""`measure`: one device's leg of a plan, on a GPU runner. Main's code works on the plan's numbers and nothing else.

Each workload goes through `tools.bench` (claimed beside main's beside the heuristic) and, where the pull request
changes its entries, through `tools.tune`. What goes wrong with one is a reason in its result; the others go on.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Protocol

from tools.bench.candidates import NO_FILE, Candidate
from tools.bench.request import HEURISTIC
from tools.checkout import CHECKOUT, reference_triton
from tools.cli import command, path_argument, say
from tools.compile.outcome import Status
from tools.errors import UserError
from tools.launch.heuristics import UnknownHeuristicError, clamped, vllm_heuristic
from tools.measure.device import find_gpu
from tools.measure.statistics import Interval
from tools.measure.verdict import SAME_ENTRY, Duel, Verdict, duel
from tools.pull_request.documents import (
    CONFIGS,
    RESULTS,
    FileId,
    MeasuredFile,
    PlannedFile,
    Results,
    read_plan,
)
from tools.pull_request.judge import BenchedRow, rows_of
from tools.registry.devices import load_devices
from tools.registry.shapes import quant_mode_of
from tools.store.files import canonical_entries, canonical_record, record_path, version_folder, write_file
from tools.store.launch_config import LaunchConfig
from tools.store.record import Environment
from tools.store.strict_json import Json, parse
from tools.store.tiers import DEFAULT_TIER, LEGACY, RECORDS
from tools.text import shown, shown_path
from tools.tune.journal import Journal, JournalError
from tools.tune.protocol import Confirmed, Screened
from tools.tune.tuner import baselines

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


# Where a planned file is measured: what every such place offers, and how it says that it can't.


class NotMeasuredError(Exception):
    """reason: a member of schema/results.schema.json's enumeration."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(frozen=True)
class BenchedFile:
    """The file beside main's and the heuristic, by batch size; environment as a record has it."""

    rows: Mapping[int, BenchedRow]
    environment: Environment


class Backend(Protocol):
    """A GPU, or recorded landscapes that stand in for one."""

    def bench(self, file: PlannedFile, limit_s: float) -> BenchedFile:
        """NotMeasuredError: there is no telling."""

    def tune_arguments(self, file: PlannedFile) -> tuple[str, ...]:
        """What names the workload to `tools.tune` here. NotMeasuredError: it can't be tuned here."""


# On this machine's GPU: `tools.bench` as a child process, after a look at what is here.

MAIN = "main"
"""The folder that main's file is laid into; `tools.bench` calls a contestant by its folder."""


@dataclass(frozen=True)
class GpuBackend:
    """device_name: as the driver reports it, None: no GPU. triton: None: not installed.

    wanted: the Triton that default files are measured with on purpose, to see whether they hold under it.
    """

    device_name: str | None
    triton: str | None
    wanted: str

    @classmethod
    def here(cls, wanted: str) -> GpuBackend:
        """What this machine has; torch is not imported for it."""
        try:
            triton = metadata.version("triton")
        except metadata.PackageNotFoundError:
            triton = None
        return cls(find_gpu(), triton, wanted)

    def bench(self, file: PlannedFile, limit_s: float) -> BenchedFile:
        """Claimed beside main's beside the heuristic, interleaved; main's alone where the claim is its removal."""
        self._check(file)
        name = file.id.workload.file_name()
        with TemporaryDirectory() as scratch:
            own = Path(scratch, "own")
            shapes: list[Json] = [{"K": shape.K, "top_k": shape.top_k} for shape in file.shapes]
            write_file(own / name, canonical_entries(file.claimed or file.main))
            # The bench takes its shapes from the record beside the file.
            write_file(own / RECORDS / name, canonical_record({"shapes": shapes}))
            arguments = [str(own / name), "--format", "json", "--against", HEURISTIC]
            if file.claimed and file.main:
                write_file(Path(scratch, MAIN, name), canonical_entries(file.main))
                arguments += ["--against", str(Path(scratch, MAIN, name))]
            # Exit 1 says that a row is slower, which is a result.
            document = run_tool("tools.bench", arguments, limit_s, good=(0, 1))
        return read_bench(document)

    def tune_arguments(self, file: PlannedFile) -> tuple[str, ...]:
        """The sizes; every registered shape where the plan has several."""
        self._check(file)
        workload, first = file.id.workload, file.shapes[0]
        sizes = {"--E": workload.E, "--N": workload.N, "--K": first.K, "--top-k": first.top_k}
        block_shape = () if workload.block_shape is None else ("--block-shape", "{},{}".format(*workload.block_shape))
        return (
            *(word for flag, size in sizes.items() for word in (flag, str(size))),
            *(() if workload.dtype is None else ("--dtype", workload.dtype)),
            *block_shape,
            *(("--per-channel-quant",) if workload.per_channel_quant else ()),
            *(("--all-shapes",) if len(file.shapes) > 1 else ()),
        )

    def _check(self, file: PlannedFile) -> None:
        if self.device_name is None:
            raise NotMeasuredError("no_gpu")
        device = load_devices().get(self.device_name)
        if device is None or file.id.workload.device_name not in device.names:
            raise NotMeasuredError("wrong_device")
        if self.triton is None or not _serves(self.triton, file.id.tier, self.wanted):
            raise NotMeasuredError("wrong_triton")


def _serves(triton: str, tier: str, wanted: str) -> bool:
    """Whether figures of this Triton speak for the tier. Legacy files say nothing about theirs."""
    folders = {DEFAULT_TIER: version_folder(wanted), LEGACY: version_folder(triton)}
    return version_folder(triton) == folders.get(tier, tier)


def read_bench(document: Mapping[str, Any]) -> BenchedFile:
    """Of one file, from the JSON that `tools.bench` prints. Pure. NotMeasuredError: it isn't what it prints."""
    try:
        rows = {row["num_tokens"]: _row(row) for row in document["files"][0]["rows"]}
        return BenchedFile(rows, Environment.read(document["environment"]))
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise NotMeasuredError("crashed") from error


def _row(row: Mapping[str, Any]) -> BenchedRow:
    own = next(iter(row["measured"]))
    times = {name: measured["us"] and measured["us"]["median"] for name, measured in row["measured"].items()}
    duels = {name: _duel(duel) for name, duel in row["duels"].items()}
    return BenchedRow(times[own], times.get(MAIN), times[NO_FILE], duels.get(MAIN), duels[NO_FILE])


def _duel(duel: Mapping[str, Any]) -> Duel:
    return Duel(duel["ratio"] and Interval(**duel["ratio"]), Verdict(duel["verdict"]))


# Recorded landscapes stand in for a GPU: what an entry took then is what it takes now. For tests and dry runs.

Times = Mapping[tuple[int, int, LaunchConfig], float]
"""µs by batch size, shape and entry."""


@dataclass(frozen=True)
class ReplayBackend:
    """folder: holds `NAME.jsonl.gz` for a tuned file `NAME.json`."""

    folder: Path

    def bench(self, file: PlannedFile, limit_s: float) -> BenchedFile:  # noqa: ARG002 (a landscape answers at once)
        """What the landscape holds of claimed, main's and the heuristic's entries; the rest is not known."""
        try:
            journal = Journal.read(self._landscape(file))
        except JournalError as error:
            raise NotMeasuredError("crashed") from error
        times = times_of(journal)
        rows = {m: _recorded_row(file, journal, times, m) for m in file.batch_sizes}
        if journal.device is None or not journal.device.environment:  # of a run that was killed: it has no machine
            raise NotMeasuredError("crashed")
        return BenchedFile(rows, Environment.read(journal.device.environment))

    def tune_arguments(self, file: PlannedFile) -> tuple[str, ...]:
        """The landscape says the workload and its shapes."""
        return ("--replay", str(self._landscape(file).absolute()))

    def _landscape(self, file: PlannedFile) -> Path:
        path = self.folder / f"{file.id.relative.stem}.jsonl.gz"
        if not path.is_file():
            raise NotMeasuredError("unsupported")
        return path


def times_of(journal: Journal) -> Times:
    """Up and down together: the median of a confirmation's samples, else what screening saw."""
    screened: dict[tuple[int, int, LaunchConfig], float] = {}
    confirmed: dict[tuple[int, int, LaunchConfig], float] = {}
    for entry in journal.entries:
        match entry.event:
            case Screened(job, Status.OK) as event:
                screened[job.num_tokens, job.shape, job.config] = event.total_us
            case Confirmed(job, all_series):
                for series in all_series:
                    if series.total_us:
                        key = job.num_tokens, job.shape, series.config
                        confirmed.setdefault(key, statistics.median(series.total_us))
    return {**screened, **confirmed}


def _recorded_row(file: PlannedFile, journal: Journal, times: Times, num_tokens: int) -> BenchedRow:
    """Under the shape where the file does worst."""
    heuristic, _ = baselines(journal.header.subject, num_tokens)
    own = _entry(file, file.claimed or file.main, num_tokens)
    main = _entry(file, file.main, num_tokens) if file.claimed else None
    found = []
    for shape in range(len(journal.header.subject.shapes)):
        own_us, main_us, heuristic_us = (
            times.get((num_tokens, shape, config)) if config else None for config in (own, main, heuristic)
        )
        against_main = SAME_ENTRY if own == main else _recorded_duel(own_us, main_us)
        against_heuristic = SAME_ENTRY if own == heuristic else _recorded_duel(own_us, heuristic_us)
        found.append(BenchedRow(own_us, main_us, heuristic_us, against_main, against_heuristic))
    return max(found, key=_worst)


def _entry(file: PlannedFile, entries: Mapping[int, LaunchConfig], num_tokens: int) -> LaunchConfig | None:
    return clamped(Candidate("", entries).entry(num_tokens), file.id.workload) if entries else None


def _recorded_duel(own_us: float | None, other_us: float | None) -> Duel | None:
    return None if own_us is None or other_us is None else duel((own_us,), (other_us,))


def _worst(row: BenchedRow) -> float:
    ratios = [duel.ratio.median for duel in (row.against_main, row.against_heuristic) if duel and duel.ratio]
    return max(ratios, default=0.0)


# Our own commands as child processes: what hangs or crashes in one workload must not take the others with it.

MAX_OUTPUT_BYTES = 16 << 20
_IMPOSSIBLE = 2


def run_tool(module: str, arguments: Sequence[str], limit_s: float, *, good: Sequence[int] = (0,)) -> Any:
    """The JSON that `python -m MODULE …` prints; what it tells people goes to our stderr.

    NotMeasuredError: «timeout» after limit_s, with everything it started; «unsupported» where it says impossible here
    (exit 2); «crashed» for any other end, and where it printed no JSON.
    """
    command = [sys.executable, "-m", module, *arguments]
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=output, cwd=CHECKOUT, start_new_session=True
        )
        try:
            code = process.wait(max(0.0, limit_s))
        except subprocess.TimeoutExpired as error:
            raise NotMeasuredError("timeout") from error
        finally:
            _end(process)
        if code not in good:
            raise NotMeasuredError("unsupported" if code == _IMPOSSIBLE else "crashed")
        output.seek(0)
        document, faults = parse(output.read(MAX_OUTPUT_BYTES))
    if faults:
        raise NotMeasuredError("crashed")
    return document


def _end(process: subprocess.Popen[bytes]) -> None:
    """With its whole group; what has a group of its own (tools.child_process) dies with its parent."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
