"""The gate: never slower than no file, and no incumbent replaced for less than the margin."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tools.measure.gate import Noise, PairedComparison, PromotionPolicy, decide, passes_gate
from tools.measure.statistics import NOISE_PCT, Verdict
from tools.measure.statistics import duel as benched
from tools.store.record import Decision

RULES = PromotionPolicy(min_improvement_pct=1.0)


def around(center_us: float, spread: float = 0.001, count: int = 16, seed: int = 0) -> list[float]:
    chance = random.Random(seed)
    return [center_us * (1 + chance.uniform(-spread, spread)) for _ in range(count)]


@pytest.mark.parametrize(
    ("challenger", "incumbent", "baseline", "expected"),
    [
        (90.0, None, 100.0, Decision.PROMOTE),
        (99.9, None, 100.0, Decision.PROMOTE),
        (101.0, None, 100.0, Decision.BASELINE),
        (None, None, 100.0, Decision.BASELINE),
        (90.0, 95.0, 100.0, Decision.PROMOTE),
        (94.5, 95.0, 100.0, Decision.RETAIN),
        (96.0, 95.0, 100.0, Decision.RETAIN),
        (None, 95.0, 100.0, Decision.RETAIN),
        (None, 105.0, 100.0, Decision.BASELINE),
        (102.0, 105.0, 100.0, Decision.BASELINE),
    ],
    ids=lambda value: str(value),
)
def test_the_gate(challenger: float | None, incumbent: float | None, baseline: float, expected: Decision) -> None:
    assert decided((challenger, incumbent, baseline)) is expected


def decided(*shapes: tuple[float | None, float | None, float]) -> Decision:
    """By (challenger, incumbent, heuristic) under each shape, in µs."""

    def beside(own: int, other: int) -> list[PairedComparison] | None:
        pairs = [(shape[own], shape[other]) for shape in shapes]
        return [
            PairedComparison.of(around(a, 0.0001, seed=1), around(b, 0.0001, seed=2)) for a, b in pairs if a and b
        ] or None

    return decide(beside(0, 2), beside(1, 2), beside(0, 1), RULES, Noise.NONE)


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        ((90.0, 95.0, 100.0), (90.0, 95.0, 100.0), Decision.PROMOTE),
        ((90.0, 95.0, 100.0), (94.9, 95.0, 100.0), Decision.RETAIN),
        ((90.0, 110.0, 100.0), (100.0, 100.0, 105.0), Decision.PROMOTE),
        ((101.0, 110.0, 100.0), (90.0, 100.0, 105.0), Decision.BASELINE),
        ((101.0, 99.0, 100.0), (90.0, 100.0, 105.0), Decision.RETAIN),
    ],
    ids=["wins twice", "wins once", "incumbent fails the gate once", "both fail it once", "challenger fails it once"],
)
def test_under_several_shapes_nobody_may_be_slower_than_no_file(
    first: tuple[float, float, float], second: tuple[float, float, float], expected: Decision
) -> None:
    assert decided(first, second) is expected
    assert decided(second, first) is expected


def test_an_incumbent_that_fails_the_gate_needs_no_margin_to_be_replaced() -> None:
    assert decided((99.5, 100.3, 100.0)) is Decision.PROMOTE


def test_noise_promotes_nothing() -> None:
    noisy, incumbent, baseline = around(98.0, 0.2, seed=1), around(100.0, 0.2, seed=2), around(150.0)
    pairs = ((noisy, baseline), (incumbent, baseline), (noisy, incumbent))
    assert decide(*([PairedComparison.of(a, b)] for a, b in pairs), RULES, Noise.NONE) is Decision.RETAIN


def test_drift_that_both_share_is_no_noise() -> None:
    drift = [1.0 + 0.02 * i for i in range(16)]
    challenger, incumbent = [95.0 * d for d in drift], [100.0 * d for d in drift]
    baseline = [120.0 * d for d in drift]
    duel = PairedComparison.of(challenger, incumbent)
    assert duel.ratio.high == pytest.approx(0.95)
    passed = [PairedComparison.of(incumbent, baseline)]
    assert decide([PairedComparison.of(challenger, baseline)], passed, [duel], RULES, Noise.NONE) is Decision.PROMOTE


def test_a_record_never_shows_a_row_that_is_slower_than_its_heuristic() -> None:
    """Faster in most rounds, and yet slower by the medians, when the clock changes between them."""
    challenger, baseline = [10.0, 10.0, 11.9, 12.0, 12.0], [10.1, 10.1, 11.8, 12.1, 12.1]
    comparison = PairedComparison.of(challenger, baseline)
    assert comparison.ratio.median < 1.0 < comparison.us / comparison.other_us
    assert decide([comparison], None, None, RULES, Noise.NONE) is Decision.BASELINE


# ---------------------------------------------------------------
# Noise: what a row may look slower by, and yet stand


def test_what_is_slower_by_less_than_noise_is_not_written_but_stands_once_it_is() -> None:
    """The tuner said baseline of it, a pull request promote: each by a rule of its own. It is one rule, asked twice."""
    beside = [PairedComparison.of(around(100.3), around(100.0, seed=1))]
    assert beside[0].ratio.median == pytest.approx(1.003, abs=0.001)
    assert decide(beside, None, None, RULES, Noise.NONE) is Decision.BASELINE
    assert decide(beside, None, None, RULES, Noise.MEASURED) is Decision.PROMOTE
    assert decide(None, beside, None, RULES, Noise.NONE) is Decision.BASELINE
    assert decide(None, beside, None, RULES, Noise.MEASURED) is Decision.RETAIN


def test_what_is_slower_by_more_than_noise_neither_is_written_nor_stands() -> None:
    beside = [PairedComparison.of(around(100.7), around(100.0, seed=1))]
    assert not any(passes_gate(beside, noise) for noise in Noise)


def test_where_samples_scatter_the_noise_is_as_large_as_they_do() -> None:
    beside = [PairedComparison.of(around(102.0, 0.1), around(100.0, 0.1, seed=1))]
    assert beside[0].ratio.low < 1.0 < 1.0 + NOISE_PCT / 100.0 < beside[0].ratio.median
    assert not passes_gate(beside, Noise.NONE)
    assert passes_gate(beside, Noise.MEASURED)


def test_under_several_shapes_one_that_is_slower_is_enough() -> None:
    fine, slower = PairedComparison.of_medians(100.3, 100.0), PairedComparison.of_medians(100.7, 100.0)
    assert passes_gate([fine, fine], Noise.MEASURED)
    assert not passes_gate([fine, slower], Noise.MEASURED)


@pytest.mark.parametrize(
    ("us", "is_written", "stands"), [(100.0, True, True), (100.3, False, True), (100.6, False, False)]
)
def test_of_medians_alone_only_the_least_noise_is_known(us: float, is_written: bool, stands: bool) -> None:
    beside = [PairedComparison.of_medians(us, 100.0)]
    assert passes_gate(beside, Noise.NONE) is is_written
    assert passes_gate(beside, Noise.MEASURED) is stands


def test_medians_that_a_drifting_clock_parts_count_when_judging_too() -> None:
    challenger, baseline = [10.0, 10.0, 11.9, 12.0, 12.0], [10.1, 10.1, 11.0, 12.1, 12.1]
    comparison = PairedComparison.of(challenger, baseline)
    assert comparison.ratio.median < 1.0 < 1.08 < comparison.us / comparison.other_us
    assert not passes_gate([comparison], Noise.MEASURED)


@given(
    st.lists(st.tuples(st.floats(99.0, 101.0), st.floats(99.0, 101.0)), min_size=1, max_size=24),
    st.floats(0.97, 1.03),
)
def test_what_a_bench_calls_slower_does_not_stand_and_what_does_not_is_not_written(
    rounds: list[tuple[float, float]], ratio: float
) -> None:
    own, other = [us * ratio for us, _ in rounds], [us for _, us in rounds]
    beside = PairedComparison.of(own, other)
    if benched(own, other).verdict is Verdict.SLOWER:
        assert beside.is_slower(Noise.MEASURED)
    if beside.is_slower(Noise.MEASURED):
        assert beside.is_slower(Noise.NONE)
