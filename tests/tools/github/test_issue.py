"""One open issue of a kind."""

from __future__ import annotations

import pytest

from tests.tools.github.fake_api import GitHub
from tools.github.api import Api, ApiError
from tools.github.issue import issue

MARK = "<!-- fused-moe-configs: drift -->"


def test_is_opened_once_and_then_updated(api: Api, github: GitHub) -> None:
    assert issue(api, "drift", "Drifted", "one file") == "#i1"
    assert issue(api, "drift", "Drifted more", "two files") == "#i1"
    (only,) = github.issues
    assert (only["title"], only["body"]) == ("Drifted more", f"{MARK}\ntwo files")


@pytest.mark.parametrize(
    "other",
    [
        {"body": f"{MARK}\nold", "state": "closed"},
        {"body": f"{MARK}\nold", "author": "person"},
        {"body": f"{MARK}\nold", "pull_request": {}},
        {"body": "<!-- fused-moe-configs: canary -->\nold"},
        {"body": "talk"},
    ],
    ids=["closed", "a person's", "a pull request", "another kind", "something else"],
)
def test_leaves_every_other_issue_alone(api: Api, github: GitHub, other: dict[str, str]) -> None:
    github.add_issue(**other)  # type: ignore[arg-type]
    assert issue(api, "drift", "Drifted", "now") == "#i2"
    assert github.issues[0]["body"] == other["body"]


@pytest.mark.parametrize("name", ["", "Drift", "a b", "-->", "x" * 50])
def test_a_marker_is_a_word(api: Api, github: GitHub, name: str) -> None:
    with pytest.raises(ApiError, match="--marker: expected lower-case letters"):
        issue(api, name, "Drifted", "now")
    assert github.requests == []


@pytest.mark.parametrize("title", ["", "  ", "two\nlines", "x" * 300])
def test_a_title_is_one_line(api: Api, github: GitHub, title: str) -> None:
    with pytest.raises(ApiError, match="--title: expected one line"):
        issue(api, "drift", title, "now")
    assert github.requests == []
