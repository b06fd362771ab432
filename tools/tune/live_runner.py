"""The runner of a real GPU: compiles on all cores without a GPU context, measures in a process that owns the GPU."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Hashable
from multiprocessing.connection import wait
from types import TracebackType
from typing import Self

from kernels.problem import Problem, Routing, up_and_down
from tools.child_process import usable_cores
from tools.compile.outcome import Outcome, Status
from tools.compile.pool import CompilePool
from tools.measure.kernels import KernelTask
from tools.tune.gpu_worker import WorkerSpec
from tools.tune.model import Compiled, CompileJob, Event, Job, Subject
from tools.tune.supervisor import Supervisor

_KERNELS_OF_A_JOB = 2


class LiveRunner:
    """jobs: compiling processes. The GPU's process comes up while the first kernels compile."""

    def __init__(self, subject: Subject, pool: CompilePool, supervisor: Supervisor, jobs: int) -> None:
        self._subject, self._pool, self.supervisor, self._jobs = subject, pool, supervisor, jobs
        self._started = time.monotonic()
        self._events: deque[Event] = deque()
        self._outstanding = 0
        self._outcomes: dict[Hashable, Outcome] = {}
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
            for task in kernel_tasks(self._subject, job):
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

    def _on_outcome(self, key: Hashable, outcome: Outcome) -> None:
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

    def _judge(self, outcome: Outcome) -> Outcome:
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
        return Outcome(Status.CONSTRAINTS, outcome.seconds, found, message)


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
        self.runner = LiveRunner(spec.subject, self._pool, self.supervisor, self._jobs)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.supervisor.__exit__(kind, error, trace)
        self._pool.close()


def kernel_tasks(subject: Subject, job: CompileJob) -> list[KernelTask]:
    """Up and down of a launch config in a mode. ValueError: a rule forbids the launch."""
    shape, experts = subject.shapes[job.shape].shape, subject.workload.E
    # What matters of a routing is its mode; counts don't specialise, and on AMD buffer sizes do only past 2 GiB.
    routing = (
        Routing(1, shape.top_k, experts, allow_naive=True)
        if job.is_naive
        else Routing(64, shape.top_k, experts, allow_naive=False)
    )
    projections = up_and_down(experts, subject.workload.N, shape.K, shape.top_k)
    problems = [Problem(p, routing, subject.quant, job.config, subject.kernel_arch) for p in projections]
    return [KernelTask(problem, subject.target) for problem in problems]
