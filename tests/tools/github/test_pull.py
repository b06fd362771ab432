"""The pull request of a branch of ours: opened once, then updated."""

from __future__ import annotations

from tests.tools.github.fake_api import GitHub
from tools.github.api import Api
from tools.github.pull import open_pull

SHA = "a" * 40


def test_is_opened_into_the_default_branch(api: Api, github: GitHub) -> None:
    assert open_pull(api, "tune/1", "Tune", "evidence") == "#100"
    (pull,) = github.pulls
    assert (pull["head"]["ref"], pull["base"]["ref"]) == ("tune/1", "main")
    assert (pull["title"], pull["body"]) == ("Tune", "evidence")


def test_a_second_run_updates_it(api: Api, github: GitHub) -> None:
    open_pull(api, "tune/1", "Tune", "evidence")
    assert open_pull(api, "tune/1", "Tune again", "better evidence") == "#100"
    assert [pull["title"] for pull in github.pulls] == ["Tune again"]


def test_a_closed_one_stays_closed(api: Api, github: GitHub) -> None:
    github.add_pull(7, SHA, "tune/1", state="closed")
    assert open_pull(api, "tune/1", "Tune", "evidence") == "#101"


def test_a_forks_branch_of_the_same_name_is_not_ours(api: Api, github: GitHub) -> None:
    github.add_pull(7, SHA, "tune/1", "configs/second-fork")
    assert open_pull(api, "tune/1", "Tune", "evidence") == "#101"
    assert "title" not in github.pulls[0]
