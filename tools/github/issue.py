"""The one open issue of a kind («tuned files have drifted»): opened where there is none, else updated."""

from __future__ import annotations

from tools.github.api import Api
from tools.github.marked import AUTHOR, address, find, marker, one_line


def issue(api: Api, name: str, title: str, body: str) -> str:
    """Opens or updates the open issue under the marker `name`; returns its address."""
    document = {"title": one_line(title), "body": f"{marker(name)}\n{body}"}
    old = find(api, "/issues", marker(name), state="open", creator=AUTHOR)
    if old is None:
        return address(api.send("POST", "/issues", document))
    return address(api.send("PATCH", f"/issues/{int(old['number'])}", document))
