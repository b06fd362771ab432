"""Three ways to print findings; none of them lets a file's name or content forge a line."""

from __future__ import annotations

import io
import json
import sys

import pytest

from tools.findings import Finding, Report, Severity, as_github, as_json, as_text, emit, ordered, summary

ERROR = Finding("configs/a.json", "coverage", Severity.ERROR, "expected 1, found 2", "tune it")
WARNING = Finding("configs/b.json", "copied-file", Severity.WARNING, "a copy", "remove it")
INFO = Finding("configs/a.json", "record", Severity.INFO, "old", "nothing")
HOSTILE = Finding("a", "schema", Severity.ERROR, "x\n::error::y\r\x1b[31m\ud800%", "##[warning]w\n::w")


def test_a_report_fails_by_its_errors_alone() -> None:
    assert Report(1, (ERROR,)).failed
    assert not Report(2, (WARNING, INFO)).failed
    assert not Report(0, ()).failed


def test_the_summary_counts_and_knows_singular_and_plural() -> None:
    assert summary(Report(1, (ERROR,))) == "1 file: 1 error, 0 warnings, 0 infos"
    assert summary(Report(3, (ERROR, ERROR, WARNING, INFO))) == "3 files: 2 errors, 1 warning, 1 info"


def test_text_groups_by_rule_with_one_line_a_finding() -> None:
    assert as_text(Report(2, (ERROR, WARNING, INFO))).splitlines() == [
        "copied-file (1)",
        "  warning: configs/b.json: a copy. Fix: remove it",
        "",
        "coverage (1)",
        "  error: configs/a.json: expected 1, found 2. Fix: tune it",
        "",
        "record (1)",
        "  info: configs/a.json: old. Fix: nothing",
        "",
        "2 files: 1 error, 1 warning, 1 info",
    ]


def test_json_is_ascii_and_keeps_every_field() -> None:
    text = as_json(Report(1, (ERROR, HOSTILE)))
    assert text.isascii()
    assert json.loads(text) == {
        "files": 1,
        "findings": [
            {field: str(getattr(finding, field)) for field in ("path", "rule", "severity", "message", "fix")}
            for finding in (ERROR, HOSTILE)
        ],
    }


def test_json_holds_no_command_to_githubs_runner() -> None:
    name = "configs/##[error file=README.md]hello.json"
    text = as_json(Report(1, (Finding(name, "foreign-file", Severity.ERROR, name, "#"),)))
    assert "#" not in text
    assert json.loads(text)["findings"][0]["path"] == name


def test_github_names_levels_files_and_rules() -> None:
    lines = as_github(Report(2, (ERROR, WARNING, INFO))).splitlines()
    assert lines[:3] == [
        "::error file=configs/a.json,title=coverage::expected 1, found 2. Fix: tune it",
        "::warning file=configs/b.json,title=copied-file::a copy. Fix: remove it",
        "::notice file=configs/a.json,title=record::old. Fix: nothing",
    ]


def test_githubs_properties_are_escaped() -> None:
    finding = Finding("E=8,N=1:50%.json", "coverage", Severity.ERROR, "50 % of 1:2, found", "fix")
    line = as_github(Report(1, (finding,))).splitlines()[0]
    assert line == "::error file=E=8%2CN=1%3A50%25.json,title=coverage::50 %25 of 1:2, found. Fix: fix"


@pytest.mark.parametrize("form", [as_text, as_github])
def test_no_content_can_forge_a_line_or_move_the_cursor(form: object) -> None:
    text = form(Report(1, (HOSTILE,)))  # type: ignore[operator]
    assert not [line for line in text.splitlines() if line.startswith(("::error::", "::warning::"))]
    assert "##[" not in text
    assert text.replace("\n", "").isprintable()


@pytest.mark.parametrize(("encoding", "shown"), [("ascii", b"\\xf6 \\u2264\n"), ("utf-8", "ö ≤\n".encode())])
def test_what_the_encoding_lacks_is_escaped(encoding: str, shown: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding, write_through=True))
    emit("ö ≤")
    assert raw.getvalue() == shown


def test_findings_are_ordered_by_path_and_named_once() -> None:
    assert ordered([WARNING, INFO, ERROR, ERROR]) == (ERROR, INFO, WARNING)
