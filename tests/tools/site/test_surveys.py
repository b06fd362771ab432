"""What surveys say of the engines' own files; whatever else lies in docs/measurements/ is passed by."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.builders import BAD_INPUT, H100
from tests.tools.site.stores import MIXTRAL, survey, surveyed
from tools.site.surveys import Surveyed, files_of, read_surveys, wholes


def found_in(folder: Path) -> tuple[Surveyed, ...]:
    return files_of(read_surveys(folder)[0])


def test_a_survey_tells_what_a_shipped_file_costs(tmp_path: Path) -> None:
    survey(tmp_path, [surveyed(MIXTRAL, [1.0, 1.44], [0.8, 0.8])])
    (found,) = found_in(tmp_path)
    assert (found.engine, found.version, found.device_name, found.name) == ("vllm", "0.33.0", H100, MIXTRAL)
    assert (found.date, found.triton, found.failures) == ("2026-11-26", "3.8.0", 0)
    assert found.ratio == pytest.approx(1.2)
    assert found.worst_ratio == 1.44
    assert found.ours_ratio == pytest.approx(0.8)


def test_what_fails_is_worst_and_the_newest_survey_counts(tmp_path: Path) -> None:
    other, failing = (MIXTRAL.replace("7168", N) for N in ("3584", "1792"))
    survey(tmp_path, [surveyed(MIXTRAL, [1.9]), surveyed("E=9.json", [2.5])], date="2026-01-01")
    survey(tmp_path, [surveyed(MIXTRAL, [0.9]), surveyed(other, [1.5]), surveyed(failing, [None])])
    found = found_in(tmp_path)
    assert [each.name for each in found] == [failing, other, MIXTRAL]
    assert [(each.ratio, each.failures) for each in found] == [(None, 1), (pytest.approx(1.5), 0), (0.9, 0)]


def test_a_survey_that_ended_early_takes_nothing_away(tmp_path: Path) -> None:
    other = MIXTRAL.replace("7168", "3584")
    survey(tmp_path, [surveyed(MIXTRAL, [1.9]), surveyed(other, [1.5])], date="2026-01-01")
    unreached = {"file": MIXTRAL, "reason": "not reached within 3 minutes", "is_missing": True}
    survey(tmp_path, [surveyed(other, [0.9])], left_out=[unreached])
    found = found_in(tmp_path)
    assert [(each.name, each.ratio, each.date) for each in found] == [
        (MIXTRAL, 1.9, "2026-01-01"),
        (other, 0.9, "2026-11-26"),
    ]


def test_a_file_that_no_survey_came_to_is_shipped_all_the_same(tmp_path: Path) -> None:
    survey(tmp_path, [], left_out=[{"file": MIXTRAL, "reason": "not reached", "is_missing": True}])
    (found,) = found_in(tmp_path)
    assert (found.name, found.ratio, found.is_measured) == (MIXTRAL, None, False)


def test_a_survey_that_ended_early_is_said_to_be_no_whole_one(tmp_path: Path) -> None:
    other = MIXTRAL.replace("7168", "3584")
    left_out = [
        {"file": other, "reason": "not reached", "is_missing": True},
        {"file": MIXTRAL, "reason": "1 of its 2 shapes: not reached", "is_missing": True},
        {"file": "E=9.json", "reason": "no registered model reads it", "is_missing": False},
    ]
    survey(tmp_path, [surveyed(MIXTRAL, [1.2])], left_out=left_out)
    survey(tmp_path, [surveyed(MIXTRAL, [0.8])], engine="sglang", version="0.5.23")
    vllm, sglang = wholes(read_surveys(tmp_path)[0])
    assert (vllm.engine, vllm.device_name, vllm.figures.slower_files) == ("vllm", H100, 1)
    assert (vllm.unreached, vllm.in_part) == (1, 1)
    assert (sglang.version, sglang.unreached, sglang.in_part) == ("0.5.23", 0, 0)


@pytest.mark.parametrize("changes", [{"engine": "other"}, {"files": None}, {"files": [{}]}, {"schema_version": 2}])
def test_what_is_no_survey_by_the_schema_is_left_out_and_said(tmp_path: Path, changes: dict[str, Any]) -> None:
    survey(tmp_path, **{"files": [surveyed(MIXTRAL, [1.2])], **changes})
    surveys, (fault,) = read_surveys(tmp_path)
    assert surveys == ()
    assert fault.startswith(f"left out: {next(tmp_path.iterdir())}: ")
    assert fault.endswith("Fix: write it anew, by portfolio survey, or remove it.")


@pytest.mark.parametrize("content", BAD_INPUT.values(), ids=BAD_INPUT)
def test_what_is_no_document_is_left_out_and_said_and_the_others_are_there(tmp_path: Path, content: bytes) -> None:
    survey(tmp_path, [surveyed(MIXTRAL, [1.2])])
    (tmp_path / "2026-11-26-survey-x.json").write_bytes(content)
    (found,), (fault,) = read_surveys(tmp_path)
    assert found.engine == "vllm"
    assert fault.startswith(f"left out: {tmp_path / '2026-11-26-survey-x.json'}: ")


def test_without_a_folder_nothing_is_surveyed(tmp_path: Path) -> None:
    assert read_surveys(tmp_path / "none") == ((), ())
