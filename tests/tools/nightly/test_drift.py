"""When a figure no longer holds: the time itself and the time against the heuristic's both left the margin."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from kernels.launch_config import LaunchConfig
from kernels.problem import Flavour
from tests.builders import devices, times
from tools.launch.heuristic_version import measured_heuristics
from tools.measure.panel import Ratio, RoutingKind
from tools.nightly.drift import DeviceDrift, FileDrift, RowDrift, compare, to_markdown
from tools.pull_request.documents import (
    FileId,
    Leg,
    MeasuredFile,
    MeasuredPart,
    MeasuredRow,
    Plan,
    PlannedFile,
    PlannedShape,
    Results,
    check_results,
)
from tools.registry.devices import DeviceRegistry
from tools.store.record import Decision, HeuristicVersion, Latency, Record, RecordedRow, Source
from tools.store.workload import Shape, Workload
from tools.text import MAX_REPORT

D = "NVIDIA_H100_80GB_HBM3"
ID = FileId(Workload(8, 7168, D), "default")
FILE = PlannedFile(ID, (PlannedShape(Shape(4096, 2), True),), {1: LaunchConfig(16, 64, 64, 1, 4, 3)}, {}, {1: 100.0})
PLAN = Plan(0, "a" * 40, "a" * 40, (Leg(D, (FILE,)),))


def results(*files: MeasuredFile) -> dict[str, Results]:
    return {D: Results(PLAN.number, PLAN.head_sha, D, None, files)}


def recorded(median_us: float, spread_pct: float, heuristic_us: float) -> Record:
    row = RecordedRow(Latency(**times(median_us, spread_pct)), Latency(**times(heuristic_us)), Decision.PROMOTE)
    return Record(ID.workload, (), Source.MEASURED, "0" * 64, "2026-11-20", rows={1: row})


USUAL = recorded(100.0, 0.0, 200.0)


def drifted(row: MeasuredRow, record: Record = USUAL, margin_pct: float = 5.0) -> FileDrift:
    """Of a row whose record says 100 µs, and 200 for the heuristic."""
    return compare(PLAN, results(MeasuredFile(ID, {1: row})), {ID: record}, margin_pct)[0].files[0]


@pytest.mark.parametrize(
    ("measured_us", "heuristic_us", "finding"),
    [
        (100.0, 200.0, ""),
        (105.4, 200.0, ""),  # margin 5 % and noise 0.5 %
        (105.6, 200.0, "slower"),
        (94.4, 200.0, "faster"),
        (120.0, 240.0, ""),  # the machine is slower, not the file
        (120.0, 220.0, "slower"),
        (100.0, 160.0, ""),  # the heuristic became faster, the file still is
        (108.0, 160.0, "slower"),
        (94.0, 170.0, ""),  # faster, and yet behind the heuristic's own gain: the two don't agree
        (120.0, None, "slower"),
        (None, 200.0, "does not run"),
    ],
)
def test_a_row_drifts_by_itself_and_against_the_heuristic(measured_us, heuristic_us, finding: str) -> None:
    found = drifted(MeasuredRow(measured_us=measured_us, heuristic_us=heuristic_us))
    assert found.rows[0].finding == finding
    assert found.has_drifted is bool(finding)


def test_a_noisy_rows_limit_is_wider() -> None:
    noisy = recorded(100.0, 4.0, 200.0)
    assert drifted(MeasuredRow(measured_us=108.0, heuristic_us=200.0), noisy).rows[0].finding == ""
    assert drifted(MeasuredRow(measured_us=110.0, heuristic_us=200.0), noisy).rows[0].finding == "slower"


def test_a_record_of_an_older_heuristic_is_listed_and_has_not_drifted() -> None:
    today = measured_heuristics(lambda _: None).versions
    older = replace(USUAL, heuristics={**today, "vllm": HeuristicVersion("0.1.0", "0" * 64)})
    for record, listed in ((older, True), (replace(USUAL, heuristics=today), False), (USUAL, False)):
        row = MeasuredRow(measured_us=100.0, heuristic_us=200.0)
        for measured in (MeasuredFile(ID, {1: row}), MeasuredFile(ID, {}, "no_runner", is_measured=False)):
            found = compare(PLAN, results(measured), {ID: record})
            text = to_markdown(found, PLAN.head_sha, 5.0)
            assert ("Recorded against an older heuristic" in text) is listed
            assert (f"- `{ID.relative}`: vLLM\n" in text) is listed
    assert not drifted(MeasuredRow(measured_us=100.0, heuristic_us=200.0), older).has_drifted


def test_the_margin_is_asked_for() -> None:
    assert drifted(MeasuredRow(measured_us=108.0, heuristic_us=200.0), margin_pct=10.0).rows[0].finding == ""


@pytest.mark.parametrize(
    ("engine", "routing"), [(Flavour.VLLM, RoutingKind.UNIFORM), (Flavour.SGLANG, RoutingKind.SKEW_03)]
)
def test_a_row_that_loses_to_no_file_is_a_finding_wherever_it_does(engine: Flavour, routing: RoutingKind) -> None:
    def found(mean: float) -> str:
        parts = (MeasuredPart(engine, routing, True, Ratio(1.001, mean, 1.1, 4)),)
        row = MeasuredRow(measured_us=100.0, heuristic_us=200.0, parts=parts)
        return drifted(row).rows[0].finding

    assert found(1.034) == "3.4 % slower than no file"
    assert found(1.019) == ""


def test_a_record_that_was_retuned_since_the_plan_lends_no_yardstick() -> None:
    found = drifted(MeasuredRow(measured_us=120.0, heuristic_us=240.0), recorded(90.0, 50.0, 200.0))
    assert (found.rows[0].heuristic_pct, found.rows[0].finding) == (None, "slower")


@pytest.mark.parametrize(
    ("reason", "is_missing"),
    [("unsupported", False), ("wrong_triton", False), ("crashed", True), ("timeout", True), ("no_gpu", True)],
)
def test_a_file_that_was_not_measured_gives_its_reason(reason: str, is_missing: bool) -> None:
    failed = MeasuredFile(ID, {}, reason, is_measured=False)
    found = compare(PLAN, results(failed), {})[0].files[0]
    assert (found.reason, found.is_missing, found.has_drifted) == (reason, is_missing, False)


def test_a_leg_without_results_is_a_finding() -> None:
    found = compare(PLAN, check_results(PLAN, []), {})
    assert found[0].files[0].reason == "its runner sent no results"
    assert found[0].files[0].is_missing


def test_what_was_not_measured_is_not_to_be_tuned_again() -> None:
    text = to_markdown(compare(PLAN, check_results(PLAN, []), {}), "a" * 40, 5.0)
    assert f"- `{D}` (no results): 1 file, 0 drifted, 1 not measured" in text
    assert "mend that, and run the night again" in text
    assert "Re-tune" not in text
    assert "| file |" not in text


def test_how_much_slower_the_machine_reads_is_told() -> None:
    found = compare(
        PLAN,
        results(MeasuredFile(ID, {1: MeasuredRow(measured_us=99.0, heuristic_us=220.0)})),
        {ID: USUAL},
    )
    assert found[0].pace_pct == pytest.approx(10.0)
    assert compare(PLAN, check_results(PLAN, []), {})[0].pace_pct is None


def test_without_a_record_only_the_time_itself_is_held_against_the_claim() -> None:
    found = compare(PLAN, results(MeasuredFile(ID, {1: MeasuredRow(measured_us=120.0, heuristic_us=240.0)})), {})
    (row,) = found[0].files[0].rows
    assert (row.recorded_us, row.heuristic_pct, row.finding) == (100.0, None, "slower")


TWO = replace(FILE, id=FileId(Workload(128, 768, D), "default"))


def of_two(first: Record, measured_us: float = 100.0) -> tuple[DeviceDrift, ...]:
    """Two files that both take 100 µs tonight, the heuristic 200; the second is as recorded."""
    files = [MeasuredFile(i, {1: MeasuredRow(measured_us=measured_us, heuristic_us=200.0)}) for i in (ID, TWO.id)]
    claimed = replace(FILE, claims_us={1: first.rows[1].latency_us.median})
    return compare(replace(PLAN, legs=(Leg(D, (claimed, TWO)),)), results(*files), {ID: first, TWO.id: USUAL})


def test_a_file_whose_times_are_all_a_fifth_of_the_truth_has_drifted() -> None:
    """By itself it looks sound on a machine that is five times slower; its device's other files know better."""
    devices_drift = of_two(recorded(20.0, 0.0, 40.0))
    found = devices_drift[0].files[0]
    assert [row.finding for row in found.rows] == [""]
    assert found.apart_pct == pytest.approx(400.0)
    assert found.has_drifted
    assert f"- `{ID.relative}`: +400.0 %" in to_markdown(devices_drift, "a" * 40, 5.0)


@pytest.mark.parametrize("first", [USUAL, recorded(90.0, 0.0, 180.0)], ids=["alike", "another card of the kind"])
def test_a_file_that_keeps_pace_with_the_others_has_not(first: Record) -> None:
    assert [file.has_drifted for file in of_two(first)[0].files] == [False, False]


def test_one_file_alone_has_no_pace_to_keep() -> None:
    assert drifted(MeasuredRow(measured_us=500.0, heuristic_us=1000.0)).apart_pct is None


def test_a_spread_without_end_is_no_limit() -> None:
    """Medians a fifth of the truth, with a spread that would forgive anything."""
    row = RecordedRow(Latency(100.0, 0.001, 1e6, 9), Latency(**times(200.0)), Decision.PROMOTE)
    (found,) = drifted(MeasuredRow(measured_us=500.0, heuristic_us=200.0), replace(USUAL, rows={1: row})).rows
    assert (found.limit_pct, found.finding) == (35.0, "slower")


@pytest.mark.parametrize("us", [5e-324, 1e-320, 1e300])
def test_times_that_nothing_takes_still_make_a_report(us: float) -> None:
    forged = recorded(100.0, 0.0, us)
    for record, row in (
        (forged, MeasuredRow(measured_us=100.0, heuristic_us=200.0)),
        (USUAL, MeasuredRow(measured_us=100.0, heuristic_us=us)),
        (USUAL, MeasuredRow(measured_us=us, heuristic_us=us)),
        (forged, MeasuredRow(measured_us=us, heuristic_us=us)),
    ):
        found = compare(PLAN, results(MeasuredFile(ID, {1: row})), {ID: record})
        assert "inf" not in to_markdown(found, "a" * 40, 5.0)
    assert of_two(forged)[0].files[0].has_drifted


@pytest.mark.parametrize(
    ("recorded_us", "known", "finding"),
    [
        (0.4, None, "recorded below what the device can do"),
        (50.0, None, "slower"),
        (50.0, devices(), "recorded below what the device can do"),
    ],
)
def test_a_recorded_time_below_what_the_device_can_do_is_a_finding(
    recorded_us: float, known: DeviceRegistry | None, finding: str
) -> None:
    plan = replace(PLAN, legs=(Leg(D, (replace(FILE, claims_us={1: recorded_us}),)),))
    measured = results(MeasuredFile(ID, {1: MeasuredRow(measured_us=60.0, heuristic_us=200.0)}))
    found = compare(plan, measured, {ID: recorded(recorded_us, 0.0, 200.0)}, devices=known)
    assert found[0].files[0].rows[0].finding == finding


def test_a_row_that_drifted_by_nothing_does_not_count_as_one_that_fails() -> None:
    """It is slower than no file, as recorded."""
    same, fails = RowDrift(1, 100.0, 100.0, 0.0, 5.0, loss_pct=3.0), RowDrift(1, 100.0, None, 0.0, 5.0)
    assert [FileDrift(ID, (row,)).worst_pct for row in (same, fails)] == [0.0, float("inf")]


def test_a_report_that_an_issue_would_not_take_is_cut_at_a_line() -> None:
    rows = tuple(RowDrift(m, 100.0, 150.0, 0.0, 5.0) for m in range(1, 3))
    files = tuple(
        FileDrift(replace(ID, workload=replace(ID.workload, E=e)), rows, outdated=("vLLM 0.1",) * 40)
        for e in range(1, 400)
    )
    text = to_markdown([DeviceDrift("D", None, files)], "a" * 40, 5.0)
    assert len(text) < MAX_REPORT + 100
    assert re.search(r"\n\n\d+ more lines left out: .*\n$", text)


def test_a_list_that_is_cut_says_how_many_more_there_are() -> None:
    files = [FileDrift(replace(ID, workload=replace(ID.workload, E=e)), (), reason="timeout") for e in range(1, 151)]
    lines = to_markdown([DeviceDrift("D", None, tuple(files))], "a" * 40, 5.0).splitlines()
    assert sum(line.endswith(": timeout") for line in lines) == 100
    assert lines[-1] == "- and 50 more"
