"""What a bench of tuned files tells people and programs, held against a golden text (rewrite it on purpose)."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from kernels.launch_config import LaunchConfig
from kernels.problem import Flavour
from tools.bench.candidates import NO_FILE, THIS_FILE, Judging
from tools.bench.files_report import FileResult, FilesReport, Judge, to_json, to_markdown
from tools.launch.layer_config import LayerConfig
from tools.measure.judgement import FAILED, Duel, MeasuredCandidate, PartVerdict, RowVerdict, Verdict
from tools.measure.panel import Part, Ratio, RoutingKind
from tools.store.record import Environment

MARKDOWN, JSON = (Path(__file__).with_name(f"files_report.golden.{kind}") for kind in ("md", "json"))

OWN, OTHER, THIRD = (LayerConfig.of(LaunchConfig(16, 64, 128, 1, 4, stages)) for stages in (3, 4, 5))
FASTER, SLOWER = Duel.of(Ratio(0.82, 0.835, 0.85, 4)), Duel.of(Ratio(1.01, 1.047, 1.09, 32))


def part(
    own_us: float | None,
    other_us: float | None,
    duel: Duel,
    engine: Flavour = Flavour.VLLM,
    routing: RoutingKind = RoutingKind.UNIFORM,
    why: str = "",
) -> PartVerdict:
    measured = {
        THIS_FILE: MeasuredCandidate(OWN, own_us, "" if own_us else why),
        NO_FILE: MeasuredCandidate(OTHER, other_us, "" if other_us else why),
    }
    return PartVerdict(Part(engine, 0, routing), 40.0, "memory", 8, measured, {NO_FILE: duel})


WINS = RowVerdict(1, (part(101.0, 121.0, FASTER), part(100.0, 100.0, Duel.of(Ratio(1.0, 1.0, 1.0, 4)), Flavour.SGLANG)))
LOSES = RowVerdict(
    64,
    (
        part(101.0, 121.0, FASTER),
        part(101.0, 96.5, SLOWER, routing=RoutingKind.SKEW_03),
        part(
            101.0, None, FAILED, Flavour.SGLANG, why="compile: out of resource | shared memory,\n147456 needed, limit 1"
        ),
    ),
)
FAILS = RowVerdict(128, (part(None, 101.0, FAILED, why="AssertionError: wrong"),))


def bench(*files: FileResult) -> FilesReport:
    environment = Environment("D", "9.0", 132, "580.1", "13.0", "2.13.0", "3.8.0", "3.12.3")
    return FilesReport(environment, "2026-11-24", Judging(series=2), "0123456789abcdef" * 4, None, files)


def report(*rows: RowVerdict, notes: tuple[str, ...] = ()) -> FilesReport:
    file = FileResult("E=8,N=7168,device_name=D.json", ("K=4096, top_k=2",), (THIS_FILE, NO_FILE), rows, notes)
    return bench(file)


FULL = report(WINS, LOSES, FAILS, notes=("assumed K=4096, top_k=2: neither record nor registry gives them",))


def test_markdown_is_the_golden_text() -> None:
    assert to_markdown(FULL) == MARKDOWN.read_text("utf-8")


def test_json_is_the_golden_text() -> None:
    assert to_json(FULL) == JSON.read_text("utf-8")


def test_an_engines_kernel_is_told_by_its_version() -> None:
    environment = json.loads(to_json(replace(FULL, judge=Judge(Flavour.SGLANG, "0.5.23"))))["environment"]
    assert (environment["kernel"], environment["engine"]) == ("SGLang 0.5.23's own", "SGLang 0.5.23")


def test_a_driver_that_cannot_be_read_is_unknown() -> None:
    where = replace(FULL, environment=replace(FULL.environment, driver=None))
    assert "\n- driver: unknown\n" in to_markdown(where)


def test_every_row_of_a_table_has_its_headers_cells() -> None:
    tables = to_markdown(FULL).split("\n\n")
    rows = [[line.replace(r"\|", "").count("|") for line in text.splitlines()] for text in tables if text[0] == "|"]
    assert [(len(counts), set(counts)) for counts in rows] == [(2 + 3, {11}), (2 + 6, {10})]


@pytest.mark.parametrize(
    ("row", "is_slower"), [(WINS, False), (LOSES, True), (FAILS, True)], ids=["wins", "loses", "fails"]
)
def test_a_lost_row_or_one_that_fails_is_slower(row: RowVerdict, is_slower: bool) -> None:
    assert report(WINS, row).is_slower is is_slower
    assert json.loads(to_json(report(WINS, row)))["is_slower"] is is_slower


def test_a_candidate_that_fails_is_none_of_the_files_fault() -> None:
    only = report(RowVerdict(1, (part(100.0, None, FAILED),)))
    assert not only.is_slower
    assert "failed" in to_markdown(only)
    assert json.loads(to_json(only))["files"][0]["summary"] == []


def test_several_shapes_are_told_apart() -> None:
    other = replace(part(100.0, 90.0, SLOWER), part=Part(Flavour.VLLM, 1, RoutingKind.UNIFORM))
    row = RowVerdict(1, (part(100.0, 121.0, FASTER), other))
    file = FileResult("a.json", ("K=1, top_k=1", "K=2, top_k=1"), (THIS_FILE, NO_FILE), (row,))
    text = to_markdown(bench(file))
    assert "| vLLM | uniform, shape 1 |" in text
    assert "| vLLM | uniform, shape 2 |" in text


def test_a_name_cannot_break_the_table() -> None:
    names = (THIS_FILE, "a | b\nc")
    measured = dict.fromkeys(names, MeasuredCandidate(OWN, 100.0))
    verdict = PartVerdict(WINS.parts[0].part, 1.0, "memory", 8, measured, {names[1]: Duel(None, Verdict.SAME)})
    lines = to_markdown(bench(FileResult("a.json", (), names, (RowVerdict(1, (verdict,)),)))).splitlines()
    header = next(line for line in lines if line.startswith("| M "))
    assert header == r"| M | engine | routing | this file µs | of floor | a \| b c µs | ratio | this file is | blocks |"


def test_several_files_come_in_order() -> None:
    files = tuple(FileResult(name, (), (THIS_FILE,), ()) for name in ("b.json", "triton_3_7_0/a.json"))
    headings = [line for line in to_markdown(bench(*files)).splitlines() if line.startswith("## ")]
    assert headings == ["## b.json", "## triton_3_7_0/a.json"]


def test_a_down_entry_of_its_own_is_in_the_json() -> None:
    mixed = LayerConfig(OWN.up, OTHER.down)
    one = part(101.0, 121.0, FASTER)
    row = RowVerdict(1, (replace(one, measured={**one.measured, THIS_FILE: MeasuredCandidate(mixed, 101.0)}),))
    measured = json.loads(to_json(report(row)))["files"][0]["rows"][0]["parts"][0]["measured"]
    assert measured[THIS_FILE]["config"] == OWN.up.to_entry()
    assert measured[THIS_FILE]["down"] == OTHER.down.to_entry()
    assert "down" not in measured[NO_FILE]
