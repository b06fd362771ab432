"""The search finds the optimum of a known landscape with a part of the measurements, and loses nothing on the way."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest

from kernels.launch_config import LaunchConfig
from tools.compile.outcome import Status
from tools.store.workload import Shape
from tools.tune.desk import Desk
from tools.tune.journal import Journal
from tools.tune.model import Event, NamedShape, Screened, Subject, kernel_of
from tools.tune.policy import Budget, Policies, SearchPolicy
from tools.tune.replay import ReplayRunner
from tools.tune.search import anchors_of, search, usual_strategy
from tools.tune.space import Space
from tools.tune.strategy import InOrder, Strategy, neighbours_in, representatives
from tools.tune.tuner import baselines

Make = Callable[..., Journal]


def run(
    landscape: Journal,
    space: Space,
    batch_sizes: Sequence[int],
    strategy: Strategy | None = None,
    policies: Policies | None = None,
) -> tuple[Desk, list[Event]]:
    subject = landscape.header.subject
    policies = policies or Policies()
    seen: list[Event] = []
    wanted = {m: baselines(subject, m) for m in batch_sizes}
    usual = usual_strategy(space, [c for row in wanted.values() for c in row], policies.search)
    desk = Desk(subject, ReplayRunner(landscape), policies.search.give_up_ratio, seen.append)
    search(subject, space, batch_sizes, wanted, strategy or usual, policies, desk)
    return desk, seen


def best_of(landscape: Journal, num_tokens: int) -> float:
    times = [
        event.total_us
        for event in (entry.event for entry in landscape.entries)
        if isinstance(event, Screened) and event.job.num_tokens == num_tokens and event.status is Status.OK
    ]
    return min(times)


def test_finds_every_rows_optimum(make_landscape: Make, space: Space, batch_sizes: tuple[int, ...]) -> None:
    landscape = make_landscape()
    desk, seen = run(landscape, space, batch_sizes)
    for num_tokens in batch_sizes:
        assert desk.landscape.best_us(num_tokens, 0) == pytest.approx(best_of(landscape, num_tokens))
    everything = len(space.kernels) * len(space.group_sizes) * len(batch_sizes)
    assert sum(isinstance(event, Screened) for event in seen) < everything / 5


def test_exhaustive_measures_everything(make_landscape: Make, space: Space, batch_sizes: tuple[int, ...]) -> None:
    order = InOrder({kernel: place for place, kernel in enumerate(space.kernels)})
    policies = Policies(search=SearchPolicy.exhaustive(), budget=Budget(math.inf))
    desk, _ = run(make_landscape(), space, batch_sizes, order, policies)
    for num_tokens in batch_sizes:
        assert len(desk.landscape.ranking(num_tokens)) >= len(space.kernels) * len(space.group_sizes)


def test_the_budget_ends_the_search_but_not_before_the_baselines_are_known(
    make_landscape: Make, space: Space, batch_sizes: tuple[int, ...]
) -> None:
    desk, _ = run(make_landscape(), space, batch_sizes, policies=Policies(budget=Budget(total_s=6.0)))
    hasty = len(desk.landscape.ranking(batch_sizes[-1]))
    patient, _ = run(make_landscape(), space, batch_sizes)
    assert hasty < len(patient.landscape.ranking(batch_sizes[-1]))
    for num_tokens in batch_sizes:
        for config in baselines(desk_subject(make_landscape()), num_tokens):
            assert desk.landscape.ratio(num_tokens, config) < math.inf


def test_says_whether_its_time_was_up_before_its_ideas_were(
    make_landscape: Make, space: Space, batch_sizes: tuple[int, ...]
) -> None:
    subject = desk_subject(make_landscape())
    wanted = {m: baselines(subject, m) for m in batch_sizes}

    def is_cut_short(total_s: float) -> bool:
        policies = Policies(budget=Budget(total_s))
        strategy = usual_strategy(space, [c for row in wanted.values() for c in row], policies.search)
        desk = Desk(subject, ReplayRunner(make_landscape()), policies.search.give_up_ratio, lambda event: None)
        return search(subject, space, batch_sizes, wanted, strategy, policies, desk)

    assert is_cut_short(6.0)
    assert not is_cut_short(6000.0)


def desk_subject(landscape: Journal) -> Subject:
    return landscape.header.subject


def test_a_candidate_that_fails_is_a_status_and_the_search_goes_on(
    make_landscape: Make, space: Space, batch_sizes: tuple[int, ...]
) -> None:
    def spoil(event: Screened) -> Screened:
        bad = event.job.config.num_stages == 4 and event.job.config.num_warps == 4
        return replace(event, status=Status.CORRECTNESS, up_us=0.0, down_us=0.0) if bad else event

    landscape = make_landscape(spoil=spoil)
    desk, _ = run(landscape, space, batch_sizes)
    assert desk.outcomes()["correctness"] > 0
    for num_tokens in batch_sizes:
        best = desk.landscape.ranking(num_tokens)[0]
        assert (best.num_stages, best.num_warps) != (4, 4)
        assert desk.landscape.best_us(num_tokens, 0) <= best_of(landscape, num_tokens) * 1.02


def test_several_shapes_choose_by_the_worst_loss(make_landscape: Make, subject: Subject, space: Space) -> None:
    """Under one shape narrow tiles win, under the other wide ones; in between lies the compromise."""
    two = replace(subject, shapes=(*subject.shapes, NamedShape(Shape(2048, 4))))

    def times(num_tokens: int, shape: int, config: LaunchConfig) -> tuple[float, float]:
        wanted = (32, 128)[shape]
        rest = abs(config.num_stages - 3) + abs(config.BLOCK_SIZE_K / 128 - 1) + (config.num_warps == 8)
        rest += abs(math.log2(config.BLOCK_SIZE_M / 16)) + 0.01 * math.log2(config.GROUP_SIZE_M)
        return 100.0 * (1 + abs(math.log2(config.BLOCK_SIZE_N / wanted)) + rest), 50.0

    desk, _ = run(make_landscape((64,), of=two, times=times), space, (64,))
    assert desk.landscape.ranking(64)[0].BLOCK_SIZE_N == 64


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
