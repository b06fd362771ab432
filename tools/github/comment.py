"""The one comment on a pull request that holds its report: written once, then edited in place."""

from __future__ import annotations

from tools.github.api import Api
from tools.github.marked import address, find, marker
from tools.github.pull import find_at

COMMENT_MARKER = "tune"


def comment(api: Api, number: int, head_sha: str, body: str) -> str:
    """Writes or edits it; returns its address. Refused: the pull request is closed, or its head has moved on."""
    find_at(api, number, head_sha)
    document = {"body": f"{marker(COMMENT_MARKER)}\n{body}"}
    old = find(api, f"/issues/{number}/comments", marker(COMMENT_MARKER))
    if old is None:
        return address(api.send("POST", f"/issues/{number}/comments", document))
    return address(api.send("PATCH", f"/issues/comments/{int(old['id'])}", document))
