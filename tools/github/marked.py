"""Texts of ours on GitHub are found again by a marker, an HTML comment in their first line, and edited in place.

Anybody may write a marker. Only what our own bot wrote counts.
"""

from __future__ import annotations

import re
from pathlib import Path

from tools.github.api import Api, ApiError
from tools.store.strict_json import Json
from tools.text import shown_path

AUTHOR = "github-actions[bot]"
"""Whose name the workflow's own token writes under."""

MAX_CHARACTERS = 65_536
"""What GitHub takes for a body."""


def marker(name: str) -> str:
    """ApiError: not a name of lower-case letters, digits and hyphens."""
    if not re.fullmatch(r"[a-z0-9][a-z0-9-]{0,39}", name):
        raise ApiError(f"--marker: expected lower-case letters, digits and hyphens, found {name[:40]!r}.")
    return f"<!-- fused-moe-configs: {name} -->"


def read_body(path: Path) -> str:
    """ApiError: unreadable, empty or too long, the marker's room included."""
    try:
        with path.open("rb") as file:
            text = file.read(4 * MAX_CHARACTERS).decode().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ApiError(f"--body: expected a readable text, found none in {shown_path(path)}.") from error
    if not 0 < len(text) <= MAX_CHARACTERS - 100:
        raise ApiError(f"--body: expected 1 to {MAX_CHARACTERS - 100} characters, found {len(text)}.")
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
