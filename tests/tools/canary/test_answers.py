"""Where an engine's answer differs from the loader's, and where it doesn't."""

from __future__ import annotations

import pytest

from tools.canary.answers import Answer, Failure, Reading, differences, of_engine, of_loader
from tools.canary.questions import Question
from tools.store.workload import Layout, Workload

from .conftest import H100, Store

ONE, TWO = {"BLOCK_SIZE_M": 16}, {"BLOCK_SIZE_M": 32}
TABLE = Reading({1: ONE, 9: TWO}, ((1, ONE), (6, TWO)))
NOTHING = Reading(None, ((1, None),))


def said(engine: Reading, loader: Reading = TABLE) -> list[str]:
    return list(differences(Answer("name", loader), Answer("name", engine)))


def test_equal_answers_do_not_differ() -> None:
    assert said(TABLE) == []
    assert said(NOTHING, NOTHING) == []


@pytest.mark.parametrize(
    ("engine", "message"),
    [
        (NOTHING, "the loader finds a table, the engine nothing"),
        (Reading({1: ONE}, TABLE.nearest), 'first at M=9: the loader answers {"BLOCK_SIZE_M": 32}, the engine nothing'),
        (Reading({1: TWO, 9: TWO}, TABLE.nearest), "1 of 2 entries differ, first at M=1"),
        (Reading({1: {"BLOCK_SIZE_M": 16.0}, 9: TWO}, TABLE.nearest), "1 of 2 entries differ, first at M=1"),
        (Reading(TABLE.rows, ((1, ONE), (5, TWO))), "the nearest entry differs, first at M=5"),
        (Reading(TABLE.rows, ((1, ONE), (7, TWO))), "the nearest entry differs, first at M=6"),
        (Reading(TABLE.rows, ((1, ONE),)), "the nearest entry differs, first at M=6"),
    ],
)
def test_each_difference_is_said_with_both_sides(engine: Reading, message: str) -> None:
    assert len(said(engine)) == 1
    assert message in said(engine)[0]


def test_the_down_projection_is_compared_by_itself() -> None:
    loader, engine = (Answer("n", TABLE, "n_down", down) for down in (TABLE, NOTHING))
    assert list(differences(loader, engine)) == ["down projection: the loader finds a table, the engine nothing"]


def test_a_failure_is_a_difference() -> None:
    assert list(differences(Answer("n", TABLE), Failure("KeyError: 'x'"))) == ["the engine's code fails: KeyError: 'x'"]


@pytest.mark.parametrize(
    "document",
    [
        None,
        {"error": "it fell"},
        {"file_name": "n"},
        {"file_name": "n", "rows": {"a": {}}, "nearest": [], "down_nearest": None, "down_file_name": None},
        {"file_name": "n", "rows": 3, "nearest": [], "down_nearest": None, "down_file_name": None},
        {"file_name": "n", "rows": None, "nearest": [[1, 2]], "down_nearest": None, "down_file_name": None},
    ],
)
def test_an_answer_of_another_form_is_a_failure(document: object) -> None:
    assert isinstance(of_engine(document), Failure)


def test_the_loader_gives_down_the_m_tile_of_up_as_sglang_does(configs: Store) -> None:
    configs.add(f"E=8,N=64,device_name={H100}.json")
    configs.add(f"E=8,N=64,device_name={H100}_down.json", BLOCK_SIZE_M=64)
    answer = of_loader(Question(Workload(8, 64, H100), "3.8.0"), Layout.SGLANG, "any")
    assert answer.down is not None
    assert answer.down.rows is not None
    assert {entry["BLOCK_SIZE_M"] for entry in answer.down.rows.values()} == {64}
    assert {entry["BLOCK_SIZE_M"] for _, entry in answer.down.nearest if entry} == {16}


def test_the_loader_is_asked_under_the_name_that_the_engine_asks_for(configs: Store) -> None:
    configs.add("E=8,N=64,device_name=NVIDIA_H200.json")
    configs.add("E=8,N=64,device_name=NVIDIA_H200_NVL.json", num_warps=8)
    question = Question(Workload(8, 64, "NVIDIA_H200_NVL"), "3.8.0")
    folded, own = (
        of_loader(question, layout, f"E=8,N=64,device_name={name}.json").up.rows
        for layout, name in ((Layout.VLLM, "NVIDIA_H200"), (Layout.SGLANG, "NVIDIA_H200_NVL"))
    )
    assert folded is not None
    assert own is not None
    assert (folded[1]["num_warps"], own[1]["num_warps"]) == (4, 8)
