"""The gate: never slower than no file, and no incumbent replaced for less than the margin."""

from __future__ import annotations

import random

import pytest

from tools.bench.figures import Interval, paired_ratio
from tools.tune.policy import Decision, PromotionPolicy, decide

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
    samples = [
        None if us is None else around(us, 0.0001, seed=i) for i, us in enumerate((challenger, incumbent, baseline))
    ]
    assert samples[2] is not None
    assert decide(samples[0], samples[1], samples[2], RULES) is expected


def test_noise_promotes_nothing() -> None:
    noisy, incumbent = around(98.0, 0.2, seed=1), around(100.0, 0.2, seed=2)
    assert decide(noisy, incumbent, around(120.0), RULES) is Decision.RETAIN


def test_drift_that_both_share_is_no_noise() -> None:
    drift = [1.0 + 0.02 * i for i in range(16)]
    challenger, incumbent = [95.0 * d for d in drift], [100.0 * d for d in drift]
    assert decide(challenger, incumbent, [200.0] * 16, RULES) is Decision.PROMOTE
    assert paired_ratio(challenger, incumbent).high == pytest.approx(0.95)


def test_the_interval_of_a_median() -> None:
    assert Interval.of([5.0]) == Interval(5.0, 5.0, 5.0)
    assert Interval.of([3.0, 1.0, 2.0]) == Interval(1.0, 2.0, 3.0)
    hundred = Interval.of([float(i) for i in range(1, 101)])
    # Binomial: ranks 40 and 60 leave 2.5 % on either side.
    assert (hundred.low, hundred.high) == (41.0, 60.0)


def test_the_interval_covers_the_median_95_times_of_100() -> None:
    chance = random.Random(7)
    hits = 0
    for _ in range(400):
        interval = Interval.of([chance.gauss(10.0, 1.0) for _ in range(24)])
        hits += interval.low <= 10.0 <= interval.high
    assert 370 <= hits <= 397
