"""Outputs of a workflow's step."""

from __future__ import annotations

from pathlib import Path

import pytest

from tools.step_output import hand_on


def test_values_are_appended_a_line_each(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    output = tmp_path / "output"
    output.write_text("before=1\n")
    monkeypatch.setenv("GITHUB_OUTPUT", str(output))
    hand_on({"number": "12", "any": True, "due": False})
    assert output.read_text() == "before=1\nnumber=12\nany=true\ndue=false\n"


@pytest.mark.parametrize("value", ["a\nb=c", "a\rb", "a\u2028b"])
def test_no_value_forges_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("GITHUB_OUTPUT", str(tmp_path / "output"))
    with pytest.raises(ValueError, match="values of one line"):
        hand_on({"name": value})
    assert not (tmp_path / "output").exists()


def test_outside_a_workflow_nothing_is_written(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GITHUB_OUTPUT", raising=False)
    hand_on({"number": "12"})
