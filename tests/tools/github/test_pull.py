"""The pull request of a run is the one that the API confirms: its fork, its branch, open, and not pushed to since."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.tools.github.fake_api import REPOSITORY, GitHub, Trouble
from tools.github.api import Api, ApiError
from tools.github.pull import Refused, lookup, read_event

SHA, NEWER, OLDER = "a" * 40, "b" * 40, "c" * 40
FORK = "somebody/fused-moe"


def run_of(
    repository: Any = FORK, branch: Any = "tuned", head_sha: Any = SHA, event: str = "pull_request"
) -> dict[str, Any]:
    """As GitHub sends it for a fork: its list of pull requests is empty."""
    source = None if repository is None else {"full_name": repository}
    run = {"event": event, "head_sha": head_sha, "head_branch": branch, "head_repository": source}
    return {"workflow_run": {**run, "pull_requests": []}}


def dispatch(number: Any = "7", head_sha: Any = SHA) -> dict[str, Any]:
    return {"inputs": {"number": number, "head_sha": head_sha}}


def refusal(api: Api, event: dict[str, Any]) -> str:
    with pytest.raises(Refused) as error:
        lookup(api, event)
    assert str(error.value).isprintable()
    return str(error.value)


class TestARun:
    def test_of_a_fork(self, api: Api, github: GitHub) -> None:
        github.add_pull(7, SHA, repository=FORK)
        pull = lookup(api, run_of())
        assert (pull.number, pull.head_sha) == (7, SHA)

    def test_of_a_branch_of_our_own(self, api: Api, github: GitHub) -> None:
        github.add_pull(7, SHA)
        assert lookup(api, run_of(REPOSITORY)).number == 7

    def test_forks_with_the_same_branch_name_are_told_apart(self, api: Api, github: GitHub) -> None:
        github.add_pull(6, SHA, repository="another/fused-moe")
        github.add_pull(7, SHA, repository=FORK)
        github.add_pull(8, SHA)
        assert lookup(api, run_of()).number == 7

    def test_an_owners_second_fork_is_another_one(self, api: Api, github: GitHub) -> None:
        github.add_pull(7, SHA, repository="somebody/second-fork")
        assert "somebody:tuned: expected an open pull request into main, found none" in refusal(api, run_of())

    def test_only_pull_requests_into_main_count(self, api: Api, github: GitHub) -> None:
        github.add_pull(6, SHA, repository=FORK, base="release")
        github.add_pull(7, SHA, repository=FORK)
        assert lookup(api, run_of()).number == 7

    def test_closed_ones_of_the_same_branch_do_not_count(self, api: Api, github: GitHub) -> None:
        github.add_pull(5, SHA, repository=FORK, state="closed")
        github.add_pull(7, SHA, repository=FORK)
        assert lookup(api, run_of()).number == 7

    def test_a_closed_one_alone(self, api: Api, github: GitHub) -> None:
        github.add_pull(5, SHA, repository=FORK, state="closed")
        assert "found none" in refusal(api, run_of())

    def test_a_fork_that_is_gone(self, api: Api, github: GitHub) -> None:
        github.add_pull(7, SHA, repository=None)
        assert "found none" in refusal(api, run_of("ghost/gone"))

    def test_a_force_push_since(self, api: Api, github: GitHub) -> None:
        github.add_pull(7, NEWER, repository=FORK)
        told = refusal(api, run_of())
        assert f"pull request 7: expected its head at {SHA}, as in the run, found {NEWER}" in told

    def test_several_that_fit(self, api: Api, github: GitHub) -> None:
        github.add_pull(7, SHA, repository=FORK)
        github.add_pull(8, SHA, repository=FORK)
        assert "expected one open pull request into main, found 2" in refusal(api, run_of())

    def test_a_branch_name_is_data(self, api: Api, github: GitHub) -> None:
        branch = "x&state=closed#\n$(touch canary)"
        github.add_pull(7, SHA, branch, FORK)
        assert lookup(api, run_of(branch=branch)).number == 7
        assert "\\n$(touch canary)" in refusal(api, run_of("nobody/fused-moe", branch))

    def test_finds_it_behind_a_hundred_others(self, api: Api, github: GitHub) -> None:
        for number in range(1, 120):
            github.add_pull(number, SHA, repository=FORK, base="release")
        github.add_pull(200, SHA, repository=FORK)
        assert lookup(api, run_of()).number == 200

    @pytest.mark.parametrize(
        "event",
        [
            run_of(event="push"),
            run_of(repository=None),
            run_of(branch=None),
            run_of(branch=""),
            run_of(head_sha="a" * 39),
            run_of(head_sha=None),
            run_of(repository=7),
        ],
    )
    def test_that_is_no_pull_requests(self, api: Api, github: GitHub, event: dict[str, Any]) -> None:
        assert refusal(api, event).startswith("workflow_run: expected ")
        assert github.requests == []


class TestADispatch:
    @pytest.mark.parametrize("number", ["7", 7])
    def test_with_the_head_that_a_maintainer_looked_at(self, api: Api, github: GitHub, number: Any) -> None:
        github.add_pull(7, SHA, repository=FORK)
        assert lookup(api, dispatch(number)).number == 7

    def test_with_a_head_that_has_moved(self, api: Api, github: GitHub) -> None:
        github.add_pull(7, NEWER, repository=FORK)
        assert f"expected its head at {SHA}, found {NEWER}: it was pushed to since" in refusal(api, dispatch())

    def test_of_a_closed_pull_request(self, api: Api, github: GitHub) -> None:
        github.add_pull(7, SHA, state="closed")
        assert refusal(api, dispatch()) == "pull request 7: expected an open one, found it closed."

    def test_of_none(self, api: Api) -> None:
        with pytest.raises(ApiError, match="GET /pulls/7: expected an answer, found HTTP 404"):
            lookup(api, dispatch())

    @pytest.mark.parametrize(
        "event",
        [dispatch("0"), dispatch("-1"), dispatch("7/../8"), dispatch("7\n"), dispatch(None), dispatch(True)]
        + [dispatch(head_sha=sha) for sha in ("A" * 40, SHA[:7], f"{SHA}\n", None, ["a"])],
    )
    def test_with_inputs_that_are_none(self, api: Api, github: GitHub, event: dict[str, Any]) -> None:
        assert refusal(api, event).startswith("input ")
        assert github.requests == []


@pytest.mark.parametrize("event", [{}, {"workflow_run": None, "inputs": None}, {"pull_request": {"number": 7}}])
def test_an_event_of_another_kind(api: Api, event: dict[str, Any]) -> None:
    with pytest.raises(ApiError, match="expected a workflow_run or a workflow_dispatch, found neither"):
        lookup(api, event)


@pytest.mark.parametrize("text", ["", "[]", "{", '{"a": NaN}'])
def test_an_event_file_that_is_none(tmp_path: Path, text: str) -> None:
    (tmp_path / "event.json").write_text(text)
    with pytest.raises(ApiError, match="--event: expected an event's JSON object"):
        read_event(tmp_path / "event.json")


def test_an_event_file_is_read(tmp_path: Path) -> None:
    (tmp_path / "event.json").write_text(json.dumps(run_of()))
    assert read_event(tmp_path / "event.json") == run_of()
    with pytest.raises(ApiError, match="--event: expected a readable file, found: No such file"):
        read_event(tmp_path / "nowhere.json")


@pytest.mark.parametrize(
    "answer", [b"{}", b'{"number": true, "state": "open", "head": {"sha": "x", "ref": "y", "repo": null}}', b"[]"]
)
def test_a_pull_request_that_is_none(api: Api, github: GitHub, answer: bytes) -> None:
    github.troubles = [Trouble(200, body=answer)]
    with pytest.raises(ApiError, match="pull request: expected "):
        lookup(api, dispatch())
