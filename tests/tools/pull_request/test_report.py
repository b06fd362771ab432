"""The report: sound artifacts become a comment as a reviewer reads it, hostile ones are refused with one line."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from kernels.problem import Flavour
from tests.tools.pull_request.documents_builder import (
    A100,
    ENVIRONMENT,
    H100,
    NUMBER,
    OTHER_SHA,
    SHA,
    Change,
    changed,
    entry,
    plan_document,
    planned,
    results_document,
    write_json,
)
from tools.measure.judgement import Verdict
from tools.measure.panel import Ratio, RoutingKind
from tools.pull_request import documents, report
from tools.pull_request.documents import (
    IMPOSSIBLE,
    NO_RESULTS,
    Leg,
    MeasuredFile,
    MeasuredPart,
    MeasuredRow,
    Plan,
    PlannedFile,
    PlannedShape,
    Results,
)
from tools.pull_request.report import REASONS, render
from tools.store.record import Decision, Environment
from tools.store.schemas import SCHEMA_FOLDER
from tools.store.workload import Shape
from tools.text import MAX_REPORT

BY_SCHEMA = "; see schema/results.schema.json"


def run(folder: Path, plan: Any, *results: Any, number: int = NUMBER, head_sha: str = SHA, runners: str = "") -> int:
    write_json(folder / "plan.json", plan)
    (folder / "results").mkdir(exist_ok=True)
    for place, document in enumerate(results):
        write_json(folder / "results" / f"results-{place}" / "results.json", document)
    return report.main(
        [
            *("--plan", str(folder / "plan.json"), "--results", str(folder / "results"), "--number", str(number)),
            *("--runners", runners, "--head-sha", head_sha, "--out", str(folder / "report.md")),
        ]
    )


def refused(folder: Path, capsys: pytest.CaptureFixture[str]) -> str:
    """The one line that was said; nothing was written."""
    assert not (folder / "report.md").exists()
    (line,) = capsys.readouterr().err.splitlines()
    assert line.isprintable()
    assert ". Fix: " in line
    assert len(line) < 700
    return line


def test_sound_artifacts_become_a_comment(tmp_path: Path) -> None:
    assert run(tmp_path, plan_document(), results_document()) == 0
    assert "**Verdict: promote.**" in (tmp_path / "report.md").read_text("utf-8")


def test_one_leg_may_lie_in_the_folder_itself(tmp_path: Path) -> None:
    write_json(tmp_path / "results" / "results.json", results_document())
    assert run(tmp_path, plan_document()) == 0


def test_re_tuned_files_beside_the_results_are_not_read(tmp_path: Path) -> None:
    write_json(tmp_path / "results" / "results-0" / "configs" / "E=8.json", {"anything": "else"})
    assert run(tmp_path, plan_document(), results_document()) == 0


def test_results_hidden_among_the_re_tuned_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_json(tmp_path / "results" / "results-0" / "configs" / "results.json", results_document())
    assert run(tmp_path, plan_document(), results_document()) == 1
    assert "expected once, found twice" in refused(tmp_path, capsys)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"number": 13}, "plan: expected pull request 13, found 12"),
        ({"head_sha": OTHER_SHA}, f"plan: expected commit {OTHER_SHA}, found {SHA}"),
    ],
)
def test_a_plan_of_something_else(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], options: dict[str, Any], told: str
) -> None:
    assert run(tmp_path, plan_document(), results_document(), **options) == 1
    assert told in refused(tmp_path, capsys)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda d: d.update(number=13), f"expected pull request 12 at {SHA}, found 13"),
        (lambda d: d.update(head_sha=OTHER_SHA), f"expected pull request 12 at {SHA}, found 12 at {OTHER_SHA}"),
        (
            lambda d: d.update(device_name=A100),
            f"results of {A100}: for a device that is not in the plan",
        ),
        (lambda d: d["workloads"].clear(), "expected the plan's 1 files in its order"),
        (lambda d: d["workloads"][0].update(tier="legacy_configs"), "expected the plan's 1 files in its order"),
        (lambda d: d["workloads"][0]["workload"].update(E=16), "expected the plan's 1 files in its order"),
        (lambda d: d["workloads"][0]["rows"].clear(), "expected the batch sizes of E=8"),
        (
            lambda d: d["workloads"][0]["rows"].update({"128": d["workloads"][0]["rows"]["64"]}),
            "expected the batch sizes of E=8",
        ),
        (lambda d: d["workloads"][0]["rows"]["64"].update(claimed_us=1.0), "expected the times that E=8"),
        (lambda d: d["workloads"][0]["rows"]["64"].update(claimed_us=None), "expected the times that E=8"),
        (
            lambda d: d["workloads"][0].update(reason="</details><script>"),
            BY_SCHEMA,
        ),
        (lambda d: d["workloads"][0]["rows"]["64"].update(measured_us=float("nan")), "NaN is no finite number"),
        (lambda d: d["workloads"][0]["rows"]["64"].update(measured_us=float("inf")), "Infinity is no finite number"),
        (
            lambda d: d["workloads"][0]["rows"]["64"].update(measured_us=10**400),
            BY_SCHEMA,
        ),
        (
            lambda d: d["environment"].update(torch="2.13.0\n\n# Approved"),
            BY_SCHEMA,
        ),
    ],
)
def test_results_that_lie(tmp_path: Path, capsys: pytest.CaptureFixture[str], change: Change, told: str) -> None:
    assert run(tmp_path, plan_document(), changed(results_document(), change)) == 1
    assert told in refused(tmp_path, capsys)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (
            lambda d: d["environment"].update(driver="[x](https://example.org)"),
            "environment / driver: expected a version of at most 40 letters, digits and . + -, or null, "
            f'found "[x](https://example.org)"{BY_SCHEMA}. Fix: run that leg again',
        ),
        (
            lambda d: d["environment"].update(device_name="x" * 5000),
            "environment / device_name: expected at most 128 letters, digits, spaces and . _ ( ) / + -, "
            'a letter or digit first, found "xxx',
        ),
        (lambda d: d["environment"].update(device_name="x" * 5000), f'xxx…" (5000 characters){BY_SCHEMA}. Fix: '),
        (lambda d: d["environment"].pop("cuda"), f"environment: cuda is missing{BY_SCHEMA}. Fix: "),
        (
            lambda d: d.update(environment="H100"),
            f'environment: expected null or an object, found "H100"{BY_SCHEMA}. Fix: ',
        ),
    ],
)
def test_a_bad_environment_is_refused_by_its_key_with_what_was_expected(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], change: Change, told: str
) -> None:
    assert run(tmp_path, plan_document(), changed(results_document(), change)) == 1
    assert told in refused(tmp_path, capsys)


def two_legs() -> Any:
    return changed(plan_document(), lambda d: d["legs"].append({**d["legs"][0], "device_name": A100}))


@pytest.mark.parametrize("figure", ["measured_us", "main_us", "heuristic_us", "retuned_us"])
@pytest.mark.parametrize("us", [1e-320, 5e-324, 0.1, 200.0])
def test_a_time_that_the_devices_memory_can_not_reach_counts_for_nothing(
    tmp_path: Path, figure: str, us: float
) -> None:
    """8 experts' 176 MB each take an H100 420 µs; half of that is asked for."""
    lie = changed(results_document(), lambda d: d["workloads"][0]["rows"]["64"].update({figure: us}))
    assert run(tmp_path, plan_document(), lie) == 0
    text = (tmp_path / "report.md").read_text("utf-8")
    assert "**Not measured: its runner sent times that its memory can't reach.**" in text
    assert "| 64 |" not in text


def test_results_of_a_device_without_a_runner_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Whoever holds one runner can hand in results under any other device's name."""
    assert run(tmp_path, plan_document(), results_document(), runners=A100) == 1
    assert f"results of {H100}: expected none, its leg was handed on to no runner" in refused(tmp_path, capsys)
    assert run(tmp_path, plan_document(), results_document(), runners=f"{A100},{H100}") == 0


def test_a_leg_that_is_missing_is_told_and_the_others_go_on(tmp_path: Path) -> None:
    assert run(tmp_path, two_legs(), results_document()) == 0
    text = (tmp_path / "report.md").read_text("utf-8")
    assert f"- `{A100}`: not measured (its runner sent no results)." in text
    assert "**Verdict: incomplete: not everything could be measured.** 2 files: 1 promote, 1 not measured." in text
    assert text.count("**Not measured: its runner sent no results.**") == 1
    assert "| 64 | 415.0 | 419.0 |" in text


def test_no_results_at_all_are_a_report_that_says_so(tmp_path: Path) -> None:
    assert run(tmp_path, two_legs()) == 0
    text = (tmp_path / "report.md").read_text("utf-8")
    assert "**Verdict: not measured: no runner sent results.** 2 files: 2 not measured." in text
    assert text.count("not measured (its runner sent no results)") == 2


def test_a_leg_that_is_missing_excuses_no_lie_of_another(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lie = changed(results_document(), lambda d: d["workloads"].clear())
    assert run(tmp_path, two_legs(), lie) == 1
    assert "expected the plan's 1 files in its order" in refused(tmp_path, capsys)


def test_a_leg_that_answers_twice(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(tmp_path, plan_document(), results_document(), results_document()) == 1
    assert refused(tmp_path, capsys).startswith(f"report: results of {H100}: ")


def test_too_many_files(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(documents, "MAX_ARTIFACT_FILES", 20)
    for number in range(30):
        write_json(tmp_path / "results" / "results-0" / "configs" / f"{number}.json", {})
    assert run(tmp_path, plan_document(), results_document()) == 1
    assert "expected at most 20 files, found more" in refused(tmp_path, capsys)


def test_results_that_are_too_large(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    large = tmp_path / "results" / "results-0" / "results.json"
    large.parent.mkdir(parents=True)
    with large.open("wb") as file:
        file.truncate(100 << 20)
    assert run(tmp_path, plan_document()) == 1
    assert "bytes, found more" in refused(tmp_path, capsys)


def test_a_link_out_of_the_artifact_is_not_followed(tmp_path: Path) -> None:
    write_json(tmp_path / "elsewhere" / "results.json", results_document())
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "results-0").symlink_to(tmp_path / "elsewhere")
    assert run(tmp_path, plan_document()) == 0
    assert "no runner sent results" in (tmp_path / "report.md").read_text("utf-8")


def test_where_nothing_was_uploaded_the_download_makes_no_folder(tmp_path: Path) -> None:
    write_json(tmp_path / "plan.json", plan_document())
    arguments = ["--plan", str(tmp_path / "plan.json"), "--results", str(tmp_path / "nowhere"), "--number", "12"]
    assert report.main([*arguments, "--head-sha", SHA, "--out", str(tmp_path / "report.md")]) == 0
    assert "no runner sent results" in (tmp_path / "report.md").read_text("utf-8")


def test_a_file_in_the_folders_place(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_json(tmp_path / "plan.json", plan_document())
    arguments = ["--plan", str(tmp_path / "plan.json"), "--results", str(tmp_path / "plan.json"), "--number", "12"]
    assert report.main([*arguments, "--head-sha", SHA, "--out", str(tmp_path / "report.md")]) == 1
    assert "expected a folder, found: Not a directory. Fix: " in refused(tmp_path, capsys)


# The comment as a reviewer reads it, against a golden file: GOLDEN=1 in the environment writes it anew.

GOLDEN = Path(__file__).with_name("report.golden.md")


def parts(heuristic: float, main: float | None, skewed: MeasuredPart | None = None) -> tuple[MeasuredPart, ...]:
    """On vLLM uniformly, and on SGLang under skew what is given, else the same. Blocks doubt none of it."""
    ratios = [ratio and Ratio(ratio, ratio, ratio, 4) for ratio in (heuristic, main)]
    first = MeasuredPart(Flavour.VLLM, RoutingKind.UNIFORM, True, *ratios)
    return first, skewed or replace(first, engine=Flavour.SGLANG, routing=RoutingKind.SKEW_03)


SKEWED_SGLANG = Flavour.SGLANG, RoutingKind.SKEW_03
LOST = MeasuredPart(*SKEWED_SGLANG, True, Ratio(1.011, 1.047, 1.084, 32), Ratio(0.99, 1.0, 1.01, 8))
STOPPED = MeasuredPart(*SKEWED_SGLANG, False)

FASTER = MeasuredRow(88.0, 90.0, 100.0, 120.0, 89.0, Verdict.FASTER, Decision.PROMOTE, parts(0.75, 0.9))
SAME = MeasuredRow(99.5, 99.8, 100.0, 120.0, 97.5, Verdict.SAME, Decision.RETAIN, parts(0.8317, 0.998))
SLOWER = MeasuredRow(90.0, 103.0, 100.0, 120.0, 95.0, Verdict.SLOWER, Decision.RETAIN, parts(0.8583, 1.03))
SKEWED = MeasuredRow(88.0, 90.0, 100.0, 120.0, 89.0, Verdict.FASTER, Decision.BASELINE, parts(0.75, 0.9, LOST))
FAILS = MeasuredRow(90.0, None, 100.0, 120.0, 95.0, Verdict.SLOWER, Decision.RETAIN, parts(0.8, 0.9, STOPPED)[1:])
NEW = MeasuredRow(None, 90.0, None, 100.0, None, Verdict.FASTER, Decision.PROMOTE, parts(0.9, None))
REMOVED = MeasuredRow(None, None, 100.0, 120.0, None, Verdict.SLOWER, Decision.RETAIN)
UNKNOWN = MeasuredRow(90.0, None, 100.0, 120.0)

MAIN = {64: entry(num_stages=2), 128: entry(num_stages=2)}


def case(
    number: int, planned_file: PlannedFile, *rows: MeasuredRow, **measured: object
) -> tuple[PlannedFile, MeasuredFile]:
    """A file with a name of its own, and what was measured of it at 64, 128, …"""
    workload = replace(planned_file.id.workload, N=128 * number)
    named = replace(planned_file, id=replace(planned_file.id, workload=workload))
    by_batch_size = dict(zip((64, 128), rows, strict=False))
    return named, MeasuredFile(named.id, by_batch_size, **measured)  # type: ignore[arg-type]


def answered(*cases: tuple[PlannedFile, MeasuredFile], device_name: str = H100) -> tuple[Plan, dict[str, Results]]:
    leg = Leg(device_name, tuple(planned for planned, _ in cases))
    files = tuple(measured for _, measured in cases)
    environment = Environment.read(ENVIRONMENT) if any(file.is_measured for file in files) else None
    return Plan(NUMBER, SHA, OTHER_SHA, (leg,)), {device_name: Results(NUMBER, SHA, device_name, environment, files)}


UNREGISTERED = replace(
    planned(), shapes=(PlannedShape(Shape(4096, 2), registered=True), PlannedShape(Shape(6144, 4), registered=False))
)
CHANGED = planned(main=MAIN)


def test_the_whole_comment() -> None:
    plan, results = answered(
        case(1, CHANGED, FASTER, SAME, retuned_file=True),
        case(2, CHANGED, FASTER, SLOWER),
        case(3, CHANGED, SAME, SAME, reason="timeout"),
        case(4, CHANGED, FASTER, FAILS),
        case(5, UNREGISTERED, NEW, NEW),
        case(6, planned({}, MAIN), REMOVED, REMOVED),
        case(7, planned(MAIN, MAIN), SAME, SAME),
        case(8, CHANGED, FASTER, UNKNOWN),
        case(9, planned(), reason="crashed", is_measured=False),
        case(10, CHANGED, FASTER, SKEWED),
    )
    other, other_results = answered(case(1, planned(), reason="no_gpu", is_measured=False), device_name=A100)
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
    assert told in render(*answered(*cases))


def test_every_reason_has_words() -> None:
    schema = json.loads((SCHEMA_FOLDER / "results.schema.json").read_text("utf-8"))
    reasons = schema["$defs"]["measured_workload"]["properties"]["reason"]["enum"]
    assert {*REASONS, None} == {*reasons, NO_RESULTS, IMPOSSIBLE}
    assert not {NO_RESULTS, IMPOSSIBLE} & {*reasons}, "a runner can't say of itself that it sent nothing"


def test_text_of_an_artifact_leaves_no_code_span() -> None:
    hostile = "a`b|c\n<img src=x>\u202e@team"
    plan, results = answered(case(1, planned(), FASTER), device_name=hostile)
    text = render(plan, results)
    assert "<img" not in text
    assert "@team" not in text
    assert "a`b" not in text


def test_a_comment_never_gets_longer_than_github_takes() -> None:
    rows = dict.fromkeys(range(1, 200), FASTER)
    for count, told in ((20, "The table is left out"), (250, "more lines left out")):
        cases = [case(number, CHANGED) for number in range(1, count)]
        cases = [(planned, replace(measured, rows=rows)) for planned, measured in cases]
        text = render(*answered(*cases))
        assert len(text) <= MAX_REPORT + 100
        assert text.count("<details>") == text.count("</details>")
        assert told in text
