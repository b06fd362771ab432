"""The board: what it counts, what a person reads, and that its document is the schema's."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from kernels.problem import Flavour
from tests.builders import environment
from tests.tools.portfolio.unpacked_engine import DEEPSEEK, MIXTRAL, QWEN, down_of
from tools.measure.panel import Ratio
from tools.portfolio.survey_board import (
    Figures,
    LeftOut,
    Survey,
    SurveyedFile,
    SurveyedShape,
    SurveyError,
    SurveyRow,
    figures,
    read_survey,
    to_markdown,
    to_text,
)
from tools.store import schemas
from tools.store.record import Environment, HeuristicVersion, ShapeOfModels
from tools.store.workload import Shape

SHAPE = ShapeOfModels(Shape(4096, 2), ("mistralai/Mixtral-8x7B-v0.1 tp=2",))


def ratio(mean: float, half: float = 0.005) -> Ratio:
    return Ratio(mean - half, mean, mean + half, 4)


def row(num_tokens: int, shipped: float | None, ours: float | None = None, failure: str = "") -> SurveyRow:
    """Ratios over the heuristic, which takes 100 µs."""
    return SurveyRow(
        num_tokens,
        100.0,
        None if shipped is None else 100.0 * shipped,
        None if ours is None else 100.0 * ours,
        None if shipped is None else ratio(shipped),
        None if ours is None else ratio(ours),
        None if ours is None or shipped is None else ratio(ours / shipped),
        failure,
    )


def surveyed(name: str, *rows: SurveyRow, ours: str | None = None, down: str | None = None) -> SurveyedFile:
    return SurveyedFile(name, f"triton_3_5_1/{name}", down, ours, (SurveyedShape(SHAPE, rows),))


SLOW = surveyed(MIXTRAL, row(1, 1.21, 0.9), row(2048, 1.0, 0.9), ours=MIXTRAL)
FAST = surveyed(QWEN, row(1, 0.81), row(2048, 1.0), down=f"triton_3_6_0/{down_of(QWEN)}")
FAILING = surveyed(DEEPSEEK, row(1, 0.9), row(2048, None, failure="M=2048, the shipped file: compile: no room"))
SURVEY = Survey(
    Flavour.SGLANG,
    "0.5.23",
    "2026-11-26",
    Environment.read(environment()),
    HeuristicVersion("0.5.23", "0" * 64),
    (1, 2048),
    12.5,
    (SLOW, FAST, FAILING),
    (LeftOut("triton_3_1_0/E=1.json", "no registered model reads it"),),
)


class TestDocument:
    def test_it_is_the_schemas_and_read_as_it_was_written(self, tmp_path: Path) -> None:
        path = tmp_path / "survey.json"
        path.write_text(to_text(SURVEY), "utf-8")
        assert schemas.faults("survey", json.loads(to_text(SURVEY))) == []
        assert read_survey(path) == SURVEY

    def test_a_file_that_is_no_survey_is_one_line(self, tmp_path: Path) -> None:
        path = tmp_path / "survey.json"
        for text, found in (("{", "found not JSON"), ('{"schema_version": 2}', "portfolio survey")):
            path.write_text(text, "utf-8")
            with pytest.raises(SurveyError, match=found):
                read_survey(path)


class TestTotals:
    def test_of_a_file_its_mean_its_worst_row_and_rows_beyond_two_per_cent(self) -> None:
        total = SLOW.shipped_total
        assert total is not None
        assert (total.geomean, total.worst, total.worst_at, total.slower_rows) == (pytest.approx(1.1), 1.21, 1, 1)
        assert SLOW.over_shipped_total is not None
        assert SLOW.over_shipped_total.geomean == pytest.approx(0.9 / 1.1)

    @pytest.mark.parametrize(("mean", "half", "slower"), [(1.021, 0.01, 1), (1.021, 0.03, 0), (1.019, 0.01, 0)])
    def test_a_row_is_slower_beyond_the_bound_and_beyond_doubt(self, mean: float, half: float, slower: int) -> None:
        one = replace(row(1, 1.0), shipped=ratio(mean, half))
        assert figures([surveyed(MIXTRAL, one)]).slower_rows == slower

    def test_of_all_files_each_counts_once(self) -> None:
        wide = replace(FAST, shapes=FAST.shapes * 3)
        assert figures([SLOW, wide]).geomean == pytest.approx((1.1 * 0.9) ** 0.5)

    def test_the_figures(self) -> None:
        assert figures(SURVEY.files) == Figures(3, pytest.approx((1.1 * 0.9 * 0.9) ** (1 / 3)), 1, 1, 1, 5, 1)
        assert figures(SURVEY.files, ours=True) == Figures(1, pytest.approx(0.9), 0, 0, 0, 2, 0)
        assert figures([]) == Figures(0, None, 0, 0, 0, 0, 0)

    def test_a_file_loses_on_average_or_on_a_row_or_where_it_fails(self) -> None:
        assert [file.loses for file in (SLOW, FAST, FAILING)] == [True, False, True]
        assert surveyed("a", row(1, 1.04), row(8, 0.8)).loses
        on_average = surveyed("a", row(1, 1.01), row(8, 1.0))
        assert figures([on_average]).slower_rows == 0
        assert on_average.loses

    def test_a_file_that_changes_nothing_is_not_slower(self) -> None:
        same = surveyed("a", row(1, 1.0))
        assert not same.loses
        assert figures([same]).slower_files == 0


def test_a_survey_is_whole_unless_something_could_have_been_measured() -> None:
    assert SURVEY.is_whole
    not_reached = LeftOut("a", "not reached", is_missing=True)
    assert not replace(SURVEY, left_out=(*SURVEY.left_out, not_reached)).is_whole


def test_names_that_are_shipped_and_not_measured_are_told_as_this_store_spells_them() -> None:
    spaced = f"triton_3_1_0/{QWEN.removesuffix('.json')},dtype=fp8_w8a8,block_shape=[128, 128].json"
    left_out = (LeftOut(spaced, "no registered model reads it"), LeftOut(f"triton_3_1_0/{MIXTRAL}", "goes second"))
    found = replace(SURVEY, left_out=(*left_out, LeftOut("E=1.json", "no name of a workload")))
    assert found.unmeasured == {spaced.removeprefix("triton_3_1_0/").replace(" ", "")}


def test_what_a_person_reads() -> None:
    assert to_markdown(SURVEY) == (Path(__file__).with_name("survey.golden.md")).read_text("utf-8")


@pytest.mark.parametrize(
    ("mean", "words"),
    [
        (1.25, "they cost 25.0 % of"),
        (0.75, "they save 25.0 % of"),
        (1.0004, "they save nothing of"),
        (0.9996, "they save nothing of"),
    ],
)
def test_what_all_files_together_cost_or_save(mean: float, words: str) -> None:
    assert words in to_markdown(replace(SURVEY, files=(surveyed("a", row(1, mean)),)))


def test_files_that_fail_come_first_and_then_the_worst() -> None:
    means = {"a": 0.9, "b": 1.2, "c": None, "d": 1.1}
    fails = surveyed("e", row(1, 0.8), row(8, None, failure="no room"))
    files = (*(surveyed(name, row(1, mean)) for name, mean in means.items()), fails)
    lines = to_markdown(replace(SURVEY, files=files)).splitlines()
    assert [line.split("`")[1][-1] for line in lines if line.startswith("| `")] == ["e", "b", "d", "a", "c"]


def test_that_ours_or_the_heuristic_fails_says_nothing_of_the_shipped_file() -> None:
    ours_fails = row(8, 0.8, failure="M=8, ours: compile: no room")
    no_heuristic = replace(
        row(16, None, failure="M=16, the heuristic: runtime: no"), heuristic_us=None, shipped_us=90.0
    )
    file = surveyed(MIXTRAL, row(1, 0.8), ours_fails, no_heuristic, ours=MIXTRAL)
    assert (file.fails, file.loses, figures([file]).failing) == (False, False, 0)
    assert len(file.failures) == 2, "they are told nevertheless"
    assert not surveyed(MIXTRAL, no_heuristic).loses, "also where the heuristic runs nowhere"
    assert (FAILING.fails, FAILING.loses) == (True, True)


def test_where_there_is_none_of_ours_it_says_so() -> None:
    text = to_markdown(replace(SURVEY, files=(FAST,)))
    assert "- This project has no file for any of these names.\n" in text


def test_where_nothing_was_measured_it_says_so() -> None:
    text = to_markdown(replace(SURVEY, files=(), left_out=()))
    assert "- No file ran." in text
    assert text.endswith("No file was measured.\n")
