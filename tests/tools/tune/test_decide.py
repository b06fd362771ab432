"""The gate: never slower than no file, and no incumbent replaced for less than the margin."""

from __future__ import annotations

import random

import pytest

from tools.measure.statistics import Interval
from tools.tune.decide import Decision, PairedComparison, PromotionPolicy, decide

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

    return decide(beside(0, 2), beside(1, 2), beside(0, 1), RULES)


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
    assert decide(*([PairedComparison.of(a, b)] for a, b in pairs), RULES) is Decision.RETAIN


def test_drift_that_both_share_is_no_noise() -> None:
    drift = [1.0 + 0.02 * i for i in range(16)]
    challenger, incumbent = [95.0 * d for d in drift], [100.0 * d for d in drift]
    baseline = [120.0 * d for d in drift]
    duel = PairedComparison.of(challenger, incumbent)
    assert duel.ratio.high == pytest.approx(0.95)
    passed = [PairedComparison.of(incumbent, baseline)]
    assert decide([PairedComparison.of(challenger, baseline)], passed, [duel], RULES) is Decision.PROMOTE


def test_a_record_never_shows_a_row_that_is_slower_than_its_heuristic() -> None:
    """Faster in most rounds, and yet slower by the medians, when the clock changes between them."""
    challenger, baseline = [10.0, 10.0, 11.9, 12.0, 12.0], [10.1, 10.1, 11.8, 12.1, 12.1]
    comparison = PairedComparison.of(challenger, baseline)
    assert comparison.ratio.median < 1.0 < comparison.us / comparison.other_us
    assert decide([comparison], None, None, RULES) is Decision.BASELINE


def test_the_interval_of_a_median() -> None:
    assert Interval.of([5.0]) == Interval(5.0, 5.0, 5.0)
    assert Interval.of([3.0, 1.0, 2.0]) == Interval(1.0, 2.0, 3.0)
    hundred = Interval.of([float(i) for i in range(1, 101)])
    # Binomial: ranks 40 and 61 leave 2.5 % on either side.
    assert (hundred.low, hundred.high) == (40.0, 61.0)


def test_the_interval_covers_the_median_95_times_of_100() -> None:
    chance = random.Random(7)
    hits = 0
    for _ in range(400):
        interval = Interval.of([chance.gauss(10.0, 1.0) for _ in range(24)])
        hits += interval.low <= 10.0 <= interval.high
    assert 370 <= hits <= 397
