"""Where an engine's answer differs from the loader's, and where it doesn't."""

from __future__ import annotations

import math
from pathlib import PurePosixPath

import pytest

from tests.builders import H100, Store
from tools.canary.answers import (
    Answer,
    Failure,
    Question,
    Reading,
    answer_of_engine,
    answer_of_loader,
    differences,
    questions_of_sglang_tree,
    questions_of_store,
)
from tools.registry.devices import Device, DeviceRegistry
from tools.store.workload import Layout, Workload

from .conftest import add

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
        {"file_name": "n", "rows": None, "nearest": [[math.inf, None]], "down_nearest": None, "down_file_name": None},
        {"file_name": "n", "rows": None, "nearest": [], "down_nearest": None, "down_file_name": ["n"]},
    ],
)
def test_an_answer_of_another_form_is_a_failure(document: object) -> None:
    assert isinstance(answer_of_engine(document), Failure)


def test_the_loader_gives_down_the_m_tile_of_up_as_sglang_does(configs: Store) -> None:
    add(configs, f"E=8,N=64,device_name={H100}.json")
    add(configs, f"E=8,N=64,device_name={H100}_down.json", BLOCK_SIZE_M=64)
    answer = answer_of_loader(Question(Workload(8, 64, H100), "3.8.0"), Layout.SGLANG, "any")
    assert answer.down is not None
    assert answer.down.rows is not None
    assert {entry["BLOCK_SIZE_M"] for entry in answer.down.rows.values()} == {64}
    assert {entry["BLOCK_SIZE_M"] for _, entry in answer.down.nearest if entry} == {16}


def test_the_loader_is_asked_under_the_name_that_the_engine_asks_for(configs: Store) -> None:
    add(configs, "E=8,N=64,device_name=NVIDIA_H200.json")
    add(configs, "E=8,N=64,device_name=NVIDIA_H200_NVL.json", num_warps=8)
    question = Question(Workload(8, 64, "NVIDIA_H200_NVL"), "3.8.0")
    folded, own = (
        answer_of_loader(question, layout, f"E=8,N=64,device_name={name}.json").up.rows
        for layout, name in ((Layout.VLLM, "NVIDIA_H200"), (Layout.SGLANG, "NVIDIA_H200_NVL"))
    )
    assert folded is not None
    assert own is not None
    assert (folded[1]["num_warps"], own[1]["num_warps"]) == (4, 8)


# Questions: which workloads an engine is asked for, under which names and Triton versions.

DEVICES = DeviceRegistry((Device("NVIDIA_H200", "nvidia", "H200", ("NVIDIA_H200_NVL",)),))
BF16 = Workload(8, 64, "NVIDIA_H200")


def names(*workloads: Workload, layout: Layout) -> list[str]:
    return [question.workload.file_name() for question in questions_of_store(workloads, layout, DEVICES, "3.8.0")]


def test_a_workload_is_asked_for_under_each_name_of_its_device() -> None:
    asked = questions_of_store([BF16], Layout.VLLM, DEVICES, "3.8.0")
    assert [question.driver_name for question in asked] == ["NVIDIA H200", "NVIDIA H200 NVL"]


def test_a_device_that_nobody_knows_is_asked_for_under_its_own_name() -> None:
    assert names(Workload(8, 64, "D"), layout=Layout.VLLM) == ["E=8,N=64,device_name=D.json"]


def test_up_and_down_file_are_one_question() -> None:
    down = Workload(8, 64, "D", down=True)
    assert names(Workload(8, 64, "D"), down, layout=Layout.SGLANG) == ["E=8,N=64,device_name=D.json"]


def test_no_engine_is_asked_for_what_it_never_looks_up() -> None:
    int8 = Workload(8, 64, "D", dtype="int8_w8a8", per_channel_quant=True)
    fp8 = Workload(8, 64, "D", dtype="fp8_w8a16")
    odd = Workload(8, 33, "D", dtype="int4_w4a16")  # half of it is no size
    assert names(int8, fp8, layout=Layout.VLLM) == [fp8.file_name()]
    assert names(int8, fp8, odd, layout=Layout.SGLANG) == [int8.file_name()]


def test_a_tree_is_asked_under_its_own_folders_and_legacy_files_that_nothing_shadows_under_the_reference() -> None:
    files = [
        "configs/triton_0_0_0/E=8,N=64,device_name=D.json",
        "configs/triton_3_6_0/E=8,N=64,device_name=D.json",
        "configs/triton_3_6_0/E=8,N=64,device_name=D_down.json",
        "configs/triton_0_0_0/E=8,N=96,device_name=D.json",
        "configs/triton_3_8_0/E=8,N=64,device_name=D.json",
    ]
    assert questions_of_sglang_tree(map(PurePosixPath, files), "3.8.0") == (
        Question(Workload(8, 64, "D"), "3.6.0"),
        Question(Workload(8, 64, "D"), "3.8.0"),
        Question(Workload(8, 96, "D"), "3.8.0"),
    )
