"""The runner of a real GPU: compiles on all cores without a GPU context, measures in a process that owns the GPU."""

from __future__ import annotations

import contextlib
import time
from collections import deque
from collections.abc import Callable, Hashable
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection, wait
from pathlib import Path
from types import TracebackType
from typing import Self

from kernels.launch_config import LaunchConfig
from kernels.problem import Flavour, Problem
from tools import child_process
from tools.child_process import usable_cores
from tools.compile.outcome import CompileOutcome, Status
from tools.compile.pool import CompilePool
from tools.errors import MachineError
from tools.measure.kernels import EngineKernel, KernelTask, OwnKernel, problems_of
from tools.scratch import Scratch
from tools.tune.protocol import (
    BlockJob,
    Compiled,
    CompileJob,
    DeviceRefused,
    DeviceReport,
    Event,
    Job,
    Measured,
    Refusal,
    RunnerError,
    Screened,
    ScreenJob,
    Series,
    Subject,
    WorkerAnswer,
    WorkerSpec,
    failed,
)

_KERNELS_OF_A_JOB = 2


class LiveRunner:
    """jobs: compiling processes. The GPU's process comes up while the first kernels compile.

    descriptors: the kernel that has the path of USE_TMA, where it is at hand.
    """

    def __init__(
        self,
        subject: Subject,
        pool: CompilePool,
        supervisor: Supervisor,
        jobs: int,
        descriptors: EngineKernel | None = None,
    ) -> None:
        self._subject, self._pool, self.supervisor, self._jobs = subject, pool, supervisor, jobs
        self._descriptors = descriptors
        self._started = time.monotonic()
        self._events: deque[Event] = deque()
        self._outstanding = 0
        self._outcomes: dict[Hashable, CompileOutcome] = {}
        self._tasks: dict[int, Hashable] = {}
        self._open: list[_OpenJob] = []

    @property
    def clock_s(self) -> float:
        return time.monotonic() - self._started

    @property
    def compile_slots(self) -> int:
        # Every core busy and as much again waiting, so that none starves while the search thinks.
        return max(2, 2 * self._jobs // _KERNELS_OF_A_JOB)

    def submit(self, job: Job) -> None:
        self._outstanding += 1
        if isinstance(job, CompileJob):
            self._compile(job)
        else:
            self.supervisor.submit(job)

    def wait(self) -> Event:
        if not self._outstanding:
            raise LookupError("runner: nothing is outstanding")
        while True:
            # Before compiling: it is what the GPU is waiting for.
            self._events.extend(self.supervisor.collect())
            for index, outcome in self._pool.collect():
                self._on_outcome(self._tasks.pop(index), outcome)
            if self._events:
                self._outstanding -= 1
                return self._events.popleft()
            gpu = self.supervisor.connection
            seconds = min(self._pool.seconds_left, self.supervisor.seconds_left if gpu else float("inf"))
            wait([*self._pool.busy_connections, *([gpu] if gpu else [])], max(0.0, min(seconds, 60.0)))

    def _compile(self, job: CompileJob) -> None:
        tasks = {}
        try:
            for task in kernel_tasks(self._subject, job, self._descriptors):
                tasks[task.key] = task
        except ValueError as error:
            self._events.append(Compiled(job, Status.CONSTRAINTS, 0.0, message=str(error)))
            return
        wanted = _OpenJob(job, tuple(tasks))
        for key, task in tasks.items():
            if key not in self._outcomes and key not in self._tasks.values():
                self._tasks[self._pool.submit(task)] = key
                wanted.own.add(key)
        self._open.append(wanted)
        self._close_jobs()

    def _on_outcome(self, key: Hashable, outcome: CompileOutcome) -> None:
        self._outcomes[key] = self._judge(outcome)
        self._close_jobs()

    def _close_jobs(self) -> None:
        for job in [job for job in self._open if all(key in self._outcomes for key in job.keys)]:
            self._open.remove(job)
            outcomes = [self._outcomes[key] for key in job.keys]
            bad = next((outcome for outcome in outcomes if outcome.status is not Status.OK), None)
            seconds = sum(self._outcomes[key].seconds for key in job.own)
            status, message = (bad.status, bad.message) if bad else (Status.OK, "")
            self._events.append(Compiled(job.job, status, round(seconds, 3), len(job.own), message))

    def _judge(self, outcome: CompileOutcome) -> CompileOutcome:
        """What compiles but can't be a winner: it doesn't fit the GPU, or keeps its registers in memory."""
        found = outcome.resources
        if found is None:
            return outcome
        if found.smem_bytes > self._subject.smem_bytes:
            message = f"shared memory: expected at most {self._subject.smem_bytes} bytes, found {found.smem_bytes}"
        elif found.spills:
            message = f"spills: {found.frame_bytes} bytes of stack a thread"
        else:
            return outcome
        return CompileOutcome(Status.CONSTRAINTS, outcome.seconds, found, message)


class _OpenJob:
    """A compile job whose kernels aren't all there. own: those that it was the first to want."""

    def __init__(self, job: CompileJob, keys: tuple[Hashable, ...]) -> None:
        self.job, self.keys = job, keys
        self.own: set[Hashable] = set()


class LiveSession:
    """Pool, GPU process and runner as one context."""

    def __init__(self, spec: WorkerSpec, jobs: int | None = None) -> None:
        # One core is left for the process that measures: it captures graphs while others compile.
        self._jobs = jobs or max(1, usable_cores() - 1)
        self._pool = CompilePool(self._jobs)
        self.supervisor = Supervisor(spec)
        descriptors = EngineKernel(spec.down_kernel, Flavour.SGLANG) if spec.down_kernel else None
        self.runner = LiveRunner(spec.subject, self._pool, self.supervisor, self._jobs, descriptors)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.supervisor.__exit__(kind, error, trace)
        self._pool.close()


def kernel_tasks(subject: Subject, job: CompileJob, descriptors: EngineKernel | None = None) -> list[KernelTask]:
    """Up and down of a launch config in a mode. ValueError: a rule forbids the launch, or no kernel has its path."""
    layer = subject.layers[job.shape]
    if descriptors is not None and job.layer.uses_descriptors:
        both = problems_of(descriptors, layer, job.num_tokens, job.layer, subject.kernel_arch)
        return [KernelTask(problem, subject.target, descriptors) for problem in both]
    # What matters of a routing is its mode, and in SGLang's flavour when the next launch may start; counts don't
    # specialise, and on AMD buffer sizes do only past 2 GiB.
    aligned = replace(layer.routing(job.num_tokens, job.engine), allow_naive=False)
    routing = layer.routing(1, job.engine) if job.is_naive else aligned
    problems = [Problem(p, routing, subject.quant, job.config, subject.kernel_arch) for p in layer.projections]
    return [KernelTask(problem, subject.target, OwnKernel(flavour=job.engine)) for problem in problems]


# ---------------------------------------------------------------
# Keeps a GPU worker running: hands it one job at a time, watches the clock, replaces it when it crashes or hangs.
# Whatever happens to a worker, every job is answered: with times, or with the status of what went wrong.

GpuJob = ScreenJob | BlockJob
GpuEvent = Screened | Measured


@dataclass(frozen=True)
class WorkerLimits:
    """Seconds a worker may take to come up and to answer, jobs after which a fresh one takes over."""

    start_s: float = 300.0
    screen_s: float = 30.0
    blocks_s: float = 180.0
    max_jobs: int = 50_000
    max_failed_starts: int = 3


class Supervisor:
    """One worker at a time. main: what runs in the child; tests give another."""

    def __init__(
        self, spec: WorkerSpec, limits: WorkerLimits | None = None, main: Callable[..., None] | None = None
    ) -> None:
        self._spec, self._limits, self._main = spec, limits or WorkerLimits(), main or gpu_process
        self._logs = Scratch("tune-worker-")
        self._queue: deque[GpuJob] = deque()
        self._answered: deque[GpuEvent] = deque()
        self._report: DeviceReport | None = None
        self._worker: _RunningWorker | None = None
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
        """What has been answered since; hands out the next job. Doesn't wait. Errors as `report`, and MachineError."""
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
            if worker.child.connection.poll(0):  # idle, it says nothing: it ended, which says nothing of the next job
                self._on_end(worker, Status.CRASH, f"the GPU's process ended: {worker.child.how_it_ended()}")
                continue
            self._give(worker, self._queue.popleft())

    def _listen(self, worker: _RunningWorker) -> None:
        if worker.child.connection.poll(0):
            try:
                said = worker.child.connection.recv()
            except (EOFError, ConnectionResetError):
                self._on_end(worker, Status.CRASH, f"the GPU's process ended: {worker.child.how_it_ended()}")
                return
            self._on_word(worker, said)
        elif time.monotonic() >= worker.deadline:
            self._on_end(worker, Status.TIMEOUT, f"no answer within {worker.limit_s:g} s")

    def _on_word(self, worker: _RunningWorker, said: DeviceReport | Refusal | MachineError | WorkerAnswer) -> None:
        match said:
            case Refusal(message) if self._report is None:
                raise DeviceRefused(message)
            case Refusal(message):  # what was measured until then is kept
                raise RunnerError(f"GPU: a process that came in place of another can't measure: {message}")
            case MachineError():
                raise said
            case DeviceReport():
                self._report = self._report or said
                worker.is_up, worker.deadline = True, float("inf")
            case WorkerAnswer(event, is_last):
                self._failed_starts = 0
                job, worker.job, worker.deadline = worker.job, None, float("inf")
                if is_last:
                    self._drop()
                    if isinstance(job, BlockJob) and len(job.configs) > 1:
                        event = self._one_by_one(job)
                self._answered.append(event)

    def _on_end(self, worker: _RunningWorker, status: Status, message: str) -> None:
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
        if isinstance(job, BlockJob) and len(job.configs) > 1:
            self._answered.append(self._one_by_one(job))
        else:
            self._answered.append(failed(job, status, message))

    def _one_by_one(self, job: BlockJob) -> Measured:
        """A worker died, or lost its GPU's context, over several configs.

        Each is tried alone, and those that live are measured together again.
        """
        started = time.monotonic()
        alone: dict[LaunchConfig, Series] = {}
        for config in job.configs:
            alone[config] = self._ask(replace(job, configs=(config,), count=1)).series[0]
        good = tuple(config for config in job.configs if alone[config].status is Status.OK)
        together = self._ask(replace(job, configs=good)) if good else None
        measured = {series.config: series for series in together.series} if together else {}
        series = tuple(measured.get(config, alone[config]) for config in job.configs)
        seconds = time.monotonic() - started
        return (
            replace(together, job=job, series=series, seconds=seconds) if together else Measured(job, series, seconds)
        )

    def _ask(self, job: BlockJob) -> Measured:
        """One job, to its end."""
        worker = self._worker or self._start()
        while not worker.is_up:
            worker.child.connection.poll(max(0.0, self.seconds_left))
            self._listen(worker)
            worker = self._worker or self._start()
        self._give(worker, job)
        answer: WorkerAnswer | MachineError | None = None
        with contextlib.suppress(EOFError, ConnectionResetError):
            if worker.child.connection.poll(self._limits.blocks_s):
                answer = worker.child.connection.recv()
        worker.job, worker.deadline = None, float("inf")
        if isinstance(answer, MachineError):
            raise answer
        if answer is None or answer.is_last:
            self._drop()
        event = answer.event if answer else failed(job, Status.CRASH, "the GPU's process ended or hung")
        assert isinstance(event, Measured)
        return event

    def _give(self, worker: _RunningWorker, job: GpuJob) -> None:
        worker.job = job
        worker.num_jobs += 1
        worker.limit_s = self._limits.screen_s if isinstance(job, ScreenJob) else self._limits.blocks_s
        worker.deadline = time.monotonic() + worker.limit_s
        # A worker that died while idle shows when its answer is read.
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            worker.child.connection.send(job)

    def _start(self) -> _RunningWorker:
        log_path = self._logs.path / f"{time.monotonic_ns()}.log"
        child = child_process.start(self._main, str(log_path), self._spec)
        self._worker = _RunningWorker(child, log_path, self._limits.start_s)
        return self._worker

    def _drop(self) -> None:
        if self._worker:
            self._worker.child.kill()
        self._worker = None


class _RunningWorker:
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


def gpu_process(connection: Connection, log_path: str, spec: WorkerSpec) -> None:
    """What runs in the child. Only there is torch imported, once what it prints goes into the log."""
    child_process.settle(log_path)
    from tools.tune.worker import serve

    serve(connection, spec)
