"""The report's command line: sound artifacts become a comment, hostile ones are refused with one line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.tools.pull_request.documents_builder import (
    A100,
    NUMBER,
    OTHER_SHA,
    SHA,
    Change,
    changed,
    plan_document,
    results_document,
    write_json,
)
from tools.pull_request import documents, report

BY_SCHEMA = "expected what schema/results.schema.json says"


def run(folder: Path, plan: Any, *results: Any, number: int = NUMBER, head_sha: str = SHA) -> int:
    write_json(folder / "plan.json", plan)
    (folder / "results").mkdir(exist_ok=True)
    for place, document in enumerate(results):
        write_json(folder / "results" / f"results-{place}" / "results.json", document)
    return report.main(
        [
            *("--plan", str(folder / "plan.json"), "--results", str(folder / "results"), "--number", str(number)),
            *("--head-sha", head_sha, "--out", str(folder / "report.md")),
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
            f"results of {A100}: expected none, found some",
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
            f'environment / driver: {BY_SCHEMA} of it, found: "[x](https://example.org)" '
            'does not match "^[A-Za-z0-9][A-Za-z0-9.+-]{0,39}$". Fix: run that leg again',
        ),
        (
            lambda d: d["environment"].update(device_name="x" * 5000),
            f'environment / device_name: {BY_SCHEMA} of it, found: "xxx',
        ),
        (lambda d: d["environment"].update(device_name="x" * 5000), 'does not match "^[A-Za-z0-9][A-Za-z0-9 ._()/+-]'),
        (lambda d: d["environment"].pop("cuda"), f"environment: {BY_SCHEMA} of it"),
        (lambda d: d["environment"].pop("cuda"), '"cuda" is a required property. Fix: '),
        (lambda d: d.update(environment="H100"), '"H100" is not of type "object". Fix: '),
    ],
)
def test_a_bad_environment_is_refused_by_its_key_with_what_was_expected(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], change: Change, told: str
) -> None:
    assert run(tmp_path, plan_document(), changed(results_document(), change)) == 1
    assert told in refused(tmp_path, capsys)


def two_legs() -> Any:
    return changed(plan_document(), lambda d: d["legs"].append({**d["legs"][0], "device_name": A100}))


def test_a_leg_that_is_missing_is_told_and_the_others_go_on(tmp_path: Path) -> None:
    assert run(tmp_path, two_legs(), results_document()) == 0
    text = (tmp_path / "report.md").read_text("utf-8")
    assert f"- `{A100}`: not measured (no results of its runner)." in text
    assert "**Verdict: incomplete: not everything could be measured.** 2 files: 1 promote, 1 not measured." in text
    assert text.count("**Not measured: no results of its runner.**") == 1
    assert "| 64 | 41.5 | 41.9 |" in text


def test_no_results_at_all_are_a_report_that_says_so(tmp_path: Path) -> None:
    assert run(tmp_path, two_legs()) == 0
    text = (tmp_path / "report.md").read_text("utf-8")
    assert "**Verdict: not measured: no runner sent results.** 2 files: 2 not measured." in text
    assert text.count("not measured (no results of its runner)") == 2


def test_a_leg_that_is_missing_excuses_no_lie_of_another(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lie = changed(results_document(), lambda d: d["workloads"].clear())
    assert run(tmp_path, two_legs(), lie) == 1
    assert "expected the plan's 1 files in its order" in refused(tmp_path, capsys)


def test_a_leg_that_answers_twice(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(tmp_path, plan_document(), results_document(), results_document()) == 1
    assert "expected once, found twice" in refused(tmp_path, capsys)


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
