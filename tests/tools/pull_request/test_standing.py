"""What a file's rows come to, and what keeps a file from being called verified."""

from __future__ import annotations

import pytest

from tests.tools.pull_request.documents_builder import workload
from tools.measure.statistics import Verdict
from tools.pull_request.documents import FileId, MeasuredFile, Row
from tools.pull_request.standing import Standing, claim_gap, retuned_gap, standing, why_unverified
from tools.store.record import Decision

BETTER = Row(100, 101, 110, 120, 100, Verdict.FASTER, Decision.PROMOTE)
SAME = Row(100, 101, 101, 120, 100, Verdict.SAME, Decision.RETAIN)
SLOWER = Row(100, 101, 99, 120, 99, Verdict.SLOWER, Decision.RETAIN)
NO_FILE_IS_BETTER = Row(100, 101, 110, 90, 90, Verdict.FASTER, Decision.BASELINE)
MAIN_LOSES_TO_NO_FILE = Row(100, 99.5, 100, 99.6, 99, Verdict.SAME, Decision.BASELINE)
UNKNOWN = Row(100, None, None, 120)


def file(*rows: Row, **changes: bool) -> MeasuredFile:
    return MeasuredFile(FileId(workload(), "default"), dict(enumerate(rows, start=1)), **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ((BETTER, SAME), Standing.PROMOTE),
        ((SAME, SAME), Standing.RETAIN),
        ((BETTER, SAME, SLOWER), Standing.SLOWER),
        ((BETTER, NO_FILE_IS_BETTER), Standing.SLOWER),
        ((BETTER, MAIN_LOSES_TO_NO_FILE), Standing.PROMOTE),
        ((BETTER, UNKNOWN), Standing.UNKNOWN),
        ((UNKNOWN, SLOWER), Standing.SLOWER),
        ((), Standing.UNKNOWN),
    ],
)
def test_the_worst_row_decides(rows: tuple[Row, ...], expected: Standing) -> None:
    assert standing(file(*rows)) is expected


def test_a_claim_is_compared_where_the_file_was_measured() -> None:
    gap = claim_gap(file(UNKNOWN, BETTER, Row(100, 107)))
    assert gap is not None
    assert (gap.num_tokens, round(gap.pct, 6)) == (3, 7.0)
    assert claim_gap(file(Row(None, 107), UNKNOWN)) is None


def test_only_a_kept_re_tuned_file_gains_anything() -> None:
    assert retuned_gap(file(BETTER)) is None
    gap = retuned_gap(file(BETTER, retuned_file=True))
    assert gap is not None
    assert round(gap.pct, 6) == 1.0


@pytest.mark.parametrize("rows", [(BETTER,), (SAME, BETTER), (MAIN_LOSES_TO_NO_FILE,)])
def test_a_clean_file_is_verified(rows: tuple[Row, ...]) -> None:
    assert why_unverified(file(*rows)) is None


@pytest.mark.parametrize(
    ("rows", "reason"),
    [
        ((), "not measured (no rows)"),
        ((BETTER, UNKNOWN), "M=2: no time was measured"),
        ((BETTER, SLOWER), "M=2: slower than main's file or the heuristic"),
        ((NO_FILE_IS_BETTER,), "M=1: slower than main's file or the heuristic"),
        ((Row(100, 105.2, 110, 120, None, Verdict.FASTER, Decision.PROMOTE),), "M=1: 5.2 % above the recorded time"),
    ],
)
def test_one_bad_row_keeps_a_file_from_being_verified(rows: tuple[Row, ...], reason: str) -> None:
    assert why_unverified(file(*rows)) == reason
