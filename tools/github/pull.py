"""Which pull request a run is for, reduced to what is checked: its number, and its head's commit.

An event's own list of pull requests is empty for forks: the API knows. An event is trusted as far as GitHub wrote it:
branch names and inputs are people's. What comes out is a number and a commit that the API confirms as the head of an
open pull request.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tools.git import is_sha
from tools.github.api import Api, ApiError
from tools.store.strict_json import Json, parse
from tools.text import printable, shown_path

MAX_BYTES = 4 << 20
"""Of an event."""


class Refused(Exception):  # noqa: N818 (a verdict, not a defect)
    """The pull request is not in the state that was asked for. One line for a person."""


@dataclass(frozen=True)
class Pull:
    """head_repository None: the fork is gone. base: the branch that it wants to go into."""

    number: int
    is_open: bool
    head_sha: str
    head_repository: str | None
    head_branch: str
    base: str

    @classmethod
    def of(cls, document: Json) -> Pull:
        """ApiError: it isn't what GitHub documents."""
        try:
            head, repository = document["head"], document["head"]["repo"]
            pull = cls(
                document["number"],
                document["state"] == "open",
                head["sha"],
                None if repository is None else repository["full_name"],
                head["ref"],
                document["base"]["ref"],
            )
        except (KeyError, TypeError) as error:
            raise ApiError(f"pull request: expected GitHub's fields, found no {printable(str(error))[:80]}.") from error
        if type(pull.number) is not int or not is_sha(pull.head_sha):
            raise ApiError("pull request: expected a number and a commit, found something else.")
        return pull


def find_at(api: Api, number: int, head_sha: str) -> Pull:
    """The open pull request whose head is this commit. Refused: it is closed, or was pushed to since."""
    pull = Pull.of(api.get(f"/pulls/{number}"))
    if not pull.is_open:
        raise Refused(f"pull request {number}: expected an open one, found it closed.")
    if pull.head_sha != head_sha:
        raise Refused(
            f"pull request {number}: expected its head at {head_sha}, found {pull.head_sha}: it was pushed to since. "
            "Fix: review the new commit and start again."
        )
    return pull


def default_branch(api: Api) -> str:
    """The branch that pull requests go into."""
    repository = api.get("")
    branch = repository.get("default_branch") if isinstance(repository, dict) else None
    if not isinstance(branch, str):
        raise ApiError("GET repository: expected a default branch, found none.")
    return branch


def read_event(path: Path) -> dict[str, Any]:
    """ApiError: unreadable, or no event."""
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise ApiError(f"--event: expected a readable file, found: {error.strerror}.") from error
    document, faults = parse(data)
    if faults or not isinstance(document, dict) or len(data) > MAX_BYTES:
        raise ApiError(f"--event: expected an event's JSON object, found another thing in {shown_path(path)}.")
    return document


def lookup(api: Api, event: dict[str, Any]) -> Pull:
    """The pull request, open and with its head at the event's commit. Refused: it isn't. ApiError: no such event."""
    run, inputs = event.get("workflow_run"), event.get("inputs")
    if isinstance(run, dict):
        return _of_run(api, run)
    if isinstance(inputs, dict):
        return _of_inputs(api, inputs)
    raise ApiError("--event: expected a workflow_run or a workflow_dispatch, found neither.")


def _of_inputs(api: Api, inputs: dict[str, Any]) -> Pull:
    number, head_sha = str(inputs.get("number", "")), inputs.get("head_sha")
    if not re.fullmatch(r"[1-9][0-9]{0,8}", number):
        raise Refused(f"input number: expected a pull request's, found {printable(number)[:40]!r}.")
    if not is_sha(head_sha):
        raise Refused(f"input head_sha: expected 40 hex digits, found {printable(str(head_sha))[:60]!r}.")
    return find_at(api, int(number), str(head_sha))


def _of_run(api: Api, run: dict[str, Any]) -> Pull:
    head_sha, branch, repository = _head(run)
    owner = repository.partition("/")[0]
    found = [Pull.of(document) for document in api.pages("/pulls", state="open", head=f"{owner}:{branch}")]
    main = default_branch(api)
    # An owner may have two forks, and a branch several pull requests into different branches.
    ours = [p for p in found if p.is_open and p.base == main]
    ours = [p for p in ours if p.head_repository == repository and p.head_branch == branch]
    where = printable(f"{owner}:{branch}")[:120]
    if not ours:
        raise Refused(f"{where}: expected an open pull request into {main}, found none.")
    if len(ours) > 1:
        raise Refused(f"{where}: expected one open pull request into {main}, found {len(ours)}.")
    if ours[0].head_sha != head_sha:
        raise Refused(
            f"pull request {ours[0].number}: expected its head at {head_sha}, as in the run, found "
            f"{ours[0].head_sha}: it was pushed to since; the new commit has a run of its own."
        )
    return ours[0]


def _head(run: dict[str, Any]) -> tuple[str, str, str]:
    """(commit, branch, repository) that the run was for."""
    head_sha, branch = run.get("head_sha"), run.get("head_branch")
    source: Json = run.get("head_repository")
    repository = source.get("full_name") if isinstance(source, dict) else None
    if run.get("event") != "pull_request":
        raise Refused(f"workflow_run: expected a pull request's, found {printable(str(run.get('event')))[:40]!r}.")
    if not is_sha(head_sha) or not isinstance(branch, str) or not branch or not isinstance(repository, str):
        raise Refused("workflow_run: expected its head's commit, branch and repository, found one missing.")
    return str(head_sha), branch, repository
