"""In which order graphs are replayed and how samples are shared out, on a clock that is made up."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest

from tools.measure import timing
from tools.measure.timing import MIN_SAMPLE_US, Policy, Replay, measure_series, medians_us, play_blocks, sample_once

FAST, SLOW = Replay("fast", 8), Replay("slow", 2)


@dataclass
class Clock:
    """us: of one replay of each graph. Keeps every turn that was asked for, a list a call."""

    us: dict[str, float]
    calls: list[list[tuple[str, int]]] = field(default_factory=list)

    def sample_all(self, turns: Sequence[tuple[Replay, int]], wait_cycles: int = 0) -> list[float]:
        self.calls.append([(replay.graph, repeat) for replay, repeat in turns])
        return [self.us[replay.graph] * repeat for replay, repeat in turns]


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock({"fast": 40.0, "slow": 1000.0})
    monkeypatch.setattr(timing, "_sample_all", clock.sample_all)
    return clock


def test_a_time_is_of_one_launch(clock: Clock) -> None:
    fast, slow = measure_series([FAST, SLOW])
    assert set(fast) == {40.0 / 8}
    assert set(slow) == {1000.0 / 2}


def test_graphs_are_replayed_forwards_and_backwards_in_turn(clock: Clock) -> None:
    measure_series([FAST, SLOW], Policy(4, 4))
    order = [graph for graph, _ in clock.calls[1]]
    assert order == ["fast", "slow", "slow", "fast"] * 2


def test_short_samples_are_repeated_until_the_clock_resolves_them(clock: Clock) -> None:
    measure_series([FAST, SLOW])
    repeats = dict(clock.calls[1])
    assert repeats == {"fast": MIN_SAMPLE_US / 40.0, "slow": 1}


def test_the_first_replay_of_each_is_no_estimate(monkeypatch: pytest.MonkeyPatch) -> None:
    answers: list[Any] = [[9000.0, 40.0]]

    def sample_all(turns: Sequence[tuple[Replay, int]]) -> list[float]:
        return answers.pop() if answers else [40.0 * repeat for _, repeat in turns]

    monkeypatch.setattr(timing, "_sample_all", sample_all)
    assert set(measure_series([FAST])[0]) == {5.0}
    assert answers == []


@pytest.mark.parametrize(
    ("policy", "rounds"),
    [
        (Policy(4, 10, budget_ms=0.1), 4),  # a round takes 1.2 ms
        (Policy(4, 10, budget_ms=7.3), 6),
        (Policy(4, 10, budget_ms=8.5), 8),  # 7, made even
        (Policy(4, 10, budget_ms=1000.0), 10),
        (Policy(5, 5, budget_ms=1.0), 6),
    ],
)
def test_so_many_rounds_as_fit_the_budget_and_always_whole_pairs(clock: Clock, policy: Policy, rounds: int) -> None:
    assert [len(series) for series in measure_series([FAST, SLOW], policy)] == [rounds, rounds]


def test_a_series_is_summed_up_by_its_median(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    assert medians_us([FAST, SLOW], Policy(4, 4)) == [5.0, 500.0]
    monkeypatch.setattr(timing, "measure_series", lambda replays, policy: [[5.0, 9.0, 1.0, 5.5]])
    assert medians_us([FAST]) == [5.25]


def test_a_coarse_sample_replays_each_in_turn_without_repeats(clock: Clock) -> None:
    assert sample_once([FAST, SLOW], 3) == [[5.0] * 3, [500.0] * 3]
    assert clock.calls == [[("fast", 1), ("slow", 1)] * 3]


# ---------------------------------------------------------------
# Blocks


@dataclass
class FakeGpu:
    """Runs what is enqueued on a clock of its own. us: of a replay of each graph, by how often blocks were dealt."""

    log: list[str] = field(default_factory=list)
    now_us: float = 0.0
    dealt: int = 0

    def deal(self) -> None:
        self.dealt += 1
        self.log.append("deal")

    def graph(self, name: str, us: float) -> Any:
        def replay() -> None:
            self.log.append(name)
            self.now_us += us * self.dealt

        return SimpleNamespace(replay=replay)

    def event(self, *, enable_timing: bool) -> Any:
        assert enable_timing
        event = SimpleNamespace(at=0.0)
        event.record = lambda: setattr(event, "at", self.now_us)
        event.elapsed_time = lambda end: (end.at - event.at) / 1000.0
        return event


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> FakeGpu:
    fake = FakeGpu()
    monkeypatch.setattr(timing.torch.cuda, "Event", fake.event)
    monkeypatch.setattr(timing.torch.cuda, "_sleep", lambda cycles: fake.log.append("wait"))
    stream = SimpleNamespace(synchronize=lambda: fake.log.append("synchronize"))
    monkeypatch.setattr(timing.torch.cuda, "current_stream", lambda: stream)
    return fake


def test_a_block_is_dealt_then_played_forwards_and_backwards_and_the_host_waits_once(gpu: FakeGpu) -> None:
    replays = [Replay(gpu.graph("a", 40.0), 8), Replay(gpu.graph("b", 1000.0), 2)]
    times = play_blocks(replays, [gpu.deal, gpu.deal])
    block = ["deal", "wait", "a", "a", "b", "b", "a"]
    assert gpu.log == [*block, *block, "synchronize"]
    assert times == [[pytest.approx(5.0), pytest.approx(10.0)], [pytest.approx(500.0), pytest.approx(1000.0)]]


def test_a_blocks_time_is_the_mean_of_its_two_plays(gpu: FakeGpu) -> None:
    """A clock that drifts meets all alike."""
    drift = iter((100.0, 100.0, 102.0, 104.0, 106.0))

    def drifting() -> None:
        gpu.now_us += next(drift)

    replays = [Replay(SimpleNamespace(replay=drifting), 1) for _ in range(2)]
    assert play_blocks(replays, [gpu.deal]) == [[pytest.approx(103.0)], [pytest.approx(103.0)]]
