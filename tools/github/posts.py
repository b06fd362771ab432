"""What the project itself writes on GitHub: a comment on a pull request, an issue of a kind, a pull request.

A text of ours is found again by its marker, an HTML comment in its first line, and edited in place. Anybody may write
a marker: only what our own bot wrote counts.
"""

from __future__ import annotations

import re
from pathlib import Path

from tools.github.api import Api, ApiError
from tools.github.pull import Pull, default_branch, find_at
from tools.store.strict_json import Json
from tools.text import MAX_BODY, shown_path

COMMENT_MARKER = "tune"
"""Of the one comment on a pull request that holds its report."""

AUTHOR = "github-actions[bot]"
"""Whose name the workflow's own token writes under."""


def marker(name: str) -> str:
    """ApiError: not a name of lower-case letters, digits and hyphens."""
    if not re.fullmatch(r"[a-z0-9][a-z0-9-]{0,39}", name):
        raise ApiError(f"--marker: expected lower-case letters, digits and hyphens, found {name[:40]!r}.")
    return f"<!-- fused-moe-configs: {name} -->"


def read_body(path: Path) -> str:
    """ApiError: unreadable, empty or too long, the marker's room included."""
    try:
        with path.open("rb") as file:
            text = file.read(4 * MAX_BODY).decode().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ApiError(f"--body: expected a readable text, found none in {shown_path(path)}.") from error
    if not 0 < len(text) <= MAX_BODY - 100:
        raise ApiError(f"--body: expected 1 to {MAX_BODY - 100} characters, found {len(text)}.")
    return text


def one_line(title: str) -> str:
    """ApiError: empty, of several lines, or longer than GitHub takes."""
    if not title.strip() or not title.isprintable() or len(title) > 256:
        raise ApiError(f"--title: expected one line of 1 to 256 characters, found {title[:60]!r}.")
    return title


def find(api: Api, path: str, mark: str, **query: str) -> Json:
    """The oldest of a list that we wrote under this mark, None: none. GitHub lists pull requests among the issues."""
    ours = [
        item
        for item in api.pages(path, **query)
        if isinstance(item, dict)
        and "pull_request" not in item
        and isinstance(item.get("user"), dict)
        and item["user"].get("login") == AUTHOR
        and str(item.get("body") or "").startswith(mark)
    ]
    return min(ours, key=lambda item: int(item["id"]), default=None)


def address(document: Json) -> str:
    """Where a person finds what was written."""
    return str(document.get("html_url", "done")) if isinstance(document, dict) else "done"


def comment(api: Api, number: int, head_sha: str, body: str) -> str:
    """Writes or edits the comment that holds the report; returns its address.

    Refused: the pull request is closed, or its head has moved on.
    """
    find_at(api, number, head_sha)
    document = {"body": f"{marker(COMMENT_MARKER)}\n{body}"}
    old = find(api, f"/issues/{number}/comments", marker(COMMENT_MARKER))
    if old is None:
        return address(api.send("POST", f"/issues/{number}/comments", document))
    return address(api.send("PATCH", f"/issues/comments/{int(old['id'])}", document))


def issue(api: Api, name: str, title: str, body: str) -> str:
    """Opens the one open issue of a kind («tuned files have drifted»), found by the marker `name`, or updates it.

    Returns its address.
    """
    document = {"title": one_line(title), "body": f"{marker(name)}\n{body}"}
    old = find(api, "/issues", marker(name), state="open", creator=AUTHOR)
    if old is None:
        return address(api.send("POST", "/issues", document))
    return address(api.send("PATCH", f"/issues/{int(old['number'])}", document))


def open_pull(api: Api, branch: str, title: str, body: str) -> str:
    """Opens the pull request of a branch of ours, or updates the open one; returns its address."""
    document = {"title": one_line(title), "body": body}
    base = default_branch(api)
    for old in api.pages("/pulls", state="open", head=f"{api.owner}:{branch}", base=base):
        pull = Pull.of(old)
        if (pull.head_repository, pull.head_branch, pull.base) == (api.repository, branch, base):
            return address(api.send("PATCH", f"/pulls/{pull.number}", document))
    return address(api.send("POST", "/pulls", {**document, "head": branch, "base": base}))
