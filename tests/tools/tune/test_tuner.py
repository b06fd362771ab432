"""A whole run on a landscape: rows are decided by the gate, several shapes by their worst, and a kill loses nothing."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from kernels.launch_config import LaunchConfig
from kernels.problem import Flavour
from tools.compile.outcome import Status
from tools.measure.panel import DRAWN_KINDS, RoutingKind
from tools.store.record import Decision, ShapeOfModels
from tools.store.workload import Shape
from tools.tune import tuner
from tools.tune.contest import ContestError
from tools.tune.journal import Journal, JournalEntry, JournalHeader, JournalWriter
from tools.tune.policy import PanelPolicy, Policies
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
    Subject,
    kernel_of,
)
from tools.tune.replay import RecordingRunner, ReplayRunner
from tools.tune.search import InOrder, usual_strategy
from tools.tune.space import DESCRIPTOR_GROUP_SIZES, Space, with_descriptors
from tools.tune.tuner import DOWN_FINALISTS, RowResult, Task, TuneError, TuneResult, baselines, tune, wanted_by_row

Make = Callable[..., Journal]


def make_task(subject: Subject, space: Space, batch_sizes: tuple[int, ...], **changes: object) -> Task:
    """By uniform routing, unless both engines read the name: a small landscape holds no more."""
    kinds = DRAWN_KINDS if subject.engines else (RoutingKind.UNIFORM,)
    blank = replace(Task(subject, space, batch_sizes, InOrder({}), kinds=kinds), **changes)  # type: ignore[arg-type]
    wanted = [config for row in wanted_by_row(blank).values() for config in row]
    return replace(blank, strategy=usual_strategy(space, wanted, Policies().search))


def run(task: Task, runner: Runner) -> tuple[TuneResult, list[RowResult]]:
    seen: list[RowResult] = []
    return tune(task, runner, lambda event: None, seen.append), seen


def test_every_row_is_promoted_where_the_best_beats_the_heuristic(
    make_landscape: Make, subject: Subject, space: Space, batch_sizes: tuple[int, ...]
) -> None:
    result, seen = run(make_task(subject, space, batch_sizes), ReplayRunner(make_landscape()))
    assert [row.num_tokens for row in result.rows] == list(batch_sizes)
    assert tuple(seen) == result.rows
    assert {row.decision for row in result.rows} == {Decision.PROMOTE}
    assert result.counts.measurements > 0
    assert result.counts.outcomes["constraints"] == len(space.rejected)
    # With those that do best under skew, one or two of which may be among the search's own.
    assert {row.finalists for row in result.rows} <= {4, 5, 6}


def test_where_nothing_beats_the_heuristic_its_own_entry_is_written(
    make_landscape: Make, subject: Subject, space: Space
) -> None:
    vllm = baselines(subject, 64)[0]

    def times(num_tokens: int, shape: int, config: LaunchConfig) -> tuple[float, float]:
        return (50.0, 25.0) if config == vllm else (60.0, 30.0)

    (row,) = run(make_task(subject, space, (64,)), ReplayRunner(make_landscape((64,), times=times)))[0].rows
    assert (row.entry, row.decision) == (vllm, Decision.BASELINE)


def test_sglangs_heuristic_is_a_candidate(make_landscape: Make, subject: Subject, space: Space) -> None:
    """Also where vLLM alone reads the name: it is often good."""
    _, sglang = baselines(subject, 64)

    def times(num_tokens: int, shape: int, config: LaunchConfig) -> tuple[float, float]:
        return (20.0, 10.0) if config == sglang else (60.0, 30.0)

    (row,) = run(make_task(subject, space, (64,)), ReplayRunner(make_landscape((64,), times=times)))[0].rows
    assert (row.entry, row.decision) == (sglang, Decision.PROMOTE)


@pytest.mark.parametrize(
    ("incumbent_us", "expected"), [(60.5, Decision.RETAIN), (62.0, Decision.PROMOTE), (200.0, Decision.PROMOTE)]
)
def test_the_incumbent_stays_unless_it_is_beaten_by_the_margin(
    make_landscape: Make, subject: Subject, space: Space, incumbent_us: float, expected: Decision
) -> None:
    incumbent = LaunchConfig(32, 64, 128, 8, 4, 3)
    best = LaunchConfig(16, 64, 128, 8, 4, 3)

    def times(num_tokens: int, shape: int, config: LaunchConfig) -> tuple[float, float]:
        known = {incumbent: (incumbent_us - 20.0, 20.0), best: (40.2, 20.0)}
        return known.get(replace(config, GROUP_SIZE_M=8), (80.0, 20.0))

    task = make_task(subject, space, (64,), incumbent={64: incumbent})
    (row,) = run(task, ReplayRunner(make_landscape((64,), times=times)))[0].rows
    assert row.decision is expected
    assert kernel_of(row.entry) == kernel_of(incumbent if expected is Decision.RETAIN else best)
    assert row.incumbent == incumbent


def test_a_winner_that_computes_wrong_numbers_when_it_counts_is_out(
    make_landscape: Make, subject: Subject, space: Space
) -> None:
    def spoil(event: Screened) -> Screened:
        is_best = event.job.config.BLOCK_SIZE_N == 128 and event.job.config.num_stages == 4
        return replace(event, status=Status.CORRECTNESS) if is_best else event

    (row,) = run(make_task(subject, space, (64,)), ReplayRunner(make_landscape((64,), spoil=spoil)))[0].rows
    assert (row.entry.BLOCK_SIZE_N, row.entry.num_stages) != (128, 4)


def test_without_a_running_heuristic_nothing_can_be_judged(
    make_landscape: Make, subject: Subject, space: Space
) -> None:
    vllm = baselines(subject, 64)[0]

    def spoil(event: Screened) -> Screened:
        return replace(event, status=Status.RUNTIME, message="no") if event.job.config == vllm else event

    with pytest.raises(TuneError, match="M=64: expected vLLM's heuristic to run"):
        run(make_task(subject, space, (64,)), ReplayRunner(make_landscape((64,), spoil=spoil)))


def test_several_shapes_are_decided_by_the_one_that_loses_most(
    make_landscape: Make, subject: Subject, space: Space
) -> None:
    two = replace(subject, shapes=(*subject.shapes, ShapeOfModels(Shape(2048, 4))))
    good_for = (LaunchConfig(16, 64, 128, 8, 4, 2), LaunchConfig(16, 64, 128, 8, 4, 4))
    fair = LaunchConfig(16, 64, 128, 8, 4, 3)

    def times(num_tokens: int, shape: int, config: LaunchConfig) -> tuple[float, float]:
        known = {fair: (44.0, 20.0), good_for[shape]: (40.0, 20.0)}
        return known.get(replace(config, GROUP_SIZE_M=8), (70.0, 20.0))

    (row,) = run(make_task(two, space, (64,)), ReplayRunner(make_landscape((64,), of=two, times=times)))[0].rows
    assert kernel_of(row.entry) == kernel_of(fair)
    assert [part.placement for part in row.panel.times] == [0, 1]


def test_down_gets_an_entry_of_its_own_where_that_gains_more_than_the_margin(
    make_landscape: Make, subject: Subject, space: Space
) -> None:
    best = LaunchConfig(16, 64, 128, 8, 4, 3)
    for_down = LaunchConfig(16, 128, 128, 8, 4, 3)
    other_tile = LaunchConfig(32, 64, 128, 8, 4, 3)

    def times(num_tokens: int, shape: int, config: LaunchConfig) -> tuple[float, float]:
        known = {best: (40.0, 20.0), for_down: (52.0, 15.0), other_tile: (60.0, 5.0)}
        return known.get(replace(config, GROUP_SIZE_M=8), (60.0, 30.0))

    task = make_task(subject, space, (64,), separate_down=True)
    (row,) = run(task, ReplayRunner(make_landscape((64,), times=times)))[0].rows
    assert kernel_of(row.entry) == kernel_of(best)
    assert row.down is not None
    assert kernel_of(row.down.entry) == kernel_of(for_down)
    assert row.down.ratio == pytest.approx(55 / 60)


# ---------------------------------------------------------------
# Both engines, uniform and skewed


def in_both(subject: Subject) -> Subject:
    return replace(subject, engines=((Flavour.VLLM, Flavour.SGLANG),))


def landscape_of_both(make: Make, subject: Subject, factor: Callable[[ScreenJob], float], **changes: Any) -> Journal:
    """The small one, and the same in SGLang's flavour and under skew; factor: what a part does to a config's time."""
    one = make((16, 64), of=in_both(subject), **changes)
    entries = list(one.entries)
    for entry in one.entries:
        match entry.event:
            case Compiled(job) as event if not job.is_naive:
                for num_tokens in (16, 64, 512):
                    other = in_both(subject).compile_job(job.config, num_tokens, 0, Flavour.SGLANG)
                    entries.append(replace(entry, event=replace(event, job=other)))
            case Screened(job) as event:
                for engine in Flavour:
                    for routing in (RoutingKind.UNIFORM, RoutingKind.SKEW_1, RoutingKind.SKEW_03):
                        if (engine, routing) == (Flavour.VLLM, RoutingKind.UNIFORM):
                            continue
                        other_job = replace(job, engine=engine, routing=routing)
                        k = factor(other_job)
                        times = {"up_us": event.up_us * k, "down_us": event.down_us * k}
                        entries.append(replace(entry, event=replace(event, job=other_job, **times)))
    return replace(one, entries=tuple(entries))


def test_every_part_is_measured_and_the_best_of_all_wins(make_landscape: Make, subject: Subject, space: Space) -> None:
    """SGLang's kernel loves a config that the search's own ranks behind its finalists, and hates its best."""
    hated = LaunchConfig(16, 128, 128, 8, 4, 4)

    def factor(job: ScreenJob) -> float:
        return 1.5 if job.engine is Flavour.SGLANG and kernel_of(job.config) == kernel_of(hated) else 1.0

    landscape = landscape_of_both(make_landscape, subject, factor)
    task = make_task(in_both(subject), space, (16, 64), kinds=DRAWN_KINDS)
    result, _ = run(task, ReplayRunner(landscape))
    for row in result.rows:
        assert len(row.panel.times) == 6
        assert row.choice.is_bounded
        assert kernel_of(row.entry) != kernel_of(hated)
    assert list(result.phases) == [
        "search",
        "screening under skew",
        "first engine",
        "waiting for the other engine's binaries",
        "all engines",
        "sizes between",
    ]


@pytest.mark.parametrize(("in_sglang", "gains"), [(1.0, True), (1.6, False)])
def test_down_is_decided_where_sglang_reads_the_name_by_its_kernel_alone(
    make_landscape: Make, subject: Subject, space: Space, in_sglang: float, gains: bool
) -> None:
    """vLLM, in whose flavour the search ran, reads no such file."""
    best, for_down = LaunchConfig(16, 64, 128, 8, 4, 3), LaunchConfig(16, 128, 128, 8, 4, 3)

    def times(num_tokens: int, shape: int, config: LaunchConfig) -> tuple[float, float]:
        return {best: (40.0, 20.0), for_down: (52.0, 15.0)}.get(replace(config, GROUP_SIZE_M=8), (60.0, 30.0))

    def factor(job: ScreenJob) -> float:
        return in_sglang if job.engine is Flavour.SGLANG and kernel_of(job.config) == kernel_of(for_down) else 1.0

    landscape = landscape_of_both(make_landscape, subject, factor, times=times)
    task = make_task(in_both(subject), space, (64,), kinds=DRAWN_KINDS, separate_down=True)
    result, _ = run(task, ReplayRunner(landscape))
    (row,) = result.rows
    assert kernel_of(row.entry) == kernel_of(best)
    assert row.down is not None
    assert (row.down.gains, len(row.down.apart)) == (gains, 1)
    assert "down apart" in result.phases


class TestUpApart:
    """Three configs of one tile height: the best for both projections, the best for down, and one that is better for up
    and worse for both."""

    BOTH = LaunchConfig(16, 64, 128, 8, 4, 3)
    DOWN = LaunchConfig(16, 128, 128, 8, 4, 3)
    UP = LaunchConfig(16, 64, 128, 8, 4, 2)

    def row(
        self,
        make: Make,
        subject: Subject,
        space: Space,
        up_us: tuple[float, float] = (36.0, 25.0),
        skewed: float = 1.0,
        spoil: Callable[[JournalEntry], bool] = lambda entry: False,
        **changes: Any,
    ) -> RowResult:
        """skewed: what skew does to the one for up. spoil: which entries of the landscape don't run."""

        def times(num_tokens: int, shape: int, config: LaunchConfig) -> tuple[float, float]:
            known = {self.BOTH: (40.0, 20.0), self.DOWN: (52.0, 15.0), self.UP: up_us}
            return known.get(replace(config, GROUP_SIZE_M=8), (60.0, 30.0))

        def factor(job: ScreenJob) -> float:
            is_hit = job.routing is not RoutingKind.UNIFORM and kernel_of(job.config) == kernel_of(self.UP)
            return skewed if is_hit else 1.0

        landscape = landscape_of_both(make, subject, factor, times=times)
        entries = [
            replace(each, event=replace(each.event, status=Status.RUNTIME, message="no")) if spoil(each) else each
            for each in landscape.entries
        ]
        task = make_task(subject, space, (64,), **{"separate_down": True, "kinds": DRAWN_KINDS, **changes})
        result, self.seen = run(task, ReplayRunner(replace(landscape, entries=tuple(entries))))
        (row,) = result.rows
        assert row.down is not None
        assert kernel_of(row.down.entry) == kernel_of(self.DOWN)
        return row

    def test_where_sglang_alone_reads_the_name_the_pair_decides(
        self, make_landscape: Make, subject: Subject, space: Space
    ) -> None:
        row = self.row(make_landscape, replace(subject, engines=((Flavour.SGLANG,),)), space)
        assert row.down is not None
        assert kernel_of(row.entry) == kernel_of(self.UP)
        assert row.down.ratio == pytest.approx((36 + 15) / (40 + 20)), "over the best entry for both"
        assert (row.decision, row.choice.is_bounded) == (Decision.PROMOTE, True)
        assert self.seen[-1] == row, "a row whose entry changes is told again"
        assert row.choice.score == pytest.approx(row.panel.score(row.entry)), "the record's figures are of the entry"

    def test_vllm_would_run_it_for_both(self, make_landscape: Make, subject: Subject, space: Space) -> None:
        assert kernel_of(self.row(make_landscape, in_both(subject), space).entry) == kernel_of(self.BOTH)

    @pytest.mark.parametrize(
        ("up_us", "skewed"), [((39.6, 21.0), 1.0), ((36.0, 25.0), 1.075), ((36.0, 40.0), 1.0)],
        ids=["less than the margin", "skew eats it up", "hopeless for both"],
    )  # fmt: skip
    def test_else_the_best_for_both_stays(
        self, make_landscape: Make, subject: Subject, space: Space, up_us: tuple[float, float], skewed: float
    ) -> None:
        sglangs = replace(subject, engines=((Flavour.SGLANG,),))
        row = self.row(make_landscape, sglangs, space, up_us, skewed)
        assert row.down is not None
        assert (kernel_of(row.entry), row.down.ratio) == (kernel_of(self.BOTH), pytest.approx(55 / 60))

    def test_what_is_told_beside_is_of_the_entry(self, make_landscape: Make, subject: Subject, space: Space) -> None:
        sglangs = replace(subject, engines=((Flavour.SGLANG,),))
        kinds = {"kinds": (RoutingKind.UNIFORM,), "told": (RoutingKind.SKEW_03,)}
        row = self.row(make_landscape, sglangs, space, **kinds)
        assert row.told is not None
        assert {row.entry in times for times in row.told.times.values()} == {True}

    def test_one_that_fails_where_it_is_only_told_is_not_taken(
        self, make_landscape: Make, subject: Subject, space: Space
    ) -> None:
        def spoil(entry: JournalEntry) -> bool:
            event = entry.event
            is_skewed = isinstance(event, Screened) and event.job.routing is RoutingKind.SKEW_03
            return is_skewed and kernel_of(event.job.config) == kernel_of(self.UP)

        sglangs = replace(subject, engines=((Flavour.SGLANG,),))
        kinds = {"kinds": (RoutingKind.UNIFORM,), "told": (RoutingKind.SKEW_03,)}
        row = self.row(make_landscape, sglangs, space, spoil=spoil, **kinds)
        assert kernel_of(row.entry) == kernel_of(self.BOTH)
        assert row.told is not None
        assert {row.entry in times for times in row.told.times.values()} == {True}

    def test_one_that_fails_in_the_layers_order_costs_nothing(
        self, make_landscape: Make, subject: Subject, space: Space, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        real = tuner.separate_down

        def separate_down(num_tokens: int, parts: Any, entry: LaunchConfig, *rest: Any) -> Any:
            if kernel_of(entry) == kernel_of(self.UP):
                raise ContestError("it failed")
            return real(num_tokens, parts, entry, *rest)

        monkeypatch.setattr(tuner, "separate_down", separate_down)
        row = self.row(make_landscape, replace(subject, engines=((Flavour.SGLANG,),)), space)
        assert kernel_of(row.entry) == kernel_of(self.BOTH)

    def test_of_an_entry_that_came_from_another_row_nothing_coarse_is_known(
        self, make_landscape: Make, subject: Subject, space: Space
    ) -> None:
        """Between anchors: what does well under skew at one of them joins, and may win."""
        joins = LaunchConfig(32, 128, 128, 8, 4, 3)
        others = [LaunchConfig(16, n, 128, 8, warps, s) for n in (64, 128) for warps in (4, 8) for s in (2, 3, 4)]

        def times(num_tokens: int, shape: int, config: LaunchConfig) -> tuple[float, float]:
            kernel = replace(config, GROUP_SIZE_M=8)
            if kernel == joins:
                return (40.03, 20.0) if num_tokens == 64 else (41.8, 20.2)
            return (40.0 + 0.05 * others.index(kernel), 20.0) if kernel in others else (60.0, 30.0)

        def factor(job: ScreenJob) -> float:
            is_loved = replace(job.config, GROUP_SIZE_M=8) == joins and job.config.GROUP_SIZE_M == 32
            return 0.8 if job.routing is not RoutingKind.UNIFORM and is_loved else 1.0

        def make(batch_sizes: tuple[int, ...], **options: Any) -> Journal:
            return make_landscape((16, 32, 64), **options)

        landscape = landscape_of_both(make, subject, factor, times=times)
        sglangs = replace(subject, engines=((Flavour.SGLANG,),))
        task = make_task(sglangs, space, (16, 32, 64), separate_down=True, kinds=DRAWN_KINDS)
        rows = run(task, ReplayRunner(landscape))[0].rows
        assert rows[1].entry == replace(joins, GROUP_SIZE_M=32)


def test_what_the_other_engine_likes_joins_the_finalists(make_landscape: Make, subject: Subject, space: Space) -> None:
    loved = LaunchConfig(16, 128, 128, 8, 4, 3)

    def factor(job: ScreenJob) -> float:
        return 0.5 if job.engine is Flavour.SGLANG and kernel_of(job.config) == kernel_of(loved) else 1.0

    runner = Dying(ReplayRunner(landscape_of_both(make_landscape, subject, factor)), after=1_000_000)
    policies = replace(Policies(), panel=PanelPolicy(finalists=1))
    result, _ = run(make_task(in_both(subject), space, (64,), policies=policies), runner)
    assert kernel_of(result.rows[0].entry) == kernel_of(loved)
    blocks = [job for job in runner.asked if isinstance(job, BlockJob)]
    assert loved in {kernel_of(c) for job in blocks if job.part.engine is Flavour.VLLM for c in job.configs} | {loved}


def test_a_name_that_sglang_alone_reads_is_searched_on_its_kernel(
    make_landscape: Make, subject: Subject, space: Space
) -> None:
    sglangs = replace(subject, engines=((Flavour.SGLANG,),))
    landscape = landscape_of_both(make_landscape, subject, lambda job: 1.0)
    runner = Dying(ReplayRunner(landscape), after=1_000_000)
    result, _ = run(make_task(sglangs, space, (16, 64)), runner)
    assert {job.engine for job in runner.asked if not isinstance(job, BlockJob)} == {Flavour.SGLANG}
    assert {part.engine for row in result.rows for part in row.panel.times} == {Flavour.SGLANG}


class WithDescriptors(ReplayRunner):
    """Beside the landscape, down with USE_TMA behind any up: 70 µs in a layer, 60 with the one that is named, 62 with
    another group size of it. Tiles of these widths don't compile, of these depths don't run, nor does anything on these
    engines."""

    def __init__(
        self,
        landscape: Journal,
        loads: LaunchConfig,
        uncompilable: Collection[int] = (),
        failing: Collection[int] = (),
        broken: Collection[Flavour] = (),
    ) -> None:
        super().__init__(landscape)
        self.loads = loads
        self.uncompilable, self.failing, self.broken = uncompilable, failing, broken
        self.asked: list[Job] = []

    @property
    def played(self) -> list[BlockJob]:
        """What had USE_TMA in it."""
        return [job for job in self.asked if isinstance(job, BlockJob) and any(c.USE_TMA for c in job.configs)]

    def submit(self, job: Job) -> None:
        self.asked.append(job)
        super().submit(job)

    def _compile(self, job: CompileJob) -> Compiled:
        if job.up is None:
            return super()._compile(job)
        is_bad = job.config.BLOCK_SIZE_N in self.uncompilable
        return Compiled(job, Status.COMPILE if is_bad else Status.OK, 0.0, 2)

    def _measure(self, job: BlockJob) -> Measured:
        assert job.configs
        return super()._measure(job)

    def _alone(self, job: BlockJob, config: LaunchConfig) -> tuple[Series, float]:
        if job.part.engine in self.broken or (config.USE_TMA and config.num_stages in self.failing):
            return Series(config, Status.RUNTIME, message="no such path"), 0.0
        if not config.USE_TMA:
            return super()._alone(job, config)
        of_its_kernel = 60.0 if config == self.loads else 62.0
        us = (of_its_kernel if kernel_of(config) == kernel_of(self.loads) else 70.0,) * job.count
        half = tuple(one / 2 for one in us)
        return (Series.apart(config, half, half) if job.is_apart else Series(config, Status.OK, us)), 0.0


@pytest.mark.parametrize("has_descriptors", [True, False], ids=["with SGLang's kernel", "without it"])
def test_down_is_tried_with_descriptors_where_sglangs_own_kernel_is_at_hand(
    make_landscape: Make, subject: Subject, space: Space, has_descriptors: bool
) -> None:
    sglangs = replace(subject, engines=((Flavour.SGLANG,),))
    loads = LaunchConfig(16, 128, 64, 64, 4, 3, USE_TMA=True)
    runner = WithDescriptors(landscape_of_both(make_landscape, subject, lambda job: 1.0), loads)
    task = make_task(sglangs, space, (64,), separate_down=True, has_descriptors=has_descriptors)
    (row,) = run(task, runner)[0].rows
    assert row.down is not None
    assert (row.down.entry == loads) is has_descriptors
    compiled = [job for job in runner.asked if isinstance(job, CompileJob) and job.up is not None]
    if not has_descriptors:
        assert (compiled, runner.played) == ([], [])
        return
    coarse, *blocks = runner.played
    kernels = with_descriptors(sglangs, row.entry.BLOCK_SIZE_M)
    assert {job.config for job in compiled} == set(kernels)
    assert (coarse.configs, coarse.count, coarse.up) == (kernels, 1, row.entry)
    assert blocks[0].first == coarse.first + 1, "what was chosen by a block isn't judged on it"
    rivals = [config for config in blocks[0].configs if config.USE_TMA]
    assert {config.GROUP_SIZE_M for config in rivals} == set(DESCRIPTOR_GROUP_SIZES)
    assert len({kernel_of(config) for config in rivals}) == DOWN_FINALISTS


@pytest.mark.parametrize("uncompilable", [(64,), (64, 128, 256)])
def test_what_does_not_compile_or_run_with_descriptors_is_no_rival(
    make_landscape: Make, subject: Subject, space: Space, uncompilable: tuple[int, ...]
) -> None:
    sglangs = replace(subject, engines=((Flavour.SGLANG,),))
    loads = LaunchConfig(16, 128, 64, 64, 4, 3, USE_TMA=True)
    landscape = landscape_of_both(make_landscape, subject, lambda job: 1.0)
    runner = WithDescriptors(landscape, loads, uncompilable, failing=(2, 4))
    task = make_task(sglangs, space, (64,), separate_down=True, has_descriptors=True)
    result, _ = run(task, runner)
    (row,) = result.rows
    assert row.down is not None
    assert "compile" not in result.counts.outcomes, "none of them was tried for both projections"
    if uncompilable != (64,):
        assert (runner.played, row.down.entry.USE_TMA) == ([], None)
        return
    coarse, judged, *_ = runner.played
    assert {config.BLOCK_SIZE_N for config in coarse.configs} == {128, 256}
    assert {config.num_stages for config in judged.configs if config.USE_TMA} == {3}
    assert row.down.entry == loads


def test_where_sglangs_heuristic_does_not_run_its_key_is_not_tried(
    make_landscape: Make, subject: Subject, space: Space
) -> None:
    loads = LaunchConfig(16, 128, 64, 64, 4, 3, USE_TMA=True)
    landscape = landscape_of_both(make_landscape, subject, lambda job: 1.0)
    runner = WithDescriptors(landscape, loads, broken=(Flavour.SGLANG,))
    task = make_task(in_both(subject), space, (64,), separate_down=True, has_descriptors=True)
    (row,) = run(task, runner)[0].rows
    assert {part.engine for part in row.panel.times} == {Flavour.VLLM}
    assert runner.played == []


def test_sizes_between_are_measured_with_the_nearest_entry(
    make_landscape: Make, subject: Subject, space: Space
) -> None:
    task = make_task(subject, space, (16, 256), sizes_between=(12, 40, 384), kinds=(RoutingKind.UNIFORM,))
    landscape = make_landscape((16, 40, 256))
    result, _ = run(task, ReplayRunner(landscape))
    (between,) = result.between
    assert (between.num_tokens, between.key) == (40, 16), "those outside the rows are nobody's"
    assert between.ratio.mean > 0


# ---------------------------------------------------------------
# Killed and resumed


class Killed(BaseException):
    """Stands for kill -9: nothing may catch it."""


class Dying:
    """A runner that dies at its n-th event, and counts what it is asked to measure."""

    def __init__(self, inner: ReplayRunner, after: int) -> None:
        self._inner, self._left = inner, after
        self.asked: list[Job] = []

    @property
    def clock_s(self) -> float:
        return self._inner.clock_s

    @property
    def compile_slots(self) -> int:
        return self._inner.compile_slots

    def submit(self, job: Job) -> None:
        self.asked.append(job)
        self._inner.submit(job)

    def wait(self) -> Event:
        self._left -= 1
        if self._left < 0:
            raise Killed
        return self._inner.wait()


@pytest.fixture
def small(make_landscape: Make) -> Journal:
    return make_landscape((1, 64))


@pytest.mark.parametrize("after", [1, 50, 100, 200])
def test_a_killed_run_resumes_and_measures_nothing_twice(
    small: Journal, subject: Subject, space: Space, tmp_path: Path, after: int
) -> None:
    task = make_task(subject, space, (1, 64))
    whole, _ = run(task, ReplayRunner(small))
    path = tmp_path / "journal.jsonl"
    header = JournalHeader(subject, {}, {})

    with pytest.raises(Killed):
        run(task, RecordingRunner(Dying(ReplayRunner(small), after), [JournalWriter(path, header)]))
    # What kill -9 leaves may end in half a line.
    path.write_bytes(path.read_bytes() + b'{"screened":{"BLOCK')

    earlier = Journal.read(path).entries
    again = Dying(ReplayRunner(small), 10**9)
    resumed, _ = run(task, RecordingRunner(again, [JournalWriter(path, None)], earlier))

    assert [row.entry for row in resumed.rows] == [row.entry for row in whole.rows]
    done = {_key(entry.event.job) for entry in earlier} - {None}
    assert len(done) > 0 or after == 1
    assert not done & {_key(job) for job in again.asked}


def _key(job: object) -> object:
    if isinstance(job, ScreenJob):
        return replace(job, give_up_us=None)
    return job if isinstance(job, BlockJob) else None
