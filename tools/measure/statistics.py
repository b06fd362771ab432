"""Arithmetic on measured times. Standard library only."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence


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


NOISE_PCT = 0.5
"""Two captures of one launch config differ by up to so much: their tensors lie elsewhere in memory."""
