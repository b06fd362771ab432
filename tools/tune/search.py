"""From a space to a ranking of every row: kernels at anchors, then neighbours' winners, then group sizes.

Kernels are what costs time (each must be compiled), so a strategy chooses them one by one while the GPU screens those
that are ready at a few anchor batch sizes. Then every row tries what was good at the anchors beside it, then other
group sizes of its best, then what its neighbours found.
"""

from __future__ import annotations

import enum
import heapq
import itertools
import math
import random
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from operator import itemgetter
from typing import Protocol

from kernels.launch_config import LaunchConfig
from kernels.problem import Flavour
from tools.compile.outcome import Status
from tools.measure.panel import LEAST_SKEWED_TOKENS, RoutingKind
from tools.tune.policy import Policies, SearchPolicy
from tools.tune.protocol import (
    BlockJob,
    Compiled,
    CompileJob,
    Event,
    Measured,
    Runner,
    Screened,
    ScreenJob,
    Subject,
    kernel_of,
)
from tools.tune.space import Space


def search(
    subject: Subject,
    space: Space,
    batch_sizes: Sequence[int],
    wanted: Mapping[int, Sequence[LaunchConfig]],
    strategy: Strategy,
    policies: Policies,
    queue: JobQueue,
) -> bool:
    """Fills the queue's measurements. wanted: what is measured in any case, by batch size (baselines, incumbents).

    Returns whether the clock ended it while the strategy still had kernels to propose.
    """
    regimes = _regimes(subject, space, batch_sizes, policies.search.anchor_factor)
    for num_tokens in batch_sizes:
        queue.screen(num_tokens, wanted.get(num_tokens, ()))
    is_cut_short = _screen_kernels(regimes, strategy, policies, queue)
    anchors = sorted(itertools.chain.from_iterable(regime.anchors for regime in regimes))
    is_naive = {m: _mode(subject, m) for m in batch_sizes}
    for num_tokens in batch_sizes:
        beside = _beside(num_tokens, [m for m in anchors if is_naive[m] == is_naive[num_tokens]])
        for anchor in beside:
            queue.screen(num_tokens, queue.measurements.ranking(anchor)[: policies.search.carried])
    _finish_measuring(queue)
    for num_tokens in batch_sizes:
        best = _kernels(queue.measurements.ranking(num_tokens))[: policies.search.survivors]
        queue.screen(num_tokens, [replace(k, GROUP_SIZE_M=size) for k in best for size in space.group_sizes])
    _finish_measuring(queue)
    for num_tokens in batch_sizes:
        like = [m for m in batch_sizes if is_naive[m] == is_naive[num_tokens] and m != num_tokens]
        for near in _beside(num_tokens, like):
            queue.screen(num_tokens, queue.measurements.ranking(near)[:2])
    _finish_measuring(queue)
    return is_cut_short


def usual_strategy(space: Space, wanted: Iterable[LaunchConfig], policy: SearchPolicy) -> NeighboursFirst:
    """What the tuner runs: baselines and incumbents first, one kernel of each tile, then their neighbours."""
    first = [kernel_of(config) for config in wanted]
    known = set(space.kernels)
    seeds = {
        is_naive: [*(k for k in dict.fromkeys(first) if k in known), *representatives(space.kernels, is_naive=is_naive)]
        for is_naive in (False, True)
    }
    return NeighboursFirst(seeds, neighbours_in(space.kernels), policy.promise_limit, policy.beam)


def anchors_of(batch_sizes: Sequence[int], factor: float) -> tuple[int, ...]:
    """The first, then each that is `factor` above the anchor before, and the last."""
    found = list(batch_sizes[:1])
    for num_tokens in batch_sizes[1:]:
        if num_tokens >= factor * found[-1]:
            found.append(num_tokens)
    if batch_sizes and found[-1] != batch_sizes[-1]:
        found.append(batch_sizes[-1])
    return tuple(found)


def _regimes(subject: Subject, space: Space, batch_sizes: Sequence[int], factor: float) -> list[Regime]:
    by_mode: dict[tuple[bool, ...], list[int]] = {}
    for num_tokens in batch_sizes:
        by_mode.setdefault(_mode(subject, num_tokens), []).append(num_tokens)
    return [
        Regime(tuple(sizes), anchors_of(sizes, factor), all(mode), dict.fromkeys(space.kernels))
        for mode, sizes in by_mode.items()
    ]


def _mode(subject: Subject, num_tokens: int) -> tuple[bool, ...]:
    return tuple(subject.routing(num_tokens, shape).is_naive for shape in range(len(subject.shapes)))


def _screen_kernels(regimes: Sequence[Regime], strategy: Strategy, policies: Policies, queue: JobQueue) -> bool:
    ladder = _Ladder(regimes, queue.num_shapes, policies.search)
    is_cut_short = False
    while queue.clock_s < policies.budget.search_s:
        while queue.has_free_slot and (offer := strategy.propose(regimes, queue.measurements)) is not None:
            regime, kernel = offer
            del regime.pending[kernel]
            ladder.start(kernel, regime, queue)
        if not (queue.is_compiling or queue.is_measuring):
            break
        ladder.climb(queue.step(), queue)
    else:
        is_cut_short = queue.forget_compiling() or strategy.propose(regimes, queue.measurements) is not None
    while queue.is_measuring:
        ladder.climb(queue.step(), queue)
    return is_cut_short


class _Ladder:
    """A kernel is measured where it is cheap first: at anchors of few tokens, and under the first shape.

    From there it climbs as long as it does well. A config counts by its worst shape, so what is slow under one needs no
    binaries for the others; and where a sample takes milliseconds few of those lead that trail at a quarter of the
    tokens.
    """

    def __init__(self, regimes: Sequence[Regime], num_shapes: int, policy: SearchPolicy) -> None:
        self._policy, self._last_shape = policy, num_shapes - 1
        self._above = {
            low: high
            for regime in regimes
            for low, high in itertools.pairwise(regime.anchors)
            if high > policy.cheap_tokens
        }

    def start(self, kernel: LaunchConfig, regime: Regime, queue: JobQueue) -> None:
        """At every anchor that isn't above another one."""
        later = set(self._above.values())
        for anchor in regime.anchors:
            if anchor not in later:
                queue.screen(anchor, [kernel], shapes=[0])

    def climb(self, event: Event, queue: JobQueue) -> None:
        """Asks for what this event makes worth a time."""
        if not isinstance(event, Screened) or event.status is not Status.OK:
            return
        job = event.job
        ratio = event.total_us / queue.measurements.best_us(job.num_tokens, job.shape)
        if job.shape < self._last_shape:
            if ratio <= self._policy.shape_limit:
                queue.screen(job.num_tokens, [job.config], shapes=[job.shape + 1])
        elif (higher := self._above.get(job.num_tokens)) and ratio <= self._policy.climbing_limit:
            queue.screen(higher, [job.config], shapes=[0])


def screen_apart(
    subject: Subject, space: Space, batch_sizes: Sequence[int], view: View, policies: Policies, queue: JobQueue
) -> dict[int, tuple[int, ...]]:
    """Asks for the best of every anchor in another view. Returns, by batch size, the anchors beside it that have it.

    Under skew anchors of few tokens say nothing: routing hardly differs there.
    """
    regimes = _regimes(subject, space, batch_sizes, policies.search.anchor_factor)
    found: dict[int, tuple[int, ...]] = {}
    for sizes, anchors in ((regime.batch_sizes, regime.anchors) for regime in regimes):
        asked = [m for m in anchors if view is not View.SKEWED or m >= LEAST_SKEWED_TOKENS]
        for anchor in asked:
            queue.screen(anchor, queue.measurements.ranking(anchor)[: policies.panel.screened], view)
        for num_tokens in sizes:
            if view is not View.SKEWED or num_tokens >= LEAST_SKEWED_TOKENS:
                found[num_tokens] = tuple(_beside(num_tokens, asked))
    return found


def _finish_measuring(queue: JobQueue) -> None:
    while queue.is_measuring:
        queue.step()


def _beside(num_tokens: int, others: Sequence[int]) -> list[int]:
    """The nearest below and above (itself, if it is among them)."""
    below = [m for m in others if m <= num_tokens]
    above = [m for m in others if m >= num_tokens]
    return list(dict.fromkeys([*below[-1:], *above[:1]]))


def _kernels(configs: Iterable[LaunchConfig]) -> list[LaunchConfig]:
    return list(dict.fromkeys(kernel_of(config) for config in configs))


# ---------------------------------------------------------------
# Strategies: in which order kernels are tried, and when to stop. A strategy sees what is pending and what was measured,
# no more. A *regime* is the batch sizes that run one mode of the kernel (decode's naive mode has binaries of its own).

_UNIT_AXES = tuple(field.name for field in fields(LaunchConfig) if field.name != "GROUP_SIZE_M")


@dataclass(frozen=True)
class Regime:
    """Its batch sizes, the anchors among them, and in `pending` the kernels that weren't asked for yet."""

    batch_sizes: tuple[int, ...]
    anchors: tuple[int, ...]
    is_naive: bool
    pending: dict[LaunchConfig, None]


class Strategy(Protocol):
    """Chooses the next kernel to compile and screen."""

    def propose(self, regimes: Sequence[Regime], measurements: Measurements) -> tuple[Regime, LaunchConfig] | None:
        """None: nothing that is pending is worth its compilation, as far as is known now."""


@dataclass(frozen=True)
class NeighboursFirst:
    """Seeds, then whatever is one step away from the best that are known at an anchor; anchors take turns.

    Without turns the anchors whose rows are flat (decode) would have all their near-optimal kernels' neighbours tried
    before a steep one (prefill) has its second step. seeds: launch configs in the order in which they are tried
    without knowledge. neighbours: of each kernel, those that differ in one axis by one step. From a kernel steps are
    taken only where it is one of the best `beam`, and within `promise_limit` of the best (a ratio).
    """

    seeds: Mapping[bool, Sequence[LaunchConfig]]
    neighbours: Mapping[LaunchConfig, tuple[LaunchConfig, ...]]
    promise_limit: float
    beam: int

    def propose(self, regimes: Sequence[Regime], measurements: Measurements) -> tuple[Regime, LaunchConfig] | None:
        for regime in regimes:
            for kernel in self.seeds[regime.is_naive]:
                if kernel in regime.pending:
                    return regime, kernel
        for regime, anchor in _in_turn(regimes):
            for near in self._best(anchor, measurements):
                for kernel in self.neighbours.get(near, ()):
                    if kernel in regime.pending:
                        return regime, kernel
        return None

    def _best(self, anchor: int, measurements: Measurements) -> list[LaunchConfig]:
        """Kernels whose neighbours are worth their compilation, the best first."""
        found = [(measurements.ratio(anchor, config), config) for config in measurements.known(anchor)]
        best = heapq.nsmallest(self.beam, found, key=itemgetter(0))
        limit = self.promise_limit * best[0][0] if best else 0.0
        return [kernel_of(config) for ratio, config in best if ratio <= limit < math.inf]


def _in_turn(regimes: Sequence[Regime]) -> list[tuple[Regime, int]]:
    """Every anchor that has something pending. With each kernel taken, another one comes first."""
    turns = [(regime, anchor) for regime in regimes if regime.pending for anchor in regime.anchors]
    if not turns:
        return []
    first = -sum(len(regime.pending) for regime in regimes) % len(turns)
    return turns[first:] + turns[:first]


@dataclass(frozen=True)
class InOrder:
    """Everything in the order given: exhaustive search, and random search once shuffled."""

    order: Mapping[LaunchConfig, int]

    @classmethod
    def shuffled(cls, kernels: Iterable[LaunchConfig], seed: int = 0) -> InOrder:
        order = list(kernels)
        random.Random(seed).shuffle(order)
        return cls({kernel: place for place, kernel in enumerate(order)})

    def propose(self, regimes: Sequence[Regime], measurements: Measurements) -> tuple[Regime, LaunchConfig] | None:  # noqa: ARG002
        offers = [(self.order[kernel], i) for i, regime in enumerate(regimes) for kernel in regime.pending]
        if not offers:
            return None
        place, index = min(offers)
        return regimes[index], next(kernel for kernel in regimes[index].pending if self.order[kernel] == place)


def neighbours_in(kernels: Sequence[LaunchConfig]) -> dict[LaunchConfig, tuple[LaunchConfig, ...]]:
    """Of each kernel those that differ in one axis, with no other value of that axis between them."""
    known = set(kernels)
    values = {axis: sorted({getattr(kernel, axis) for kernel in kernels}, key=_rank) for axis in _UNIT_AXES}
    found: dict[LaunchConfig, tuple[LaunchConfig, ...]] = {}
    for kernel in kernels:
        steps = []
        for axis, line in values.items():
            at = line.index(getattr(kernel, axis))
            for side in (line[at + 1 :], line[:at][::-1]):
                # Past a gap that doesn't fit the GPU: the next that does.
                near = next((n for value in side if (n := replace(kernel, **{axis: value})) in known), None)
                steps += [near] if near is not None else []
        found[kernel] = tuple(steps)
    return found


def _rank(value: object) -> tuple[bool, str | int]:
    return (False, 0) if value is None else (True, value if isinstance(value, int) else str(value))


def representatives(kernels: Sequence[LaunchConfig], *, is_naive: bool) -> list[LaunchConfig]:
    """One kernel a tile: the middle of its pipeline depths, warps by the tile's area. Small tiles first.

    In the naive mode a tile has one valid row: only the lowest tiles are worth a try without knowledge.
    """
    least_m = min((kernel.BLOCK_SIZE_M for kernel in kernels), default=0)
    by_tile: dict[tuple[int, int, int], list[LaunchConfig]] = {}
    for kernel in kernels:
        if not is_naive or least_m == kernel.BLOCK_SIZE_M:
            tile = kernel.BLOCK_SIZE_M, kernel.BLOCK_SIZE_N, kernel.BLOCK_SIZE_K
            by_tile.setdefault(tile, []).append(kernel)
    return [min(of_tile, key=_distance_from_middle) for _, of_tile in sorted(by_tile.items())]


def _distance_from_middle(kernel: LaunchConfig) -> tuple[int, int]:
    usual_warps = 4 if kernel.BLOCK_SIZE_M * kernel.BLOCK_SIZE_N < 64 * 128 else 8
    return abs(kernel.num_warps - usual_warps), abs(kernel.num_stages - 3)


# ---------------------------------------------------------------
# Between a search and its runner: compiles before it measures, keeps every result, knows what is open. A search only
# says which launch config it wants to know at which batch size. Several shapes behind one name are measured apart; a
# config counts by its worst loss over them.

QUEUE_DEPTH = 3
"""Measurements handed out at once: enough that the GPU never waits, few enough that each knows the row's best."""

Observer = Callable[[Event], None]


@dataclass(frozen=True)
class Times:
    """Of one launch config at one batch size under one shape, in µs."""

    up_us: float
    down_us: float

    @property
    def total_us(self) -> float:
        return self.up_us + self.down_us


class View(enum.Enum):
    """Under what a coarse time is taken."""

    USUAL = "uniform routing, the kernel of the first engine that reads the shape's name"
    SKEWED = "its kernel, skewed routing"
    OTHER_ENGINE = "uniform routing, the other engine's kernel"


SKEW = RoutingKind.SKEW_03
"""What stands for skew in screening: the stronger one."""


def _jobs_of(subject: Subject, view: View, num_tokens: int, config: LaunchConfig) -> list[ScreenJob]:
    """One for each shape that the view is of."""
    routing = SKEW if view is View.SKEWED else RoutingKind.UNIFORM
    return [
        ScreenJob(num_tokens, shape, config, None, engine, routing)
        for shape in range(len(subject.shapes))
        for place, engine in enumerate(subject.engines_of(shape))
        if (place > 0) == (view is View.OTHER_ENGINE)
    ]


def _view_of(subject: Subject, job: ScreenJob) -> View:
    if job.engine is not subject.first_engine(job.shape):
        return View.OTHER_ENGINE
    return View.USUAL if job.routing is RoutingKind.UNIFORM else View.SKEWED


class Measurements:
    """What is known so far in one view, by batch size, shape and launch config. shapes: that the view is of."""

    def __init__(self, shapes: Sequence[int]) -> None:
        self._shapes = tuple(shapes)
        self._times: dict[tuple[int, int], dict[LaunchConfig, Times]] = {}
        self._best_us: dict[tuple[int, int], float] = {}

    def add(self, num_tokens: int, shape: int, config: LaunchConfig, times: Times) -> None:
        row = num_tokens, shape
        self._times.setdefault(row, {})[config] = times
        self._best_us[row] = min(self._best_us.get(row, math.inf), times.total_us)

    def best_us(self, num_tokens: int, shape: int) -> float:
        """Infinite as long as nothing is known."""
        return self._best_us.get((num_tokens, shape), math.inf)

    def times(self, num_tokens: int, shape: int, config: LaunchConfig) -> Times | None:
        return self._times.get((num_tokens, shape), {}).get(config)

    def ratio(self, num_tokens: int, config: LaunchConfig) -> float:
        """Time over the row's best, the worst of all shapes. Infinite: failed, or not measured under all of them."""
        worst = 1.0
        for shape in self._shapes:
            times = self.times(num_tokens, shape, config)
            if times is None:
                return math.inf
            worst = max(worst, times.total_us / self.best_us(num_tokens, shape))
        return worst

    def ranking(self, num_tokens: int) -> list[LaunchConfig]:
        """Every config that is known under all shapes, the best first."""
        known = [config for config in self.known(num_tokens) if self.ratio(num_tokens, config) < math.inf]
        return sorted(known, key=lambda config: self.ratio(num_tokens, config))

    def known(self, num_tokens: int) -> Iterable[LaunchConfig]:
        """Under the first shape, in no order."""
        return self._times.get((num_tokens, self._shapes[0] if self._shapes else 0), {})


class JobQueue:
    """Turns wishes into jobs, events into `Measurements`. observe sees every event."""

    def __init__(self, subject: Subject, runner: Runner, give_up_ratio: float, observe: Observer) -> None:
        self._subject, self._runner, self._observe = subject, runner, observe
        self._give_up_ratio = give_up_ratio
        self._compiled: dict[CompileJob, Status] = {}
        self._compiling: set[CompileJob] = set()
        self._waiting: dict[CompileJob, list[ScreenJob]] = {}
        self._queue: deque[ScreenJob] = deque()
        self._asked: set[ScreenJob] = set()
        self._measuring = 0
        shapes = range(len(subject.shapes))
        both = [shape for shape in shapes if len(subject.engines_of(shape)) > 1]
        self.views = {view: Measurements(both if view is View.OTHER_ENGINE else shapes) for view in View}
        self.failures: dict[LaunchConfig, Status] = {}

    @property
    def measurements(self) -> Measurements:
        """Those of the search."""
        return self.views[View.USUAL]

    @property
    def num_shapes(self) -> int:
        """Behind the name."""
        return len(self._subject.shapes)

    @property
    def clock_s(self) -> float:
        return self._runner.clock_s

    @property
    def has_free_slot(self) -> bool:
        """Whether another kernel can be compiled at once."""
        return len(self._compiling) < self._runner.compile_slots

    @property
    def is_compiling(self) -> bool:
        return bool(self._compiling)

    @property
    def is_measuring(self) -> bool:
        return bool(self._measuring or self._queue)

    def screen(
        self,
        num_tokens: int,
        configs: Iterable[LaunchConfig],
        view: View = View.USUAL,
        shapes: Sequence[int] | None = None,
    ) -> None:
        """Wants their times at a batch size; what was asked before is not asked again. shapes: None, all of them."""
        wanted = range(self.num_shapes) if shapes is None else shapes
        for config in configs:
            for job in _jobs_of(self._subject, view, num_tokens, config):
                if job.shape in wanted and job not in self._asked:
                    self._asked.add(job)
                    self._need(self._subject.compile_job(config, num_tokens, job.shape, job.engine), job)

    def compile(
        self, num_tokens: int, configs: Iterable[LaunchConfig], engine: Flavour, up: LaunchConfig | None = None
    ) -> None:
        """Wants what blocks of theirs will run, before they are asked for. up: as in `CompileJob`."""
        for config in configs:
            for shape in self._subject.placements[engine]:
                self._need(self._subject.compile_job(config, num_tokens, shape, engine, up), None)

    def runs(self, num_tokens: int, config: LaunchConfig, engine: Flavour, up: LaunchConfig | None = None) -> bool:
        """Unless its compilation failed, or what was measured of it. up: as in `CompileJob`."""
        shapes = self._subject.placements[engine]
        jobs = [self._subject.compile_job(config, num_tokens, shape, engine, up) for shape in shapes]
        return config not in self.failures and all(self._compiled.get(j, Status.OK) is Status.OK for j in jobs)

    def measure(self, job: BlockJob) -> Measured:
        """Waits for the blocks; what else comes meanwhile is taken in. RunnerError."""
        self._runner.submit(job)
        while True:
            event = self.step()
            if isinstance(event, Measured):
                return event

    def step(self) -> Event:
        """Hands out what it can and takes in one event. LookupError: nothing is outstanding."""
        while self._queue and self._measuring < QUEUE_DEPTH:
            job = self._queue.popleft()
            known = self.views[_view_of(self._subject, job)]
            limit_us = known.best_us(job.num_tokens, job.shape) * self._give_up_ratio
            self._runner.submit(replace(job, give_up_us=limit_us if limit_us < math.inf else None))
            self._measuring += 1
        event = self._runner.wait()
        if isinstance(event, Compiled):
            self._on_compiled(event)
        elif isinstance(event, Screened):
            self._on_screened(event)
        self._observe(event)
        return event

    def finish(self) -> None:
        """Until everything asked for is known."""
        while self.is_measuring or self._compiling:
            self.step()

    def forget_compiling(self) -> bool:
        """What isn't compiled by now is no longer waited for, and counts as if nobody had asked for it.

        Returns whether there was any.
        """
        forgotten = [*itertools.chain.from_iterable(self._waiting.values())]
        self._asked.difference_update(forgotten)
        self._waiting.clear()
        self._compiling.clear()
        return bool(forgotten)

    def outcomes(self) -> Counter[str]:
        """Launch configs by what became of them."""
        failed = Counter(status.value for status in self.failures.values())
        tried = {job.config for job in self._asked}
        ok = sum(1 for config in tried if config not in self.failures and kernel_of(config) not in self.failures)
        return failed + Counter({Status.OK.value: ok})

    def _need(self, job: CompileJob, wish: ScreenJob | None) -> None:
        status = self._compiled.get(job)
        wishes = [wish] if wish else []
        if status is Status.OK:
            self._queue.extend(wishes)
        elif status is None:
            self._waiting.setdefault(job, []).extend(wishes)
            if job not in self._compiling:
                self._compiling.add(job)
                self._runner.submit(job)

    def _on_compiled(self, event: Compiled) -> None:
        job = event.job
        self._compiled[job] = event.status
        self._compiling.discard(job)
        wishes = self._waiting.pop(job, [])
        if event.status is Status.OK:
            self._queue.extend(wishes)
        elif job.up is None and job.engine is self._subject.first_engine(job.shape):
            self.failures[job.config] = event.status

    def _on_screened(self, event: Screened) -> None:
        self._measuring -= 1
        job = event.job
        if event.status is Status.OK:
            known = self.views[_view_of(self._subject, job)]
            known.add(job.num_tokens, job.shape, job.config, Times(event.up_us, event.down_us))
        else:
            self.failures[job.config] = event.status
