"""Which files a change concerns: asked of a real git repository."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tools.checkout import CHECKOUT, CONFIGS
from tools.compile.since import SinceError, changed_since, concerned

ONE, OTHER = CONFIGS / "legacy_configs" / "one.json", CONFIGS / "other.json"


def test_only_the_files_that_changed() -> None:
    changed = ["configs/legacy_configs/one.json", "configs/records/other.json", "README.md"]
    assert concerned([ONE, OTHER], changed) == [ONE]
    assert concerned([ONE, OTHER], []) == []


@pytest.mark.parametrize("path", ["kernels/launch.py", "tools/compile/check.py", "configs/registry/devices.json"])
def test_all_files_where_something_changed_that_each_hangs_on(path: str) -> None:
    assert concerned([ONE, OTHER], [path]) == [ONE, OTHER]


def test_files_outside_the_checkout_have_no_history_here() -> None:
    assert concerned([CHECKOUT.parent / "one.json"], ["one.json"]) == []


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    git(tmp_path, "init", "--quiet", "--initial-branch=main", ".")
    commit(tmp_path, "first")
    return tmp_path


def git(folder: Path, *arguments: str) -> None:
    who = ["-c", "user.name=A", "-c", "user.email=a@example.org"]
    subprocess.run(["git", *who, *arguments], cwd=folder, check=True, capture_output=True)


def commit(folder: Path, name: str) -> None:
    (folder / name).write_text(name, "utf-8")
    git(folder, "add", "--all")
    git(folder, "commit", "--quiet", f"--message={name}")


def test_what_the_other_branch_did_meanwhile_does_not_count(repository: Path) -> None:
    git(repository, "switch", "--quiet", "--create", "mine")
    commit(repository, "mîne\n.json")
    (repository / "first").write_text("not committed yet", "utf-8")
    git(repository, "stash", "--quiet")
    git(repository, "switch", "--quiet", "main")
    commit(repository, "theirs")
    git(repository, "switch", "--quiet", "mine")
    git(repository, "stash", "pop", "--quiet")
    assert changed_since("main", repository) == ["first", "mîne\n.json"]


def test_before_the_first_push_there_was_nothing(repository: Path) -> None:
    commit(repository, "mîne\n.json")
    assert changed_since("0" * 40, repository) == ["first", "mîne\n.json"]


@pytest.mark.parametrize("revision", ["", "nowhere", "--output=gone", "0" * 39, "1" * 40])
def test_what_is_no_revision_is_said_in_one_line(repository: Path, revision: str) -> None:
    with pytest.raises(SinceError, match=r"^--since: expected a (git )?revision") as caught:
        changed_since(revision, repository)
    assert "\n" not in str(caught.value)
    assert ". Fix: " in str(caught.value)
    assert not (repository / "gone").exists()
