"""The client over a real connection: one line for whatever GitHub answers, and the token goes nowhere else."""

from __future__ import annotations

import socket
from dataclasses import replace
from types import SimpleNamespace

import pytest

from tests.tools.github.fake_api import REPOSITORY, TOKEN, GitHub, Trouble
from tools.github import api as client
from tools.github.api import Api, ApiError

GOOD = {"GITHUB_API_URL": "https://api.example.org/", "GITHUB_TOKEN": TOKEN, "GITHUB_REPOSITORY": REPOSITORY}


def test_takes_its_address_token_and_repository_from_the_environment() -> None:
    api = Api.from_environment(GOOD)
    assert (api.base, api.token, api.repository, api.owner) == ("https://api.example.org", TOKEN, REPOSITORY, "configs")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("GITHUB_API_URL", "http://api.example.org"),
        ("GITHUB_API_URL", "file:///etc/passwd"),
        ("GITHUB_API_URL", "http://127.0.0.1.example.org"),
        ("GITHUB_TOKEN", ""),
        ("GITHUB_TOKEN", "two\r\nlines"),
        ("GITHUB_REPOSITORY", ""),
        ("GITHUB_REPOSITORY", "owner/name/../other"),
    ],
)
def test_an_environment_that_will_not_do(name: str, value: str) -> None:
    with pytest.raises(ApiError, match=f"^{name}: expected ") as error:
        Api.from_environment({**GOOD, name: value})
    assert str(error.value).isprintable()
    assert not value or name != "GITHUB_TOKEN" or value not in str(error.value)


def test_asks_with_the_token(api: Api, github: GitHub) -> None:
    assert api.get("")["default_branch"] == "main"
    assert github.tokens == {f"Bearer {TOKEN}"}


@pytest.mark.parametrize(("count", "pages"), [(0, 1), (99, 1), (100, 2), (250, 3)])
def test_reads_every_page(api: Api, github: GitHub, count: int, pages: int) -> None:
    for _ in range(count):
        github.add_comment("hello")
    assert len(list(api.pages("/issues/1/comments"))) == count
    assert len(github.requests) == pages


def test_a_list_without_an_end_is_given_up(api: Api, github: GitHub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "MAX_PAGES", 2)
    for _ in range(201):
        github.add_comment("hello")
    with pytest.raises(ApiError, match="expected at most 200 items, found more"):
        list(api.pages("/issues/1/comments"))


def test_a_server_that_is_ill_for_a_moment_is_asked_again(api: Api, github: GitHub) -> None:
    github.troubles = [Trouble(502), Trouble(503)]
    assert api.get("")["default_branch"] == "main"


def test_what_is_written_is_never_written_twice(api: Api, github: GitHub) -> None:
    github.troubles = [Trouble(502)]
    with pytest.raises(ApiError, match="POST /issues/1/comments: expected an answer, found HTTP 502"):
        api.send("POST", "/issues/1/comments", {"body": "hello"})
    assert len(github.requests) == 1


@pytest.mark.parametrize(
    ("trouble", "told"),
    [
        (Trouble(500), r"found HTTP 500 \(so it is\)"),
        (Trouble(401), r"found HTTP 401 \(so it is\). Fix: is the token valid\?"),
        (Trouble(403), r"found HTTP 403 \(so it is\). Fix: which permission does the job lack\?"),
        (Trouble(404), r"found HTTP 404"),
        (Trouble(422, body=b"<html>\n\x1b[31mno</html>"), r"found HTTP 422 \(Unprocessable"),
        (Trouble(403, {"Retry-After": "60"}), r"found GitHub's rate limit. Fix: try again in 60 s"),
        (Trouble(429), r"found GitHub's rate limit. Fix: try again later"),
        (Trouble(429, {"Retry-After": "soon"}), r"found GitHub's rate limit. Fix: try again later"),
        (Trouble(200, body=b"<html>"), r"expected JSON, found line 1"),
        (Trouble(200, body=b'{"number": NaN}'), r"expected JSON, found NaN"),
        (Trouble(200, body=b'{"message": "\\n::error::"}'), r"expected a list, found dict"),
        (Trouble(301, {"Location": "/elsewhere"}), r"found HTTP 301"),
    ],
)
def test_everything_else_is_one_line(api: Api, github: GitHub, trouble: Trouble, told: str) -> None:
    github.troubles = [trouble] * client.ATTEMPTS
    with pytest.raises(ApiError, match=told) as error:
        list(api.pages("/pulls"))
    assert str(error.value).isprintable()


def test_a_rate_limit_says_when_it_ends(api: Api, github: GitHub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "time", SimpleNamespace(time=lambda: 1_800_000_000.5))
    github.troubles = [Trouble(403, {"X-RateLimit-Remaining": "0", "X-RateLimit-Reset": "1800000100"})]
    with pytest.raises(ApiError, match=r"try again in 100 s"):
        api.get("")


def test_the_token_does_not_follow_a_redirect(api: Api, github: GitHub) -> None:
    github.troubles = [Trouble(302, {"Location": f"{github.url}/repos/{REPOSITORY}/pulls"})]
    with pytest.raises(ApiError, match="found HTTP 302"):
        api.get("/moved")
    assert github.requests == [("GET", "/moved")]


def test_too_long_an_answer_is_not_read(api: Api, github: GitHub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "MAX_BYTES", 100)
    github.troubles = [Trouble(200, body=b"[" + b" " * 1000 + b"]")]
    with pytest.raises(ApiError, match="found too much of it"):
        api.get("")


def test_nobody_there(api: Api) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        nobody = replace(api, base=f"http://127.0.0.1:{free.getsockname()[1]}")
        with pytest.raises(ApiError, match=r"expected an answer, found: .*refused"):
            nobody.get("")


def test_a_server_that_never_answers(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "TIMEOUT_S", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as mute:
        silent = replace(api, base=f"http://127.0.0.1:{mute.getsockname()[1]}")
        with pytest.raises(ApiError, match="expected an answer, found: timed out"):
            silent.get("")
