"""One comment a pull request: written once, then edited, never somebody else's, never for a commit that is past."""

from __future__ import annotations

import pytest

from tests.tools.github.fake_api import GitHub
from tools.github.api import Api
from tools.github.comment import comment
from tools.github.pull import Refused

MARK = "<!-- fused-moe-configs: tune -->"
SHA, NEWER = "a" * 40, "b" * 40


@pytest.fixture(autouse=True)
def pull(github: GitHub) -> None:
    github.add_pull(7, SHA)


def bodies(github: GitHub) -> list[str]:
    return [comment["body"] for comment in github.comments]


def test_the_first_report_is_a_new_comment(api: Api, github: GitHub) -> None:
    github.add_comment("a person's word", "person")
    assert comment(api, 7, SHA, "report") == "#c2"
    assert bodies(github) == ["a person's word", f"{MARK}\nreport"]


def test_every_later_one_edits_it(api: Api, github: GitHub) -> None:
    comment(api, 7, SHA, "first")
    assert comment(api, 7, SHA, "second") == "#c1"
    assert bodies(github) == [f"{MARK}\nsecond"]


def test_finds_it_behind_a_hundred_others(api: Api, github: GitHub) -> None:
    for _ in range(130):
        github.add_comment("talk", "person")
    comment(api, 7, SHA, "first")
    comment(api, 7, SHA, "second")
    assert bodies(github)[130:] == [f"{MARK}\nsecond"]


def test_a_marker_in_somebody_elses_comment_is_not_ours(api: Api, github: GitHub) -> None:
    github.add_comment(f"{MARK}\nI approve", "person")
    github.add_comment(f"> {MARK}\n quoted by the bot")
    comment(api, 7, SHA, "report")
    assert bodies(github)[:2] == [f"{MARK}\nI approve", f"> {MARK}\n quoted by the bot"]
    assert bodies(github)[2] == f"{MARK}\nreport"


@pytest.mark.parametrize("field", [{"user": None}, {"body": None}])
def test_a_comment_of_a_deleted_user(api: Api, github: GitHub, field: dict[str, None]) -> None:
    github.add_comment(f"{MARK}\nold")
    github.comments[0].update(field)
    comment(api, 7, SHA, "report")
    assert len(github.comments) == 2


def test_nothing_is_written_once_the_head_has_moved_on(api: Api, github: GitHub) -> None:
    github.pulls[0]["head"]["sha"] = NEWER
    with pytest.raises(Refused, match=f"pull request 7: expected its head at {SHA}, found {NEWER}"):
        comment(api, 7, SHA, "report")
    assert github.comments == []
    assert {method for method, _ in github.requests} == {"GET"}


def test_nothing_is_written_on_a_closed_pull_request(api: Api, github: GitHub) -> None:
    github.pulls[0]["state"] = "closed"
    with pytest.raises(Refused, match="expected an open one, found it closed"):
        comment(api, 7, SHA, "report")
    assert github.comments == []
