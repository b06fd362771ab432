"""By formula, no launch config needs more shared memory than a block may have."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.builders import H100, Store, entry, table
from tools.findings import Severity
from tools.store.workload import Layout
from tools.validate.rules.shared_memory import RULE

H100_BYTES = 227 * 1024


def name(device: str = H100, suffix: str = "") -> str:
    return f"E=8,N=1024,device_name={device}{suffix}.json"


def large(**changes: Any) -> dict[str, Any]:
    """(128 + 128) rows of 128 two-byte numbers in 4 buffers: 256 KiB."""
    return {"BLOCK_SIZE_M": 128, "BLOCK_SIZE_N": 128, "BLOCK_SIZE_K": 128, "num_stages": 4, **changes}


def test_small_tiles_fit(store: Store) -> None:
    store.config()
    assert store.findings(RULE) == []


def test_too_large_a_tile_is_an_error_with_its_figures(store: Store) -> None:
    store.config(table([1, 2], **large()), name())
    (finding,) = store.findings(RULE)
    assert finding.severity is Severity.ERROR
    assert finding.message == (
        f"rows 1 and 2: expected at most {H100_BYTES} bytes of shared memory a block on {H100}, "
        f"found {256 * 1024} = (128·2 + 128·2) · 128 · 4 buffers"
    )


@pytest.mark.parametrize("changes", [{"num_stages": 3}, {"BLOCK_SIZE_K": 64}, {"BLOCK_SIZE_M": 64}])
def test_fewer_stages_or_a_smaller_tile_fit(store: Store, changes: dict[str, int]) -> None:
    store.config(table([1], **large(**changes)), name())
    assert store.findings(RULE) == []


@pytest.mark.parametrize(("layout", "folder", "count"), [(Layout.VLLM, "", 0), (Layout.SGLANG, "triton_3_8_0", 1)])
def test_vllm_launches_no_tile_deeper_than_a_block_of_scales(
    store: Store, layout: Layout, folder: str, count: int
) -> None:
    """64 + 256 rows of one-byte numbers in 5 buffers: 400 KiB of 256 each, 200 KiB of 128."""
    space = " " if layout is Layout.SGLANG else ""
    deep = table([1], BLOCK_SIZE_M=64, BLOCK_SIZE_N=256, BLOCK_SIZE_K=256, num_stages=5)
    store.config(deep, name(suffix=f",dtype=fp8_w8a8,block_shape=[128,{space}128]"), folder=folder, record=False)
    assert len(store.findings(RULE, layout=layout)) == count


def test_one_byte_operands_need_half(store: Store) -> None:
    store.config(table([1], **large()), name(suffix=",dtype=fp8_w8a8"))
    assert store.findings(RULE) == []


def test_smaller_devices_hold_less(store: Store) -> None:
    document = table([1], **large(num_stages=3, BLOCK_SIZE_K=64))
    for device in ("NVIDIA_H200", "NVIDIA_L40S", "AMD_Instinct_MI300X"):
        store.config(document, name(device))
    over = {finding.path.partition("device_name=")[2].partition(".")[0] for finding in store.findings(RULE)}
    assert over == set()
    store.config(table([1], **large(num_stages=5, BLOCK_SIZE_K=64)), name("NVIDIA_L40S"))
    assert len(store.findings(RULE)) == 1


@pytest.mark.parametrize(
    ("folder", "severity"),
    [("triton_3_1_0", Severity.WARNING), ("triton_3_6_0", Severity.ERROR), ("legacy_configs", Severity.ERROR)],
)
def test_under_a_triton_older_than_the_formula_it_is_a_warning(store: Store, folder: str, severity: Severity) -> None:
    store.config(table([1], **large()), name(), folder=folder)
    assert [finding.severity for finding in store.findings(RULE)] == [severity]


@pytest.mark.parametrize(
    ("device", "suffix"),
    [
        ("NVIDIA_UNKNOWN", ""),
        ("AMD_Radeon_Graphics", ""),
        ("Intel(R)_Data_Center_GPU_Max_1550", ""),
        (H100, ",dtype=int4_w4a16"),
    ],
)
def test_without_a_limit_or_a_formula_nothing_is_said(store: Store, device: str, suffix: str) -> None:
    store.config(table([1], **large(num_stages=8)), name(device, suffix))
    assert store.findings(RULE) == []


@pytest.mark.parametrize("value", [0, -1, 2**31, 10**4000])
@pytest.mark.parametrize("key", ["BLOCK_SIZE_M", "BLOCK_SIZE_N", "BLOCK_SIZE_K", "num_stages", "num_warps"])
def test_values_out_of_any_range_are_the_values_rules_business(store: Store, key: str, value: int) -> None:
    store.file(json.dumps({"1": entry(**large(**{key: value}))}).encode())
    assert store.findings(RULE) == []
