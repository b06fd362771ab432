"""Values that a launch can have at all, and keys that the device's compiler takes."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.builders import H100, Store, entry, table
from tools.findings import Severity
from tools.store.workload import Layout
from tools.validate.rules.values import RULE

MI300 = "AMD_Instinct_MI300X"
XE = "Intel(R)_Data_Center_GPU_Max_1550"


def written(store: Store, device: str = H100, **changes: Any) -> None:
    store.file(json.dumps({"16": entry(**changes)}).encode(), f"E=8,N=1024,device_name={device}.json")


@pytest.mark.parametrize(
    ("key", "least", "greatest"),
    [
        ("BLOCK_SIZE_M", 8, 256),
        ("BLOCK_SIZE_N", 16, 512),
        ("BLOCK_SIZE_K", 16, 512),
        ("GROUP_SIZE_M", 1, 256),
        ("num_warps", 1, 32),
        ("num_stages", 1, 8),
        ("num_ctas", 1, 8),
    ],
)
def test_a_value_lies_in_its_range(store: Store, key: str, least: int, greatest: int) -> None:
    for sound in (least, greatest):
        written(store, **{key: sound})
        assert store.findings(RULE) == []
    for wrong in (least // 2, greatest * 2, -least):
        written(store, **{key: wrong})
        (message,) = store.messages(RULE)
        assert message.startswith(f"row 16: expected {key} ")
        assert message.endswith(f"from {least} to {greatest}, found {wrong}")


@pytest.mark.parametrize("key", ["BLOCK_SIZE_M", "BLOCK_SIZE_N", "BLOCK_SIZE_K", "num_warps", "num_ctas"])
@pytest.mark.parametrize("value", [3, 24, 48, 96])
def test_tiles_and_warps_are_powers_of_two(store: Store, key: str, value: int) -> None:
    written(store, **{key: value})
    (message,) = store.messages(RULE)
    assert f"expected {key} a power of two" in message


@pytest.mark.parametrize(("key", "value"), [("GROUP_SIZE_M", 3), ("num_stages", 5)])
def test_group_and_stages_need_not_be(store: Store, key: str, value: int) -> None:
    written(store, **{key: value})
    assert store.findings(RULE) == []


@pytest.mark.parametrize(
    ("key", "sound", "wrong"),
    [
        ("waves_per_eu", (0, 1, 4, 8), (-1, 9)),
        ("matrix_instr_nonkdim", (0, 4, 16, 32), (8, 64)),
        ("kpack", (1, 2), (0, 4)),
    ],
)
def test_amds_keys_have_their_values(store: Store, key: str, sound: tuple[int, ...], wrong: tuple[int, ...]) -> None:
    for value in sound:
        written(store, MI300, **{key: value})
        assert store.findings(RULE) == []
    for value in wrong:
        written(store, MI300, **{key: value})
        assert len(store.findings(RULE)) == 1


@pytest.mark.parametrize(("device", "warps", "count"), [(H100, 32, 0), (MI300, 16, 0), (MI300, 32, 1)])
def test_a_block_has_at_most_1024_threads(store: Store, device: str, warps: int, count: int) -> None:
    written(store, device, num_warps=warps)
    messages = store.messages(RULE)
    assert messages == ["row 16: expected at most 1024 threads a block, found 32 warps of 64 = 2048"] * count


@pytest.mark.parametrize(
    ("key", "value", "vendor", "own", "others"),
    [
        ("num_ctas", 1, "nvidia", H100, (MI300, XE)),
        ("waves_per_eu", 2, "amd", MI300, (H100, XE)),
        ("matrix_instr_nonkdim", 16, "amd", MI300, (H100, XE)),
        ("kpack", 2, "amd", MI300, (H100, XE)),
        ("grf_mode", "256", "intel", XE, (H100, MI300)),
    ],
)
def test_vendors_keys_are_for_their_devices(
    store: Store, key: str, value: Any, vendor: str, own: str, others: tuple[str, ...]
) -> None:
    written(store, own, **{key: value})
    assert store.findings(RULE) == []
    for other in others:
        written(store, other, **{key: value})
    assert len(store.findings(RULE)) == 2
    assert all(f"{key} is a key of {vendor}'s compiler" in message for message in store.messages(RULE))


def test_an_unknown_device_may_use_any_vendors_keys(store: Store) -> None:
    written(store, "NVIDIA_NEXT", kpack=1, num_ctas=1)
    assert store.findings(RULE) == []


@pytest.mark.parametrize(("layout", "count"), [(Layout.VLLM, 1), (Layout.REPO, 0)])
def test_vllm_passes_use_tma_on_and_raises(store: Store, layout: Layout, count: int) -> None:
    written(store, USE_TMA=True)
    assert len(store.findings(RULE, layout=layout)) == count


@pytest.mark.parametrize("device", [H100, MI300, XE])
def test_sglang_takes_use_tma_from_the_entry_on_any_device(store: Store, device: str) -> None:
    written(store, device, USE_TMA=True)
    assert store.findings(RULE) == []


@pytest.mark.parametrize(
    ("device", "kpack", "count"),
    [("AMD_Instinct_MI355X", 2, 1), ("AMD_Instinct_MI355X", 1, 0), ("AMD_Instinct_MI355X", None, 0), (MI300, 2, 0)],
)
def test_on_gfx950_triton_takes_kpack_2_for_1(store: Store, device: str, kpack: int | None, count: int) -> None:
    written(store, device, kpack=kpack)
    findings = store.findings(RULE)
    assert [finding.severity for finding in findings] == [Severity.WARNING] * count
    assert [finding.message for finding in findings] == [
        "row 16: kpack 2: on gfx950 Triton 3.8 overwrites it with 1"
    ] * count


def test_one_fault_of_many_rows_is_one_line(store: Store) -> None:
    store.config(table(num_stages=9))
    assert store.messages(RULE) == ["rows 1 to 4096 (18 rows): expected num_stages from 1 to 8, found 9"]


def test_huge_numbers_make_short_messages(store: Store) -> None:
    written(store, BLOCK_SIZE_M=10**4000)
    (message,) = store.messages(RULE)
    assert message.endswith("found a number of over 12 digits")


def test_malformed_entries_are_the_schemas_business(store: Store) -> None:
    written(store, BLOCK_SIZE_M="16")
    assert store.findings(RULE) == []
