"""The search finds the optimum of a known landscape with a part of the measurements, and loses nothing on the way."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest

from kernels.launch_config import LaunchConfig
from kernels.problem import Flavour
from tests.tools.tune.scripted_runner import ScriptedRunner
from tools.compile.outcome import Status
from tools.measure.panel import Part, RoutingKind
from tools.store.record import ShapeOfModels
from tools.store.workload import Shape
from tools.tune.journal import Journal
from tools.tune.policy import Budget, Policies, SearchPolicy
from tools.tune.protocol import BlockJob, CompileJob, Event, Screened, ScreenJob, Subject, kernel_of
from tools.tune.replay import ReplayRunner
from tools.tune.search import (
    QUEUE_DEPTH,
    InOrder,
    JobQueue,
    Measurements,
    NeighboursFirst,
    Regime,
    Strategy,
    Times,
    View,
    anchors_of,
    neighbours_in,
    representatives,
    screen_apart,
    search,
    usual_strategy,
)
from tools.tune.space import Space
from tools.tune.tuner import baselines

Make = Callable[..., Journal]


def run(
    landscape: Journal,
    space: Space,
    batch_sizes: Sequence[int],
    strategy: Strategy | None = None,
    policies: Policies | None = None,
) -> tuple[JobQueue, list[Event]]:
    subject = landscape.header.subject
    policies = policies or Policies()
    seen: list[Event] = []
    wanted = {m: baselines(subject, m) for m in batch_sizes}
    usual = usual_strategy(space, [c for row in wanted.values() for c in row], policies.search)
    queue = JobQueue(subject, ReplayRunner(landscape), policies.search.give_up_ratio, seen.append)
    search(subject, space, batch_sizes, wanted, strategy or usual, policies, queue)
    return queue, seen


def best_of(landscape: Journal, num_tokens: int) -> float:
    times = [
        event.total_us
        for event in (entry.event for entry in landscape.entries)
        if isinstance(event, Screened) and event.job.num_tokens == num_tokens and event.status is Status.OK
    ]
    return min(times)


def test_finds_every_rows_optimum(make_landscape: Make, space: Space, batch_sizes: tuple[int, ...]) -> None:
    landscape = make_landscape()
    queue, seen = run(landscape, space, batch_sizes)
    for num_tokens in batch_sizes:
        assert queue.measurements.best_us(num_tokens, 0) == pytest.approx(best_of(landscape, num_tokens))
    everything = len(space.kernels) * len(space.group_sizes) * len(batch_sizes)
    assert sum(isinstance(event, Screened) for event in seen) < everything / 5


def test_exhaustive_measures_everything(make_landscape: Make, space: Space, batch_sizes: tuple[int, ...]) -> None:
    order = InOrder({kernel: place for place, kernel in enumerate(space.kernels)})
    policies = Policies(search=SearchPolicy.exhaustive(), budget=Budget(math.inf))
    queue, _ = run(make_landscape(), space, batch_sizes, order, policies)
    for num_tokens in batch_sizes:
        assert len(queue.measurements.ranking(num_tokens)) >= len(space.kernels) * len(space.group_sizes)


def test_the_budget_ends_the_search_but_not_before_the_baselines_are_known(
    make_landscape: Make, space: Space, batch_sizes: tuple[int, ...]
) -> None:
    queue, _ = run(make_landscape(), space, batch_sizes, policies=Policies(budget=Budget(total_s=6.0)))
    hasty = len(queue.measurements.ranking(batch_sizes[-1]))
    patient, _ = run(make_landscape(), space, batch_sizes)
    assert hasty < len(patient.measurements.ranking(batch_sizes[-1]))
    for num_tokens in batch_sizes:
        for config in baselines(subject_of(make_landscape()), num_tokens):
            assert queue.measurements.ratio(num_tokens, config) < math.inf


def test_says_whether_its_time_was_up_before_its_ideas_were(
    make_landscape: Make, space: Space, batch_sizes: tuple[int, ...]
) -> None:
    subject = subject_of(make_landscape())
    wanted = {m: baselines(subject, m) for m in batch_sizes}

    def is_cut_short(total_s: float) -> bool:
        policies = Policies(budget=Budget(total_s))
        strategy = usual_strategy(space, [c for row in wanted.values() for c in row], policies.search)
        queue = JobQueue(subject, ReplayRunner(make_landscape()), policies.search.give_up_ratio, lambda event: None)
        return search(subject, space, batch_sizes, wanted, strategy, policies, queue)

    assert is_cut_short(6.0)
    assert not is_cut_short(6000.0)


def test_a_search_whose_last_ideas_still_compile_when_its_time_is_up_is_cut_short_too(
    subject: Subject, space: Space
) -> None:
    """They are all handed out, and what is dropped of them was never measured."""
    policies = Policies(budget=Budget(total_s=4.0, panel_share=0.5))
    strategy = usual_strategy(space, (), policies.search)
    queue, _ = make(subject, ScriptedRunner(compile_slots=1000))
    assert search(subject, space, (64,), {64: ()}, strategy, policies, queue)


def subject_of(landscape: Journal) -> Subject:
    return landscape.header.subject


def test_a_candidate_that_fails_is_a_status_and_the_search_goes_on(
    make_landscape: Make, space: Space, batch_sizes: tuple[int, ...]
) -> None:
    def spoil(event: Screened) -> Screened:
        bad = event.job.config.num_stages == 4 and event.job.config.num_warps == 4
        return replace(event, status=Status.CORRECTNESS, up_us=0.0, down_us=0.0) if bad else event

    landscape = make_landscape(spoil=spoil)
    queue, _ = run(landscape, space, batch_sizes)
    assert queue.outcomes()["correctness"] > 0
    for num_tokens in batch_sizes:
        best = queue.measurements.ranking(num_tokens)[0]
        assert (best.num_stages, best.num_warps) != (4, 4)
        assert queue.measurements.best_us(num_tokens, 0) <= best_of(landscape, num_tokens) * 1.02


def test_several_shapes_choose_by_the_worst_loss(make_landscape: Make, subject: Subject, space: Space) -> None:
    """Under one shape narrow tiles win, under the other wide ones; in between lies the compromise."""
    two = replace(subject, shapes=(*subject.shapes, ShapeOfModels(Shape(2048, 4))))

    def times(num_tokens: int, shape: int, config: LaunchConfig) -> tuple[float, float]:
        wanted = (32, 128)[shape]
        rest = abs(config.num_stages - 3) + abs(config.BLOCK_SIZE_K / 128 - 1) + (config.num_warps == 8)
        rest += abs(math.log2(config.BLOCK_SIZE_M / 16)) + 0.01 * math.log2(config.GROUP_SIZE_M)
        return 100.0 * (1 + 0.2 * abs(math.log2(config.BLOCK_SIZE_N / wanted)) + rest), 50.0

    queue, _ = run(make_landscape((64,), of=two, times=times), space, (64,))
    assert queue.measurements.ranking(64)[0].BLOCK_SIZE_N == 64


def test_a_further_shape_and_a_large_anchor_see_only_what_does_well_before(
    make_landscape: Make, subject: Subject, space: Space
) -> None:
    two = replace(subject, shapes=(*subject.shapes, ShapeOfModels(Shape(2048, 4))))
    batch_sizes = (64, 2048, 16384)
    queue, seen = run(make_landscape(batch_sizes, of=two), space, batch_sizes)

    def screened(num_tokens: int, shape: int) -> set[LaunchConfig]:
        jobs = [event.job for event in seen if isinstance(event, Screened)]
        return {job.config for job in jobs if (job.num_tokens, job.shape) == (num_tokens, shape)}

    assert len(screened(64, 1)) < len(screened(64, 0)) / 1.5
    assert len(screened(16384, 0)) < len(screened(2048, 0)) / 1.5
    for num_tokens in batch_sizes:
        assert queue.measurements.ratio(num_tokens, queue.measurements.ranking(num_tokens)[0]) == 1.0
        assert queue.measurements.best_us(num_tokens, 1) == best_of(make_landscape((num_tokens,)), num_tokens)


def test_anchors_lie_a_factor_apart_and_hold_both_ends() -> None:
    assert anchors_of((1, 2, 4, 8, 16, 24, 32), 4.0) == (1, 4, 16, 32)
    assert anchors_of((5,), 4.0) == (5,)
    assert anchors_of((), 4.0) == ()
    assert anchors_of((1, 2, 3), 1.0) == (1, 2, 3)


def test_neighbours_step_over_what_does_not_fit(space: Space) -> None:
    kernel = kernel_of(LaunchConfig(16, 64, 128, 1, 4, 3))
    around = neighbours_in(space.kernels)[kernel]
    assert replace(kernel, num_stages=4) in around
    assert replace(kernel, BLOCK_SIZE_M=32) in around
    assert replace(kernel, BLOCK_SIZE_M=64) not in around
    assert kernel not in around
    holes = [k for k in space.kernels if k.num_stages != 4]
    assert replace(kernel, num_stages=5) in neighbours_in(holes)[kernel]


def test_one_representative_a_tile(space: Space) -> None:
    tiles = {(k.BLOCK_SIZE_M, k.BLOCK_SIZE_N, k.BLOCK_SIZE_K) for k in space.kernels}
    assert len(representatives(space.kernels, is_naive=False)) == len(tiles)
    assert {k.BLOCK_SIZE_M for k in representatives(space.kernels, is_naive=True)} == {16}


# ---------------------------------------------------------------
# In which order kernels are tried: seeds, then what promises most, and nothing that promises too little.

MIDDLE = LaunchConfig(16, 64, 64, 16, 4, 3)
DEEPER, SHALLOWER = replace(MIDDLE, num_stages=4), replace(MIDDLE, num_stages=2)
WIDER = replace(MIDDLE, BLOCK_SIZE_N=128)
KERNELS = (SHALLOWER, MIDDLE, DEEPER, WIDER)


def regime(*pending: LaunchConfig, anchors: tuple[int, ...] = (64,), is_naive: bool = False) -> Regime:
    return Regime(anchors, anchors, is_naive, dict.fromkeys(pending))


def known(**total_us: float) -> Measurements:
    """What was measured at one batch size, 64."""
    by_name = {"shallower": SHALLOWER, "middle": MIDDLE, "deeper": DEEPER, "wider": WIDER}
    measurements = Measurements([0])
    for name, us in total_us.items():
        measurements.add(64, 0, by_name[name], Times(us, 0.0))
    return measurements


def around(kernels: Sequence[LaunchConfig], beam: int = 8) -> NeighboursFirst:
    return NeighboursFirst({False: (), True: ()}, neighbours_in(kernels), 1.15, beam)


def strategy(*seeds: LaunchConfig, promise_limit: float = 1.15) -> NeighboursFirst:
    return NeighboursFirst({False: seeds, True: ()}, neighbours_in(KERNELS), promise_limit, 8)


# ---------------------------------------------------------------
# Neighbours first


def test_seeds_come_first_in_their_order() -> None:
    row = regime(*KERNELS)
    assert strategy(WIDER, MIDDLE).propose([row], known()) == (row, WIDER)
    row = regime(SHALLOWER, MIDDLE, DEEPER)
    assert strategy(WIDER, MIDDLE).propose([row], known(wider=1.0)) == (row, MIDDLE)


def test_then_the_neighbour_of_the_best() -> None:
    both = replace(WIDER, num_stages=4)
    row = regime(both, SHALLOWER)
    assert around((*KERNELS, both)).propose([row], known(middle=10.0, wider=11.0)) == (row, SHALLOWER)
    assert around((*KERNELS, both)).propose([row], known(middle=11.0, wider=10.0)) == (row, both)


def test_steps_are_taken_from_the_few_best_alone() -> None:
    """On a flat row nearly everything is near the best, and so would be tried."""
    both = replace(WIDER, num_stages=4)
    row = regime(both)
    assert around((*KERNELS, both), beam=1).propose([row], known(middle=10.0, wider=10.1)) is None
    assert around((*KERNELS, both), beam=2).propose([row], known(middle=10.0, wider=10.1)) == (row, both)


def test_below_the_limit_nothing_is_compiled() -> None:
    row = regime(DEEPER)
    slow_middle = known(middle=12.0, wider=10.0)
    assert strategy(promise_limit=1.15).propose([row], slow_middle) is None
    assert strategy(promise_limit=1.25).propose([row], slow_middle) == (row, DEEPER)


def test_where_the_best_is_a_compromise_promise_is_measured_from_that() -> None:
    """Of two shapes each has a best of its own; no kernel is within 15 % of both."""
    measurements = Measurements([0, 1])
    for config, by_shape in {MIDDLE: (10.0, 15.0), WIDER: (15.0, 10.0)}.items():
        for shape, us in enumerate(by_shape):
            measurements.add(64, shape, config, Times(us, 0.0))
    row = regime(DEEPER)
    assert strategy().propose([row], measurements) == (row, DEEPER)


def test_without_knowledge_there_is_no_promise() -> None:
    assert strategy().propose([regime(*KERNELS)], known()) is None


def test_a_promise_at_one_anchor_is_enough() -> None:
    measurements = known(middle=30.0, wider=10.0)
    measurements.add(4096, 0, MIDDLE, Times(5.0, 0.0))
    row = regime(DEEPER, anchors=(64, 4096))
    assert strategy().propose([row], measurements) == (row, DEEPER)


def test_anchors_take_turns() -> None:
    """A row where many kernels are equal (64) must not use up the time of one with a steep way to its best (4096)."""
    measurements = known(middle=10.0, wider=10.0)
    steep = replace(MIDDLE, BLOCK_SIZE_M=128)
    measurements.add(4096, 0, steep, Times(50.0, 0.0))
    measurements.add(4096, 0, MIDDLE, Times(100.0, 0.0))
    measurements.add(64, 0, steep, Times(100.0, 0.0))
    flat = [SHALLOWER, DEEPER, replace(WIDER, num_stages=4), replace(WIDER, num_stages=2)]
    steps = [replace(steep, num_stages=4), replace(steep, num_stages=2)]
    kernels = [MIDDLE, WIDER, steep, *flat, *steps]
    row = regime(*flat, *steps, anchors=(64, 4096))
    taken = []
    for _ in range(4):
        offer = around(kernels).propose([row], measurements)
        assert offer is not None
        taken.append(offer[1])
        del row.pending[offer[1]]
    assert [kernel in steps for kernel in taken].count(True) == 2


def test_an_anchor_without_ideas_leaves_its_turn_to_the_others() -> None:
    measurements = known(middle=10.0)
    measurements.add(4096, 0, MIDDLE, Times(100.0, 0.0))
    measurements.add(4096, 0, WIDER, Times(50.0, 0.0))
    row = regime(SHALLOWER, DEEPER, anchors=(64, 4096))
    for _ in range(2):
        offer = strategy().propose([row], measurements)
        assert offer is not None
        del row.pending[offer[1]]
    assert strategy().propose([row], measurements) is None


def test_each_mode_has_seeds_of_its_own() -> None:
    naive, grouped = regime(*KERNELS, is_naive=True), regime(*KERNELS)
    both = NeighboursFirst({True: (DEEPER,), False: (WIDER,)}, neighbours_in(KERNELS), 1.15, 8)
    assert both.propose([naive, grouped], known()) == (naive, DEEPER)
    del naive.pending[DEEPER]
    assert both.propose([naive, grouped], known()) == (grouped, WIDER)


def test_nothing_pending_is_the_end() -> None:
    assert strategy(*KERNELS).propose([regime()], known(middle=1.0)) is None
    assert strategy(*KERNELS).propose([], known()) is None


# ---------------------------------------------------------------
# In order


def test_in_order_goes_through_everything_whatever_was_measured() -> None:
    row = regime(*KERNELS)
    order = InOrder({kernel: place for place, kernel in enumerate(reversed(KERNELS))})
    found = []
    while (offer := order.propose([row], known(middle=1.0))) is not None:
        found.append(offer[1])
        del row.pending[offer[1]]
    assert found == list(reversed(KERNELS))


def test_in_order_takes_the_first_of_any_mode() -> None:
    one, other = regime(DEEPER), regime(MIDDLE, is_naive=True)
    order = InOrder({MIDDLE: 0, DEEPER: 1})
    assert order.propose([one, other], known()) == (other, MIDDLE)


def test_a_shuffle_is_told_by_its_seed() -> None:
    first, again, other = (InOrder.shuffled(KERNELS, seed).order for seed in (1, 1, 2))
    assert first == again
    assert first != other
    assert sorted(first.values()) == [0, 1, 2, 3]
    assert set(first) == set(KERNELS)


# ---------------------------------------------------------------
# Neighbours and representatives (their sizes on a real space: above)


def test_a_neighbour_is_one_step_along_one_axis() -> None:
    assert set(neighbours_in(KERNELS)[MIDDLE]) == {SHALLOWER, DEEPER, WIDER}
    assert neighbours_in(KERNELS)[WIDER] == (MIDDLE,)
    assert set(neighbours_in(KERNELS)[DEEPER]) == {MIDDLE}


def test_axes_of_one_vendor_are_axes_too() -> None:
    amd = [replace(MIDDLE, kpack=kpack, waves_per_eu=waves) for kpack in (1, 2) for waves in (0, 1, 2)]
    around = neighbours_in(amd)[replace(MIDDLE, kpack=1, waves_per_eu=1)]
    assert {(kernel.kpack, kernel.waves_per_eu) for kernel in around} == {(2, 1), (1, 0), (1, 2)}


def test_a_tiles_representative_is_the_middle_of_its_options() -> None:
    options = [replace(MIDDLE, num_warps=warps, num_stages=stages) for warps in (4, 8) for stages in (2, 3, 4, 5)]
    large = [replace(kernel, BLOCK_SIZE_M=128, BLOCK_SIZE_N=128) for kernel in options]
    assert representatives([*large, *options], is_naive=False) == [MIDDLE, replace(large[0], num_warps=8, num_stages=3)]


def test_tiles_of_64_by_128_and_more_take_eight_warps() -> None:
    tiles = [
        replace(MIDDLE, BLOCK_SIZE_M=64, BLOCK_SIZE_N=side, num_warps=warps) for side in (64, 128) for warps in (4, 8)
    ]
    assert [(tile.BLOCK_SIZE_N, tile.num_warps) for tile in representatives(tiles, is_naive=False)] == [
        (64, 4),
        (128, 8),
    ]


def test_no_kernels_have_no_representatives() -> None:
    assert representatives([], is_naive=True) == []
    assert neighbours_in([]) == {}


# ---------------------------------------------------------------
# The job queue compiles before it measures, asks for nothing twice, and ranks by the worst loss over shapes.

SLOW = LaunchConfig(16, 64, 64, 8, 4, 4)
FAST = replace(SLOW, num_stages=2)


def at(runner: ScriptedRunner, kind: type) -> list[object]:
    return [job for job in runner.asked if isinstance(job, kind)]


def make(subject: Subject, runner: ScriptedRunner) -> tuple[JobQueue, list[Event]]:
    seen: list[Event] = []
    return JobQueue(subject, runner, 1.5, seen.append), seen


def test_a_wish_is_compiled_then_measured(subject: Subject) -> None:
    runner = ScriptedRunner()
    queue, seen = make(subject, runner)
    queue.screen(64, [SLOW])
    queue.finish()
    assert runner.asked == [CompileJob(kernel_of(SLOW), 0, False), ScreenJob(64, 0, SLOW)]
    assert len(seen) == 2
    assert queue.measurements.times(64, 0, SLOW) == Times(4.0, 4.0)


def test_nothing_is_asked_twice_and_group_sizes_share_a_kernel(subject: Subject) -> None:
    runner = ScriptedRunner()
    queue, _ = make(subject, runner)
    for _ in range(2):
        queue.screen(64, [SLOW, SLOW, replace(SLOW, GROUP_SIZE_M=1)])
        queue.screen(256, [SLOW])
        queue.finish()
    assert len(at(runner, CompileJob)) == 1
    assert len(at(runner, ScreenJob)) == 3


def test_decode_has_kernels_of_its_own(subject: Subject) -> None:
    """With few tokens and many experts the kernel runs its naive mode."""
    many = replace(subject, workload=replace(subject.workload, E=128))
    runner = ScriptedRunner()
    queue, _ = make(many, runner)
    for num_tokens in (1, 1024):
        queue.screen(num_tokens, [SLOW])
    assert at(runner, CompileJob) == [CompileJob(kernel_of(SLOW), 0, naive) for naive in (True, False)]


def test_few_measurements_are_handed_out_at_once_and_later_ones_know_the_best(subject: Subject) -> None:
    runner = ScriptedRunner()
    queue, _ = make(subject, runner)
    group_sizes = (1, 8, 16, 32, 64)
    queue.screen(64, [replace(FAST, GROUP_SIZE_M=size) for size in group_sizes])
    queue.step()  # the kernel
    queue.step()  # the first measurement
    first = [job for job in runner.asked if isinstance(job, ScreenJob)]
    assert len(first) == QUEUE_DEPTH
    assert {job.give_up_us for job in first} == {None}
    queue.finish()
    later = [job for job in runner.asked if isinstance(job, ScreenJob)][QUEUE_DEPTH:]
    assert {job.give_up_us for job in later} == {1.5 * (2.0 + 2.0)}


def test_what_does_not_compile_is_not_measured(subject: Subject) -> None:
    runner = ScriptedRunner(refused={kernel_of(SLOW): Status.COMPILE})
    queue, _ = make(subject, runner)
    queue.screen(64, [SLOW, FAST])
    queue.finish()
    queue.screen(256, [SLOW])  # known by now
    queue.finish()
    assert at(runner, ScreenJob) == [ScreenJob(64, 0, FAST)]
    assert queue.measurements.ranking(64) == [FAST]
    assert queue.outcomes() == {"compile": 1, "ok": 1}


def test_what_fails_on_the_gpu_is_counted_and_not_ranked(subject: Subject) -> None:
    runner = ScriptedRunner(failing={SLOW: Status.CORRECTNESS})
    queue, _ = make(subject, runner)
    queue.screen(64, [SLOW, FAST])
    queue.finish()
    assert queue.measurements.ranking(64) == [FAST]
    assert queue.outcomes() == {"correctness": 1, "ok": 1}


def test_a_free_slot_is_one_that_compiles_at_once(subject: Subject) -> None:
    queue, _ = make(subject, ScriptedRunner(compile_slots=2))
    queue.screen(64, [SLOW])
    assert queue.has_free_slot
    queue.screen(64, [FAST])
    assert not queue.has_free_slot
    assert queue.is_compiling
    assert not queue.is_measuring


def test_what_still_compiles_when_time_is_up_is_no_longer_waited_for(subject: Subject) -> None:
    runner = ScriptedRunner()
    queue, _ = make(subject, runner)
    queue.screen(64, [SLOW])
    assert queue.forget_compiling()
    assert not queue.is_compiling
    assert not queue.forget_compiling()
    queue.screen(64, [FAST])
    queue.finish()
    assert at(runner, ScreenJob) == [ScreenJob(64, 0, FAST)]
    assert queue.outcomes() == {"ok": 1}, "it has no outcome"


def test_what_was_forgotten_may_be_asked_for_again(subject: Subject) -> None:
    runner = ScriptedRunner()
    queue, _ = make(subject, runner)
    queue.screen(64, [SLOW])
    queue.forget_compiling()
    queue.screen(64, [SLOW])
    queue.finish()
    assert at(runner, ScreenJob) == [ScreenJob(64, 0, SLOW)]


def test_blocks_are_waited_for_and_what_comes_meanwhile_is_taken_in(subject: Subject) -> None:
    runner = ScriptedRunner()
    queue, _ = make(subject, runner)
    queue.screen(64, [SLOW])
    job = BlockJob(64, Part(Flavour.VLLM, 0, RoutingKind.UNIFORM), (FAST,), 0, 4)
    assert queue.measure(job).job == job
    queue.finish()
    assert queue.measurements.times(64, 0, SLOW) == Times(4.0, 4.0)


def test_what_does_not_compile_for_the_other_engine_fails_there_alone(subject: Subject) -> None:
    both = replace(subject, engines=((Flavour.VLLM, Flavour.SGLANG),))
    queue, _ = make(both, ScriptedRunner(refused={kernel_of(SLOW): Status.COMPILE}))
    queue.compile(64, [SLOW, FAST], Flavour.SGLANG)
    queue.finish()
    assert queue.failures == {}
    runs = {(config, engine): queue.runs(64, config, engine) for config in (SLOW, FAST) for engine in Flavour}
    assert [key for key, does in runs.items() if not does] == [(SLOW, Flavour.SGLANG)]


def test_what_failed_on_the_gpu_runs_on_no_engine(subject: Subject) -> None:
    both = replace(subject, engines=((Flavour.VLLM, Flavour.SGLANG),))
    queue, _ = make(both, ScriptedRunner(failing={SLOW: Status.CORRECTNESS}))
    queue.screen(64, [SLOW, FAST])
    queue.finish()
    assert [queue.runs(64, SLOW, engine) for engine in Flavour] == [False, False]
    assert [queue.runs(64, FAST, engine) for engine in Flavour] == [True, True]


def test_waiting_for_nothing_is_an_error(subject: Subject) -> None:
    queue, _ = make(subject, ScriptedRunner())
    with pytest.raises(LookupError):
        queue.step()


# ---------------------------------------------------------------
# What was measured so far


def test_a_row_nobody_measured() -> None:
    measurements = Measurements([0])
    assert measurements.ranking(64) == []
    assert measurements.best_us(64, 0) == measurements.ratio(64, SLOW) == math.inf
    assert measurements.times(64, 0, SLOW) is None


def test_a_config_counts_by_its_worst_shape() -> None:
    measurements = Measurements([0, 1])
    times = {SLOW: (10.0, 30.0), FAST: (20.0, 20.0)}
    for config, by_shape in times.items():
        for shape, us in enumerate(by_shape):
            measurements.add(64, shape, config, Times(us / 2, us / 2))
    assert measurements.ratio(64, SLOW) == pytest.approx(1.5)
    assert measurements.ratio(64, FAST) == pytest.approx(2.0)
    assert measurements.ranking(64) == [SLOW, FAST]


def test_a_config_that_is_unknown_under_one_shape_is_not_ranked() -> None:
    measurements = Measurements([0, 1])
    measurements.add(64, 0, FAST, Times(1.0, 1.0))
    assert measurements.ratio(64, FAST) == math.inf
    assert measurements.ranking(64) == []


def test_a_view_of_some_shapes_ranks_by_those() -> None:
    """The other engine's, which doesn't read the first shape's name; or none at all."""
    measurements = Measurements([1])
    measurements.add(64, 1, SLOW, Times(1.0, 1.0))
    assert measurements.ranking(64) == [SLOW]
    assert Measurements([]).ranking(64) == []


def test_every_shape_behind_the_name_is_measured(subject: Subject) -> None:
    two = replace(subject, shapes=(*subject.shapes, ShapeOfModels(Shape(2048, 4))))
    runner = ScriptedRunner()
    queue, _ = make(two, runner)
    queue.screen(64, [SLOW])
    queue.finish()
    assert at(runner, ScreenJob) == [ScreenJob(64, shape, SLOW) for shape in (0, 1)]
    assert queue.measurements.ranking(64) == [SLOW]


# ---------------------------------------------------------------
# What goes from row to row: anchors 64, 256 and 1024 of the usual mode, 128 between two of them, 1 of the naive mode

ROWS = (1, 64, 128, 256, 1024)


def of_rows(runner: ScriptedRunner) -> dict[int, set[LaunchConfig]]:
    """By batch size, what was measured there."""
    jobs = [job for job in runner.asked if isinstance(job, ScreenJob)]
    return {num_tokens: {job.config for job in jobs if job.num_tokens == num_tokens} for num_tokens in ROWS}


def test_a_row_tries_what_was_good_beside_it_and_in_its_own_mode(subject: Subject) -> None:
    """First of the anchors, then of its neighbours: 64 has what 128 took over from 256."""
    many = replace(subject, workload=replace(subject.workload, E=128))
    naive, first, second, third = (replace(SLOW, num_stages=stages) for stages in (5, 4, 3, 2))
    runner = ScriptedRunner()
    queue, _ = make(many, runner)
    wanted = {1: [naive], 64: [first], 256: [second], 1024: [third]}
    search(many, Space((), (SLOW.GROUP_SIZE_M,), ()), ROWS, wanted, InOrder({}), Policies(), queue)
    assert of_rows(runner) == {
        1: {naive},
        64: {first, second},
        128: {first, second},
        256: {first, second, third},
        1024: {second, third},
    }


@pytest.mark.parametrize(("view", "least"), [(View.SKEWED, 8), (View.OTHER_ENGINE, 1)])
def test_in_another_view_the_best_of_every_anchor_is_screened_under_skew_not_of_few_tokens(
    subject: Subject, view: View, least: int
) -> None:
    many = replace(subject, workload=replace(subject.workload, E=128), engines=(tuple(Flavour),))
    runner = ScriptedRunner()
    queue, _ = make(many, runner)
    for num_tokens in ROWS:
        queue.screen(num_tokens, [SLOW, FAST])
    queue.finish()
    runner.asked.clear()
    policies = Policies(panel=replace(Policies().panel, screened=1))
    found = screen_apart(many, Space((), (), ()), ROWS, view, policies, queue)
    queue.finish()
    anchors = {1: (1,), 64: (64,), 128: (64, 256), 256: (256,), 1024: (1024,)}
    assert found == {m: beside for m, beside in anchors.items() if m >= least}
    assert of_rows(runner) == {m: {FAST} if m != 128 and m >= least else set() for m in ROWS}
