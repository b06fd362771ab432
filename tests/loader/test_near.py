"""What comes near where nothing matches."""

from __future__ import annotations

from fused_moe_configs.naming import parse
from fused_moe_configs.near import likely_devices, near_misses
from tests.loader.conftest import DEVICES, H100


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
