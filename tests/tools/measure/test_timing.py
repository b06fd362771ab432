"""In which order graphs are replayed and how samples are shared out, on a clock that is made up."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest

from tools.measure import timing
from tools.measure.timing import (
    MAX_TRIES,
    MIN_SAMPLE_US,
    MOST_PLAYS_APART_PCT,
    Policy,
    Replay,
    measure_series,
    medians_us,
    play_blocks,
    sample_once,
)

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
    """Runs what is enqueued on a clock of its own, block 1 twice as long as block 0, block 2 three times, and so on."""

    log: list[str] = field(default_factory=list)
    now_us: float = 0.0
    block: int = 0

    def deals(self, count: int) -> list[Callable[[], None]]:
        return [functools.partial(self.deal, block) for block in range(count)]

    def deal(self, block: int) -> None:
        self.block = block
        self.log.append(f"deal {block}")

    def graph(self, name: str, us: float, held_up_us: Iterable[float] = ()) -> Any:
        """us: of a replay in block 0. held_up_us: for how long the host is, before each of the first launches."""
        waits = iter(held_up_us)

        def replay() -> None:
            self.log.append(name)
            self.now_us += us * (self.block + 1) + next(waits, 0.0)

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


def block_log(block: int) -> list[str]:
    """Of the graphs a and b, of which the first is played once more, untimed."""
    return [f"deal {block}", "wait", "a", "a", "b", "b", "a"]


def test_a_block_is_dealt_then_played_forwards_and_backwards_and_the_host_waits_once(gpu: FakeGpu) -> None:
    replays = [Replay(gpu.graph("a", 40.0), 8), Replay(gpu.graph("b", 1000.0), 2)]
    times = play_blocks(replays, gpu.deals(2))
    assert gpu.log == [*block_log(0), *block_log(1), "synchronize"]
    assert times == [[pytest.approx(5.0), pytest.approx(10.0)], [pytest.approx(500.0), pytest.approx(1000.0)]]


def plays_us(gpu: FakeGpu, *us: float) -> Replay:
    """A graph whose plays take so long, one after another."""
    return Replay(gpu.graph("a", 0.0, us), 1)


def test_a_blocks_time_is_the_mean_of_its_two_plays(gpu: FakeGpu) -> None:
    """A clock that drifts meets all alike."""
    drift = iter((100.0, 100.0, 102.0, 104.0, 106.0))

    def drifting() -> None:
        gpu.now_us += next(drift)

    replays = [Replay(SimpleNamespace(replay=drifting), 1) for _ in range(2)]
    assert play_blocks(replays, gpu.deals(1)) == [[pytest.approx(103.0)], [pytest.approx(103.0)]]


def stalls(*at: int) -> Iterator[float]:
    """Before which launches of a graph the host is held up, from 0."""
    return (300.0 if place in at else 0.0 for place in range(max(at) + 1))


def test_a_block_in_which_the_host_was_held_up_is_dealt_and_played_again_when_all_have_been(gpu: FakeGpu) -> None:
    replays = [Replay(gpu.graph("a", 40.0), 1), Replay(gpu.graph("b", 100.0, stalls(2)), 1)]  # b's first of block 1
    times = play_blocks(replays, gpu.deals(3))
    assert gpu.log == [*block_log(0), *block_log(1), *block_log(2), "synchronize", *block_log(1), "synchronize"]
    assert times == [pytest.approx([40.0, 80.0, 120.0]), pytest.approx([100.0, 200.0, 300.0])]


def test_the_play_that_warms_a_block_up_disturbs_nothing(gpu: FakeGpu) -> None:
    assert play_blocks([Replay(gpu.graph("a", 40.0, stalls(0)), 1)], gpu.deals(1)) == [[pytest.approx(40.0)]]
    assert gpu.log.count("deal 0") == 1


def test_of_a_block_that_is_always_disturbed_the_try_that_agrees_best_is_kept_whole(gpu: FakeGpu) -> None:
    """A ratio is of graphs that were played together: b's times are of the second try too."""
    tries = ((0.0, 100.0, 400.0), (0.0, 100.0, 200.0), (0.0, 100.0, 300.0))  # its first play is not timed
    each = (1000.0, 1000.0, 2000.0, 2000.0, 3000.0, 3000.0)
    replays = [plays_us(gpu, *(us for one in tries for us in one)), Replay(gpu.graph("b", 0.0, each), 1)]
    assert len(tries) == MAX_TRIES
    assert play_blocks(replays, gpu.deals(1)) == [[pytest.approx(150.0)], [pytest.approx(2000.0)]]
    assert gpu.log.count("deal 0") == MAX_TRIES


@pytest.mark.parametrize(
    ("first_us", "second_us", "is_disturbed"),
    [
        (100.0, 100.0 + MOST_PLAYS_APART_PCT, False),
        (100.0, 103.0 + MOST_PLAYS_APART_PCT, True),
        (103.0 + MOST_PLAYS_APART_PCT, 100.0, True),
        (2.0, 3.0, False),  # each of two events may be off by its resolution
        (2.0, 4.0, True),
        (0.0, 0.5, False),
    ],
)
def test_two_plays_are_apart_beyond_a_share_and_what_events_resolve(
    gpu: FakeGpu, first_us: float, second_us: float, *, is_disturbed: bool
) -> None:
    found = play_blocks([plays_us(gpu, 0.0, first_us, second_us, 0.0, 50.0, 50.0)], gpu.deals(1))
    assert found == [[pytest.approx(50.0 if is_disturbed else (first_us + second_us) / 2)]]
    assert gpu.log.count("deal 0") == 1 + is_disturbed
