"""Keeps a GPU worker running: hands it one job at a time, watches the clock, replaces it when it crashes or hangs.

Whatever happens to a worker, every job is answered: with times, or with the status of what went wrong.
"""

from __future__ import annotations

import contextlib
import tempfile
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from pathlib import Path
from types import TracebackType
from typing import Self

from kernels.launch_config import LaunchConfig
from tools import child_process
from tools.compile.outcome import Status
from tools.tune import gpu_worker
from tools.tune.gpu_worker import Answer, DeviceReport, Refusal, WorkerSpec, failed
from tools.tune.model import Confirmed, ConfirmJob, RunnerError, Screened, ScreenJob, Series

GpuJob = ScreenJob | ConfirmJob
GpuEvent = Screened | Confirmed


class DeviceRefused(ValueError):  # noqa: N818  # says what it is
    """The machine can't do it: wrong GPU, too little memory. One line for a person."""


@dataclass(frozen=True)
class Limits:
    """Seconds a worker may take to come up and to answer, jobs after which a fresh one takes over."""

    start_s: float = 300.0
    screen_s: float = 30.0
    confirm_s: float = 180.0
    max_jobs: int = 50_000
    max_failed_starts: int = 3


class Supervisor:
    """One worker at a time. main: what runs in the child; tests give another."""

    def __init__(
        self, spec: WorkerSpec, limits: Limits | None = None, main: Callable[..., None] = gpu_worker.main
    ) -> None:
        self._spec, self._limits, self._main = spec, limits or Limits(), main
        self._logs = tempfile.TemporaryDirectory(prefix="tune-worker-")
        self._queue: deque[GpuJob] = deque()
        self._answered: deque[GpuEvent] = deque()
        self._report: DeviceReport | None = None
        self._worker: _Worker | None = None
        self._failed_starts = 0
        self._start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._worker:
            self._worker.child.kill()
        self._logs.cleanup()

    @property
    def report(self) -> DeviceReport:
        """What the first worker found; waits for it. DeviceRefused. RunnerError: none comes up."""
        while self._report is None:
            self._advance()
            if self._report is None and self._worker is not None:
                self._worker.child.connection.poll(max(0.0, self.seconds_left))
        return self._report

    def submit(self, job: GpuJob) -> None:
        self._queue.append(job)

    def collect(self) -> list[GpuEvent]:
        """What has been answered since; hands out the next job. Doesn't wait. Errors as `report`."""
        self._advance()
        events = list(self._answered)
        self._answered.clear()
        return events

    @property
    def connection(self) -> Connection | None:
        """What to wait for before the next `collect`, and no longer than `seconds_left`. None: nothing is running."""
        return self._worker.child.connection if self._worker and self._worker.is_busy else None

    @property
    def seconds_left(self) -> float:
        """Until the worker runs out of time."""
        return self._worker.deadline - time.monotonic() if self._worker else 0.0

    def _advance(self) -> None:
        """Takes in what the worker said, sees to its end, and gives it the next job."""
        worker = self._worker or self._start()
        if worker.is_busy:
            self._listen(worker)
        while self._queue and (worker := self._worker or self._start()).is_idle:
            if worker.num_jobs >= self._limits.max_jobs:
                self._drop()
                continue
            self._give(worker, self._queue.popleft())

    def _listen(self, worker: _Worker) -> None:
        if worker.child.connection.poll(0):
            try:
                said = worker.child.connection.recv()
            except (EOFError, ConnectionResetError):
                self._on_end(worker, Status.CRASH, f"the GPU's process ended: {worker.child.how_it_ended()}")
                return
            self._on_word(worker, said)
        elif time.monotonic() >= worker.deadline:
            self._on_end(worker, Status.TIMEOUT, f"no answer within {worker.limit_s:g} s")

    def _on_word(self, worker: _Worker, said: DeviceReport | Refusal | Answer) -> None:
        match said:
            case Refusal(message):
                raise DeviceRefused(message)
            case DeviceReport():
                self._report = self._report or said
                worker.is_up, worker.deadline = True, float("inf")
            case Answer(event, is_last):
                self._failed_starts = 0
                worker.job, worker.deadline = None, float("inf")
                if is_last:
                    self._drop()
                self._answered.append(event)

    def _on_end(self, worker: _Worker, status: Status, message: str) -> None:
        last_line = child_process.read_log(str(worker.log_path)).split("\n")[-1]
        message = f"{message}. {last_line}".strip()
        job = worker.job
        self._drop()
        if job is None:
            self._failed_starts += 1
            if self._failed_starts >= self._limits.max_failed_starts:
                raise RunnerError(f"GPU: expected a process that measures, found none in several tries: {message}")
            self._start()
            return
        if isinstance(job, ConfirmJob) and len(job.configs) > 1:
            self._answered.append(self._one_by_one(job))
        else:
            self._answered.append(failed(job, status.value, message))

    def _one_by_one(self, job: ConfirmJob) -> Confirmed:
        """A worker died over several configs: each is tried alone, and those that live are measured together again."""
        started = time.monotonic()
        alone: dict[LaunchConfig, Series] = {}
        for config in job.configs:
            alone[config] = self._ask(replace(job, configs=(config,), rounds=1)).series[0]
        good = tuple(config for config in job.configs if alone[config].status is Status.OK)
        together = self._ask(replace(job, configs=good)) if good else None
        measured = {series.config: series for series in together.series} if together else {}
        series = tuple(measured.get(config, alone[config]) for config in job.configs)
        return Confirmed(job, series, time.monotonic() - started, together.active_experts if together else None)

    def _ask(self, job: ConfirmJob) -> Confirmed:
        """One job, to its end."""
        worker = self._worker or self._start()
        while not worker.is_up:
            worker.child.connection.poll(max(0.0, self.seconds_left))
            self._listen(worker)
            worker = self._worker or self._start()
        self._give(worker, job)
        answer: Answer | None = None
        with contextlib.suppress(EOFError, ConnectionResetError):
            if worker.child.connection.poll(self._limits.confirm_s):
                answer = worker.child.connection.recv()
        worker.job, worker.deadline = None, float("inf")
        if answer is None or answer.is_last:
            self._drop()
        event = answer.event if answer else failed(job, Status.CRASH.value, "the GPU's process ended or hung")
        assert isinstance(event, Confirmed)
        return event

    def _give(self, worker: _Worker, job: GpuJob) -> None:
        worker.job = job
        worker.num_jobs += 1
        worker.limit_s = self._limits.screen_s if isinstance(job, ScreenJob) else self._limits.confirm_s
        worker.deadline = time.monotonic() + worker.limit_s
        # A worker that died while idle shows when its answer is read.
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            worker.child.connection.send(job)

    def _start(self) -> _Worker:
        log_path = Path(self._logs.name) / f"{time.monotonic_ns()}.log"
        child = child_process.start(self._main, str(log_path), self._spec)
        self._worker = _Worker(child, log_path, self._limits.start_s)
        return self._worker

    def _drop(self) -> None:
        if self._worker:
            self._worker.child.kill()
        self._worker = None


class _Worker:
    """A child and what it is at. is_up: it has reported."""

    def __init__(self, child: child_process.Child, log_path: Path, start_s: float) -> None:
        self.child, self.log_path = child, log_path
        self.is_up = False
        self.job: GpuJob | None = None
        self.num_jobs = 0
        self.limit_s = start_s
        self.deadline = time.monotonic() + start_s

    @property
    def is_idle(self) -> bool:
        return self.is_up and self.job is None

    @property
    def is_busy(self) -> bool:
        return not self.is_idle
