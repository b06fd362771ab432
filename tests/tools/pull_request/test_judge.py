"""A row's verdict is beyond noise; its decision is the tuner's gate, read from ratios."""

from __future__ import annotations

import pytest

from tests.tools.pull_request.documents_builder import entry, planned, workload
from tools.measure.statistics import FAILED, Duel, Interval, Verdict, duel
from tools.pull_request.documents import FileId, MeasuredFile, MeasuredRow
from tools.pull_request.judge import (
    BenchedRow,
    FileSummary,
    claim_gap,
    retuned_gap,
    rows_of,
    summary_of,
    why_unverified,
)
from tools.store.record import Decision

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
        pytest.param(99.5, 100, 97.0, "same", "baseline", id="near main's, and both beyond the bound"),
        pytest.param(90, 100, 88.5, "faster", "promote", id="1.7 % slower than no file is within the bound"),
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
        pytest.param(102.1, 100, "slower", "baseline", id="beyond it"),
        pytest.param(101.9, 100, "same", "promote", id="within the bound"),
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


# What a file's rows come to, and what keeps a file from being called verified.

BETTER = MeasuredRow(100, 101, 110, 120, 100, Verdict.FASTER, Decision.PROMOTE)
SAME = MeasuredRow(100, 101, 101, 120, 100, Verdict.SAME, Decision.RETAIN)
SLOWER = MeasuredRow(100, 101, 99, 120, 99, Verdict.SLOWER, Decision.RETAIN)
NO_FILE_IS_BETTER = MeasuredRow(100, 101, 110, 90, 90, Verdict.FASTER, Decision.BASELINE)
MAIN_LOSES_TO_NO_FILE = MeasuredRow(100, 99.5, 100, 99.6, 99, Verdict.SAME, Decision.BASELINE)
UNKNOWN = MeasuredRow(100, None, None, 120)


def file(*rows: MeasuredRow, **changes: bool) -> MeasuredFile:
    return MeasuredFile(FileId(workload(), "default"), dict(enumerate(rows, start=1)), **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ((BETTER, SAME), FileSummary.PROMOTE),
        ((SAME, SAME), FileSummary.RETAIN),
        ((BETTER, SAME, SLOWER), FileSummary.SLOWER),
        ((BETTER, NO_FILE_IS_BETTER), FileSummary.SLOWER),
        ((BETTER, MAIN_LOSES_TO_NO_FILE), FileSummary.PROMOTE),
        ((BETTER, UNKNOWN), FileSummary.UNKNOWN),
        ((UNKNOWN, SLOWER), FileSummary.SLOWER),
        ((), FileSummary.UNKNOWN),
    ],
)
def test_the_worst_row_decides(rows: tuple[MeasuredRow, ...], expected: FileSummary) -> None:
    assert summary_of(file(*rows)) is expected


def test_a_claim_is_compared_where_the_file_was_measured() -> None:
    gap = claim_gap(file(UNKNOWN, BETTER, MeasuredRow(100, 107)))
    assert gap is not None
    assert (gap.num_tokens, round(gap.pct, 6)) == (3, 7.0)
    assert claim_gap(file(MeasuredRow(None, 107), UNKNOWN)) is None


def test_only_a_kept_re_tuned_file_gains_anything() -> None:
    assert retuned_gap(file(BETTER)) is None
    gap = retuned_gap(file(BETTER, retuned_file=True))
    assert gap is not None
    assert round(gap.pct, 6) == 1.0


@pytest.mark.parametrize("rows", [(BETTER,), (SAME, BETTER), (MAIN_LOSES_TO_NO_FILE,)])
def test_a_clean_file_is_verified(rows: tuple[MeasuredRow, ...]) -> None:
    assert why_unverified(file(*rows)) is None


@pytest.mark.parametrize(
    ("rows", "reason"),
    [
        ((), "not measured (no rows)"),
        ((BETTER, UNKNOWN), "M=2: no time was measured"),
        ((BETTER, SLOWER), "M=2: slower than main's file or the heuristic"),
        ((NO_FILE_IS_BETTER,), "M=1: slower than main's file or the heuristic"),
        (
            (MeasuredRow(100, 105.2, 110, 120, None, Verdict.FASTER, Decision.PROMOTE),),
            "M=1: 5.2 % above the recorded time",
        ),
    ],
)
def test_one_bad_row_keeps_a_file_from_being_verified(rows: tuple[MeasuredRow, ...], reason: str) -> None:
    assert why_unverified(file(*rows)) == reason
