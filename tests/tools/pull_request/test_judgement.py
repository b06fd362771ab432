"""A row's verdict is beyond noise; its decision is the tuner's gate, read from ratios."""

from __future__ import annotations

import pytest

from tests.tools.pull_request.documents_builder import entry, planned
from tools.measure.statistics import Interval
from tools.measure.verdict import FAILED, Duel, duel
from tools.pull_request.documents import MeasuredRow
from tools.pull_request.judgement import BenchedRow, rows_of

MAIN = {64: entry(num_stages=2)}


def against(own_us: float, other_us: float) -> Duel:
    return duel((own_us,), (other_us,))


def row_of(
    own_us: float | None, main_us: float | None, heuristic_us: float | None, *, has_main: bool = True
) -> MeasuredRow:
    """What becomes of one row of a claimed file; None fails to run."""
    rivals = [None if not has_main else main_us, heuristic_us]
    duels = [FAILED if own_us is None or rival is None else against(own_us, rival) for rival in rivals]
    file = planned({64: entry()}, MAIN if has_main else None, {64: 41.5})
    benched = BenchedRow(own_us, rivals[0], heuristic_us, duels[0] if has_main else None, duels[1])
    return rows_of(file, {64: benched}, {64: 40.0})[64]


@pytest.mark.parametrize(
    ("own_us", "main_us", "heuristic_us", "verdict", "decision"),
    [
        pytest.param(90, 100, 120, "faster", "promote", id="faster by more than the margin"),
        pytest.param(99.2, 100, 120, "faster", "retain", id="faster beyond noise, but within the margin"),
        pytest.param(99.8, 100, 120, "same", "retain", id="within noise"),
        pytest.param(101, 100, 120, "slower", "retain", id="slower"),
        pytest.param(90, 100, 80, "faster", "baseline", id="faster than main's, slower than no file"),
        pytest.param(101, 100, 80, "slower", "baseline", id="both slower than no file"),
        pytest.param(99.8, 100, 99.8, "same", "retain", id="main's loses to the heuristic within noise only"),
        pytest.param(None, 100, 120, "slower", "retain", id="the claimed entry fails"),
        pytest.param(90, None, 120, "faster", "promote", id="main's entry fails"),
        pytest.param(None, None, 120, None, "baseline", id="both fail"),
    ],
)
def test_against_mains_file(
    own_us: float | None, main_us: float | None, heuristic_us: float, verdict: str | None, decision: str
) -> None:
    row = row_of(own_us, main_us, heuristic_us)
    assert (row.verdict, row.decision) == (verdict, decision)


@pytest.mark.parametrize(
    ("own_us", "heuristic_us", "verdict", "decision"),
    [
        pytest.param(90, 100, "faster", "promote", id="faster"),
        pytest.param(100, 100, "same", "promote", id="the heuristic's own entry may stand in a file"),
        pytest.param(101, 100, "slower", "baseline", id="slower than no file"),
        pytest.param(None, 100, "slower", "baseline", id="fails"),
        pytest.param(90, None, "faster", "promote", id="the heuristic fails"),
    ],
)
def test_against_the_heuristic_where_main_has_no_file(
    own_us: float | None, heuristic_us: float | None, verdict: str, decision: str
) -> None:
    row = row_of(own_us, None, heuristic_us, has_main=False)
    assert (row.verdict, row.decision) == (verdict, decision)


@pytest.mark.parametrize(
    ("main_us", "heuristic_us", "verdict", "decision"),
    [(90, 100, "slower", "retain"), (100, 100, "same", "retain"), (100, 90, "faster", "baseline")],
)
def test_a_removed_file_is_judged_by_what_runs_without_it(
    main_us: float, heuristic_us: float, verdict: str, decision: str
) -> None:
    benched = BenchedRow(main_us, None, heuristic_us, None, against(main_us, heuristic_us))
    row = rows_of(planned({}, MAIN), {64: benched}, {})[64]
    assert (row.verdict, row.decision) == (verdict, decision)
    assert (row.claimed_us, row.measured_us, row.main_us) == (None, None, main_us)


def test_a_wide_interval_promotes_nothing() -> None:
    """2 % faster in the median, but not beyond doubt."""
    unsure = Duel(Interval(0.95, 0.98, 1.01), against(1, 1).verdict)
    benched = BenchedRow(98, 100, 120, unsure, against(98, 120))
    row = rows_of(planned({64: entry()}, MAIN), {64: benched}, {})[64]
    assert (row.verdict, row.decision) == ("same", "retain")


def test_what_nobody_recorded_gets_no_verdict() -> None:
    row = rows_of(planned({64: entry()}, MAIN), {64: BenchedRow(None, 100, 120, None, None)}, {})[64]
    assert (row.verdict, row.decision) == (None, None)


def test_claims_and_re_tuned_times_go_along() -> None:
    row = row_of(90.12345, 100, 120)
    assert (row.claimed_us, row.measured_us, row.retuned_us) == (41.5, 90.123, 40.0)
