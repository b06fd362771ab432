from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests import builders
from tools.errors import UserError
from tools.portfolio.today import read_shipped
from tools.portfolio.wanted import Today
from tools.registry.sharding import Engine

DEVICE = builders.devices().find(builders.H100)


def row(mean: float, *, spread: float = 0.001, failure: str = "") -> dict[str, Any]:
    ratio = {"low": mean - spread, "mean": mean, "high": mean + spread, "blocks": 4}
    return {"num_tokens": 1, "shipped": None if failure else ratio, "failure": failure}


def survey(folder: Path, *rows: dict[str, Any], day: str = "2026-11-26", device: str = "NVIDIA H100 80GB HBM3") -> None:
    document = {
        "engine": "vllm",
        "environment": {"device_name": device},
        "files": [{"name": "a.json", "shapes": [{"rows": list(rows)}]}],
    }
    (folder / f"{day}-survey-vllm-x-triton-3.8.0.json").write_text(json.dumps(document), "utf-8")


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ([row(0.9), row(0.95)], Today.HOLDS),
        ([row(0.9), row(1.03)], Today.LOSES),
        ([row(0.9), row(1.03, spread=0.1)], Today.HOLDS),
        ([row(1.01), row(1.0)], Today.LOSES),
        ([row(0.9), row(1.0, failure="compile: out of resources")], Today.LOSES),
    ],
    ids=["faster", "a slower row", "a row in doubt", "slower on the whole", "a row fails"],
)
def test_a_file_loses_on_the_whole_or_on_a_row_beyond_doubt(
    tmp_path: Path, rows: list[dict[str, Any]], expected: Today
) -> None:
    survey(tmp_path, *rows)
    (found,) = read_shipped(tmp_path, DEVICE)
    assert (found.engine, found.of("a.json")) == (Engine.VLLM, expected)
    assert found.of("b.json") is Today.NOTHING


def test_the_newest_survey_of_the_gpu_counts(tmp_path: Path) -> None:
    survey(tmp_path, row(0.9), day="2026-11-27")
    survey(tmp_path, row(1.5), day="2026-11-20")
    survey(tmp_path, row(1.5), day="2026-11-28", device="NVIDIA H200")
    (found,) = read_shipped(tmp_path, DEVICE)
    assert found.of("a.json") is Today.HOLDS


def test_without_a_survey_nothing_is_known(tmp_path: Path) -> None:
    assert read_shipped(tmp_path, DEVICE) == ()


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"environment": {"device_name": "NVIDIA H100 80GB HBM3"}}'])
def test_a_broken_survey_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "2026-11-26-survey-vllm.json").write_text(text, "utf-8")
    with pytest.raises(UserError, match=r"2026-11-26-survey-vllm\.json: expected a survey"):
        read_shipped(tmp_path, DEVICE)
