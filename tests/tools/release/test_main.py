"""When a release is due and what it is called; the command, on real git repositories."""

from __future__ import annotations

import datetime
import subprocess
from pathlib import Path

import pytest

from tools.release import __main__ as command
from tools.release.__main__ import Due, ReleaseError, decide, stamped

TODAY = datetime.date(2026, 3, 9)
FIRST_COMMIT = "a" * 40


def test_the_version_is_the_date_without_zeros() -> None:
    due = decide(TODAY, "v2026.3.2", ["configs/E=8.json"], is_forced=False)
    assert due == Due(True, "2026.3.9", "v2026.3.2")
    assert (due.is_due, due.version, due.previous) == (True, "2026.3.9", "v2026.3.2")


@pytest.mark.parametrize(
    ("path", "is_due"),
    [
        ("configs/legacy_configs/E=8.json", True),
        ("configs/registry/devices.json", True),
        ("fused_moe_configs/lookup.py", True),
        ("configs/records/E=8.json", True),  # in the index that the build writes
        ("configs/registry/models.json", True),
        ("configs/README.md", False),
        ("tools/tune/tuner.py", False),
        ("README.md", False),
    ],
)
def test_due_is_what_the_wheel_holds(path: str, is_due: bool) -> None:
    assert decide(TODAY, "v2026.3.2", [path], is_forced=False).is_due is is_due


def test_a_person_may_ask_for_one_anyway() -> None:
    assert decide(TODAY, FIRST_COMMIT, [], is_forced=True) == Due(True, "2026.3.9", FIRST_COMMIT)


@pytest.mark.parametrize("previous", ["v2026.3.9", "v2026.3.10", "v2026.12.1", "v2027.1.1"])
def test_a_day_has_one_release_and_time_runs_forward(previous: str) -> None:
    with pytest.raises(ReleaseError, match=f"expected a day after the release {previous}"):
        decide(TODAY, previous, [], is_forced=True)


@pytest.mark.parametrize("previous", ["v2030.01.01", "v2026.03.02", "v2026.3.2-rc1", "v20", "v2026.13.1"])
def test_a_tag_by_hand_is_no_release_to_count_from(previous: str) -> None:
    with pytest.raises(ReleaseError, match=f"expected vYYYY.M.D, such as v2026.3.9, found {previous}. Fix: delete it"):
        decide(TODAY, previous, ["configs/E=8.json"], is_forced=True)


def test_stamping_changes_that_line_alone() -> None:
    source = '"""Doc."""\n__version__ = "2026.3.2"\nx = "2026.3.2"\n'
    assert stamped(source, "2026.3.9") == '"""Doc."""\n__version__ = "2026.3.9"\nx = "2026.3.2"\n'


@pytest.mark.parametrize("version", ["2026.03.09", "2026.13.1", '2026.3.9"\nimport os', "", "v2026.3.9"])
def test_what_is_no_date_is_not_written(version: str) -> None:
    with pytest.raises(ReleaseError, match="expected a date"):
        stamped('__version__ = "2026.3.2"\n', version)


def test_a_loader_without_its_line_is_said() -> None:
    with pytest.raises(ReleaseError, match="expected one line"):
        stamped("", "2026.3.9")


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


def test_a_tag_by_hand_is_one_line_and_goes_as_it_says(checkout: Path, capsys: pytest.CaptureFixture[str]) -> None:
    git(checkout, "tag", "v2026.3.2")
    commit(checkout, "configs/E=8.json")
    git(checkout, "tag", "v2030.01.01")
    assert command.main(["plan", "--date", "2026-03-09"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("release: the last tag: expected vYYYY.M.D, such as v2026.3.9, found v2030.01.01. ")
    git(checkout, "tag", "--delete", "v2030.01.01")
    assert command.main(["plan", "--date", "2026-03-09"]) == 0
    assert capsys.readouterr().out == "2026.3.9: due since v2026.3.2\n"


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


def test_a_day_that_is_none_is_said_in_plain_words(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        command.main(["plan", "--date", "yesterday"])
    assert capsys.readouterr().err.endswith("expected a day as YYYY-MM-DD, found 'yesterday'\n")
