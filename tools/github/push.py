"""A change that a tool made becomes a commit (`commit`), and a checked one goes to a branch of our own (`push`).

Two jobs do it. The first has installed packages and holds no key: it commits and bundles. The second holds the app's
key and has installed nothing: it takes the bundle for hostile, looks at the commit's objects and pushes exactly those.
The token goes to git by the environment: neither its command line nor the checkout's settings ever hold it.
The edge to git.
"""

from __future__ import annotations

import base64
import os
import re
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tools.findings import Finding
from tools.git import Repository, is_sha
from tools.github.api import ApiError
from tools.github.posts import AUTHOR, one_line
from tools.github.pull import Refused
from tools.pull_request.changes import Change, merge_refusals, path_refusals, refused, verified_commit
from tools.pull_request.commit_range import compare
from tools.text import printable, shown_path

TIMEOUT_S = 300
EMAIL = f"41898282+{AUTHOR}@users.noreply.github.com"

MAX_BUNDLE_BYTES = 64 * 1024 * 1024
"""As much as is read of a commit at all."""


@dataclass(frozen=True)
class Proposal:
    """A commit on its way to a branch of ours. Commits are 40 hex digits.

    parent: main's commit that it was made on, as the event gives it. paths: files, or folders ending in a slash, that
    it may add or change. branch: has a folder, as in `verify/…`, so that main and the like can't be meant.
    """

    commit: str
    parent: str
    branch: str
    paths: tuple[str, ...]


def commit(folder: Path, message: str, paths: Sequence[str], bundle: Path) -> str | None:
    """Commits what changed below the paths and bundles the commit; None: nothing did.

    Returns the commit, which is then checked out. ApiError: git refuses.
    """
    one_line(message)
    git = _Git(folder, os.environ)
    if not git.run("status", "--porcelain", "--", *paths):
        return None
    git.run("switch", "--quiet", "--detach")
    git.run("add", "--", *paths)
    git.run("commit", "--quiet", f"--message={message}")
    bundle.parent.mkdir(parents=True, exist_ok=True)
    git.run("bundle", "create", "--quiet", str(bundle.absolute()), "HEAD^..HEAD")
    return git.run("rev-parse", "HEAD").strip()


def push(folder: Path, proposal: Proposal, bundle: Path, environment: Mapping[str, str]) -> None:
    """Takes the commit out of the bundle, checks it, and makes it the branch; an older run's is replaced.

    Refused: it stands on another commit than the parent, changes other paths than it may, holds a file that isn't
    plain, or one that the gate of pull requests refuses. ApiError: bad use, or git refuses.
    """
    _check(proposal)
    git = _Git(folder, environment)
    _fetch(git, bundle)
    found = git.run("rev-list", "--parents", "--max-count=1", proposal.commit, "--").split()
    if found != [proposal.commit, proposal.parent]:
        raise Refused(f"commit {proposal.commit}: expected {proposal.parent} as its one parent, found another.")
    if git.run("rev-parse", "HEAD").strip() != proposal.parent:
        raise Refused(f"--parent: expected the commit that is checked out, found {proposal.parent}.")
    home = environment.get("GITHUB_REPOSITORY", "")
    faults = refusals(Repository(folder), proposal, home)
    if faults:
        raise Refused("".join(f"{fault.path}: {fault.message}. Fix: {fault.fix}. " for fault in faults[:3]).strip())
    with_token = _Git(folder, _with_token(environment))
    with_token.run("push", "--quiet", "--force", "origin", f"{proposal.commit}:refs/heads/{proposal.branch}")


def refusals(repository: Repository, proposal: Proposal, home: str) -> list[Finding]:
    """Why the commit may not be pushed, from its objects. Empty: it may. home: OWNER/NAME of this repository."""
    between = compare(proposal.parent, proposal.commit, repository)
    evidence_of = verified_commit(f"{home}:{proposal.branch}", home)
    return [
        *path_refusals(between.changed),
        *(fault for change in between.changed if (fault := _out_of_place(change, proposal.paths))),
        *merge_refusals(between.changed, between.versions, evidence_of),
    ]


def _out_of_place(change: Change, paths: Sequence[str]) -> Finding | None:
    expected = f"expected a file of {', '.join(paths)}"
    if not any(change.path == path or (path.endswith("/") and change.path.startswith(path)) for path in paths):
        return refused(change.path, "place", f"{expected}, found another", "commit those alone")
    if change.after is None:
        return refused(change.path, "place", f"{expected}, found that it is removed", "remove files by hand")
    return None


def _check(proposal: Proposal) -> None:
    branch = proposal.branch
    if not re.fullmatch(r"[a-z][a-z-]*/[A-Za-z0-9][A-Za-z0-9._-]{0,99}", branch) or branch.endswith((".", ".lock")):
        raise ApiError(f"--branch: expected one such as verify/NAME, found {printable(branch)[:80]!r}.")
    if not is_sha(proposal.commit) or not is_sha(proposal.parent):
        raise ApiError("--commit, --parent: expected 40 hex digits each, found something else.")


def _fetch(git: _Git, bundle: Path) -> None:
    """Brings the bundle's objects; no reference is set, nothing is checked out."""
    where = shown_path(bundle)
    try:
        size = bundle.stat().st_size
    except OSError as error:
        raise ApiError(f"--bundle: expected a readable file, found none in {where}.") from error
    if size > MAX_BUNDLE_BYTES:
        raise Refused(f"{where}: expected at most {MAX_BUNDLE_BYTES} bytes, found {size}.")
    checked = ("-c", "transfer.fsckObjects=true", "-c", "protocol.allow=never", "-c", "protocol.file.allow=always")
    git.run(*checked, "fetch", "--quiet", "--no-tags", "--no-write-fetch-head", str(bundle.absolute()), "HEAD")


class _Git:
    def __init__(self, folder: Path, environment: Mapping[str, str]) -> None:
        self._folder, self._environment = folder, dict(environment)

    def run(self, *arguments: str) -> str:
        command = ["git", "-c", f"user.name={AUTHOR}", "-c", f"user.email={EMAIL}", "-c", "core.hooksPath=/dev/null"]
        name = next((argument for argument in arguments if argument != "-c" and "=" not in argument), "")
        try:
            answer = subprocess.run(
                [*command, *arguments],
                cwd=self._folder,
                env=self._environment,
                capture_output=True,
                text=True,
                errors="replace",
                timeout=TIMEOUT_S,
                check=False,
            )
        except (OSError, subprocess.SubprocessError, ValueError) as error:
            raise ApiError(f"git {name}: expected it to run, found {type(error).__name__}.") from error
        if answer.returncode:
            reason = printable((answer.stderr or answer.stdout).strip().split("\n")[0])[:200]
            raise ApiError(f"git {name}: expected success, found: {reason}")
        return answer.stdout


def _with_token(environment: Mapping[str, str]) -> dict[str, str]:
    """What git reads as http.SERVER/.extraHeader; a remote that is a folder has no use for it."""
    server = environment.get("GITHUB_SERVER_URL", "https://github.com").rstrip("/")
    word = base64.b64encode(f"x-access-token:{environment.get('GITHUB_TOKEN', '')}".encode()).decode()
    kept = {name: value for name, value in environment.items() if name != "GITHUB_TOKEN"}
    return {
        **kept,
        "GIT_CONFIG_COUNT": "1",
        "GIT_CONFIG_KEY_0": f"http.{server}/.extraHeader",
        "GIT_CONFIG_VALUE_0": f"Authorization: basic {word}",
        "GIT_TERMINAL_PROMPT": "0",
    }
