from __future__ import annotations

import json

import pytest

from tests.tools.portfolio.stocked import bench_json
from tools.checkout import CHECKOUT
from tools.portfolio.bench_report import BenchReport

GOLDEN = CHECKOUT / "tests" / "tools" / "bench" / "files_report.golden.json"


def test_a_report_is_read_as_the_bench_writes_it() -> None:
    found = BenchReport.read(GOLDEN.read_text("utf-8"))
    assert found is not None
    assert found.is_slower
    (file,) = found.files
    assert file.name == "E=8,N=7168,device_name=D.json"
    assert file.worst == 1.0
    assert file.fails


def test_the_worst_row_is_told_over_what_runs_without_the_file() -> None:
    found = BenchReport.read(bench_json({"configs/a.json": {"heuristic": (0.8, 1.25, 1.1), "configs": (2.5,)}}))
    assert found is not None
    (file,) = found.files
    assert (file.name, file.worst, file.fails) == ("a.json", 1.25, False)


def test_only_uniform_routing_is_told_as_records_do() -> None:
    found = BenchReport.read(bench_json({"a.json": {"heuristic": (0.8,)}}, routing="skew_1.0"))
    assert found is not None
    assert found.files[0].worst is None


def test_a_row_that_fails_is_told() -> None:
    found = BenchReport.read(bench_json({"a.json": {"heuristic": (0.8, None)}}))
    assert found is not None
    assert found.files[0].fails


def test_what_could_not_be_written_is_told() -> None:
    found = BenchReport.read(bench_json({"a.json": {"heuristic": (0.8,)}}, not_written=["records/a.json: No space"]))
    assert found is not None
    assert found.not_written == ("records/a.json: No space",)


NOTHING_MEASURED = {"name": "a.json", "rows": [{"parts": [{"routing": "uniform", "duels": {}, "measured": {}}]}]}


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{}", '{"files": [{}], "not_written": [], "is_slower": true}', '{"files": [], "is_slower": true}',
     "nonsense", json.dumps({"files": [NOTHING_MEASURED], "not_written": [], "is_slower": True})],
)  # fmt: skip
def test_something_else_is_no_report(text: str) -> None:
    assert BenchReport.read(text) is None
