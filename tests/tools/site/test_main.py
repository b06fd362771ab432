"""python -m tools.site: a folder, or one line of what is wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.tools.site.stores import store_at
from tools.site.__main__ import main


@pytest.fixture
def configs(tmp_path: Path) -> Path:
    """A store of one model."""
    return store_at(tmp_path / "configs", ["mistralai/Mixtral-8x7B-v0.1"]).root


def test_it_says_what_it_wrote(configs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    pictures = ["--pictures", str(tmp_path / "pictures")]
    assert main([str(out), "--configs", str(configs), "--jobs", "1", "--revision", "c" * 40, *pictures]) == 0
    assert {path.name for path in (tmp_path / "pictures").iterdir()} == {"coverage.svg", "gains.svg"}
    count = len([path for path in out.rglob("*") if path.is_file()])
    assert capsys.readouterr().out == f"{count} files in {out}\n"
    assert "/tree/cccc" in (out / "index.html").read_text("utf-8")


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--configs", "nowhere"], "--configs: expected a store with its registry, found none"),
        (["--measurements", "nowhere"], "--measurements: expected a folder, found none at nowhere"),
        (["--configs", ""], "expected a path, found an empty text"),
        (["--jobs", "none"], "--jobs: invalid int value: 'none'"),
        (["--repository", "javascript:alert(1)"], "--repository: expected an address such as https://"),
        (["--pictures", "/proc/nowhere"], "--pictures: expected a folder that can be written, found /proc: "),
        (["--jobs", "0"], "--jobs: expected from 1 to 1024, found 0."),
    ],
)
def test_bad_use_is_one_line(
    arguments: list[str], expected: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    try:
        code = main([str(tmp_path / "out"), *arguments])
    except SystemExit as end:
        code = int(str(end.code))
    assert code == 2
    assert expected in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_registry_that_is_none_is_one_line(configs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (configs / "registry" / "models.json").write_text("{", "utf-8")
    assert main([str(tmp_path / "out"), "--configs", str(configs)]) == 2
    assert "models.json: can't be read" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_broken_survey_is_left_out_and_said(
    configs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "m").mkdir()
    path = tmp_path / "m" / "2026-11-26-survey-x.json"
    path.write_text("{", "utf-8")
    assert main([str(tmp_path / "out"), "--configs", str(configs), "--measurements", str(path.parent)]) == 0
    assert capsys.readouterr().err.startswith(f"site: left out: {path}: expected a survey, found ")
