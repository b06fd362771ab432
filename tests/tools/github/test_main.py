"""The command line: exit codes, what goes to $GITHUB_OUTPUT, one line for what went wrong."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.tools.github.fake_api import GitHub, Trouble
from tools.github.__main__ import main
from tools.github.pull import Refused

SHA = "a" * 40


@pytest.fixture(autouse=True)
def environment(github: GitHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {**github.environment, "GITHUB_OUTPUT": str(tmp_path / "output")}.items():
        monkeypatch.setenv(name, value)
    github.add_pull(7, SHA)


@pytest.fixture
def body(tmp_path: Path) -> str:
    (tmp_path / "body.md").write_text("# Report\n", "utf-8")
    return str(tmp_path / "body.md")


def event(tmp_path: Path, number: str = "7") -> str:
    path = tmp_path / "event.json"
    path.write_text(json.dumps({"inputs": {"number": number, "head_sha": SHA}}), "utf-8")
    return str(path)


def test_lookup_hands_number_and_commit_on(tmp_path: Path) -> None:
    (tmp_path / "output").write_text("earlier=1\n")
    assert main(["lookup", "--event", event(tmp_path)]) == 0
    assert (tmp_path / "output").read_text() == f"earlier=1\nnumber=7\nhead_sha={SHA}\n"


def test_a_refusal_is_exit_1_and_hands_nothing_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["lookup", "--event", event(tmp_path, "7; reboot")]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("github: input number: expected")
    assert not (tmp_path / "output").exists()


def test_no_answer_is_exit_2(tmp_path: Path, github: GitHub, capsys: pytest.CaptureFixture[str]) -> None:
    github.troubles = [Trouble(401)]
    assert main(["lookup", "--event", event(tmp_path)]) == 2
    assert capsys.readouterr().err.startswith("github: GET /pulls/7: expected an answer, found HTTP 401")


def test_comment_issue_and_pull_print_where_they_are(
    github: GitHub, body: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["comment", "--number", "7", "--head-sha", SHA, "--body", body]) == 0
    assert main(["issue", "--marker", "drift", "--title", "Drifted", "--body", body]) == 0
    assert main(["pull", "--branch", "tune/1", "--title", "Tune", "--body", body]) == 0
    assert capsys.readouterr().out.split() == ["#c1", "#i1", "#101"]
    assert github.comments[0]["body"].endswith("-->\n# Report")


def test_a_head_that_moved_on_is_exit_1(body: str) -> None:
    assert main(["comment", "--number", "7", "--head-sha", "b" * 40, "--body", body]) == 1


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--number", "7", "--head-sha", "main"], "expected a pull request and 40 hex digits"),
        (["--number", "0", "--head-sha", SHA], "expected a pull request and 40 hex digits"),
    ],
)
def test_bad_use(body: str, capsys: pytest.CaptureFixture[str], arguments: list[str], told: str) -> None:
    assert main(["comment", *arguments, "--body", body]) == 2
    assert told in capsys.readouterr().err


@pytest.mark.parametrize("text", [b"", b" \n", b"x" * 70_000, b"\xff"])
def test_a_body_that_github_would_not_take(tmp_path: Path, capsys: pytest.CaptureFixture[str], text: bytes) -> None:
    (tmp_path / "body.md").write_bytes(text)
    assert main(["issue", "--marker", "drift", "--title", "T", "--body", str(tmp_path / "body.md")]) == 2
    assert "--body: expected" in capsys.readouterr().err


@pytest.mark.parametrize(("made", "told"), [(None, "changed=false\ncommit=\n"), (SHA, f"changed=true\ncommit={SHA}\n")])
def test_commit_says_whether_anything_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, made: str | None, told: str
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("tools.github.__main__.commit", lambda *arguments: made)
    assert main(["commit", "--message", "Tune", "--bundle", "change.bundle", "configs"]) == 0
    assert (tmp_path / "output").read_text() == told


def test_a_commit_that_is_not_pushed_is_exit_1(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(*_arguments: object) -> None:
        raise Refused("README.md: expected changes below configs/ only.")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("tools.github.__main__.push", refuse)
    named = ["--bundle", "change.bundle", "--commit", SHA, "--parent", SHA, "--branch", "tune/1"]
    assert main(["push", *named, "configs/"]) == 1
    assert capsys.readouterr().err == "github: README.md: expected changes below configs/ only.\n"
