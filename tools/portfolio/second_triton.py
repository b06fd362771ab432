"""`portfolio run --second-triton`: which default files another Triton needs anew.

Each is benched under the Triton that runs, on uniform routing and a few batch sizes; the first blocks decide. Its loss
goes into its record, as a line in `verified_with`; what loses more than the margin is tuned again into that version's
folder.
"""

from __future__ import annotations

import math
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Protocol

from fused_moe_configs.lookup import down_of
from tools.dates import today
from tools.errors import UserError
from tools.measure.panel import MIN_BLOCKS, PromotionPolicy, RoutingKind
from tools.portfolio.bench_report import BenchReport
from tools.portfolio.child import JobResult
from tools.portfolio.drive import LaunchJob, NoAnswerError, Places
from tools.portfolio.jobs import Job, Order, Skip, TunerBudget, tried_apart, tune_arguments
from tools.portfolio.pool import MOST_FAILURES, Children, Ended, Pool, PoolGpu, Say
from tools.portfolio.progress import Outcome
from tools.portfolio.wanted import WantedList, unplaced
from tools.registry.devices import Device
from tools.registry.models import ModelRegistry
from tools.store.existing import Place, untried_down
from tools.store.files import RECORD, discover, lock, read_file, record_path, version_folder, write_file
from tools.store.record import Record, RecordError, VerifiedWith, as_record
from tools.store.tiers import Role
from tools.store.workload import Layout, Workload, parse_file_name
from tools.text import counted, shown_path

BATCH_SIZES = (1, 8, 32, 128, 512, 2048)

FILES_A_BENCH = 8
"""Of one process, at most: what a kill loses, against what each start costs."""

MARGIN_PCT = PromotionPolicy().min_improvement_pct


class Bench(Protocol):
    """Runs `python -m tools.bench` with these arguments on a GPU."""

    def __call__(self, arguments: Sequence[str], gpu: PoolGpu, say: Say) -> Ended: ...


def bench(children: Children, arguments: Sequence[str], gpu: PoolGpu, say: Say) -> Ended:
    """As `Bench`, in a child process of this machine."""
    return children.run([sys.executable, "-m", "tools.bench", *arguments], gpu, say)


@dataclass(frozen=True)
class DefaultFile:
    """A measured file of the default tier. loss_pct: that its record has under this Triton; None: not benched yet.

    has_version_file: one that hides no `_down` file untried. has_down: a `_down` file lies beside it, which a version's
    file would hide: that is tuned with up and down apart.
    """

    workload: Workload
    path: Path
    record: Record
    loss_pct: float | None
    has_version_file: bool
    has_down: bool = False

    @property
    def name(self) -> str:
        return self.path.name

    @property
    def is_done(self) -> bool:
        return self.loss_pct is not None and (self.loss_pct <= MARGIN_PCT or self.has_version_file)


def default_files(configs: Path, device: Device, triton: str) -> tuple[tuple[DefaultFile, ...], tuple[str, ...]]:
    """(the device's measured files, a line for each that can't be judged)."""
    found, faults = [], []
    for file in discover([configs], Layout.REPO) if configs.is_dir() else []:
        workload = parse_file_name(file.path.name).workload
        if file.role is not Role.CONFIG or file.folder or workload is None or workload.down:
            continue
        if workload.device_name not in device.names:
            continue
        try:
            record = as_record(read_file(record_path(file.root, file.relative), RECORD))
        except RecordError as error:
            faults.append(f"{shown_path(file.path)}: skipped: its record: {error}")
            continue
        if not record.is_measured or not record.speaks_of(file.path.read_bytes()):
            faults.append(f"{shown_path(file.path)}: skipped: no record of a measurement of this very file")
            continue
        place = Place(configs, PurePosixPath(version_folder(triton), file.path.name))
        has_version_file = place.path.exists() and untried_down(place) is None
        loss_pct, has_down = loss_of(record, triton), file.path.with_name(down_of(file.path.name)).exists()
        found.append(DefaultFile(workload, file.path, record, loss_pct, has_version_file, has_down))
    return tuple(found), tuple(faults)


def loss_of(record: Record, triton: str) -> float | None:
    """By the newest line of this Triton since the file was measured."""
    lines = [line for line in record.verified_with or () if version_folder(line.triton) == version_folder(triton)]
    return next((line.worst_loss_pct for line in reversed(lines) if line.date >= record.date), None)


def bench_arguments(files: Sequence[DefaultFile], jobs: int) -> list[str]:
    return [
        *("files", *(str(file.path) for file in files), "--against", "heuristic"),
        *("--num-tokens", *map(str, BATCH_SIZES), "--routing", RoutingKind.UNIFORM.value),
        *("--blocks", str(MIN_BLOCKS), "--format", "json", "--jobs", str(jobs)),
    ]


def losses_of(printed: str) -> dict[str, float]:
    """By file name, what its worst row loses to what would run without it, in per cent; infinite: a row fails.

    Empty: it isn't a report.
    """
    report = BenchReport.read(printed)
    found = {}
    for file in report.files if report is not None else ():
        if file.fails:
            found[file.name] = math.inf
        elif file.worst is not None:
            found[file.name] = round(100.0 * (file.worst - 1.0), 2)
    return found


def note(configs: Path, file: DefaultFile, triton: str, loss_pct: float) -> None:
    """Into the record, as it stands by now. RecordError, OSError; UserError: it is of other bytes than were benched."""
    path = record_path(configs, PurePosixPath(file.name))
    with lock(configs):
        record = as_record(read_file(path, RECORD))
        if record.config_sha256 != file.record.config_sha256:
            raise UserError(
                f"{shown_path(path)}: expected the record of the file that was benched, found that of another one by "
                "now. Fix: run it again."
            )
        write_file(path, record.with_verified_with(VerifiedWith(triton, today().isoformat(), loss_pct)).to_bytes())


def jobs_of(
    files: Sequence[DefaultFile],
    found: WantedList,
    models: ModelRegistry,
    budget: TunerBudget,
    sglangs_kernel: Path | None = None,
) -> dict[str, Job | Skip]:
    """By name, how each is tuned under the Triton that runs; the tuner puts it where that Triton's files lie.

    found: of the files' device. sglangs_kernel: its source, for entries for down with USE_TMA. Skip: why it can't be.
    """
    by_name, jobs = {each.name: each for each in found.names}, dict[str, Job | Skip]()
    for file in files:
        wanted = by_name.get(file.name) or unplaced(file.workload, models, file.record)
        apart = tried_apart(file.record, sglangs_kernel) if file.has_down else None
        if wanted is None:
            jobs[file.name] = Skip("no registered model has these sizes")
        elif isinstance(apart, Skip):
            jobs[file.name] = apart
        else:
            arguments = tuple(tune_arguments(wanted, budget.time_budget_s, apart))
            jobs[file.name] = Job(file.name, found.device.name, Order.TUNE, arguments, ())
    return jobs


@dataclass(frozen=True)
class SecondTriton:
    """One run. jobs: by name, as `jobs_of` gives them. launch: a process that tunes."""

    places: Places
    triton: str
    jobs: Mapping[str, Job | Skip]
    bench: Bench
    launch: LaunchJob

    def run(self, files: Mapping[str, Sequence[DefaultFile]], pool: Pool[tuple[DefaultFile, ...]]) -> list[str]:
        """files: by device, those that aren't done. Returns a line for each that isn't done in the end."""
        missing: list[str] = []
        gpus = Counter(gpu.device.name for gpu in pool.gpus)
        queues = {device: list(_batches(each, gpus[device])) for device, each in files.items()}

        def work(batch: tuple[DefaultFile, ...], gpu: PoolGpu, say: Say) -> bool:
            faults = list(self._work(batch, gpu, say, lambda: pool.is_stopped))
            if not pool.is_stopped:
                missing.extend(faults)
            return not faults

        left = pool.run(queues, work)
        return [*missing, *(f"{file.name}: not benched" for batch in left for file in batch)]

    def _work(
        self, batch: Sequence[DefaultFile], gpu: PoolGpu, say: Say, is_stopped: Callable[[], bool]
    ) -> Iterator[str]:
        unknown = [file for file in batch if file.loss_pct is None]
        benched = self._benched(unknown, gpu, say, is_stopped) if unknown else {}
        for file in batch:
            loss_pct = benched.get(file.name, file.loss_pct)
            if loss_pct is None or isinstance(loss_pct, str):
                yield f"{file.name}: not benched: {loss_pct}"
                continue
            if file.loss_pct is None and loss_pct < math.inf:  # a record holds no infinite loss
                try:
                    note(self.places.configs, file, self.triton, loss_pct)
                except (UserError, OSError) as error:
                    yield f"{file.name}: its record: {error}"
                    continue
            how = f"loses {loss_pct:.2f} %" if loss_pct < math.inf else "fails on a row"
            say(f"{file.name}: {how} under Triton {self.triton}")
            if loss_pct > MARGIN_PCT and not file.has_version_file and not is_stopped():
                yield from self._retune(file, gpu, say)
            self.places.copy(file.name)

    def _benched(
        self, files: Sequence[DefaultFile], gpu: PoolGpu, say: Say, is_stopped: Callable[[], bool]
    ) -> dict[str, float | str]:
        """By name the loss, or why there is none.

        A file that brings the bench down takes the others of its process with it: then each is benched alone.
        """
        say(f"{counted(len(files), 'file')} under Triton {self.triton}")
        ended = self.bench(bench_arguments(files, gpu.jobs), gpu, say)
        found: dict[str, float | str] = {**losses_of(ended.printed)}
        missing = [file for file in files if file.name not in found]
        found.update(dict.fromkeys((file.name for file in missing), ended.said or ended.how))
        failures = 0
        for file in missing if len(files) > 1 else ():
            if is_stopped() or failures == MOST_FAILURES:
                break
            alone = self._benched([file], gpu, say, is_stopped)
            failures = failures + 1 if isinstance(alone[file.name], str) else 0
            found.update(alone)
        return found

    def _retune(self, file: DefaultFile, gpu: PoolGpu, say: Say) -> Iterator[str]:
        job = self.jobs[file.name]
        if isinstance(job, Skip):
            yield f"{file.name}: loses, and isn't tuned again: {job.reason}"
            return
        try:
            answer = self.launch(job, gpu, self.places.configs, say)
        except NoAnswerError as error:
            answer = JobResult(Outcome.FAILED, str(error))
        if answer.outcome is Outcome.FAILED:
            yield f"{file.name}: not tuned again: {answer.reason}"
            return
        folder = version_folder(self.triton)
        is_written = (self.places.configs / folder / file.name).exists()
        say(f"{file.name}: {f'tuned again into {folder}/' if is_written else 'tuned again, and nothing is gained'}")


def _batches(files: Sequence[DefaultFile], gpus: int) -> Iterator[tuple[DefaultFile, ...]]:
    """So many to a process that a short list keeps every GPU busy too."""
    size = max(1, min(FILES_A_BENCH, len(files) // max(1, gpus)))
    for start in range(0, len(files), size):
        yield tuple(files[start : start + size])
