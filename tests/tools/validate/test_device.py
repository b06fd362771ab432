"""The device is one that a driver reports, under the name that the layout's reader asks for."""

from __future__ import annotations

import pytest

from tests.builders import Store
from tools.findings import Severity
from tools.store.workload import Layout
from tools.validate.rules.device import RULE


def name(device: str) -> str:
    return f"E=8,N=1024,device_name={device}.json"


@pytest.mark.parametrize("device", ["NVIDIA_H200", "AMD_Instinct_MI300X", "Intel(R)_Data_Center_GPU_Max_1550"])
@pytest.mark.parametrize("layout", list(Layout))
def test_a_known_device_is_fine_everywhere(store: Store, device: str, layout: Layout) -> None:
    store.config(name=name(device), folder="triton_3_8_0" if layout is Layout.SGLANG else "")
    assert store.findings(RULE, layout=layout) == []


def test_an_unknown_device_is_an_error_with_the_nearest_names(store: Store) -> None:
    store.config(name=name("NVIDIA_H100_80GB_HBM4"))
    (finding,) = store.findings(RULE)
    assert finding.severity is Severity.ERROR
    assert "found 'NVIDIA_H100_80GB_HBM4'" in finding.message
    assert "did you mean NVIDIA_H100_80GB_HBM3" in finding.fix


def test_a_name_like_no_other_gets_no_hint(store: Store) -> None:
    store.config(name=name("q"))
    (finding,) = store.findings(RULE)
    assert finding.fix.startswith("add the device to the registry")


def test_this_store_keeps_the_registrys_own_name(store: Store) -> None:
    store.config(name=name("AMD_Instinct_MI300X_OAM"))
    (finding,) = store.findings(RULE)
    assert finding.severity is Severity.ERROR
    assert "rename it to device_name=AMD_Instinct_MI300X" in finding.fix
    assert store.findings(RULE, layout=Layout.VLLM) == []


@pytest.mark.parametrize(("layout", "count"), [(Layout.VLLM, 1), (Layout.SGLANG, 0)])
def test_only_vllm_folds_the_h200s(store: Store, layout: Layout, count: int) -> None:
    store.config(name=name("NVIDIA_H200_NVL"), folder="triton_3_8_0" if layout is Layout.SGLANG else "")
    findings = store.findings(RULE, layout=layout)
    assert [finding.fix for finding in findings] == ["rename it to device_name=NVIDIA_H200"] * count


def test_a_gh200_is_no_h200(store: Store) -> None:
    store.config(name=name("NVIDIA_GH200_480GB"))
    assert store.findings(RULE, layout=Layout.VLLM) == []


def test_a_device_without_a_known_architecture_is_an_info(store: Store) -> None:
    store.config(name=name("AMD_Radeon_Graphics"))
    assert [finding.severity for finding in store.findings(RULE)] == [Severity.INFO]


@pytest.mark.parametrize("device", ["", "NVIDIA H200", "..", "_"])
def test_names_that_are_no_device_names_are_left_to_the_grammar(store: Store, device: str) -> None:
    store.config(name=name(device), record=False)
    assert store.findings(RULE) == []
