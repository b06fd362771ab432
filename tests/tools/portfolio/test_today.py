from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from kernels.problem import Flavour
from tests import builders
from tests.tools.portfolio.test_survey_board import FAILING, FAST, SLOW, SURVEY
from tools.errors import UserError
from tools.portfolio.survey_board import LeftOut, Survey, to_text
from tools.portfolio.today import read_shipped, survey_paths
from tools.portfolio.wanted import Today
from tools.registry.sharding import Engine

DEVICE = builders.devices().find(builders.H100)


def write(folder: Path, survey: Survey, day: str = "2026-11-26", number: str = "") -> None:
    (folder / f"{day}-survey-{survey.engine}-x-triton-3.8.0{number}.json").write_text(to_text(survey), "utf-8")


def test_what_a_survey_says_of_each_file(tmp_path: Path) -> None:
    write(tmp_path, SURVEY)
    (found,) = read_shipped(tmp_path, DEVICE)
    assert found.engine is Engine.SGLANG
    assert (found.of(SLOW.name), found.of(FAST.name), found.of("E=9.json")) == (
        Today.LOSES,
        Today.HOLDS,
        Today.NOTHING,
    )


def test_the_newest_survey_of_each_engine_on_the_gpu_counts(tmp_path: Path) -> None:
    write(tmp_path, replace(SURVEY, files=(FAST,)), "2026-11-27")
    write(tmp_path, SURVEY, "2026-11-20")
    write(tmp_path, replace(SURVEY, engine=Flavour.VLLM))
    other = replace(SURVEY.environment, device_name="NVIDIA H200")
    write(tmp_path, replace(SURVEY, environment=other), "2026-11-28")
    vllm, sglang = read_shipped(tmp_path, DEVICE)
    assert (vllm.engine, vllm.of(SLOW.name)) == (Engine.VLLM, Today.LOSES)
    assert sglang.of(SLOW.name) is Today.NOTHING


def test_of_a_file_that_a_newer_survey_did_not_reach_the_older_one_counts(tmp_path: Path) -> None:
    unreached = tuple(LeftOut(file.file, "not reached", is_missing=True) for file in (SLOW, FAILING))
    write(tmp_path, replace(SURVEY, files=(SLOW, FAST)), "2026-11-20")
    write(tmp_path, replace(SURVEY, files=(FAST,), left_out=unreached), "2026-11-21")
    (found,) = read_shipped(tmp_path, DEVICE)
    assert (found.of(SLOW.name), found.of(FAST.name)) == (Today.LOSES, Today.HOLDS)
    assert found.of(FAILING.name.replace(" ", "")) is Today.UNKNOWN, "shipped, and no survey measured it"


def test_what_was_not_shipped_in_between_is_not_known_by_what_was_before(tmp_path: Path) -> None:
    write(tmp_path, SURVEY, "2026-11-20")
    write(tmp_path, replace(SURVEY, files=(FAST,)), "2026-11-21")
    left_out = (LeftOut(SLOW.file, "not reached", is_missing=True),)
    write(tmp_path, replace(SURVEY, files=(FAST,), left_out=left_out), "2026-11-22")
    (found,) = read_shipped(tmp_path, DEVICE)
    assert found.of(SLOW.name) is Today.UNKNOWN


def test_a_later_one_of_the_same_day_is_newer(tmp_path: Path) -> None:
    for number in ("-2", "-10", "", "-9"):
        write(tmp_path, replace(SURVEY, files=(SLOW if number == "-10" else FAST,)), number=number)
    (found,) = read_shipped(tmp_path, DEVICE)
    assert found.of(SLOW.name) is Today.LOSES


def test_surveys_come_in_the_order_of_their_days_and_then_of_their_numbers(tmp_path: Path) -> None:
    """Whatever the order in which the folder lists them."""
    days = [f"2026-11-{day:02}" for day in range(1, 9)]
    names = [f"{day}-survey-vllm-x{number}.json" for day in days for number in ("", "-2", "-9", "-10", "-11")]
    for name in sorted(names, key=lambda name: name[::-1]):
        (tmp_path / name).touch()
    assert [path.name for path in survey_paths(tmp_path)] == names


def test_without_a_survey_nothing_is_known(tmp_path: Path) -> None:
    assert read_shipped(tmp_path, DEVICE) == ()


@pytest.mark.parametrize("text", ["", "[]", "{}"])
def test_a_broken_survey_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "2026-11-26-survey-vllm.json").write_text(text, "utf-8")
    with pytest.raises(UserError, match=r"2026-11-26-survey-vllm\.json: "):
        read_shipped(tmp_path, DEVICE)
