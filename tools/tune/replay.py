"""A runner without a GPU: answers from a recorded landscape, on a clock that runs on recorded seconds.

So strategies run, and are compared, on any machine. What the landscape doesn't hold fails as «not recorded», and is
counted.
"""

from __future__ import annotations

import heapq
import itertools
import statistics
from collections import defaultdict, deque
from collections.abc import Hashable, Iterable, Mapping
from dataclasses import replace
from types import TracebackType
from typing import Self, TypeVar

from kernels.launch_config import LaunchConfig
from tools.compile.outcome import Status
from tools.measure.panel import Part
from tools.tune.journal import Journal, JournalEntry, JournalWriter
from tools.tune.protocol import (
    BlockJob,
    Compiled,
    CompileJob,
    Event,
    Job,
    Measured,
    Runner,
    Screened,
    ScreenJob,
    Series,
    kernel_of,
)

_T = TypeVar("_T")

NOT_RECORDED = "not recorded in this landscape"


class ReplayRunner:
    """Compiles on `jobs` imagined cores and measures on one imagined GPU, each job as long as it took then.

    unrecorded: the launch configs that were asked for and not found, with the batch size; None for a compilation.
    """

    def __init__(self, landscape: Journal, jobs: int = 16) -> None:
        self.unrecorded: set[tuple[LaunchConfig, int | None]] = set()
        self._compiled: dict[CompileJob, Compiled] = {}
        self._screened: dict[ScreenJob, Screened] = {}
        self._measured: dict[BlockJob, Measured] = {}
        self._blocks: dict[tuple[int, Part, LaunchConfig | None, LaunchConfig], _Recorded] = defaultdict(_Recorded)
        self._last: dict[tuple[int, Part], Measured] = {}
        for entry in landscape.entries:
            match entry.event:
                case Compiled() as event:
                    self._compiled.setdefault(_compile_key(event.job), event)
                case Screened() as event:
                    self._screened[_screen_key(event.job)] = event
                case Measured() as event:
                    self._measured.setdefault(event.job, event)
                    row = event.job.num_tokens, event.job.part
                    self._last[row] = event
                    seconds = event.seconds / len(event.series)
                    for series in event.series:
                        self._blocks[(*row, event.job.up, series.config)].add(event.job, series, seconds)
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
            event = self._screen(job) if isinstance(job, ScreenJob) else self._measure(job)
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

    def _measure(self, job: BlockJob) -> Measured:
        """What that very job gave; else each config's own blocks, from wherever they are."""
        if recorded := self._measured.get(job):
            return recorded
        answers = [self._alone(job, config) for config in job.configs]
        last = self._last.get((job.num_tokens, job.part))
        series = tuple(series for series, _ in answers)
        seconds = sum(seconds for _, seconds in answers)
        if last is None:
            return Measured(job, series, seconds)
        return Measured(job, series, seconds, last.active_experts, last.draws)

    def _alone(self, job: BlockJob, config: LaunchConfig) -> tuple[Series, float]:
        """(a config's series, seconds): of recorded blocks, else as many as wanted of its screening."""
        recorded = self._blocks.get((job.num_tokens, job.part, job.up, config))
        if recorded is not None and not (job.is_apart and recorded.is_whole):
            return recorded.blocks(job, config)
        return self._screening(job, config) if job.up is None else self._of_both(job, job.up, config)

    def _of_both(self, job: BlockJob, up: LaunchConfig, down: LaunchConfig) -> tuple[Series, float]:
        """One config's time for up and another's for down, timed apart: no recorded block has both in one layer."""
        both = [self._apart(job, config) for config in (up, down)]
        if failed := next((one for one in both if one.status is not Status.OK), None):
            return replace(failed, config=down), 0.0
        times = [round(up_us + down_us, 4) for up_us, down_us in zip(both[0].up_us, both[1].down_us, strict=True)]
        return Series(down, Status.OK, tuple(times)), 0.0

    def _apart(self, job: BlockJob, config: LaunchConfig) -> Series:
        """Of recorded blocks, else of its screening."""
        series, _ = self._alone(replace(job, is_apart=True, up=None), config)
        return series if series.up_us or series.status is not Status.OK else self._screening(job, config)[0]

    def _screening(self, job: BlockJob, config: LaunchConfig) -> tuple[Series, float]:
        part = job.part
        event = self._screen(ScreenJob(job.num_tokens, part.placement, config, None, part.engine, part.routing))
        if event.status is not Status.OK:
            return Series(config, event.status, message=event.message), event.seconds
        return Series.apart(config, (event.up_us,) * job.count, (event.down_us,) * job.count), event.seconds


class _Recorded:
    """One config's blocks at a batch size in a part. Rounds of older landscapes stand one behind the other."""

    def __init__(self) -> None:
        self._whole: dict[int, float] = {}
        self._apart: dict[int, tuple[float, float]] = {}
        self._failed: Series | None = None
        self._seconds: list[float] = []

    def add(self, job: BlockJob, series: Series, seconds: float) -> None:
        self._seconds.append(seconds / job.count)
        if series.status is not Status.OK:
            self._failed = series
            return
        if not series.up_us:
            self._whole = {**dict(enumerate(series.us, job.first)), **self._whole}  # a latecomer's job has them again
            return
        first = job.first if job.first not in self._apart else len(self._apart)
        self._apart |= dict(enumerate(zip(series.up_us, series.down_us, strict=True), first))

    @property
    def is_whole(self) -> bool:
        """Up and down were only timed together."""
        return bool(self._whole) and not self._apart and self._failed is None

    def blocks(self, job: BlockJob, config: LaunchConfig) -> tuple[Series, float]:
        """The job's, from the start again behind the last: those of two configs stay paired as long as they can."""
        seconds = job.count * statistics.mean(self._seconds)
        wanted = range(job.first, job.first + job.count)
        if self._failed is not None:
            return self._failed, seconds
        if self._apart and (job.is_apart or not self._whole):
            pairs = [_of_block(self._apart, block) for block in wanted]
            return Series.apart(config, *(tuple(us) for us in zip(*pairs, strict=True))), seconds
        times = tuple(_of_block(self._whole, block) for block in wanted)
        return Series(config, Status.OK, times), seconds


def _of_block(known: Mapping[int, _T], block: int) -> _T:
    return known[block] if block in known else list(known.values())[block % len(known)]


def _compile_key(job: CompileJob) -> CompileJob:
    return replace(job, config=kernel_of(job.config), up=job.up and kernel_of(job.up))


def _screen_key(job: ScreenJob) -> ScreenJob:
    """When to give up depends on what was measured first, which a second run may see in another order."""
    return replace(job, give_up_us=None)


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


def _key(job: ScreenJob | BlockJob) -> Hashable:
    return _screen_key(job) if isinstance(job, ScreenJob) else job
