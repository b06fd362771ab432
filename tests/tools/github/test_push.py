"""What a tool wrote becomes a commit on a branch of ours, on a real remote; the token shows up nowhere."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from tests.tools.github.fake_api import TOKEN
from tools.github.api import ApiError
from tools.github.push import push

ENVIRONMENT = {
    "PATH": os.environ["PATH"],
    "GIT_CONFIG_GLOBAL": os.devnull,
    "GIT_CONFIG_NOSYSTEM": "1",
    "GITHUB_TOKEN": TOKEN,
}


def git(folder: Path, *arguments: str) -> str:
    command = ["git", "-c", "user.name=a", "-c", "user.email=a@example.org", *arguments]
    return subprocess.run(command, cwd=folder, env=ENVIRONMENT, capture_output=True, text=True, check=True).stdout


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A clone with one commit of one file below configs/."""
    git(tmp_path, "init", "--quiet", "--bare", "--initial-branch=main", "remote.git")
    git(tmp_path, "clone", "--quiet", "remote.git", "checkout")
    folder = tmp_path / "checkout"
    (folder / "configs").mkdir()
    (folder / "configs" / "a.json").write_text("{}")
    git(folder, "switch", "--quiet", "--create", "main")
    git(folder, "add", ".")
    git(folder, "commit", "--quiet", "--message=first")
    git(folder, "push", "--quiet", "origin", "main")
    return folder


def remote(checkout: Path, *arguments: str) -> str:
    return git(checkout.parent / "remote.git", *arguments)


def test_pushes_what_lies_below_the_paths_and_nothing_else(checkout: Path) -> None:
    (checkout / "configs" / "b.json").write_text("{}")
    (checkout / "plan.json").write_text("{}")
    assert push(checkout, "tune/1", "Tune it; $(touch canary)", ["configs"], ENVIRONMENT)
    assert remote(checkout, "show", "--format=%an %s", "--name-only", "tune/1").split("\n\n") == [
        "github-actions[bot] Tune it; $(touch canary)",
        "configs/b.json\n",
    ]
    assert remote(checkout, "rev-parse", "tune/1") == git(checkout, "rev-parse", "HEAD")
    assert remote(checkout, "rev-parse", "main") == git(checkout, "rev-parse", "main")


def test_nothing_changed_is_nothing_pushed(checkout: Path) -> None:
    (checkout / "plan.json").write_text("{}")
    assert not push(checkout, "tune/1", "Tune it", ["configs"], ENVIRONMENT)
    assert remote(checkout, "branch", "--list") == "* main\n"


def test_a_second_run_replaces_the_branch(checkout: Path) -> None:
    for text in ("1", "2"):
        git(checkout, "switch", "--quiet", "main")
        (checkout / "configs" / "a.json").write_text(text)
        assert push(checkout, "tune/1", f"Tune {text}", ["configs"], ENVIRONMENT)
    assert remote(checkout, "log", "--format=%s", "tune/1") == "Tune 2\nfirst\n"


@pytest.mark.parametrize(
    "branch", ["main", "refs/heads/main", "--force", "a/..", "a/b/c", "a/b.lock", "a/b c", "A/b", ""]
)
def test_only_branches_of_ours(checkout: Path, branch: str) -> None:
    (checkout / "configs" / "a.json").write_text("1")
    with pytest.raises(ApiError, match="--branch: expected one such as verify/NAME"):
        push(checkout, branch, "Tune it", ["configs"], ENVIRONMENT)


def test_a_remote_that_refuses_is_one_line_without_the_token(checkout: Path) -> None:
    (checkout / "configs" / "a.json").write_text("1")
    git(checkout, "remote", "set-url", "origin", str(checkout / "nowhere.git"))
    with pytest.raises(ApiError, match="git push: expected success, found: ") as error:
        push(checkout, "tune/1", "Tune it", ["configs"], ENVIRONMENT)
    assert str(error.value).isprintable()
    assert TOKEN not in str(error.value)


def test_the_token_is_not_left_in_the_checkout(checkout: Path) -> None:
    (checkout / "configs" / "a.json").write_text("1")
    push(checkout, "tune/1", "Tune it", ["configs"], ENVIRONMENT)
    assert "extraheader" not in git(checkout, "config", "--list").lower()


def test_hooks_do_not_run(checkout: Path) -> None:
    hook = checkout / ".git" / "hooks" / "pre-commit"
    hook.write_text("#!/bin/sh\nexit 1\n")
    hook.chmod(0o755)
    (checkout / "configs" / "a.json").write_text("1")
    assert push(checkout, "tune/1", "Tune it", ["configs"], ENVIRONMENT)
