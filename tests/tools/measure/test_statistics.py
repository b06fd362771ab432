"""Arithmetic on measured times."""

from __future__ import annotations

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tools.measure.statistics import (
    FAILED,
    NOISE_PCT,
    SAME_ENTRY,
    Duel,
    Interval,
    RowVerdict,
    Samples,
    Score,
    Verdict,
    duel,
    floor_us,
    geomean,
    paired_ratio,
    quantile,
    score,
    share_within,
)


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


# When a tuned file counts as faster or slower than another contestant.

ROUNDS = 20
JITTER = (0.99, 1.0, 1.01, 1.0)


def series(us: float, jitter: tuple[float, ...] = JITTER) -> list[float]:
    """One sample a round."""
    return [us * jitter[i % len(jitter)] for i in range(ROUNDS)]


def row(num_tokens: int, **duels: Duel) -> RowVerdict:
    return RowVerdict(num_tokens, 10.0, "memory", {}, duels)


def of_ratio(ratio: float, verdict: Verdict) -> Duel:
    return Duel(Interval(ratio, ratio, ratio), verdict)


class TestDuel:
    @pytest.mark.parametrize(
        ("own_us", "expected"),
        [(90.0, Verdict.FASTER), (99.0, Verdict.FASTER), (101.0, Verdict.SLOWER), (150.0, Verdict.SLOWER)],
    )
    def test_where_rounds_agree_the_difference_counts(self, own_us: float, expected: Verdict) -> None:
        found = duel(series(own_us), series(100.0))
        assert found.verdict is expected
        assert found.ratio is not None
        assert found.ratio.median == pytest.approx(own_us / 100.0)

    @pytest.mark.parametrize("own_us", [99.6, 100.0, 100.4])
    def test_a_difference_within_the_noise_is_none_however_sure(self, own_us: float) -> None:
        found = duel(series(own_us), series(100.0))
        assert found.ratio is not None
        assert found.ratio.high - found.ratio.low < 1e-9
        assert found.verdict is Verdict.SAME

    @pytest.mark.parametrize("sign", [-1, 1])
    def test_the_noise_itself_is_the_border(self, sign: int) -> None:
        just_beyond = 100.0 * (1.0 + sign * 1.01 * NOISE_PCT / 100.0)
        assert duel(series(just_beyond), series(100.0)).verdict is (Verdict.SLOWER if sign > 0 else Verdict.FASTER)
        just_within = 100.0 * (1.0 + sign * 0.99 * NOISE_PCT / 100.0)
        assert duel(series(just_within), series(100.0)).verdict is Verdict.SAME

    @pytest.mark.parametrize("own_us", [98.0, 102.0])
    def test_an_interval_that_holds_one_is_no_verdict(self, own_us: float) -> None:
        others = series(100.0, (1.05, 0.95))
        found = duel(series(own_us, (1.0,)), others)
        assert found.ratio is not None
        assert found.ratio.low < 1.0 < found.ratio.high
        assert found.verdict is Verdict.SAME

    def test_a_clock_that_drifts_meets_both(self) -> None:
        drift = [1.0 + 0.02 * i for i in range(ROUNDS)]
        own, other = [101.0 * d for d in drift], [100.0 * d for d in drift]
        assert duel(own, other).verdict is Verdict.SLOWER

    def test_rounds_must_be_pairs(self) -> None:
        with pytest.raises(ValueError, match="shorter"):
            duel(series(100.0), series(100.0)[1:])

    @given(
        st.lists(st.tuples(st.floats(1.0, 1e4), st.floats(1.0, 1e4)), min_size=6, max_size=40),
    )
    def test_the_other_side_of_a_duel_says_the_opposite(self, pairs: list[tuple[float, float]]) -> None:
        own, other = zip(*pairs, strict=True)
        opposite = {Verdict.FASTER: Verdict.SLOWER, Verdict.SLOWER: Verdict.FASTER, Verdict.SAME: Verdict.SAME}
        there, back = duel(own, other), duel(other, own)
        # The median of an even count of ratios is no reciprocal: at the noise's very border the sides may differ.
        if Verdict.SAME not in (there.verdict, back.verdict):
            assert opposite[there.verdict] is back.verdict


class TestScore:
    ROWS = (
        row(1, other=of_ratio(0.5, Verdict.FASTER)),
        row(2, other=of_ratio(2.0, Verdict.SLOWER)),
        row(4, other=of_ratio(0.8, Verdict.FASTER)),
        row(8, other=SAME_ENTRY),
        row(16, other=FAILED),
    )

    def test_figures_are_over_the_rows_that_both_ran(self) -> None:
        found = score(self.ROWS, "other")
        geomean = (0.5 * 2.0 * 0.8 * 1.0) ** 0.25
        assert found == Score(pytest.approx(geomean), pytest.approx(0.9), 2.0, faster=2, slower=1, same=1, failed=1)

    def test_the_counts_are_of_all_rows(self) -> None:
        found = score(self.ROWS, "other")
        assert found is not None
        assert found.faster + found.slower + found.same + found.failed == len(self.ROWS)

    def test_where_no_row_ran_there_is_none(self) -> None:
        assert score((row(1, other=FAILED),), "other") is None
        assert score((), "other") is None
        assert score(self.ROWS, "nobody") is None
