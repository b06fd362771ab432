"""Arithmetic on measured times."""

from __future__ import annotations

import pytest

from tools.measure.statistics import floor_us, geomean, quantile, share_within


@pytest.mark.parametrize(("share", "expected"), [(0, 1.0), (0.5, 2.5), (1, 4.0), (0.25, 1.75), (0.9, 3.7)])
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


def test_a_value_at_the_tolerance_is_within() -> None:
    assert share_within([1.0, 1.0, 1.25], 0.25) == 1.0


def test_the_larger_of_bytes_and_operations_is_the_floor() -> None:
    assert floor_us(3e9, 7e11, 3e12, 7e14) == (pytest.approx(1000.0), "memory")
    assert floor_us(3e9, 14e11, 3e12, 7e14) == (pytest.approx(2000.0), "compute")
