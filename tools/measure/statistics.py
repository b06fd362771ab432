"""Arithmetic on measured times, and what it says: faster, slower or the same. Standard library only."""

from __future__ import annotations

import enum
import functools
import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from kernels.launch_config import LaunchConfig


@dataclass(frozen=True)
class Samples:
    """Times of one launch in µs, summed up. p10 and p90 by linear interpolation."""

    median_us: float
    p10_us: float
    p90_us: float
    count: int

    @classmethod
    def of(cls, times_us: Sequence[float]) -> Samples:
        """ValueError: there is none."""
        return cls(statistics.median(times_us), quantile(times_us, 0.1), quantile(times_us, 0.9), len(times_us))


def quantile(values: Sequence[float], share: float) -> float:
    """Linear interpolation between order statistics. ValueError: no values."""
    if not values:
        raise ValueError("quantile: expected at least one value, found none.")
    ordered = sorted(values)
    place = share * (len(ordered) - 1)
    low = math.floor(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (place - low)


def geomean(values: Iterable[float]) -> float:
    """ValueError: no values, or one that is not positive."""
    return statistics.geometric_mean(values)


def share_within(values: Sequence[float], tolerance: float) -> float:
    """Share of the values within ±tolerance (relative) of their median."""
    middle = statistics.median(values)
    return sum(abs(value / middle - 1) <= tolerance for value in values) / len(values)


def floor_us(num_bytes: float, operations: float, bytes_per_s: float, operations_per_s: float) -> tuple[float, str]:
    """The least time, and what sets it: memory or compute."""
    memory_us, compute_us = num_bytes / bytes_per_s * 1e6, operations / operations_per_s * 1e6
    return (memory_us, "memory") if memory_us >= compute_us else (compute_us, "compute")


@dataclass(frozen=True)
class Interval:
    """Median and its 95 % interval, in the unit of the samples."""

    low: float
    median: float
    high: float

    @classmethod
    def of(cls, samples: Sequence[float]) -> Interval:
        """The narrowest pair of order statistics, as far from either end, that holds the median in 95 of 100 cases.

        Exact: how many samples lie below the median is binomial. Under six samples the whole range holds it less often,
        and is what there is. ValueError: no samples.
        """
        if not samples:
            raise ValueError("interval: expected at least one sample, found none.")
        ordered = sorted(samples)
        outside = _rank_outside(len(ordered))
        return cls(ordered[outside], statistics.median(ordered), ordered[-1 - outside])


@functools.cache
def _rank_outside(count: int) -> int:
    """How many samples to leave out at either end: the most that are all below the median in under 2.5 % of cases."""
    chance, outside = 0.5**count, 0
    while (more := chance + math.comb(count, outside + 1) * 0.5**count) <= 0.025:
        chance, outside = more, outside + 1
    return outside


def paired_ratio(samples: Sequence[float], others: Sequence[float]) -> Interval:
    """samples over others round by round: what both share in a round, a clock that drifts, cancels out."""
    return Interval.of([a / b for a, b in zip(samples, others, strict=True)])


# ---------------------------------------------------------------
# Faster, slower or the same: what paired samples say of two contestants

NOISE_PCT = 0.5
"""Two captures of one launch config differ by up to so much: their tensors lie elsewhere in memory."""


class Verdict(enum.StrEnum):
    """Of a tuned file against another contestant."""

    FASTER = "faster"
    SLOWER = "slower"
    SAME = "same"
    FAILED = "failed"


@dataclass(frozen=True)
class Measured:
    """One contestant at one batch size, under the shape where the file does worst. message: why there is no time."""

    config: LaunchConfig
    us: Interval | None
    message: str = ""


@dataclass(frozen=True)
class Duel:
    """The tuned file's time over a contestant's, round by round. None: one of them failed."""

    ratio: Interval | None
    verdict: Verdict


@dataclass(frozen=True)
class RowVerdict:
    """One batch size. measured and duels by the contestants' names; duels are the file's own, the first one's.

    With several shapes each duel is of the shape where the file does worst against that contestant.
    """

    num_tokens: int
    floor_us: float
    bound: str
    measured: Mapping[str, Measured]
    duels: Mapping[str, Duel]


def duel(own: Sequence[float], other: Sequence[float]) -> Duel:
    """Slower or faster only where the ratio's interval leaves 1 out and its median is beyond the noise."""
    ratio = paired_ratio(own, other)
    if is_slower(ratio):
        return Duel(ratio, Verdict.SLOWER)
    if ratio.high < 1.0 and ratio.median < 1.0 - NOISE_PCT / 100.0:
        return Duel(ratio, Verdict.FASTER)
    return Duel(ratio, Verdict.SAME)


def is_slower(ratio: Interval) -> bool:
    """Beyond doubt and beyond the noise. ratio: the own time over another's, round by round."""
    return ratio.low > 1.0 and ratio.median > 1.0 + NOISE_PCT / 100.0


SAME_ENTRY = Duel(Interval(1.0, 1.0, 1.0), Verdict.SAME)
"""Both run one launch config: measured once."""

FAILED = Duel(None, Verdict.FAILED)


@dataclass(frozen=True)
class Score:
    """A file against one contestant over all rows that both ran. Ratios: the file's time over the contestant's."""

    geomean_ratio: float
    median_ratio: float
    worst_ratio: float
    faster: int
    slower: int
    same: int
    failed: int


def score(rows: Sequence[RowVerdict], contestant: str) -> Score | None:
    """None: there is no row that both ran."""
    duels = [row.duels[contestant] for row in rows if contestant in row.duels]
    ratios = sorted(duel.ratio.median for duel in duels if duel.ratio)
    if not ratios:
        return None
    count = [sum(duel.verdict is verdict for duel in duels) for verdict in Verdict]
    return Score(geomean(ratios), Interval.of(ratios).median, ratios[-1], *count)
