"""Arithmetic on measured times."""

from __future__ import annotations

import math
import random

import pytest

from tools.measure.statistics import Interval, Samples, floor_us, geomean, paired_ratio, quantile, share_within


def test_samples_give_median_and_spread() -> None:
    assert Samples.of([5.0, 1.0, 3.0, 2.0, 4.0]) == Samples(3.0, pytest.approx(1.4), pytest.approx(4.6), 5)


@pytest.mark.parametrize(("share", "expected"), [(0, 1.0), (0.5, 2.5), (1, 4.0), (0.25, 1.75)])
def test_quantile_interpolates(share: float, expected: float) -> None:
    assert quantile([4.0, 2.0, 1.0, 3.0], share) == pytest.approx(expected)


def test_quantile_of_one_value_is_that_value() -> None:
    assert quantile([7.0], 0.9) == 7.0


def test_quantile_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="expected at least one value"):
        quantile([], 0.5)


def test_geomean_of_a_ratio_and_its_inverse_is_one() -> None:
    assert geomean([1.25, 0.8]) == pytest.approx(1.0)


def test_share_within_counts_around_the_median_not_around_one() -> None:
    assert share_within([1.10, 1.12, 1.08, 1.10, 1.20], 0.03) == pytest.approx(0.8)


def test_the_larger_of_bytes_and_operations_is_the_floor() -> None:
    assert floor_us(3e9, 7e11, 3e12, 7e14) == (pytest.approx(1000.0), "memory")
    assert floor_us(3e9, 14e11, 3e12, 7e14) == (pytest.approx(2000.0), "compute")


@pytest.mark.parametrize(
    ("count", "low", "high"), [(1, 0, 0), (6, 0, 5), (8, 0, 7), (16, 3, 12), (20, 5, 14), (100, 39, 60)]
)
def test_the_interval_of_the_median_is_between_order_statistics(count: int, low: int, high: int) -> None:
    values = [float(i) for i in range(count)]
    assert Interval.of(values[::-1]) == Interval(low, (count - 1) / 2, high)


@pytest.mark.parametrize("count", [6, 8, 12, 16, 24, 32])
def test_it_holds_the_median_in_95_of_100_cases(count: int) -> None:
    chance = random.Random(count)
    tries = 4000
    intervals = (Interval.of([chance.expovariate(1.0) for _ in range(count)]) for _ in range(tries))
    hits = sum(interval.low <= math.log(2) <= interval.high for interval in intervals)
    assert hits / tries >= 0.945


def test_an_interval_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError):
        Interval.of([])


def test_a_paired_ratio_is_taken_round_by_round() -> None:
    assert paired_ratio([1.0, 4.0, 9.0], [1.0, 2.0, 3.0]) == Interval(1.0, 2.0, 3.0)
