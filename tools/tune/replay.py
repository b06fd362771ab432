"""A runner without a GPU: answers from a recorded landscape, on a clock that runs on recorded seconds.

So strategies run, and are compared, on any machine. What the landscape doesn't hold fails as «not recorded».
"""

from __future__ import annotations

import heapq
import itertools
from dataclasses import replace

from tools.compile.outcome import Status
from tools.launch_config import LaunchConfig
from tools.tune.journal import Journal
from tools.tune.model import (
    Compiled,
    CompileJob,
    Confirmed,
    ConfirmJob,
    Event,
    Job,
    Screened,
    ScreenJob,
    Series,
    kernel_of,
)

NOT_RECORDED = "not recorded in this landscape"


class ReplayRunner:
    """Compiles on `jobs` imagined cores and measures on one imagined GPU, each job as long as it took then."""

    def __init__(self, landscape: Journal, jobs: int = 16) -> None:
        self._compiled: dict[CompileJob, Compiled] = {}
        self._screened: dict[tuple[int, int, LaunchConfig], Screened] = {}
        self._confirmed: dict[ConfirmJob, Confirmed] = {}
        for entry in landscape.entries:
            match entry.event:
                case Compiled() as event:
                    self._compiled.setdefault(_compile_key(event.job), event)
                case Screened() as event:
                    self._screened[_screen_key(event.job)] = event
                case Confirmed() as event:
                    self._confirmed.setdefault(event.job, event)
        self._jobs = jobs
        self._clock_s = 0.0
        self._cores_free_at = [0.0] * jobs
        self._gpu_free_at = 0.0
        self._done: list[tuple[float, int, Event]] = []
        self._numbers = itertools.count()

    @property
    def clock_s(self) -> float:
        return self._clock_s

    @property
    def compile_slots(self) -> int:
        return 2 * self._jobs

    def submit(self, job: Job) -> None:
        if isinstance(job, CompileJob):
            event: Event = self._compile(job)
            finished = self._clock_s
            kernels = max(1, event.kernels) if isinstance(event, Compiled) else 1
            for _ in range(kernels):
                started = max(self._clock_s, heapq.heappop(self._cores_free_at))
                heapq.heappush(self._cores_free_at, started + event.seconds / kernels)
                finished = max(finished, started + event.seconds / kernels)
        else:
            event = self._screen(job) if isinstance(job, ScreenJob) else self._confirm(job)
            finished = self._gpu_free_at = max(self._clock_s, self._gpu_free_at) + event.seconds
        heapq.heappush(self._done, (finished, next(self._numbers), event))

    def wait(self) -> Event:
        if not self._done:
            raise LookupError("replay: nothing is outstanding")
        finished, _, event = heapq.heappop(self._done)
        self._clock_s = max(self._clock_s, finished)
        return event

    def _compile(self, job: CompileJob) -> Compiled:
        known = self._compiled.get(_compile_key(job))
        if known is None:
            return Compiled(job, Status.CONSTRAINTS, 0.0, message=NOT_RECORDED)
        return replace(known, job=job)

    def _screen(self, job: ScreenJob) -> Screened:
        known = self._screened.get(_screen_key(job))
        if known is None:
            return Screened(job, Status.CONSTRAINTS, 0.0, message=NOT_RECORDED)
        return replace(known, job=job)

    def _confirm(self, job: ConfirmJob) -> Confirmed:
        """The recorded series, else as many samples as wanted of what screening saw."""
        if job in self._confirmed:
            return self._confirmed[job]
        screened = [self._screen(ScreenJob(job.num_tokens, job.shape, config)) for config in job.configs]
        series = tuple(
            Series(
                event.job.config,
                event.status,
                (event.up_us,) * job.rounds if event.status is Status.OK else (),
                (event.down_us,) * job.rounds if event.status is Status.OK else (),
                event.message,
            )
            for event in screened
        )
        return Confirmed(job, series, sum(event.seconds for event in screened))


def _compile_key(job: CompileJob) -> CompileJob:
    return replace(job, config=kernel_of(job.config))


def _screen_key(job: ScreenJob) -> tuple[int, int, LaunchConfig]:
    return job.num_tokens, job.shape, job.config
