"""Pull requests: what GitHub tells of one, reduced to what is checked; where its head stands; opening one."""

from __future__ import annotations

from dataclasses import dataclass

from tools.git import is_sha
from tools.github.api import Api, ApiError
from tools.github.marked import address, one_line
from tools.store.strict_json import Json
from tools.text import printable


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
            "Fix: look at the new commit, and start anew."
        )
    return pull


def default_branch(api: Api) -> str:
    """The branch that pull requests go into."""
    repository = api.get("")
    branch = repository.get("default_branch") if isinstance(repository, dict) else None
    if not isinstance(branch, str):
        raise ApiError("GET repository: expected a default branch, found none.")
    return branch


def open_pull(api: Api, branch: str, title: str, body: str) -> str:
    """Opens the pull request of a branch of ours, or updates the open one; returns its address."""
    document = {"title": one_line(title), "body": body}
    base = default_branch(api)
    for old in api.pages("/pulls", state="open", head=f"{api.owner}:{branch}", base=base):
        pull = Pull.of(old)
        if (pull.head_repository, pull.head_branch, pull.base) == (api.repository, branch, base):
            return address(api.send("PATCH", f"/pulls/{pull.number}", document))
    return address(api.send("POST", "/pulls", {**document, "head": branch, "base": base}))
