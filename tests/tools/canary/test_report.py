"""What the canary hands on, and what of it reaches an issue: its machine ran an engine's code, which may lie."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tools.canary import report
from tools.canary.__main__ import main
from tools.canary.check import Difference, EngineReport
from tools.errors import UserError
from tools.store import schemas

REPORT = EngineReport("vllm", "0.33.0", ("vllm/x.py",), 4, 12, (Difference("E=8.json", "rows differ"),))


def handed_on(folder: Path, document: Any) -> Path:
    path = folder / "canary.json"
    path.write_bytes(document if isinstance(document, bytes) else json.dumps(document).encode())
    return path


def test_what_is_handed_on_reads_back_and_renders_the_same(tmp_path: Path) -> None:
    data = report.to_bytes([REPORT])
    assert schemas.faults("canary", json.loads(data)) == []
    found = report.read(handed_on(tmp_path, data))
    assert found == (REPORT,)
    assert report.to_markdown(found) == report.to_markdown([REPORT])


def test_of_many_and_long_differences_the_first_are_handed_on_and_the_rest_counted(tmp_path: Path) -> None:
    many = EngineReport("sglang", "1", ("x" * 999,), 4, 12, tuple(Difference("w" * 999, "m" * 999) for _ in range(99)))
    (found,) = report.read(handed_on(tmp_path, report.to_bytes([many])))
    assert (len(found.differences), found.num_differences) == (25, 99)
    text = report.to_markdown([found])
    assert "- and 74 more" in text
    assert len(text) < 60_000


HOSTILE = "@everybody <img src=x onerror=alert(1)> [x](https://evil.example) `` \n# heading\n::error::x ‮"


def test_text_of_the_engines_code_stays_inside_code(tmp_path: Path) -> None:
    lie = {"engine": "vllm", "version": "1.0", "modules": [HOSTILE], "files": 1, "asked": 1, "untold": 0}
    lie |= {"defaults": 1, "default_sha256": None}
    document = {"schema_version": 1, "reports": [{**lie, "differences": [{"where": HOSTILE, "message": HOSTILE}]}]}
    out = tmp_path / "canary.md"
    assert main(["--report", str(handed_on(tmp_path, document)), "--out", str(out)]) == 0
    lines = [line for line in out.read_text("utf-8").splitlines() if "everybody" in line]
    assert len(lines) == 2
    for line in lines:
        outside = "".join(line.split("`")[::2])
        assert line.count("`") % 2 == 0
        assert not set("@<>[") & set(outside)


@pytest.mark.parametrize(
    ("document", "told"),
    [
        (b"# Engine canary\n\n@everybody <b>", "not JSON"),
        ({"schema_version": 1, "reports": [], "markdown": "@everybody"}, "markdown"),
        ({"schema_version": 1, "reports": [{**REPORT.to_json(), "version": "1 @everybody"}]}, "version"),
        (b"[" * 100_000, "canary.json"),
    ],
    ids=["markdown", "another key", "a mention in the heading", "nested without end"],
)
def test_what_is_no_canarys_json_is_one_line_and_no_issue(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], document: Any, told: str
) -> None:
    path = handed_on(tmp_path, document)
    with pytest.raises(UserError, match=r"Fix: run the canary again"):
        report.read(path)
    assert main(["--report", str(path), "--out", str(tmp_path / "canary.md")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert told in line
    assert not (tmp_path / "canary.md").exists()


@pytest.mark.parametrize("arguments", [[], ["--report", "x", "vllm=y"], ["--report", "x", "--json", "y"]])
def test_it_runs_code_or_renders_and_never_both(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 2
    assert "expected ENGINE=PATH, or --report FILE" in capsys.readouterr().err
