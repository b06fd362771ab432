"""What a bench of tuned files tells people and programs, held against a golden text (rewrite it on purpose)."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from kernels.launch_config import LaunchConfig
from kernels.problem import Flavour
from tools.bench.candidates import NO_FILE, SGLANG_NO_FILE, THIS_FILE
from tools.bench.files_report import FileResult, FilesReport, Judge, to_json, to_markdown
from tools.measure.statistics import FAILED, SAME_ENTRY, Duel, Interval, Measured, RowVerdict, Verdict, duel
from tools.store.record import Environment

MARKDOWN, JSON = (Path(__file__).with_name(f"files_report.golden.{kind}") for kind in ("md", "json"))

OWN, OTHER, THIRD = (LaunchConfig(16, 64, 128, 1, 4, stages) for stages in (3, 4, 5))
OWN_US, FASTER_US, SLOWER_US = ([us + i % 3 for i in range(16)] for us in (100.0, 80.0, 120.0))


def of(config: LaunchConfig, us: list[float]) -> Measured:
    return Measured(config, Interval.of(us))


WINS = RowVerdict(
    1,
    40.0,
    "memory",
    {THIS_FILE: of(OWN, OWN_US), NO_FILE: of(OTHER, SLOWER_US), SGLANG_NO_FILE: of(OWN, OWN_US)},
    {NO_FILE: duel(OWN_US, SLOWER_US), SGLANG_NO_FILE: SAME_ENTRY},
)
LOSES = RowVerdict(
    64,
    90.0,
    "compute",
    {
        THIS_FILE: of(OWN, OWN_US),
        NO_FILE: of(OTHER, FASTER_US),
        SGLANG_NO_FILE: Measured(
            THIRD, None, "compile: out of resource | shared memory,\n147456 needed, hardware limit 1"
        ),
    },
    {NO_FILE: duel(OWN_US, FASTER_US), SGLANG_NO_FILE: FAILED},
)
FAILS = RowVerdict(
    128,
    90.0,
    "compute",
    {
        THIS_FILE: Measured(OWN, None, "AssertionError: wrong"),
        NO_FILE: of(OTHER, OWN_US),
        SGLANG_NO_FILE: of(THIRD, OWN_US),
    },
    {NO_FILE: FAILED, SGLANG_NO_FILE: FAILED},
)


def bench(*files: FileResult) -> FilesReport:
    environment = Environment("D", "9.0", 132, "580.1", "13.0", "2.13.0", "3.8.0", "3.12.3")
    return FilesReport(environment, "2026-11-24", "uniform", "0123456789abcdef" * 4, None, files)


def report(*rows: RowVerdict, notes: tuple[str, ...] = ()) -> FilesReport:
    file = FileResult(
        "E=8,N=7168,device_name=D.json", ("K=4096, top_k=2",), (THIS_FILE, NO_FILE, SGLANG_NO_FILE), rows, notes
    )
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


def test_every_row_of_the_table_has_the_headers_cells() -> None:
    rows = [line for line in to_markdown(FULL).splitlines() if line.startswith("|")]
    assert {line.replace(r"\|", "").count("|") for line in rows} == {10}
    assert len(rows) == 2 + 3


@pytest.mark.parametrize(
    ("row", "is_slower"), [(WINS, False), (LOSES, True), (FAILS, True)], ids=["wins", "loses", "fails"]
)
def test_a_lost_row_or_one_that_fails_is_slower(row: RowVerdict, is_slower: bool) -> None:
    assert report(WINS, row).is_slower is is_slower
    assert json.loads(to_json(report(WINS, row)))["is_slower"] is is_slower


def test_a_candidate_that_fails_is_none_of_the_files_fault() -> None:
    only = RowVerdict(1, 1.0, "memory", {THIS_FILE: of(OWN, OWN_US), NO_FILE: Measured(OTHER, None)}, {NO_FILE: FAILED})
    file = FileResult("a.json", (), (THIS_FILE, NO_FILE), (only,))
    assert not bench(file).is_slower
    assert "failed" in to_markdown(bench(file))
    assert json.loads(to_json(bench(file)))["files"][0]["against"] == {}


def test_a_name_cannot_break_the_table() -> None:
    names = (THIS_FILE, "a | b\nc")
    row = RowVerdict(1, 1.0, "memory", dict.fromkeys(names, of(OWN, OWN_US)), {names[1]: Duel(None, Verdict.SAME)})
    lines = to_markdown(bench(FileResult("a.json", (), names, (row,)))).splitlines()
    assert (
        next(line for line in lines if line.startswith("| M "))
        == r"| M | this file µs | of floor | a \| b c µs | ratio | verdict |"
    )


def test_several_files_come_in_order() -> None:
    files = tuple(FileResult(name, (), (THIS_FILE,), ()) for name in ("b.json", "triton_3_7_0/a.json"))
    headings = [line for line in to_markdown(bench(*files)).splitlines() if line.startswith("## ")]
    assert headings == ["## b.json", "## triton_3_7_0/a.json"]
