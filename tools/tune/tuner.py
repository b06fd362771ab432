"""One workload from start to end: search, measure row by row in blocks, choose. Knows neither files nor GPUs."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from kernels.launch_config import LaunchConfig
from kernels.problem import Flavour
from tools.compile.outcome import Status
from tools.launch.heuristics import sglang_heuristic, vllm_heuristic
from tools.measure.panel import (
    DRAWN_KINDS,
    MIN_BLOCKS,
    Admissibility,
    Choice,
    Panel,
    Part,
    Ratio,
    RoutingKind,
    parts_of,
    standing,
)
from tools.measure.statistics import geomean
from tools.store.config_file import nearest_batch_size
from tools.store.record import Decision
from tools.tune.contest import Contest, ContestError, SeparateDown, separate_down
from tools.tune.policy import Policies
from tools.tune.protocol import BlockJob, Compiled, Event, Measured, Runner, Subject
from tools.tune.search import JobQueue, Measurements, Strategy, View, screen_apart, search
from tools.tune.space import DESCRIPTOR_GROUP_SIZES, Space, with_descriptors

DOWN_FINALISTS = 3
UP_FINALISTS = 2
"""What does best with an entry for down beside it joins a row's finalists, where nobody runs it for both."""

SIZES_BETWEEN = (12, 40, 80, 160, 384)
"""Batch sizes between the usual ones that servers run: vLLM and SGLang capture graphs of them. An engine takes the
nearest entry there."""


@dataclass(frozen=True)
class Task:
    """What to tune and by which rules. incumbent: what an engine would run today, by batch size; empty: no file.

    kinds: of routing that decide. told: that are measured and told beside. sizes_between: batch sizes at which the
    nearest entry is measured. has_descriptors: whether the runner has SGLang's own kernel, for entries for down with
    USE_TMA.
    """

    subject: Subject
    space: Space
    batch_sizes: tuple[int, ...]
    strategy: Strategy
    incumbent: Mapping[int, LaunchConfig] = field(default_factory=dict)
    separate_down: bool = False
    policies: Policies = field(default_factory=Policies)
    kinds: tuple[RoutingKind, ...] = DRAWN_KINDS
    told: tuple[RoutingKind, ...] = ()
    sizes_between: tuple[int, ...] = ()
    has_descriptors: bool = False

    @property
    def has_up_apart(self) -> bool:
        """Whether up's entry may be chosen with down's: SGLang alone reads the name, vLLM would run it for both."""
        return self.separate_down and set(self.subject.placements) == {Flavour.SGLANG}

    def parts(self, num_tokens: int) -> tuple[Part, ...]:
        """That decide a row."""
        return self._of_kinds(num_tokens, self.kinds)

    def parts_beside(self, num_tokens: int) -> tuple[Part, ...]:
        return self._of_kinds(num_tokens, self.told)

    def _of_kinds(self, num_tokens: int, kinds: Sequence[RoutingKind]) -> tuple[Part, ...]:
        placements = self.subject.placements
        drawn = [part for part in parts_of(placements, num_tokens) if part.routing in kinds]
        recorded = [
            Part(engine, place, RoutingKind.RECORDED) for engine, places in placements.items() for place in places
        ]
        return (*drawn, *(recorded if RoutingKind.RECORDED in kinds else ()))


@dataclass(frozen=True)
class RowResult:
    """One batch size, decided.

    panel: what was measured, the entry, the heuristics and the incumbent among it. told: the same of parts that don't
    decide. active_experts: by part and block, those that its draws reached. finalists: of the search, that were played.
    """

    num_tokens: int
    choice: Choice
    panel: Panel[LaunchConfig]
    incumbent: LaunchConfig | None = None
    down: SeparateDown | None = None
    told: Panel[LaunchConfig] | None = None
    active_experts: Mapping[Part, Mapping[int, float]] = field(default_factory=dict)
    finalists: int = 0

    @property
    def entry(self) -> LaunchConfig:
        return self.choice.entry

    @property
    def decision(self) -> Decision:
        return self.choice.decision

    @property
    def worst(self) -> Part:
        """The engine and placement where the entry loses most under uniform routing: what a row's headline is of."""
        return max(self.uniform_parts, key=lambda part: self.ratio(part).mean)

    @property
    def uniform_parts(self) -> tuple[Part, ...]:
        """Of a run under one other routing, that one."""
        parts = tuple(self.panel.times)
        return tuple(part for part in parts if part.routing is RoutingKind.UNIFORM) or parts

    def panel_of(self, part: Part) -> Panel[LaunchConfig]:
        return self.panel if part in self.panel.times else (self.told or self.panel)

    def times_us(self, part: Part, config: LaunchConfig) -> list[float]:
        """Of the blocks that the entry has there, as far as the config took part."""
        row = self.panel_of(part).times[part]
        own, other = row[self.entry], row.get(config, {})
        return [other[block] for block in sorted(own.keys() & other.keys())]

    def ratio(self, part: Part) -> Ratio:
        """The entry's time over the engine's heuristic's."""
        return self.panel_of(part).ratio(part, self.entry)

    def heuristic(self, part: Part) -> LaunchConfig:
        """The part's engine's own."""
        return self.panel.heuristics[part.engine]


@dataclass(frozen=True)
class Between:
    """A batch size without an entry of its own. key: whose entry runs there. ratio: over the engine's heuristic."""

    num_tokens: int
    key: int
    ratio: Ratio


@dataclass(frozen=True)
class Counts:
    """What a run did. outcomes: launch configs by status, those that the space's constraints reject included."""

    kernels_compiled: int
    measurements: int
    outcomes: Mapping[str, int]


@dataclass(frozen=True)
class TuneResult:
    """A tuned workload. is_cut_short: the search stopped at its time limit with candidates left.

    between: what the entries do at batch sizes between theirs. phases: seconds by name, in order.
    """

    rows: tuple[RowResult, ...]
    counts: Counts
    measurements: Measurements
    is_cut_short: bool
    between: tuple[Between, ...] = ()
    phases: Mapping[str, float] = field(default_factory=dict)


class TuneError(RuntimeError):
    """A row can't be decided. One line for a person."""


OnRow = Callable[[RowResult], None]


def tune(task: Task, runner: Runner, observe: Callable[[Event], None], on_row: OnRow) -> TuneResult:
    """Searches, then measures every row; on_row sees each as it is decided.

    TuneError: a row's heuristic doesn't run, so that nothing can be compared with having no file.
    """
    counter = _Counter(observe)
    queue = JobQueue(task.subject, runner, task.policies.search.give_up_ratio, counter)
    phases = _Phases(runner)
    is_cut_short = search(
        task.subject, task.space, task.batch_sizes, wanted_by_row(task), task.strategy, task.policies, queue
    )
    phases.end("search")
    try:
        rows = _rows(task, runner, queue, phases, on_row)
    except ContestError as error:
        raise TuneError(str(error)) from error
    between = tuple(_between(task, queue, rows))
    phases.end("sizes between")
    outcomes = queue.outcomes()
    outcomes["constraints"] += len(task.space.rejected)
    counts = Counts(counter.kernels, counter.measurements, dict(outcomes))
    return TuneResult(rows, counts, queue.measurements, is_cut_short, between, phases.seconds)


def heuristics_of(subject: Subject, num_tokens: int) -> dict[Flavour, LaunchConfig]:
    """What each engine that reads the name runs without a file, the first engine's first.

    UnknownHeuristicError: a dtype that they don't run on this kernel.
    """
    workload, is_rocm = subject.workload, subject.is_rocm
    both = {
        Flavour.VLLM: vllm_heuristic(workload, num_tokens, is_rocm=is_rocm),
        Flavour.SGLANG: sglang_heuristic(workload, num_tokens, is_rocm=is_rocm, smem_bytes=subject.smem_bytes),
    }
    return {engine: both[engine] for engine in subject.placements}


def baselines(subject: Subject, num_tokens: int) -> tuple[LaunchConfig, LaunchConfig]:
    """vLLM's and SGLang's heuristics, whoever reads the name: both are good candidates. Errors as `heuristics_of`."""
    workload = subject.workload
    return (
        vllm_heuristic(workload, num_tokens, is_rocm=subject.is_rocm),
        sglang_heuristic(workload, num_tokens, is_rocm=subject.is_rocm, smem_bytes=subject.smem_bytes),
    )


def wanted_by_row(task: Task) -> dict[int, tuple[LaunchConfig, ...]]:
    """What is measured in any case: both heuristics and the incumbent."""
    incumbent = {m: (entry,) for m, entry in task.incumbent.items()}
    return {m: (*baselines(task.subject, m), *incumbent.get(m, ())) for m in task.batch_sizes}


# ---------------------------------------------------------------
# The panel: first the parts of the search's own kernel, while the other engine's binaries compile; then those


def _rows(task: Task, runner: Runner, queue: JobQueue, phases: _Phases, on_row: OnRow) -> tuple[RowResult, ...]:
    subject, policies = task.subject, task.policies
    has_others = any(len(subject.engines_of(shape)) > 1 for shape in range(len(subject.shapes)))
    skewed = _screened(task, View.SKEWED, queue) if RoutingKind.SKEW_03 in task.kinds else {}
    while queue.is_measuring:
        queue.step()
    contests = {m: _contest(task, queue, m) for m in task.batch_sizes}
    for num_tokens, contest in contests.items():
        contest.enter(_best(task, queue, View.SKEWED, skewed.get(num_tokens, ())))
    phases.end("screening under skew")
    others = _screened(task, View.OTHER_ENGINE, queue) if has_others else {}
    for num_tokens, contest in contests.items():
        for engine in subject.placements:
            queue.compile(num_tokens, contest.contestants, engine)
    for num_tokens, contest in contests.items():
        own = [part for part in task.parts(num_tokens) if part.engine is subject.first_engine(part.placement)]
        contest.play(own, queue.measure)
    phases.end("first engine")
    if has_others:
        queue.finish()
        phases.end("waiting for the other engine's binaries")
    rows: list[RowResult] = []
    for done, (num_tokens, contest) in enumerate(contests.items()):
        left_s = max(0.0, policies.budget.total_s - runner.clock_s)
        deadline_s = runner.clock_s + left_s / (len(contests) - done)
        contest.enter(_best(task, queue, View.OTHER_ENGINE, others.get(num_tokens, ())))
        for engine in subject.placements:
            contest.drop([c for c in contest.contestants if not queue.runs(num_tokens, c, engine)])
        choice = contest.settle(queue.measure, functools.partial(_is_past, runner, deadline_s))
        told = contest.told if contest.told.times else None
        incumbent = contest.incumbent if contest.incumbent not in contest.failures else None
        experts, finalists = contest.active_experts, _finalists(task, queue, contest)
        rows.append(RowResult(num_tokens, choice, contest.panel, incumbent, None, told, experts, finalists))
        on_row(rows[-1])
    phases.end("all engines")
    if task.separate_down:
        has_time = runner.clock_s < policies.budget.total_s
        both, rows = rows, _with_down(task, queue, contests.values(), rows, tries_other_ups=has_time)
        for before, row in zip(both, rows, strict=True):
            if row.entry != before.entry:
                on_row(row)
        phases.end("down apart")
    return tuple(rows)


def _is_past(runner: Runner, deadline_s: float) -> bool:
    return runner.clock_s >= deadline_s


def _screened(task: Task, view: View, queue: JobQueue) -> dict[int, tuple[int, ...]]:
    return screen_apart(task.subject, task.space, task.batch_sizes, view, task.policies, queue)


def _best(task: Task, queue: JobQueue, view: View, anchors: Sequence[int]) -> list[LaunchConfig]:
    """What joins a row's finalists: the best of each of these anchors in another view."""
    rankings = (queue.views[view].ranking(anchor)[: task.policies.panel.joining] for anchor in anchors)
    return list(dict.fromkeys(itertools.chain.from_iterable(rankings)))


def _contest(task: Task, queue: JobQueue, num_tokens: int) -> Contest:
    contest = Contest(
        num_tokens,
        task.parts(num_tokens),
        heuristics_of(task.subject, num_tokens),
        task.incumbent.get(num_tokens),
        task.policies.panel,
        task.policies.promotion,
        task.parts_beside(num_tokens),
    )
    contest.enter(queue.measurements.ranking(num_tokens)[: task.policies.panel.finalists])
    if task.has_up_apart:
        apart_us = _apart_us(queue, num_tokens)
        contest.enter(sorted(apart_us, key=apart_us.__getitem__)[:UP_FINALISTS])
    return contest


def _finalists(task: Task, queue: JobQueue, contest: Contest) -> int:
    """How many of the search were played: a heuristic or the incumbent counts only if it is among its best."""
    played = {config for row in contest.panel.times.values() for config in row}
    best = {*queue.measurements.ranking(contest.num_tokens)[: task.policies.panel.finalists]}
    return len(played - ({*contest.always} - best))


# ---------------------------------------------------------------
# Entries for down alone


@dataclass(frozen=True)
class _Duel:
    """An entry of a row, whose down may get one of its own. rivals, descriptors: without and with USE_TMA."""

    contest: Contest
    row: RowResult
    entry: LaunchConfig
    parts: tuple[Part, ...]
    rivals: Sequence[LaunchConfig]
    descriptors: Sequence[LaunchConfig]

    @classmethod
    def of(cls, task: Task, queue: JobQueue, contest: Contest, row: RowResult, entry: LaunchConfig) -> _Duel:
        rivals, descriptors = _down_rivals(task, queue, row, entry), _descriptor_kernels(task, row, entry)
        return cls(contest, row, entry, _down_parts(row), rivals, descriptors)


def _with_down(
    task: Task, queue: JobQueue, contests: Iterable[Contest], rows: Iterable[RowResult], *, tries_other_ups: bool
) -> list[RowResult]:
    """The rows, each with its entry for down. All binaries compile before the first of them is played."""
    duels: list[tuple[_Duel, _Duel | None]] = []
    for contest, row in zip(contests, rows, strict=True):
        other = _other_up(task, queue, row) if tries_other_ups else None
        own = _Duel.of(task, queue, contest, row, row.entry)
        duels.append((own, None if other is None else _Duel.of(task, queue, contest, row, other)))
    for duel in filter(None, itertools.chain.from_iterable(duels)):
        for engine in dict.fromkeys(part.engine for part in duel.parts):
            queue.compile(duel.row.num_tokens, (duel.entry, *duel.rivals), engine)
            queue.compile(duel.row.num_tokens, duel.descriptors, engine, duel.entry)
    queue.finish()
    return [_row_with_down(task, queue, own, other) for own, other in duels]


def _row_with_down(task: Task, queue: JobQueue, own: _Duel, other: _Duel | None) -> RowResult:
    """With down's entry; with the other one for up, where the pair is faster than own's by more than the margin.

    Down is judged under uniform routing alone, so what the other entry costs under skew must not eat up the gain.
    """
    row, down, promotion = own.row, _entry_for_down(task, queue, own), task.policies.promotion
    if other is None:
        return replace(row, down=down)
    try:
        others = _entry_for_down(task, queue, other)
    except ContestError:  # it fails behind itself: own is there
        return replace(row, down=down)
    over_own = {part: row.panel.between(part, other.entry, row.entry).mean for part in row.panel.times}
    limit = down.ratio * (1.0 - promotion.min_improvement_pct / 100.0)
    is_faster = others.gains and max(over_own.values()) * others.ratio <= limit
    choice = own.contest.take(other.entry, queue.measure) if is_faster else None
    if choice is None:
        return replace(row, down=down)
    over_best = max(over_own[part] for part in other.parts) * others.ratio
    told = own.contest.told if own.contest.told.times else None
    return replace(row, choice=choice, down=replace(others, ratio=over_best), told=told)


def _other_up(task: Task, queue: JobQueue, row: RowResult) -> LaunchConfig | None:
    """The finalist that promises most once down has an entry of its own, if more than the entry by the margin."""
    apart_us = _apart_us(queue, row.num_tokens) if task.has_up_apart else {}
    if row.entry not in apart_us:  # it came from another row, or is the incumbent: nothing coarse is known of it
        return None
    able = [
        config
        for config in row.panel.configs
        if config in apart_us and standing(row.panel, config) is Admissibility.ADMISSIBLE
    ]
    best = min(able, key=apart_us.__getitem__, default=row.entry)
    margin = task.policies.promotion.min_improvement_pct / 100.0
    return best if apart_us[best] <= apart_us[row.entry] * (1.0 - margin) else None


def _apart_us(queue: JobQueue, num_tokens: int) -> dict[LaunchConfig, float]:
    """Of what the search knows under all shapes: coarse µs of its up and the best down of its BLOCK_SIZE_M.

    The geometric mean of the shapes.
    """
    seen, shapes = queue.measurements, range(queue.num_shapes)
    known = {
        config: [times for shape in shapes if (times := seen.times(num_tokens, shape, config))]
        for config in seen.ranking(num_tokens)
    }
    least: dict[tuple[int, int], float] = {}
    for config, of_shapes in known.items():
        for shape, times in enumerate(of_shapes):
            key = shape, config.BLOCK_SIZE_M
            least[key] = min(times.down_us, least.get(key, math.inf))
    return {
        config: geomean(times.up_us + least[shape, config.BLOCK_SIZE_M] for shape, times in enumerate(of_shapes))
        for config, of_shapes in known.items()
    }


def _entry_for_down(task: Task, queue: JobQueue, duel: _Duel) -> SeparateDown:
    contest, row, parts = duel.contest, duel.row, duel.parts
    first = max(contest.panel.next_block(part) for part in contest.panel.times)
    rivals = [rival for rival in duel.rivals if all(queue.runs(row.num_tokens, rival, part.engine) for part in parts)]
    if duel.descriptors:
        rivals += _best_with_descriptors(queue, duel, first)
        first += 1
    blocks, promotion = range(first, first + task.policies.panel.blocks), task.policies.promotion
    return separate_down(
        row.num_tokens, parts, duel.entry, rivals, contest.heuristics, blocks, promotion, queue.measure
    )


def _descriptor_kernels(task: Task, row: RowResult, entry: LaunchConfig) -> tuple[LaunchConfig, ...]:
    """Empty where nobody could run them, or SGLang doesn't read the name."""
    is_read = any(part.engine is Flavour.SGLANG for part in row.panel.times)
    return with_descriptors(task.subject, entry.BLOCK_SIZE_M) if task.has_descriptors and is_read else ()


def _best_with_descriptors(queue: JobQueue, duel: _Duel, block: int) -> list[LaunchConfig]:
    """The best kernels of one block, which decides nothing else, under each group size."""
    row, entry = duel.row, duel.entry
    able = [
        config
        for config in duel.descriptors
        if all(queue.runs(row.num_tokens, config, part.engine, entry) for part in duel.parts)
    ]
    if not able:
        return []
    event = queue.measure(BlockJob(row.num_tokens, duel.parts[0], tuple(able), block, 1, up=entry))
    us = {series.config: series.us[0] for series in event.series if series.status is Status.OK}
    best = sorted(us, key=us.__getitem__)[:DOWN_FINALISTS]
    return [replace(config, GROUP_SIZE_M=size) for config in best for size in DESCRIPTOR_GROUP_SIZES]


def _down_parts(row: RowResult) -> tuple[Part, ...]:
    """SGLang's, which alone reads `_down` files; all, where it doesn't read the name."""
    return tuple(part for part in row.uniform_parts if part.engine is Flavour.SGLANG) or row.uniform_parts


def _down_rivals(task: Task, queue: JobQueue, row: RowResult, entry: LaunchConfig) -> list[LaunchConfig]:
    """The best for down in the search, of the entry's BLOCK_SIZE_M."""
    num_tokens, seen = row.num_tokens, queue.measurements
    shapes = range(len(task.subject.shapes))

    def down_us(config: LaunchConfig) -> float:
        return max(t.down_us if (t := seen.times(num_tokens, s, config)) else float("inf") for s in shapes)

    same_tile = [c for c in seen.ranking(num_tokens) if c.BLOCK_SIZE_M == entry.BLOCK_SIZE_M and c != entry]
    return sorted(same_tile, key=down_us)[:DOWN_FINALISTS]


# ---------------------------------------------------------------
# Batch sizes between the entries


def _between(task: Task, queue: JobQueue, rows: Sequence[RowResult]) -> list[Between]:
    """What the nearest entries do there, on the first engine under uniform routing."""
    entries = {row.num_tokens: row.entry for row in rows}
    part = Part(task.subject.first_engine(0), 0, RoutingKind.UNIFORM)
    found = []
    sizes = [m for m in task.sizes_between if m not in entries and min(entries) < m < max(entries)]
    keys = {num_tokens: nearest_batch_size(entries, num_tokens) for num_tokens in sizes}
    heuristics = {num_tokens: heuristics_of(task.subject, num_tokens)[part.engine] for num_tokens in sizes}
    for num_tokens, key in keys.items():  # an entry may run in another mode there than at its own size
        queue.compile(num_tokens, (heuristics[num_tokens], entries[key]), part.engine)
    queue.finish()
    for num_tokens, key in keys.items():
        heuristic = heuristics[num_tokens]
        configs = tuple(dict.fromkeys((heuristic, entries[key])))
        event = queue.measure(BlockJob(num_tokens, part, configs, 0, MIN_BLOCKS))
        us = {series.config: series.us for series in event.series}
        if all(us.values()):
            found.append(Between(num_tokens, key, Ratio.of(us[entries[key]], us[heuristic])))
    return found


class _Phases:
    """Seconds by phase, on the runner's clock."""

    def __init__(self, runner: Runner) -> None:
        self._runner, self._since = runner, runner.clock_s
        self.seconds: dict[str, float] = {}

    def end(self, name: str) -> None:
        now = self._runner.clock_s
        self.seconds[name] = now - self._since
        self._since = now


class _Counter:
    """Counts events on their way to the observer."""

    def __init__(self, observe: Callable[[Event], None]) -> None:
        self._observe = observe
        self.kernels = self.measurements = 0

    def __call__(self, event: Event) -> None:
        if isinstance(event, Compiled):
            self.kernels += event.kernels
        elif isinstance(event, Measured):
            self.measurements += len(event.series) * event.job.count
        else:
            self.measurements += 1
        self._observe(event)
