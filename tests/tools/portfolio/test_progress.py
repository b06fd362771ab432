from __future__ import annotations

import dataclasses
import errno
import fcntl
import json
import math
import os
from pathlib import Path

import pytest

from tools.errors import UserError
from tools.portfolio.progress import Outcome, ProgressLine, Step, append, read_progress

LINE = ProgressLine(
    "a.json",
    Outcome.TUNED,
    "2026-11-26",
    seconds=61.2,
    steps=(Step("vllm", 1, 5.0), Step(None, 0, 40.0, "said"), Step("vllm", 0, 6.5)),
)


def line(name: str, outcome: Outcome = Outcome.TUNED) -> ProgressLine:
    return ProgressLine(name, outcome, "2026-11-26")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "docs" / "device.jsonl"


def test_what_is_written_is_read(path: Path) -> None:
    append(path, LINE)
    assert read_progress(path) == {"a.json": LINE}


@pytest.mark.parametrize("mark", ["\u2028", "\u0085", "\x0b"])
def test_what_ends_a_line_in_other_texts_ends_none_here(path: Path, mark: str) -> None:
    lines = [dataclasses.replace(line(name), reason=f"said{mark}so") for name in ("a.json", "b.json")]
    for each in lines:
        append(path, each)
    assert list(read_progress(path).values()) == lines


def test_a_reason_may_hold_what_no_encoding_has(path: Path) -> None:
    """A path of a file system that isn't UTF-8."""
    said = dataclasses.replace(line("a.json", Outcome.FAILED), reason="/engines\udce9/x: gone")
    append(path, said)
    assert read_progress(path) == {"a.json": said}


def test_without_locks_it_is_written_all_the_same(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    append(path, LINE)
    assert read_progress(path) == {"a.json": LINE}


def test_seconds_are_told_of_tuning_and_of_each_engines_judgement() -> None:
    assert [LINE.seconds_of(engine) for engine in (None, "vllm", "sglang")] == [40.0, 11.5, None]


def test_the_last_line_of_a_name_counts(path: Path) -> None:
    for each in (line("a.json", Outcome.FAILED), line("b.json"), line("a.json")):
        append(path, each)
    assert {name: found.outcome for name, found in read_progress(path).items()} == {
        "a.json": Outcome.TUNED,
        "b.json": Outcome.TUNED,
    }
    assert len(path.read_text("utf-8").splitlines()) == 3


def test_without_a_file_nothing_is_known(path: Path) -> None:
    assert read_progress(path) == {}


@pytest.mark.parametrize("torn", [b'{"name": "b.js', b"x", "…".encode()[:1]], ids=["name", "text", "character"])
def test_a_line_that_a_kill_cut_short_is_dropped_and_written_over(path: Path, torn: bytes) -> None:
    append(path, line("a.json"))
    path.write_bytes(path.read_bytes() + torn)
    assert list(read_progress(path)) == ["a.json"]
    append(path, line("c.json"))
    assert list(read_progress(path)) == ["a.json", "c.json"]


def test_a_first_line_that_a_kill_cut_short_leaves_an_empty_file(path: Path) -> None:
    path.parent.mkdir()
    path.write_text('{"name"', "utf-8")
    append(path, line("a.json"))
    assert list(read_progress(path)) == ["a.json"]


def changed(**fields: object) -> str:
    return json.dumps(line("b.json").to_json() | fields)


def step(**fields: object) -> list[dict[str, object]]:
    return [{"engine": None, "code": 0, "seconds": 1.0, "said": ""} | fields]


BAD_LINES = (
    "\udcff", "[]", "{}", "nonsense", '{"name": "a.json", "steps": 1}', '{"outcome": "odd"}', "[" * 100_000,
    changed(name=[]), changed(name=5), changed(reason=7), changed(seconds="x"), changed(seconds=math.nan),
    changed(rank=-1), changed(steps=step(seconds="x")), changed(steps=step(seconds=-1)), changed(steps=step(engine=5)),
    changed(steps=step(said=None)),
)  # fmt: skip


@pytest.mark.parametrize("bad", BAD_LINES)
def test_a_line_of_something_else_is_named(path: Path, bad: str) -> None:
    append(path, line("a.json"))
    path.write_bytes(path.read_bytes() + os.fsencode(f"{bad}\n"))
    with pytest.raises(UserError, match=r"device\.jsonl, line 2: expected what the portfolio wrote"):
        read_progress(path)


def test_a_pipe_is_not_waited_for(path: Path) -> None:
    path.parent.mkdir()
    os.mkfifo(path)
    with pytest.raises(UserError, match="expected a file, found a device or a pipe"):
        read_progress(path)
