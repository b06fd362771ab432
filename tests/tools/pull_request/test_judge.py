"""A row's verdict is over all its parts; its decision is the tuner's gate, read from ratios."""

from __future__ import annotations

from dataclasses import replace

import pytest

from kernels.problem import Flavour
from tests.tools.pull_request.documents_builder import entry, planned, workload
from tools.measure.judgement import FAILED, Duel, Verdict
from tools.measure.panel import Ratio, RoutingKind
from tools.pull_request.documents import FileId, MeasuredFile, MeasuredPart, MeasuredRow
from tools.pull_request.judge import (
    BenchedPart,
    BenchedRow,
    FileSummary,
    claim_gap,
    is_slower,
    retuned_gap,
    rows_of,
    summary_of,
    why_unverified,
)
from tools.store.record import Decision

VLLM, SGLANG = Flavour
UNIFORM, SKEWED = RoutingKind.UNIFORM, RoutingKind.SKEW_03
MAIN = {64: entry(num_stages=2)}


def sure(ratio: float) -> Ratio:
    """That no block doubts."""
    return Ratio(ratio, ratio, ratio, 4)


def part_of(
    own_us: float | None,
    main_us: float | None,
    heuristic_us: float | None,
    *,
    has_main: bool = True,
    engine: Flavour = VLLM,
    routing: RoutingKind = UNIFORM,
) -> BenchedPart:
    """None fails to run."""

    def against(rival_us: float | None) -> Duel:
        return FAILED if own_us is None or rival_us is None else Duel.of(sure(own_us / rival_us))

    over = sure(main_us / heuristic_us) if has_main and main_us and heuristic_us else None
    duel = against(main_us) if has_main else None
    return BenchedPart(engine, routing, own_us, main_us, heuristic_us, duel, against(heuristic_us), over)


def row_of(*parts: BenchedPart, has_main: bool = True) -> MeasuredRow:
    """What becomes of one row of a claimed file."""
    pairs = [(part.own_us, part.main_us) for part in parts]
    ratios = [own / main for own, main in pairs if own is not None and main is not None]
    over = sure(ratios[0]) if has_main and len(ratios) == len(parts) else None
    file = planned({64: entry()}, MAIN if has_main else None, {64: 41.5})
    return rows_of(file, {64: BenchedRow(parts, over)}, {64: 40.0})[64]


@pytest.mark.parametrize(
    ("own_us", "main_us", "heuristic_us", "verdict", "decision"),
    [
        pytest.param(90, 100, 120, "faster", "promote", id="faster by more than the margin"),
        pytest.param(99.2, 100, 120, "faster", "retain", id="faster, but within the margin"),
        pytest.param(101, 100, 120, "same", "retain", id="slower within the bound"),
        pytest.param(103, 100, 120, "slower", "retain", id="slower"),
        pytest.param(90, 100, 80, "faster", "baseline", id="faster than main's, slower than no file"),
        pytest.param(103, 100, 80, "slower", "baseline", id="both slower than no file"),
        pytest.param(99.5, 100, 97.0, "faster", "baseline", id="near main's, and both beyond the bound"),
        pytest.param(90, 100, 88.5, "faster", "promote", id="1.7 % slower than no file is within the bound"),
        pytest.param(100, 100, 99.8, "same", "retain", id="main's loses to the heuristic within the bound only"),
        pytest.param(None, 100, 120, "slower", "retain", id="the claimed entry fails"),
        pytest.param(90, None, 120, "faster", "promote", id="main's entry fails"),
        pytest.param(None, None, 120, None, "baseline", id="both fail"),
    ],
)
def test_against_mains_file(
    own_us: float | None, main_us: float | None, heuristic_us: float, verdict: str | None, decision: str
) -> None:
    row = row_of(part_of(own_us, main_us, heuristic_us))
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
    row = row_of(part_of(own_us, None, heuristic_us, has_main=False), has_main=False)
    assert (row.verdict, row.decision) == (verdict, decision)


WINS = part_of(90, 100, 120)


@pytest.mark.parametrize(
    ("other", "verdict", "decision", "slower"),
    [
        pytest.param(part_of(90, 100, 120, routing=SKEWED), "faster", "promote", False, id="wins"),
        pytest.param(part_of(101, 100, 120, engine=SGLANG), "faster", "promote", False, id="wins in one, loses none"),
        pytest.param(part_of(103, 100, 120, routing=SKEWED), "slower", "promote", True, id="loses to main's"),
        pytest.param(part_of(103, 104, 100, engine=SGLANG), "faster", "baseline", True, id="loses to no file"),
        pytest.param(part_of(None, 100, 120, engine=SGLANG), "slower", "retain", True, id="doesn't run"),
    ],
)
def test_what_it_does_under_skew_and_on_the_other_engine_counts(
    other: BenchedPart, verdict: str, decision: str, slower: bool
) -> None:
    row = row_of(WINS, other)
    assert (row.verdict, row.decision, is_slower(row)) == (verdict, decision, slower)
    assert (row.measured_us, row.heuristic_us) == (90, 120), "times are the first part's"
    assert [(part.engine, part.routing) for part in row.parts] == [
        (VLLM, UNIFORM),
        (other.engine, other.routing),
    ]


def test_what_a_part_comes_to_goes_along() -> None:
    (part,) = row_of(part_of(90.12345, 100, 120)).parts
    assert (part.runs, part.over_heuristic, part.over_main) == (True, sure(0.751), sure(0.9012))


@pytest.mark.parametrize(
    ("main_us", "heuristic_us", "verdict", "decision"),
    [(90, 100, "slower", "retain"), (100, 100, "same", "retain"), (103, 100, "faster", "baseline")],
)
def test_a_removed_file_is_judged_by_what_runs_without_it(
    main_us: float, heuristic_us: float, verdict: str, decision: str
) -> None:
    benched = BenchedRow((part_of(main_us, None, heuristic_us, has_main=False),))
    row = rows_of(planned({}, MAIN), {64: benched}, {})[64]
    assert (row.verdict, row.decision, row.parts) == (verdict, decision, ())
    assert (row.claimed_us, row.measured_us, row.main_us) == (None, None, main_us)


def test_a_wide_interval_promotes_nothing() -> None:
    """2 % faster on average, but not beyond doubt."""
    unsure = Ratio(0.95, 0.98, 1.01, 4)
    part = replace(part_of(98, 100, 120), against_main=Duel.of(unsure))
    row = rows_of(planned({64: entry()}, MAIN), {64: BenchedRow((part,), unsure)}, {})[64]
    assert (row.verdict, row.decision) == ("same", "retain")


def test_what_is_not_recorded_gets_no_verdict() -> None:
    part = BenchedPart(VLLM, UNIFORM, None, 100, 120, None, None)
    row = rows_of(planned({64: entry()}, MAIN), {64: BenchedRow((part,))}, {})[64]
    assert (row.verdict, row.decision) == (None, None)


def test_claims_and_re_tuned_times_go_along() -> None:
    row = row_of(part_of(90.12345, 100, 120))
    assert (row.claimed_us, row.measured_us, row.retuned_us) == (41.5, 90.123, 40.0)


# What a file's rows come to, and what keeps a file from being called verified.

BETTER = MeasuredRow(100, 101, 110, 120, 100, Verdict.FASTER, Decision.PROMOTE)
SAME = MeasuredRow(100, 101, 101, 120, 100, Verdict.SAME, Decision.RETAIN)
SLOWER = MeasuredRow(100, 101, 99, 120, 99, Verdict.SLOWER, Decision.RETAIN)
NO_FILE_IS_BETTER = MeasuredRow(
    *(100, 101, 110, 90, 90, Verdict.FASTER, Decision.BASELINE, (MeasuredPart(VLLM, UNIFORM, True, sure(1.12)),))
)
LOSES_UNDER_SKEW = replace(BETTER, parts=(MeasuredPart(SGLANG, SKEWED, True, sure(1.05), sure(0.9)),))
DOES_NOT_RUN_THERE = replace(BETTER, parts=(MeasuredPart(SGLANG, SKEWED, False),))
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
        ((BETTER, LOSES_UNDER_SKEW), FileSummary.SLOWER),
        ((BETTER, DOES_NOT_RUN_THERE), FileSummary.SLOWER),
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
        ((NO_FILE_IS_BETTER,), "M=1: slower than main's file or the heuristic (vllm, uniform)"),
        ((LOSES_UNDER_SKEW,), "M=1: slower than main's file or the heuristic (sglang, skew_0.3)"),
        (
            (MeasuredRow(100, 105.2, 110, 120, None, Verdict.FASTER, Decision.PROMOTE),),
            "M=1: 5.2 % above the recorded time",
        ),
    ],
)
def test_one_bad_row_keeps_a_file_from_being_verified(rows: tuple[MeasuredRow, ...], reason: str) -> None:
    assert why_unverified(file(*rows)) == reason
