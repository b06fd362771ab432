"""When a tuned file counts as faster or slower than another contestant."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tools.measure.statistics import Interval
from tools.measure.verdict import FAILED, NOISE_PCT, SAME_ENTRY, Duel, RowVerdict, Score, Verdict, duel, score

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
