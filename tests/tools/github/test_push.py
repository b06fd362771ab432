"""What a tool wrote becomes a commit, and a checked commit becomes a branch of ours on a real remote.

The token shows up nowhere. (That no package is needed: tests/packaging/test_code_owners.py.)
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from tests.builders import NAME, Store
from tests.tools.github.fake_api import TOKEN
from tests.tools.pull_request.git_repository import EXECUTABLE, SYMLINK, Blob, GitRepository, files_of
from tools.github.api import ApiError
from tools.github.pull import Refused
from tools.github.push import Proposal, commit, push

HOME = "fused-moe-configs/fused-moe-configs"
ENVIRONMENT = {
    "PATH": os.environ["PATH"],
    "GIT_CONFIG_GLOBAL": os.devnull,
    "GIT_CONFIG_NOSYSTEM": "1",
    "GITHUB_REPOSITORY": HOME,
    "GITHUB_TOKEN": TOKEN,
}
CONFIG, RECORD = f"configs/{NAME}", f"configs/records/{NAME}"

Files = Mapping[str, Blob | bytes | None]


def git(folder: Path, *arguments: str) -> str:
    command = ["git", "-c", "user.name=a", "-c", "user.email=a@example.org", *arguments]
    return subprocess.run(command, cwd=folder, env=ENVIRONMENT, capture_output=True, text=True, check=True).stdout


@pytest.fixture
def tuned(tmp_path: Path) -> dict[str, bytes]:
    """A tuned file and its record."""
    store = Store(tmp_path / "store")
    store.config()
    return files_of(store)


@pytest.fixture
def checkout(tmp_path: Path, tuned: Mapping[str, bytes], monkeypatch: pytest.MonkeyPatch) -> Path:
    """A clone of main, which holds the tuned file, its record and a README."""
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    git(tmp_path, "init", "--quiet", "--bare", "--initial-branch=main", "remote.git")
    git(tmp_path, "clone", "--quiet", "remote.git", "checkout")
    folder = tmp_path / "checkout"
    for path, data in {**tuned, "README.md": b"Read me\n"}.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(data)
    git(folder, "switch", "--quiet", "--create", "main")
    git(folder, "add", ".")
    git(folder, "commit", "--quiet", "--message=first")
    git(folder, "push", "--quiet", "origin", "main")
    return folder


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    """In a folder that is not there yet."""
    return tmp_path / "proposal" / "change.bundle"


def remote(checkout: Path, *arguments: str) -> str:
    return git(checkout.parent / "remote.git", *arguments)


def main_of(checkout: Path) -> str:
    return remote(checkout, "rev-parse", "main").strip()


def edit(checkout: Path, path: str = RECORD) -> None:
    """Changes a file of the checkout as a tool would."""
    document = json.loads((checkout / path).read_text())
    (checkout / path).write_text(json.dumps({**document, "date": "2026-01-02"}))


@pytest.fixture
def proposal(checkout: Path, bundle: Path) -> Proposal:
    """A record changes; the commit is bundled, and main is checked out as the job with the key has it."""
    edit(checkout)
    made = commit(checkout, "Verify it", ["configs/records"], bundle)
    assert made is not None
    git(checkout, "switch", "--quiet", "main")
    return Proposal(made, main_of(checkout), "tune/1", ("configs/records/",))


# ---------------------------------------------------------------
# commit


def test_commits_what_lies_below_the_paths_and_nothing_else(checkout: Path, bundle: Path) -> None:
    edit(checkout)
    (checkout / "plan.json").write_text("{}")
    made = commit(checkout, "Tune it; $(touch canary)", ["configs"], bundle)
    assert git(checkout, "show", "--format=%H %an %s", "--name-only", "HEAD").split("\n\n") == [
        f"{made} github-actions[bot] Tune it; $(touch canary)",
        f"{RECORD}\n",
    ]
    assert remote(checkout, "branch", "--list") == "* main\n", "nothing is pushed"


def test_nothing_changed_is_no_commit(checkout: Path, bundle: Path) -> None:
    (checkout / "plan.json").write_text("{}")
    assert commit(checkout, "Tune it", ["configs"], bundle) is None
    assert not bundle.exists()


def test_hooks_do_not_run(checkout: Path, bundle: Path) -> None:
    hook = checkout / ".git" / "hooks" / "pre-commit"
    hook.write_text("#!/bin/sh\nexit 1\n")
    hook.chmod(0o755)
    edit(checkout)
    assert commit(checkout, "Tune it", ["configs"], bundle)


# ---------------------------------------------------------------
# push


def test_pushes_the_very_commit_and_leaves_the_checkout_alone(checkout: Path, bundle: Path, proposal: Proposal) -> None:
    main = main_of(checkout)
    push(checkout, proposal, bundle, ENVIRONMENT)
    assert remote(checkout, "rev-parse", "tune/1").strip() == proposal.commit
    assert main_of(checkout) == git(checkout, "rev-parse", "HEAD").strip() == main
    assert git(checkout, "status", "--porcelain") == ""


def test_a_clone_that_never_saw_the_commit_gets_it_from_the_bundle(
    checkout: Path, bundle: Path, proposal: Proposal, tmp_path: Path
) -> None:
    git(tmp_path, "clone", "--quiet", "remote.git", "keyholder")
    push(tmp_path / "keyholder", proposal, bundle, ENVIRONMENT)
    assert remote(checkout, "rev-parse", "tune/1").strip() == proposal.commit


def test_a_second_run_replaces_the_branch(checkout: Path, bundle: Path, proposal: Proposal) -> None:
    push(checkout, proposal, bundle, ENVIRONMENT)
    edit(checkout)
    made = commit(checkout, "Verify it anew", ["configs/records"], bundle)
    git(checkout, "switch", "--quiet", "main")
    push(checkout, replace(proposal, commit=str(made)), bundle, ENVIRONMENT)
    assert remote(checkout, "log", "--format=%s", "tune/1") == "Verify it anew\nfirst\n"


@pytest.mark.parametrize(
    "branch", ["main", "refs/heads/main", "--force", "a/..", "a/b/c", "a/b.lock", "a/b c", "A/b", ""]
)
def test_only_branches_of_ours(checkout: Path, bundle: Path, proposal: Proposal, branch: str) -> None:
    with pytest.raises(ApiError, match="--branch: expected one such as verify/NAME"):
        push(checkout, replace(proposal, branch=branch), bundle, ENVIRONMENT)


@pytest.mark.parametrize("field", ["commit", "parent"])
def test_commits_are_named_whole(checkout: Path, bundle: Path, proposal: Proposal, field: str) -> None:
    with pytest.raises(ApiError, match="expected 40 hex digits each"):
        push(checkout, replace(proposal, **{field: "HEAD"}), bundle, ENVIRONMENT)


def test_a_remote_that_refuses_is_one_line_without_the_token(checkout: Path, bundle: Path, proposal: Proposal) -> None:
    git(checkout, "remote", "set-url", "origin", str(checkout / "nowhere.git"))
    with pytest.raises(ApiError, match="git push: expected success, found: ") as error:
        push(checkout, proposal, bundle, ENVIRONMENT)
    assert str(error.value).isprintable()
    assert TOKEN not in str(error.value)


def test_the_token_is_not_left_in_the_checkout(checkout: Path, bundle: Path, proposal: Proposal) -> None:
    push(checkout, proposal, bundle, ENVIRONMENT)
    assert "extraheader" not in git(checkout, "config", "--list").lower()


# ---------------------------------------------------------------
# What is not pushed

Make = Callable[[GitRepository, str, Mapping[str, bytes]], str]


def with_files(change: Callable[[Mapping[str, bytes]], Files]) -> Make:
    return lambda repository, main, tuned: repository.commit(change(tuned), main)


def merge(repository: GitRepository, main: str, tuned: Mapping[str, bytes]) -> str:
    other = repository.commit({RECORD: tuned[RECORD] + b" "})
    tree = repository.git("rev-parse", f"{other}^{{tree}}")
    return repository.git("commit-tree", tree, "-m", "merge", "-p", main, "-p", other)


def on_a_commit_of_its_own(repository: GitRepository, main: str, tuned: Mapping[str, bytes]) -> str:
    return repository.commit({RECORD: tuned[RECORD] + b" "}, repository.commit({"noxfile.py": b""}, main))


def with_verified(tuned: Mapping[str, bytes]) -> Files:
    return {RECORD: json.dumps({**json.loads(tuned[RECORD]), "verified": {"runner": "gpu"}}).encode()}


REFUSED: dict[str, tuple[Make, str]] = {
    "another parent": (on_a_commit_of_its_own, "as its one parent, found another"),
    "a merge": (merge, "as its one parent, found another"),
    "code": (with_files(lambda tuned: {"noxfile.py": b""}), "expected changes below configs/ only"),
    "another file below configs/": (with_files(lambda tuned: {CONFIG: tuned[CONFIG] + b" "}), "found another"),
    "a file that goes": (with_files(lambda tuned: {RECORD: None}), "found that it is removed"),
    "a link": (with_files(lambda tuned: {RECORD: Blob(b"/etc/passwd", SYMLINK)}), "found a symbolic link"),
    "an executable": (with_files(lambda tuned: {RECORD: Blob(tuned[RECORD], EXECUTABLE)}), "found an executable"),
    "evidence that isn't its own to give": (with_files(with_verified), "found evidence that only main's own run"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_a_hostile_commit_is_not_pushed(
    checkout: Path, bundle: Path, tuned: Mapping[str, bytes], tmp_path: Path, what: str
) -> None:
    """The job that made it has packages from the index: what it hands on is taken for a stranger's."""
    make, reason = REFUSED[what]
    elsewhere = GitRepository(tmp_path / "remote.git")
    main = main_of(checkout)
    made = make(elsewhere, main, tuned)
    elsewhere.git("update-ref", "refs/made/it", made)
    elsewhere.git("symbolic-ref", "HEAD", "refs/made/it")
    bundle.parent.mkdir()
    elsewhere.git("bundle", "create", "--quiet", str(bundle), "HEAD", f"^{main}")
    elsewhere.git("symbolic-ref", "HEAD", "refs/heads/main")
    with pytest.raises(Refused, match=reason):
        push(checkout, Proposal(made, main, "tune/1", ("configs/records/",)), bundle, ENVIRONMENT)
    assert remote(checkout, "branch", "--list") == "* main\n"


def test_a_checkout_that_is_not_the_parent_pushes_nothing(checkout: Path, bundle: Path, proposal: Proposal) -> None:
    git(checkout, "switch", "--quiet", "--detach", proposal.commit)
    with pytest.raises(Refused, match="--parent: expected the commit that is checked out"):
        push(checkout, proposal, bundle, ENVIRONMENT)


def test_a_bundle_without_the_commit_is_one_line(checkout: Path, bundle: Path, proposal: Proposal) -> None:
    with pytest.raises(ApiError, match="git rev-list: expected success"):
        push(checkout, replace(proposal, commit="a" * 40), bundle, ENVIRONMENT)


@pytest.mark.parametrize("data", [None, b"", b"# v2 git bundle\n"])
def test_a_broken_bundle_is_one_line(checkout: Path, bundle: Path, proposal: Proposal, data: bytes | None) -> None:
    bundle.unlink()
    if data is not None:
        bundle.write_bytes(data)
    with pytest.raises(ApiError, match=r"--bundle: expected a readable file|git fetch: expected success"):
        push(checkout, proposal, bundle, ENVIRONMENT)
