"""Which workloads an engine is asked for, under which names and Triton versions."""

from __future__ import annotations

from pathlib import PurePosixPath

from tools.canary.questions import Question, of_sglang_tree, of_store
from tools.registry.devices import Device, DeviceRegistry
from tools.store.workload import Layout, Workload

DEVICES = DeviceRegistry((Device("NVIDIA_H200", "nvidia", "H200", ("NVIDIA_H200_NVL",)),))
BF16 = Workload(8, 64, "NVIDIA_H200")


def names(*workloads: Workload, layout: Layout) -> list[str]:
    return [question.workload.file_name() for question in of_store(workloads, layout, DEVICES, "3.8.0")]


def test_a_workload_is_asked_for_under_each_name_of_its_device() -> None:
    asked = of_store([BF16], Layout.VLLM, DEVICES, "3.8.0")
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
    assert of_sglang_tree(map(PurePosixPath, files), "3.8.0") == (
        Question(Workload(8, 64, "D"), "3.6.0"),
        Question(Workload(8, 64, "D"), "3.8.0"),
        Question(Workload(8, 96, "D"), "3.8.0"),
    )
