"""Works a list of names off on all GPUs at hand, a process a name, in the list's order. Knows no command line.

Whatever becomes of a name is written down before the next one is taken.
"""

from __future__ import annotations

import shutil
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from types import MappingProxyType
from typing import Protocol

from fused_moe_configs.lookup import down_of
from fused_moe_configs.naming import ENGINE_NAMES
from tools.checkout import CHECKOUT
from tools.dates import today
from tools.findings import Severity
from tools.portfolio.child import MODULE, JobResult
from tools.portfolio.jobs import Job, Order, Skip
from tools.portfolio.pool import Children, Pool, PoolGpu, Say
from tools.portfolio.progress import Outcome, ProgressLine, append
from tools.portfolio.stock import GOOD, Item, Method, look_up
from tools.registry.devices import Device, DeviceRegistry
from tools.registry.models import ModelRegistry
from tools.store.files import record_path
from tools.store.workload import Layout
from tools.tune.policy import Budget
from tools.validate import runner
from tools.validate.exceptions import Exceptions
from tools.validate.model import Context

SECONDS_AT_FIRST: Mapping[Order, float] = MappingProxyType({Order.TUNE: 20.0, Order.JUDGE: 50.0})
"""What a name of one (K, top_k) is taken to last beyond its tuner's budget before any of its order was done."""

BY_ANOTHER_RUN = "finished by another run meanwhile"


class LaunchJob(Protocol):
    """Does a job on a GPU, in a process of its own. NoAnswerError: it ended without one."""

    def __call__(self, job: Job, gpu: PoolGpu, output: Path, say: Say) -> JobResult: ...


class NoAnswerError(RuntimeError):
    """A process that ended without saying what came of its name. One line."""


@dataclass(frozen=True)
class PlannedJob:
    """A name and what is to be done for it. budget_s: of its tuner, for one (K, top_k)."""

    item: Item
    job: Job
    budget_s: float

    @property
    def weight(self) -> float:
        """What it costs, in names of one (K, top_k)."""
        return Budget.weight_of(len(self.item.wanted.shapes))

    def budget_of(self, order: Order) -> float:
        """What the tuner may take of a job of the order, for one (K, top_k)."""
        return self.budget_s if order is Order.TUNE else 0.0


@dataclass(frozen=True)
class Places:
    """configs: the folder of tiers. progress: of a device. collect: where a copy of all that is written goes; None: no
    copy. checkout: below which the copies' paths begin."""

    configs: Path
    progress: Callable[[Device], Path]
    collect: Path | None = None
    checkout: Path = CHECKOUT

    def copy(self, name: str, *others: Path) -> None:
        """What there is of a name, its `_down` twin and version files, and other files below the checkout. OSError."""
        if self.collect is None:
            return
        folders = ["", *(path.name for path in self.configs.glob("triton_*"))]
        relative = [PurePosixPath(folder, each) for folder in folders for each in (name, down_of(name))]
        files = [path for each in relative for path in (self.configs / each, record_path(self.configs, each))]
        for path in (*files, *others):
            target = self.collect / path.relative_to(self.checkout)
            if path.exists():
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(path, target)
            else:  # a `_down` file that gains nothing any more is removed
                target.unlink(missing_ok=True)


@dataclass
class TimeLimit:
    """When to stop taking names. limit_s: None: never.

    Counted is what names last beyond their tuner's budget, less than nothing where it ends early: a name whose budget
    is another takes that much longer.
    """

    limit_s: float | None = None
    now: Callable[[], float] = time.monotonic
    _started: float = field(init=False)
    _longest_s: dict[Order, float] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        self._started = self.now()

    def has_time_for(self, task: PlannedJob) -> bool:
        """As long as the longest of its order so far, by budget and number of (K, top_k)."""
        if self.limit_s is None:
            return True
        orders = (Order.JUDGE, Order.TUNE) if task.job.order is Order.WHERE_IT_LOSES else (task.job.order,)
        rate_s = sum(task.budget_of(order) + self._longest_s.get(order, SECONDS_AT_FIRST[order]) for order in orders)
        return self.now() - self._started + rate_s * task.weight <= self.limit_s

    def took(self, task: PlannedJob, seconds: float) -> None:
        """Of a name that came to its end. What was judged and perhaps tuned tells neither."""
        order = task.job.order
        if order is not Order.WHERE_IT_LOSES:
            beyond_s = seconds / task.weight - task.budget_of(order)
            self._longest_s[order] = max(beyond_s, self._longest_s.get(order, beyond_s))


@dataclass(frozen=True)
class Finished:
    """A name that a run has come to, or passed over. item: what the store has of it now."""

    item: Item
    line: ProgressLine

    @property
    def is_good(self) -> bool:
        return self.item.standing in GOOD


class Driver:
    """One run over names. launch: a process for a job."""

    def __init__(
        self,
        places: Places,
        launch: LaunchJob,
        clock: TimeLimit,
        models: ModelRegistry,
        devices: DeviceRegistry,
    ) -> None:
        self.places = places
        self.method = Method()
        self.clock = clock
        self.models, self.devices = models, devices
        self.finished: list[Finished] = []
        self._launch = launch
        self._lock = threading.Lock()

    def skip(self, item: Item, skip: Skip, device: Device) -> None:
        """Writes down why a name is passed over, unless that is what was said of it last."""
        line = replace(self._line(item), outcome=Outcome.SKIPPED, reason=skip.reason)
        is_new = item.line is None or (item.line.outcome, item.line.reason) != (line.outcome, line.reason)
        self._write(item, line, device, is_new=is_new)

    def run(self, tasks: Sequence[PlannedJob], pool: Pool[PlannedJob]) -> list[PlannedJob]:
        """All of them, each on a GPU of its device: what only has to be judged first, for it costs least.

        Returns what no time was left for.
        """
        queues: dict[str, list[PlannedJob]] = {}
        for task in sorted(tasks, key=lambda task: task.job.order is not Order.JUDGE):
            queues.setdefault(task.job.device_name, []).append(task)

        def work(task: PlannedJob, gpu: PoolGpu, say: Say) -> bool:
            if self._pass_over(task.item, gpu.device):
                say(f"{task.item.name}: passed over: {BY_ANOTHER_RUN}")
                return True
            say(f"{task.item.name}: {task.job.order}")
            started = self.clock.now()
            try:
                answer = self._launch(task.job, gpu, self.places.configs, say)
            except NoAnswerError as error:
                if pool.is_stopped:  # it was ended, which says nothing of the name
                    return True
                answer = JobResult(Outcome.FAILED, str(error))
            done = self.write(task, answer, gpu.device, f"{gpu.id}: {gpu.device.name}", self.clock.now() - started)
            say(_told(done))
            return done.line.outcome is not Outcome.FAILED

        return pool.run(queues, work, self.clock.has_time_for)

    def _pass_over(self, item: Item, device: Device) -> bool:
        """A name that another run has finished while it waited; whether it was. Of that no line is written: that run
        has."""
        is_good = item.standing not in GOOD and self._look_up(item, item.line).standing in GOOD
        if is_good:
            line = replace(self._line(item), outcome=Outcome.SKIPPED, reason=BY_ANOTHER_RUN)
            self._write(item, line, device, is_new=False)
        return is_good

    def write(self, task: PlannedJob, answer: JobResult, device: Device, gpu: str, seconds: float) -> Finished:
        """Looks at what a process left, and writes down what came of the name."""
        fault = self._fault(task.item) if answer.outcome is not Outcome.FAILED else ""
        line = replace(
            self._line(task.item),
            outcome=Outcome.FAILED if fault else answer.outcome,
            reason=fault or answer.reason,
            seconds=round(seconds, 1),
            overhead_s=round(max(0.0, seconds - answer.seconds), 2),
            steps=answer.steps,
            gpu=gpu,
        )
        if line.outcome is not Outcome.FAILED:
            self.clock.took(task, seconds)
        return self._write(task.item, line, device)

    def _look_up(self, item: Item, line: ProgressLine | None) -> Item:
        """What the store has of it by now."""
        return look_up(item.rank, item.wanted, self.places.configs, line, self.method, down=item.is_apart)

    def _line(self, item: Item) -> ProgressLine:
        return ProgressLine(item.name, Outcome.FAILED, today().isoformat(), rank=item.rank)

    def _fault(self, item: Item) -> str:
        """What the validator has against what was written. Empty: nothing."""
        config = self.places.configs / item.name
        if not config.exists():
            return "the tuner wrote no file"
        context = Context(Layout.REPO, self.devices, self.models)
        found = runner.validate([config], context, Exceptions.load()).findings
        errors = [finding for finding in found if finding.severity is Severity.ERROR]
        return f"{errors[0].rule}: {errors[0].message}" if errors else ""

    def _write(self, item: Item, line: ProgressLine, device: Device, *, is_new: bool = True) -> Finished:
        now = self._look_up(item, line)
        if not line.reason:
            line = replace(line, reason="; ".join(now.remarks))
        with self._lock:
            progress = self.places.progress(device)
            if is_new:
                append(progress, line)
                self.places.copy(item.name, progress)
            self.finished.append(Finished(now, line))
            return self.finished[-1]


def _told(done: Finished) -> str:
    line, judged = done.line, done.item.judged
    ratios = ", ".join(f"{ENGINE_NAMES[engine]} {each.geomean_ratio:.3f}" for engine, each in judged.items())
    shows = ratios and line.outcome is not Outcome.FAILED
    parts = [f"{line.outcome} in {line.seconds:.0f} s", *([f"of no file's time: {ratios}"] if shows else [])]
    return f"{line.name}: {'; '.join([*parts, *([line.reason] if line.reason else [])])}"


def launch(children: Children, job: Job, gpu: PoolGpu, output: Path, say: Say) -> JobResult:
    """As `LaunchJob`, in a child process of this machine."""
    command = [sys.executable, "-m", MODULE, job.to_text(), "--output", str(output), "--jobs", str(gpu.jobs)]
    ended = children.run(command, gpu, say)
    try:
        return JobResult.read(ended.printed)
    except ValueError as error:
        said = ended.said or "silent"
        raise NoAnswerError(f"its process ended without an answer ({ended.how}): {said}") from error
