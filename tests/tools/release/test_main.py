"""The command, on real git repositories."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tools.release import __main__ as command


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(command, "CHECKOUT", tmp_path)
    monkeypatch.setattr(command, "LOADER", tmp_path / "loader.py")
    monkeypatch.setenv("GITHUB_OUTPUT", str(tmp_path / "outputs"))
    git(tmp_path, "init", "--quiet", ".")
    commit(tmp_path, "loader.py", '__version__ = "2026.3.2"\n')
    return tmp_path


def git(folder: Path, *arguments: str) -> str:
    who = ["-c", "user.name=A", "-c", "user.email=a@example.org"]
    return subprocess.run(["git", *who, *arguments], cwd=folder, check=True, capture_output=True, text=True).stdout


def commit(folder: Path, name: str, text: str = "") -> None:
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_text(text, "utf-8")
    git(folder, "add", "--", name)
    git(folder, "commit", "--quiet", f"--message={name}")


def test_the_first_release_starts_from_the_first_commit(checkout: Path) -> None:
    first = git(checkout, "rev-parse", "HEAD").strip()
    commit(checkout, "configs/E=8.json")
    assert command.main(["plan", "--date", "2026-03-09"]) == 0
    assert (checkout / "outputs").read_text("utf-8") == f"due=true\nversion=2026.3.9\nprevious={first}\n"


def test_a_later_one_starts_from_the_last_tag(checkout: Path, capsys: pytest.CaptureFixture[str]) -> None:
    commit(checkout, "configs/E=8.json")
    git(checkout, "tag", "v2026.3.2")
    commit(checkout, "README.md")
    assert command.main(["plan", "--date", "2026-03-09"]) == 0
    assert capsys.readouterr().out == "2026.3.9: nothing that the wheel holds changed since v2026.3.2\n"
    assert "due=false" in (checkout / "outputs").read_text("utf-8")


def test_no_history_is_one_line_and_2(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(command, "CHECKOUT", tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert command.main(["plan", "--date", "2026-03-09"]) == 2
    assert capsys.readouterr().err.startswith("release: the checkout: expected a git repository")


def test_stamp_writes_the_loader(checkout: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["stamp", "2026.3.9"]) == 0
    assert (checkout / "loader.py").read_text("utf-8") == '__version__ = "2026.3.9"\n'
    assert command.main(["stamp", "today"]) == 2
    assert "expected a date" in capsys.readouterr().err
