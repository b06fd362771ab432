"""Timing launches so that the figures can be trusted: CUDA graphs, interleaved, medians. Needs a GPU.

A launch from Python takes as long as a decode kernel runs, so launches are captured into a graph, one for each
routing, and whole replays are timed. Graphs that are compared are replayed in turn, forwards and backwards
(A B B A), so that drifting clocks meet all of them alike.
"""

from __future__ import annotations

import contextlib
import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

LaunchCall = Callable[[], Any]

EVENT_RESOLUTION_US = 0.5
MIN_SAMPLE_US = 200.0
"""Shorter samples are repeated: of these, what an event resolves is little."""


@dataclass(frozen=True)
class Policy:
    """How many rounds: as many as fit the budget, within limits. A round replays every graph once or more."""

    min_rounds: int = 4
    max_rounds: int = 10
    budget_ms: float = 60.0


@dataclass(frozen=True)
class Replay:
    """A captured sequence of launches. A sample is the time of one of them, on average, or of one layer's."""

    graph: Any
    num_samples: int


def capture(
    launches: Sequence[LaunchCall], num_warm: int | None = None, *, a_sample: int = 1, is_played: bool = False
) -> Replay:
    """Captures the launches on the current stream, which must not be the default one.

    a_sample: launches that count as one, such as a layer's two. is_played: it is replayed once, which uploads it.
    Each (or the first `num_warm`, where all run one kernel) runs once before: the first loads the module and is no
    measurement. `torch.cuda.graph` is not used: it collects garbage and empties the allocator's cache at each capture.
    """
    for launch in launches[:num_warm]:
        launch()
    torch.cuda.current_stream().synchronize()
    graph = torch.cuda.CUDAGraph()
    graph.capture_begin(capture_error_mode="thread_local")
    try:
        for launch in launches:
            launch()
    except BaseException:
        # The stream would go on capturing; the launch's own error is the one to report.
        with contextlib.suppress(RuntimeError):
            graph.capture_end()
        raise
    graph.capture_end()
    if is_played:
        graph.replay()
    return Replay(graph, len(launches) // a_sample)


def medians_us(replays: Sequence[Replay], policy: Policy = Policy()) -> list[float]:
    """The median time of one launch of each, in µs."""
    return [statistics.median(series) for series in measure_series(replays, policy)]


def measure_series(replays: Sequence[Replay], policy: Policy = Policy()) -> list[list[float]]:
    """Times of one launch of each, in µs, a sample a round: the i-th of all series were taken together."""
    rough_us = _sample_all([(replay, 1) for replay in replays for _ in range(2)])[1::2]
    repeats = [max(1, math.ceil(MIN_SAMPLE_US / max(us, 1.0))) for us in rough_us]
    round_ms = sum(us * repeat for us, repeat in zip(rough_us, repeats, strict=True)) / 1000
    rounds = min(policy.max_rounds, max(policy.min_rounds, int(policy.budget_ms / round_ms)))
    # Whole ABBA blocks, so that each graph is as often early as late.
    rounds += rounds % 2
    forward = list(zip(range(len(replays)), repeats, strict=True))
    order = [turn for i in range(rounds) for turn in (forward if i % 2 == 0 else forward[::-1])]
    totals_us = _sample_all([(replays[index], repeat) for index, repeat in order])
    times: list[list[float]] = [[] for _ in replays]
    for (index, repeat), total_us in zip(order, totals_us, strict=True):
        times[index].append(total_us / repeat / replays[index].num_samples)
    return times


def sample_once(replays: Sequence[Replay], times: int) -> list[list[float]]:
    """Coarse times of one launch of each, in µs: so many replays of each, in turn, without repeating short ones."""
    totals_us = _sample_all([(replay, 1) for _ in range(times) for replay in replays], wait_cycles=60_000 * times)
    return [
        [us / replay.num_samples for us in totals_us[place :: len(replays)]] for place, replay in enumerate(replays)
    ]


BLOCK_WAIT_CYCLES = 300_000
"""Some 0.17 ms after a block is dealt, in which the host gets ahead of the GPU: a graph is launched faster than it
runs, but not faster than nothing."""

MOST_PLAYS_APART_PCT = 20.0
"""By how much a graph's two plays in a block may differ, in per cent of the shorter one.

Both do the same work on the same buffers and agree within a few per cent. Where the host is held up between a play's
first event and its launch (busy cores hold it up for 0.1 ms and more), the GPU waits and the wait counts as the
graph's. Half of it is in the block's time: at this limit 10 %, a third of what a record's times may spread.
"""

MAX_TRIES = 3
"""Of a block or a coarse sample, the first included. Where the host is held up all the time, more wouldn't help."""


def play_blocks(replays: Sequence[Replay], deals: Sequence[Callable[[], object]]) -> list[list[float]]:
    """Times of one sample of each in µs, a value a block: the mean of two plays, forwards and backwards.

    deals: each fills the buffers that the graphs read with its block, on the current stream, and may be called again:
    a block in which two plays of a graph are too far apart is played again when all have been, and the try that agrees
    best is kept. It is kept whole: ratios are of graphs that were played together.
    """
    kept: dict[int, _Plays] = {}
    due: Sequence[int] = range(len(deals))
    for _ in range(MAX_TRIES):
        for block, plays in zip(due, _play_once(replays, [deals[block] for block in due]), strict=True):
            kept[block] = min(kept.get(block, plays), plays, key=_apart_pct)
        due = [block for block in due if _apart_pct(kept[block]) > MOST_PLAYS_APART_PCT]
        if not due:
            break
    return [
        [sum(kept[block][index]) / 2 / replay.num_samples for block in range(len(deals))]
        for index, replay in enumerate(replays)
    ]


_Plays = Sequence[tuple[float, float]]
"""Of one block: µs of each graph's two plays."""


def _play_once(replays: Sequence[Replay], deals: Sequence[Callable[[], object]]) -> list[_Plays]:
    """Every block, one after another. Nothing waits for the GPU before the last one is enqueued.

    The first graph is played once more at a block's start, and not timed: after the pause of a deal the clocks are
    higher.
    """
    order = [*range(len(replays)), *reversed(range(len(replays)))]
    events = []
    for deal in deals:
        deal()
        torch.cuda._sleep(BLOCK_WAIT_CYCLES)
        replays[0].graph.replay()
        for index in order:
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            start.record()
            replays[index].graph.replay()
            end.record()
            events.append((start, end))
    torch.cuda.current_stream().synchronize()
    times_us = [start.elapsed_time(end) * 1000 for start, end in events]
    blocks = [times_us[first : first + len(order)] for first in range(0, len(times_us), len(order))]
    return [[(block[index], block[-1 - index]) for index in range(len(replays))] for block in blocks]


def _apart_pct(plays: _Plays) -> float:
    """Of the graph whose two plays differ most; what two events can't resolve is no difference."""
    unresolved_us = 2 * EVENT_RESOLUTION_US
    return max(
        100.0 * max(0.0, abs(first - second) - unresolved_us) / max(min(first, second), EVENT_RESOLUTION_US)
        for first, second in plays
    )


def _sample_all(turns: Sequence[tuple[Replay, int]], wait_cycles: int = 1_000_000) -> list[float]:
    """µs of each turn, enqueued together behind a short wait so that the host never holds the GPU up."""
    events = [[torch.cuda.Event(enable_timing=True) for _ in range(2)] for _ in turns]
    torch.cuda._sleep(wait_cycles)
    for (replay, repeat), (start, end) in zip(turns, events, strict=True):
        start.record()
        for _ in range(repeat):
            replay.graph.replay()
        end.record()
    torch.cuda.current_stream().synchronize()
    return [start.elapsed_time(end) * 1000 for start, end in events]
