from __future__ import annotations

import json
import math
import os
from pathlib import Path

import pytest

from tools.errors import UserError
from tools.portfolio.progress import Judged, Line, Outcome, Ratio, append, read_progress

LINE = Line(
    "a.json",
    Outcome.TUNED,
    "2026-11-26",
    "3.8.0",
    "ab" * 32,
    "parts-1",
    seconds=61.2,
    judged=(Judged("vllm", "0.33.0", Ratio(0.9, 1.0, 0.7), Ratio(0.95, 1.01)), Judged("sglang", "0.5.23", None)),
)


def line(name: str, outcome: Outcome = Outcome.TUNED) -> Line:
    return Line(name, outcome, "2026-11-26", "3.8.0", "ab" * 32, "parts-1")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "docs" / "device.jsonl"


def test_what_is_written_is_read(path: Path) -> None:
    append(path, LINE)
    assert read_progress(path) == {"a.json": LINE}


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


@pytest.mark.parametrize("torn", ['{"name": "b.js', "x"])
def test_a_line_that_a_kill_cut_short_is_dropped_and_written_over(path: Path, torn: str) -> None:
    append(path, line("a.json"))
    path.write_text(path.read_text("utf-8") + torn, "utf-8")
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


BAD_LINES = (
    "[]", "{}", "nonsense", '{"name": "a.json", "judged": 1}', '{"outcome": "odd"}', "[" * 100_000,
    changed(name=[]), changed(name=5), changed(reason=7), changed(seconds="x"), changed(seconds=math.nan),
    changed(rank=-1), changed(triton=None),
    changed(judged=[{"engine": "vllm", "version": "1", "heuristic": {"geomean": "x", "worst": 1}, "shipped": None}]),
)  # fmt: skip


@pytest.mark.parametrize("bad", BAD_LINES)
def test_a_line_of_something_else_is_named(path: Path, bad: str) -> None:
    append(path, line("a.json"))
    path.write_text(path.read_text("utf-8") + f"{bad}\n", "utf-8")
    with pytest.raises(UserError, match=r"device\.jsonl, line 2: expected what the portfolio wrote"):
        read_progress(path)


def test_a_pipe_is_not_waited_for(path: Path) -> None:
    path.parent.mkdir()
    os.mkfifo(path)
    with pytest.raises(UserError, match="expected a file, found a device or a pipe"):
        read_progress(path)
