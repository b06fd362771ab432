"""What comes near where nothing matches."""

from __future__ import annotations

import pytest

from fused_moe_configs import ConfigError
from fused_moe_configs.naming import parse
from fused_moe_configs.near import did_you_mean, known_devices, like, likely_devices, near_misses
from tests.loader.conftest import DEVICES, H100

NAMES = [H100, "NVIDIA_H20", "NVIDIA_H200", "NVIDIA_H100_PCIe", "NVIDIA_GH200_480GB", "AMD_Instinct_MI300X"]


@pytest.mark.parametrize(
    ("asked", "names"),
    [
        ("H100", [H100, "NVIDIA_H100_PCIe"]),
        ("h20", ["NVIDIA_H20", "NVIDIA_H200", "NVIDIA_GH200_480GB"]),  # the whole word before parts of one
        ("H200", ["NVIDIA_H200", "NVIDIA_GH200_480GB"]),
        ("nvidia h100 80gb hbm3", [H100]),
        ("MI300X", ["AMD_Instinct_MI300X"]),
        ("AMD Instinct MI300X OAM", ["AMD_Instinct_MI300X"]),  # holds a name
        ("NVIDIA_H010_80GB_HBM3", [H100]),  # mistyped
        ("Apple", []), ("", []), ("_", []),
    ],
)  # fmt: skip
def test_names_that_may_be_meant_likeliest_first(asked, names):
    assert like(asked, NAMES)[: len(names) or None] == names


def test_at_most_three_are_named():
    assert len(like("NVIDIA", NAMES)) == 3


def test_the_question_reads_as_one():
    assert did_you_mean("H100", ["A"]) == "H100: did you mean A?"
    assert did_you_mean("H100", ["A", "B", "C"]) == "H100: did you mean A, B or C?"


def test_devices_with_files_are_meant_before_those_without(store):
    store.write("devices.json", {"devices": [{"name": "NVIDIA_H100"}, *DEVICES]}, "registry")
    assert likely_devices("H100", store.root) == ["NVIDIA_H100", H100, "NVIDIA_H100_OEM"]
    store.add(f"E=8,N=1,device_name={H100}.json")
    assert likely_devices("H100", store.root)[0] == H100
    assert likely_devices("NVIDIA H100 OEM", store.root) == []  # an alias is known


def said(store, name):
    return near_misses(parse(name), store.root)


def test_other_workloads_that_come_near_are_named_with_what_they_are_for(store):
    for E, N, quantisation in ((8, 1, ""), (16, 768, ""), (64, 768, ""), (9, 768, ",dtype=fp8_w8a8"), (128, 2, "")):
        store.add(f"E={E},N={N},device_name={H100}{quantisation}.json")
    store.add("E=128,N=768,device_name=NVIDIA_H200.json")
    store.add(f"E=128,N=768,device_name={H100},dtype=fp8_w8a8.json", tier="triton_3_8_0")
    assert said(store, f"E=128,N=768,device_name={H100}.json") == [
        "E=128,N=768 for bf16 and fp16 is here for NVIDIA_H200",
        "E=128,N=768 is here on this device for dtype=fp8_w8a8",
        "N=768 for bf16 and fp16 is here on this device for E=16, E=64",
        "E=128 for bf16 and fp16 is here on this device for N=2",
    ]


def test_a_device_is_found_under_its_other_names(store):
    store.add(f"E=8,N=2,device_name={H100}.json")
    lines = said(store, "E=8,N=1,device_name=NVIDIA_H100_OEM.json")
    assert lines == ["E=8 for bf16 and fp16 is here on this device for N=2"]


def test_many_are_counted(store):
    for E in range(1, 10):
        store.add(f"E={E},N=1,device_name={H100}.json")
    (line,) = said(store, f"E=100,N=1,device_name={H100}.json")
    assert line.endswith("for E=1, E=2, E=3, E=4, E=5, E=6 and 3 more")


def test_nothing_near_is_nothing_said(store):
    assert said(store, f"E=8,N=1,device_name={H100}.json") == []


@pytest.mark.parametrize(
    "document", [{}, {"devices": 1}, {"devices": [1]}, {"devices": [{}]}, {"devices": [{"name": 1}]},
                 {"devices": [{"name": "D", "aliases": 1}]}, {"devices": [{"name": "a,b"}]}],
)  # fmt: skip
def test_a_broken_registry_is_named(store, document):
    path = store.write("devices.json", document, "registry")
    with pytest.raises(ConfigError, match="Fix: ") as raised:
        known_devices(store.root)
    assert raised.value.path == str(path)
