"""One comment a pull request and one open issue a kind: written once, then edited, never somebody else's."""

from __future__ import annotations

import pytest

from tests.tools.github.fake_api import GitHub
from tools.github.api import Api, ApiError
from tools.github.posts import comment, issue, open_pull
from tools.github.pull import Refused

MARK = "<!-- fused-moe-configs: tune -->"
DRIFT_MARK = "<!-- fused-moe-configs: drift -->"
SHA, NEWER = "a" * 40, "b" * 40


def bodies(github: GitHub) -> list[str]:
    return [comment["body"] for comment in github.comments]


class TestComment:
    """On a pull request that is open at the commit."""

    @pytest.fixture(autouse=True)
    def pull(self, github: GitHub) -> None:
        github.add_pull(7, SHA)

    def test_the_first_report_is_a_new_comment(self, api: Api, github: GitHub) -> None:
        github.add_comment("a person's word", "person")
        assert comment(api, 7, SHA, "report") == "#c2"
        assert bodies(github) == ["a person's word", f"{MARK}\nreport"]

    def test_every_later_one_edits_it(self, api: Api, github: GitHub) -> None:
        comment(api, 7, SHA, "first")
        assert comment(api, 7, SHA, "second") == "#c1"
        assert bodies(github) == [f"{MARK}\nsecond"]

    def test_finds_it_behind_a_hundred_others(self, api: Api, github: GitHub) -> None:
        for _ in range(130):
            github.add_comment("talk", "person")
        comment(api, 7, SHA, "first")
        comment(api, 7, SHA, "second")
        assert bodies(github)[130:] == [f"{MARK}\nsecond"]

    def test_a_marker_in_somebody_elses_comment_is_not_ours(self, api: Api, github: GitHub) -> None:
        github.add_comment(f"{MARK}\nI approve", "person")
        github.add_comment(f"> {MARK}\n quoted by the bot")
        comment(api, 7, SHA, "report")
        assert bodies(github)[:2] == [f"{MARK}\nI approve", f"> {MARK}\n quoted by the bot"]
        assert bodies(github)[2] == f"{MARK}\nreport"

    @pytest.mark.parametrize("field", [{"user": None}, {"body": None}])
    def test_a_comment_of_a_deleted_user(self, api: Api, github: GitHub, field: dict[str, None]) -> None:
        github.add_comment(f"{MARK}\nold")
        github.comments[0].update(field)
        comment(api, 7, SHA, "report")
        assert len(github.comments) == 2

    def test_nothing_is_written_once_the_head_has_moved_on(self, api: Api, github: GitHub) -> None:
        github.pulls[0]["head"]["sha"] = NEWER
        with pytest.raises(Refused, match=r"^pull request 7: "):
            comment(api, 7, SHA, "report")
        assert github.comments == []
        assert {method for method, _ in github.requests} == {"GET"}

    def test_nothing_is_written_on_a_closed_pull_request(self, api: Api, github: GitHub) -> None:
        github.pulls[0]["state"] = "closed"
        with pytest.raises(Refused, match=r"^pull request 7: "):
            comment(api, 7, SHA, "report")
        assert github.comments == []


class TestIssue:
    """One open issue of a kind."""

    def test_is_opened_once_and_then_updated(self, api: Api, github: GitHub) -> None:
        assert issue(api, "drift", "Drifted", "one file") == "#i1"
        assert issue(api, "drift", "Drifted more", "two files") == "#i1"
        (only,) = github.issues
        assert (only["title"], only["body"]) == ("Drifted more", f"{DRIFT_MARK}\ntwo files")

    @pytest.mark.parametrize(
        "other",
        [
            {"body": f"{DRIFT_MARK}\nold", "state": "closed"},
            {"body": f"{DRIFT_MARK}\nold", "author": "person"},
            {"body": f"{DRIFT_MARK}\nold", "pull_request": {}},
            {"body": "<!-- fused-moe-configs: canary -->\nold"},
            {"body": "talk"},
        ],
        ids=["closed", "a person's", "a pull request", "another kind", "something else"],
    )
    def test_leaves_every_other_issue_alone(self, api: Api, github: GitHub, other: dict[str, str]) -> None:
        github.add_issue(**other)  # type: ignore[arg-type]
        assert issue(api, "drift", "Drifted", "now") == "#i2"
        assert github.issues[0]["body"] == other["body"]

    @pytest.mark.parametrize("name", ["", "Drift", "a b", "-->", "x" * 50])
    def test_a_marker_is_a_word(self, api: Api, github: GitHub, name: str) -> None:
        with pytest.raises(ApiError, match="--marker: expected lower-case letters"):
            issue(api, name, "Drifted", "now")
        assert github.requests == []

    @pytest.mark.parametrize("title", ["", "  ", "two\nlines", "x" * 300])
    def test_a_title_is_one_line(self, api: Api, github: GitHub, title: str) -> None:
        with pytest.raises(ApiError, match="--title: expected one line"):
            issue(api, "drift", title, "now")
        assert github.requests == []


class TestPull:
    """The pull request of a branch of ours: opened once, then updated."""

    def test_is_opened_into_the_default_branch(self, api: Api, github: GitHub) -> None:
        assert open_pull(api, "tune/1", "Tune", "evidence") == "#100"
        (pull,) = github.pulls
        assert (pull["head"]["ref"], pull["base"]["ref"]) == ("tune/1", "main")
        assert (pull["title"], pull["body"]) == ("Tune", "evidence")

    def test_a_second_run_updates_it(self, api: Api, github: GitHub) -> None:
        open_pull(api, "tune/1", "Tune", "evidence")
        assert open_pull(api, "tune/1", "Tune again", "better evidence") == "#100"
        assert [pull["title"] for pull in github.pulls] == ["Tune again"]

    def test_a_closed_one_stays_closed(self, api: Api, github: GitHub) -> None:
        github.add_pull(7, SHA, "tune/1", state="closed")
        assert open_pull(api, "tune/1", "Tune", "evidence") == "#101"

    def test_a_forks_branch_of_the_same_name_is_not_ours(self, api: Api, github: GitHub) -> None:
        github.add_pull(7, SHA, "tune/1", "configs/second-fork")
        assert open_pull(api, "tune/1", "Tune", "evidence") == "#101"
        assert "title" not in github.pulls[0]
