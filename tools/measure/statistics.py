"""Arithmetic on measured times. Standard library only."""

from __future__ import annotations

import functools
import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass


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
