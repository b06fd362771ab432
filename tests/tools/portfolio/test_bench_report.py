from __future__ import annotations

import pytest

from tests.tools.portfolio.stocked import bench_json
from tools.checkout import CHECKOUT
from tools.portfolio.bench_report import BenchReport
from tools.portfolio.progress import Ratio

GOLDEN = CHECKOUT / "tests" / "tools" / "bench" / "files_report.golden.json"


def test_a_report_is_read_as_the_bench_writes_it() -> None:
    found = BenchReport.read(GOLDEN.read_text("utf-8"))
    assert found is not None
    assert found.is_slower
    (file,) = found.files
    assert file.name == "E=8,N=7168,device_name=D.json"
    assert file.heuristic is not None
    assert file.heuristic.best == 0.835
    assert file.fails


def test_ratios_are_geometric_mean_worst_and_best_of_the_rows() -> None:
    found = BenchReport.read(bench_json({"configs/a.json": {"heuristic": (0.8, 1.25), "configs": (0.5,)}}))
    assert found is not None
    (file,) = found.files
    assert (file.name, file.fails) == ("a.json", False)
    assert file.heuristic == Ratio(1.0, 1.25, 0.8)
    assert file.shipped == Ratio(0.5, 0.5, 0.5)


def test_only_uniform_routing_is_told_as_records_do() -> None:
    found = BenchReport.read(bench_json({"a.json": {"heuristic": (0.8,)}}, routing="skew_1.0"))
    assert found is not None
    assert found.files[0].heuristic is None


def test_a_row_that_fails_is_told() -> None:
    found = BenchReport.read(bench_json({"a.json": {"heuristic": (0.8, None)}}))
    assert found is not None
    assert found.files[0].fails


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"files": [{}], "is_slower": true}', "nonsense"])
def test_something_else_is_no_report(text: str) -> None:
    assert BenchReport.read(text) is None
