"""The comment as a reviewer reads it, against a golden file: GOLDEN=1 in the environment writes it anew."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest

from tests.tools.pull_request.documents_builder import A100, ENVIRONMENT, H100, NUMBER, SHA, entry, planned
from tools.measure.statistics import Verdict
from tools.pull_request.artifacts import NO_RESULTS
from tools.pull_request.documents import Leg, MeasuredFile, Plan, PlannedFile, PlannedShape, Results, Row
from tools.pull_request.report_text import MAX_CHARACTERS, REASONS, code, render
from tools.store.record import Decision
from tools.store.schemas import SCHEMA_FOLDER

GOLDEN = Path(__file__).with_name("report.golden.md")

FASTER = Row(88.0, 90.0, 100.0, 120.0, 89.0, Verdict.FASTER, Decision.PROMOTE)
SAME = Row(99.5, 99.8, 100.0, 120.0, 97.5, Verdict.SAME, Decision.RETAIN)
SLOWER = Row(90.0, 101.0, 100.0, 120.0, 95.0, Verdict.SLOWER, Decision.RETAIN)
FAILS = Row(90.0, None, 100.0, 120.0, 95.0, Verdict.SLOWER, Decision.RETAIN)
NEW = Row(None, 90.0, None, 100.0, None, Verdict.FASTER, Decision.PROMOTE)
REMOVED = Row(None, None, 100.0, 120.0, None, Verdict.SLOWER, Decision.RETAIN)
UNKNOWN = Row(90.0, None, 100.0, 120.0)

MAIN = {64: entry(num_stages=2), 128: entry(num_stages=2)}


def case(number: int, planned_file: PlannedFile, *rows: Row, **measured: object) -> tuple[PlannedFile, MeasuredFile]:
    """A file with a name of its own, and what was measured of it at 64, 128, …"""
    workload = replace(planned_file.id.workload, N=128 * number)
    named = replace(planned_file, id=replace(planned_file.id, workload=workload))
    by_batch_size = dict(zip((64, 128), rows, strict=False))
    return named, MeasuredFile(named.id, by_batch_size, **measured)  # type: ignore[arg-type]


def documents(*cases: tuple[PlannedFile, MeasuredFile], device_name: str = H100) -> tuple[Plan, dict[str, Results]]:
    leg = Leg(device_name, tuple(planned for planned, _ in cases))
    files = tuple(measured for _, measured in cases)
    environment = ENVIRONMENT if any(file.is_measured for file in files) else None
    return Plan(NUMBER, SHA, (leg,)), {device_name: Results(NUMBER, SHA, device_name, environment, files)}


UNREGISTERED = replace(
    planned(), shapes=(PlannedShape(4096, 2, registered=True), PlannedShape(6144, 4, registered=False))
)
CHANGED = planned(main=MAIN)


def test_the_whole_comment() -> None:
    plan, results = documents(
        case(1, CHANGED, FASTER, SAME, retuned_file=True),
        case(2, CHANGED, FASTER, SLOWER),
        case(3, CHANGED, SAME, SAME, reason="timeout"),
        case(4, CHANGED, FASTER, FAILS),
        case(5, UNREGISTERED, NEW, NEW),
        case(6, planned({}, MAIN), REMOVED, REMOVED),
        case(7, planned(MAIN, MAIN), SAME, SAME),
        case(8, CHANGED, FASTER, UNKNOWN),
        case(9, planned(), reason="crashed", is_measured=False),
    )
    other, other_results = documents(case(1, planned(), reason="no_gpu", is_measured=False), device_name=A100)
    text = render(replace(plan, legs=(*plan.legs, *other.legs)), results | other_results)
    if "GOLDEN" in os.environ:
        GOLDEN.write_text(text, "utf-8")
    assert text == GOLDEN.read_text("utf-8")


@pytest.mark.parametrize(
    ("cases", "told"),
    [
        ([case(1, CHANGED, FASTER, SAME)], "**Verdict: promote.** 1 file: 1 promote."),
        ([case(1, CHANGED, SAME), case(2, CHANGED, SAME)], "**Verdict: no gain: "),
        ([case(1, CHANGED, FASTER), case(2, CHANGED, SLOWER)], "**Verdict: not as it is: "),
        ([case(1, CHANGED, FASTER), case(2, CHANGED, reason="crashed", is_measured=False)], "**Verdict: incomplete: "),
    ],
)
def test_the_worst_file_makes_the_headline(cases: list[tuple[PlannedFile, MeasuredFile]], told: str) -> None:
    assert told in render(*documents(*cases))


def test_every_reason_has_words() -> None:
    schema = json.loads((SCHEMA_FOLDER / "results.schema.json").read_text("utf-8"))
    reasons = schema["$defs"]["measured_workload"]["properties"]["reason"]["enum"]
    assert {*REASONS, None} == {*reasons, NO_RESULTS}
    assert NO_RESULTS not in reasons, "a runner can't say of itself that it sent nothing"


def test_a_code_span_lets_nothing_out() -> None:
    assert code("a`b|c\n<img src=x>\u202e@team") == "`a?b?c?<img src=x>?@team`"


def test_a_comment_never_gets_longer_than_github_takes() -> None:
    rows = dict.fromkeys(range(1, 200), FASTER)
    for count, told in ((20, "The table is left out"), (250, "The rest is left out")):
        cases = [case(number, CHANGED) for number in range(1, count)]
        cases = [(planned, replace(measured, rows=rows)) for planned, measured in cases]
        text = render(*documents(*cases))
        assert len(text) <= MAX_CHARACTERS + 100
        assert text.count("<details>") == text.count("</details>")
        assert told in text
