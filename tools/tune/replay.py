"""A runner without a GPU: answers from a recorded landscape, on a clock that runs on recorded seconds.

So strategies run, and are compared, on any machine. What the landscape doesn't hold fails as «not recorded», and is
counted.
"""

from __future__ import annotations

import heapq
import itertools
import statistics
from collections import defaultdict, deque
from collections.abc import Hashable, Iterable
from dataclasses import replace
from types import TracebackType
from typing import Self

from kernels.launch_config import LaunchConfig
from tools.compile.outcome import Status
from tools.tune.journal import Journal, JournalEntry, JournalWriter
from tools.tune.protocol import (
    Compiled,
    CompileJob,
    Confirmed,
    ConfirmJob,
    Event,
    Job,
    Runner,
    Screened,
    ScreenJob,
    Series,
    kernel_of,
)

NOT_RECORDED = "not recorded in this landscape"


class ReplayRunner:
    """Compiles on `jobs` imagined cores and measures on one imagined GPU, each job as long as it took then.

    unrecorded: the launch configs that were asked for and not found, with the batch size; None for a compilation.
    """

    def __init__(self, landscape: Journal, jobs: int = 16) -> None:
        self.unrecorded: set[tuple[LaunchConfig, int | None]] = set()
        self._compiled: dict[CompileJob, Compiled] = {}
        self._screened: dict[tuple[int, int, LaunchConfig], Screened] = {}
        self._confirmed: dict[ConfirmJob, deque[Confirmed]] = defaultdict(deque)
        self._confirmed_alone: dict[tuple[int, int, LaunchConfig], _Recorded] = defaultdict(_Recorded)
        self._active_experts: dict[tuple[int, int], float | None] = {}
        for entry in landscape.entries:
            match entry.event:
                case Compiled() as event:
                    self._compiled.setdefault(_compile_key(event.job), event)
                case Screened() as event:
                    self._screened[_screen_key(event.job)] = event
                case Confirmed() as event:
                    self._confirmed[event.job].append(event)
                    self._active_experts[event.job.num_tokens, event.job.shape] = event.active_experts
                    for series in event.series:
                        key = event.job.num_tokens, event.job.shape, series.config
                        self._confirmed_alone[key].add(series, event.seconds / len(event.series))
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
            self.unrecorded.add((job.config, None))
            return Compiled(job, Status.CONSTRAINTS, 0.0, message=NOT_RECORDED)
        return replace(known, job=job)

    def _screen(self, job: ScreenJob) -> Screened:
        known = self._screened.get(_screen_key(job))
        if known is None:
            self.unrecorded.add((job.config, job.num_tokens))
            return Screened(job, Status.CONSTRAINTS, 0.0, message=NOT_RECORDED)
        return replace(known, job=job)

    def _confirm(self, job: ConfirmJob) -> Confirmed:
        """What that very job gave, one time after the other; else each config's own samples, from wherever they are."""
        if recorded := self._confirmed.get(job):
            return recorded.popleft() if len(recorded) > 1 else recorded[0]
        answers = [self._alone(job, config) for config in job.configs]
        active_experts = self._active_experts.get((job.num_tokens, job.shape))
        series = tuple(series for series, _ in answers)
        return Confirmed(job, series, sum(seconds for _, seconds in answers), active_experts)

    def _alone(self, job: ConfirmJob, config: LaunchConfig) -> tuple[Series, float]:
        """(a config's series, seconds): of what confirmations gave, else as many samples as wanted of its screening."""
        if recorded := self._confirmed_alone.get((job.num_tokens, job.shape, config)):
            return recorded.next(config, job.rounds)
        event = self._screen(ScreenJob(job.num_tokens, job.shape, config))
        count = job.rounds if event.status is Status.OK else 0
        series = Series(config, event.status, (event.up_us,) * count, (event.down_us,) * count, event.message)
        return series, event.seconds


class _Recorded:
    """One config's samples of every confirmation at a batch size under a shape, in the order they were taken."""

    def __init__(self) -> None:
        self._pairs: deque[tuple[float, float]] = deque()
        self._failed: Series | None = None
        self._seconds: list[float] = []

    def add(self, series: Series, seconds: float) -> None:
        self._seconds.append(seconds)
        if series.status is Status.OK:
            self._pairs.extend(zip(series.up_us, series.down_us, strict=True))
        else:
            self._failed = series

    def next(self, config: LaunchConfig, rounds: int) -> tuple[Series, float]:
        """The next ones, from the start again behind the last: those of two configs stay paired as long as they can."""
        seconds = statistics.mean(self._seconds)
        if not self._pairs:
            assert self._failed is not None
            return self._failed, seconds
        taken = [self._pairs[i % len(self._pairs)] for i in range(rounds)]
        self._pairs.rotate(-rounds)
        up_us, down_us = zip(*taken, strict=True)
        return Series(config, Status.OK, up_us, down_us), seconds


def _compile_key(job: CompileJob) -> CompileJob:
    return replace(job, config=kernel_of(job.config))


def _screen_key(job: ScreenJob) -> tuple[int, int, LaunchConfig]:
    return job.num_tokens, job.shape, job.config


# ---------------------------------------------------------------
# Recording: a runner that writes down every event, and answers from an earlier journal what was already measured.


class RecordingRunner:
    """Wraps a runner. Events are appended to every writer before anyone sees them.

    earlier: what a killed run had measured; such a job is answered at once, and not written again. Compilations are
    done anew: they fill the compiler's cache, which may be gone, and cost nothing where it is not.
    """

    def __init__(self, inner: Runner, writers: Iterable[JournalWriter], earlier: Iterable[JournalEntry] = ()) -> None:
        self._inner = inner
        self._writers = tuple(writers)
        self._known: dict[Hashable, deque[Event]] = defaultdict(deque)
        self._before_s = 0.0
        for entry in earlier:
            self._before_s = max(self._before_s, entry.clock_s)
            if not isinstance(entry.event, Compiled):
                self._known[_key(entry.event.job)].append(entry.event)
        self._answered: deque[Event] = deque()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for writer in self._writers:
            writer.close()

    @property
    def clock_s(self) -> float:
        return self._inner.clock_s

    @property
    def seconds_in_all(self) -> float:
        """Of the runs before and this one."""
        return self._before_s + self._inner.clock_s

    @property
    def compile_slots(self) -> int:
        return self._inner.compile_slots

    def submit(self, job: Job) -> None:
        known = None if isinstance(job, CompileJob) else self._known.get(_key(job))
        if known:
            self._answered.append(known.popleft())
        else:
            self._inner.submit(job)

    def wait(self) -> Event:
        if self._answered:
            return self._answered.popleft()
        event = self._inner.wait()
        for writer in self._writers:
            writer.append(event, self.seconds_in_all)
        return event


def _key(job: ScreenJob | ConfirmJob) -> Hashable:
    """When to give up depends on what was measured first, which a second run may see in another order."""
    if isinstance(job, ScreenJob):
        return job.num_tokens, job.shape, job.config
    return job
