"""Which file serves a workload, and what stands in it: names, the fallback chain, strict reading."""

from __future__ import annotations

import errno
import json
import os
import pickle
import re
import subprocess
import sys
import threading
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fused_moe_configs import ConfigError, cache_clear, explain, get_config, get_config_file_name, get_moe_configs
from fused_moe_configs.lookup import Chain, down_of, is_down, read_config, up_of, version_folders, version_in
from tests.builders import without_roots_rights
from tools.registry.devices import normalise_device_name

from .conftest import ENTRY, H100

NAME = f"E=8,N=1,device_name={H100}.json"
FP8 = NAME.replace(".json", ",dtype=fp8_w8a8.json")
INT8 = NAME.replace(".json", ",dtype=int8_w8a8.json")
MACHINE = {"device_name": H100, "triton_version": "3.8.0"}


def mark(*arguments, **options):
    configs = get_moe_configs(8, 1, *arguments, **MACHINE | options)
    return configs and configs[1]["num_warps"]


# ---------------------------------------------------------------
# Names


@pytest.mark.parametrize(
    ("up", "down"), [("E=8.json", "E=8_down.json"), ("triton_3_6_0/E=8,N=1.json", "triton_3_6_0/E=8,N=1_down.json")]
)
def test_a_down_file_and_its_up_file_name_each_other(up, down):
    assert (is_down(up), up_of(up), down_of(up)) == (False, up, down)
    assert (is_down(down), up_of(down), down_of(down)) == (True, up, down)


@pytest.mark.parametrize(
    ("folder", "version"),
    [("triton_3_10_0", (3, 10, 0)), ("triton_3_08_0", None), ("triton_3_8", None), ("xtriton_3_8_0", None), ("", None)],
)
def test_a_folder_says_which_release_it_is_for(folder, version):
    assert version_in(folder) == version


@pytest.mark.parametrize(
    ("arguments", "options", "name"),
    [
        ((8, 3584, "NVIDIA A100-SXM4-80GB"), {}, "E=8,N=3584,device_name=NVIDIA_A100-SXM4-80GB.json"),
        ((8, 1, " AMD  Instinct / MI300X\n"), {}, "E=8,N=1,device_name=AMD_Instinct___MI300X.json"),
        ((8, 1, "NVIDIA_H200_NVL"), {}, "E=8,N=1,device_name=NVIDIA_H200_NVL.json"),
        ((8, 1, "D", "fp8_w8a8", [128, 128]), {}, "E=8,N=1,device_name=D,dtype=fp8_w8a8,block_shape=[128,128].json"),
        ((8, 1, "D", "fp8_w8a8", (0, 128)), {}, "E=8,N=1,device_name=D,dtype=fp8_w8a8.json"),
        (
            (8, 1, "D", "int8_w8a8", (64, 32)),
            {"per_channel_quant": True, "down": True},
            "E=8,N=1,device_name=D,dtype=int8_w8a8,block_shape=[64,32],per_channel_quant=True_down.json",
        ),
    ],
)
def test_spells_names_as_vllm_does(arguments, options, name):
    assert get_config_file_name(*arguments, **options) == name


@pytest.mark.parametrize("dtype", [None, "bf16", "bfloat16", "fp16", "float16", "half"])
def test_bf16_and_fp16_have_no_dtype_part(dtype):
    assert get_config_file_name(8, 1, "D", dtype) == "E=8,N=1,device_name=D.json"


@pytest.mark.parametrize("dtype", ["float8", "fp8", "", "FP8_W8A8", 8, "fp8_w8a8,x=1"])
def test_a_dtype_that_no_engine_asks_for_names_those_that_one_does(dtype):
    with pytest.raises(ValueError, match=r"dtype: expected one of fp8_w8a8.*float32.*found"):
        get_config_file_name(8, 1, "D", dtype)


@pytest.mark.parametrize("value", [0, -1, 2**31, pytest.param(10**5000, id="huge"), True, 8.0, "8", None])
@pytest.mark.parametrize("which", ["E", "N"])
def test_sizes_are_positive_integers(which, value):
    with pytest.raises(ValueError, match=f"{which}: expected an integer from 1 .*found"):
        get_config_file_name(**{"E": 8, "N": 1, "device_name": "D"} | {which: value})


@pytest.mark.parametrize(
    "device", ["", " ", "/", "..", "../../etc/passwd", "a\nb", "a\tb", "a\0b", "a\\b", "D,dtype=x", "E=1", None, 3,
               "\ud800", "D_down", ".", "_"],
)  # fmt: skip
def test_a_device_that_no_file_name_can_hold_is_named(device):
    with pytest.raises(ValueError, match=r"device_name: expected .* found") as raised:
        get_config_file_name(8, 1, device)
    assert ascii(device) in str(raised.value)


@given(st.text("aZ9-_ /\u3000\t\n"))
def test_a_device_is_spelt_as_in_the_registry(device):
    try:
        name = get_config_file_name(8, 1, device)
    except ValueError:
        return
    assert name == f"E=8,N=1,device_name={normalise_device_name(device)}.json"


def test_a_name_is_at_most_255_bytes():
    left = 255 - len(get_config_file_name(1, 1, "d")) + 1
    assert len(get_config_file_name(1, 1, "d" * left).encode()) == 255
    for device in ("d" * (left + 1), "ü" * (left // 2 + 1)):
        with pytest.raises(ValueError, match="255 bytes"):
            get_config_file_name(1, 1, device)


@pytest.mark.parametrize("block_shape", [128, "12", [128], [1, 2, 3], [-1, 128], [1.5, 2], ["1", "2"], {1, 2}])
def test_a_block_shape_is_two_sizes(block_shape):
    with pytest.raises(ValueError, match=r"block_shape: expected .* found"):
        get_config_file_name(8, 1, "D", "fp8_w8a8", block_shape)


_anything = st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.lists(st.integers(-1, 256))


@given(_anything, _anything, _anything, _anything, _anything, st.booleans(), st.booleans())
def test_anything_gives_a_plain_file_name_or_a_value_error(E, N, device, dtype, block_shape, per_channel, down):
    try:
        name = get_config_file_name(E, N, device, dtype, block_shape, per_channel_quant=per_channel, down=down)
    except ValueError:
        return
    assert "/" not in name
    assert "\\" not in name
    assert len(name.encode()) <= 255


@given(st.integers(1, 2**31 - 1), st.text(min_size=1))
def test_any_device_gives_a_plain_file_name_or_a_value_error(E, device):
    try:
        name = get_config_file_name(E, E, device)
    except ValueError:
        return
    assert re.fullmatch(rf"E={E},N={E},device_name=[^/\\,\x00-\x1f]+\.json", name)
    assert ".." not in name


# ---------------------------------------------------------------
# Tiers and the chain


def test_the_tiers_come_in_order(store, user):
    legacy = store.add(NAME, 4, "legacy_configs")
    default, version, own = store.add(NAME, 3), store.add(NAME, 2, "triton_3_6_0"), user.add(NAME, 1)
    older = {"triton_version": "3.6.0"}
    for expected, path in enumerate((own, version, default, legacy), start=1):
        cache_clear()
        assert mark(**older) == expected
        assert explain(8, 1, **MACHINE | older).winner == path
        path.unlink()
    cache_clear()
    assert mark(**older) is None


def test_the_first_file_wins_whole(store):
    store.write(NAME, {"1": ENTRY, "64": ENTRY})
    store.write(NAME, {"8": ENTRY}, "triton_3_6_0")
    assert list(get_moe_configs(8, 1, **MACHINE | {"triton_version": "3.6.0"})) == [8]


@pytest.mark.parametrize(
    ("version", "expected"),
    [("3.6.0", 60), ("3.6.0+git12ab", 60), ("3.6.0rc1", 60), ("3.6.0.post1", 60), ("3.6", 60), ("3.6.7", 62),
     ("3.5.0", 1), ("3.60.0", 1), ("4.6.0", 1)],
)  # fmt: skip
def test_the_version_is_exact_or_the_highest_patch_that_has_the_file(store, version, expected):
    store.add(NAME, 1)
    store.add(NAME, 60, "triton_3_6_0")
    store.add(NAME, 62, "triton_3_6_2")
    store.add(FP8, 10, "triton_3_6_10")
    for junk in ("triton_3_6", "triton_3_6_0_rc1", "triton_x_y_z", "triton_3_06_1", "triton_3_6_²"):
        store.add(NAME, 99, junk)
    assert mark(triton_version=version) == expected


def test_patches_are_numbers_not_strings(store):
    store.add(NAME, 9, "triton_3_6_9")
    store.add(NAME, 10, "triton_3_6_10")
    assert mark(triton_version="3.6.0") == 10


@pytest.mark.parametrize("version", ["3.8.0", "3.8", "3.8.0+git12ab"])
def test_under_the_reference_the_default_tier_is_the_exact_folder(store, version):
    """No file of another patch hides what was tuned with this very Triton, and no folder takes its place."""
    store.add(NAME, 1)
    for folder in ("triton_3_8_0", "triton_3_8_1", "triton_3_8_9999"):
        store.add(NAME, 9, folder)
    assert mark(triton_version=version) == 1


def test_another_patch_of_the_reference_takes_its_own_file_then_the_highest_patch_the_default_among_them(
    store, monkeypatch
):
    monkeypatch.setattr("fused_moe_configs.lookup.REFERENCE_TRITON", "3.8.2")
    default = store.add(NAME, 82)
    store.add(NAME, 81, "triton_3_8_1")
    assert [mark(triton_version=f"3.8.{patch}") for patch in (1, 2, 3)] == [81, 82, 82]
    cache_clear()
    store.add(NAME, 84, "triton_3_8_4")
    assert [mark(triton_version=f"3.8.{patch}") for patch in (1, 2, 3)] == [81, 82, 84]
    cache_clear()
    default.unlink()
    store.add(NAME, 1, "legacy_configs")
    assert mark(triton_version="3.8.2") == 84, "without a default file, another patch's before older figures"


@pytest.mark.parametrize("version", ["", "3", "three", "3.8.0/../..", "9" * 5000 + ".1", 3.8, "3.8.0junk"])
def test_what_is_no_version_is_named(store, version):
    with pytest.raises(ValueError, match="triton_version: expected a version"):
        mark(triton_version=version)


def test_without_any_triton_version_folders_do_not_count(store, monkeypatch):
    monkeypatch.setattr("fused_moe_configs.machine.version_of", lambda package: None)
    store.add(NAME, 2, "triton_3_6_0")
    assert mark(triton_version=None) is None


def test_another_name_of_the_same_hardware_serves_after_the_own_name_went_through_all_tiers(store, user):
    user.add(NAME.replace(H100, "NVIDIA_H200"), 1)
    store.add(NAME.replace(H100, "NVIDIA_H200_NVL"), 2, "legacy_configs")
    assert mark(device_name="NVIDIA H200 NVL") == 2
    assert mark(device_name="NVIDIA_H200_X") == 1
    assert "as NVIDIA_H200, another name" in explain(8, 1, **MACHINE | {"device_name": "NVIDIA_H200_X"}).reason
    assert mark(device_name="NVIDIA_H20") is None


def test_the_canonical_name_comes_before_the_other_aliases(store):
    store.add(NAME.replace(H100, "NVIDIA_H200_NVL"), 2)
    assert mark(device_name="NVIDIA_H200_X") == 2
    store.add(NAME.replace(H100, "NVIDIA_H200"), 1, "legacy_configs")
    cache_clear()
    assert mark(device_name="NVIDIA_H200_X") == 1


@pytest.mark.parametrize("registry", [True, False])
def test_an_h200_by_any_name_is_one_as_for_vllm(store, registry):
    """vLLM takes each name with the part H200 for it; a slice of one has other limits and is none."""
    if not registry:
        (store.root / "registry/devices.json").unlink()
    store.add(NAME.replace(H100, "NVIDIA_H200"), 2)
    assert mark(device_name="NVIDIA H200 SXM 141GB") == 2
    for other in ("NVIDIA H200 MIG 1g.18gb", "NVIDIA GH200 480GB", "NVIDIA_H2000"):
        assert mark(device_name=other) is None


# ---------------------------------------------------------------
# Siblings


def of(device):
    return f"E=8,N=1,device_name={device}.json"


@pytest.mark.parametrize("device", ["A", "A_OEM"])
def test_a_siblings_file_serves_only_where_it_is_asked_for(store, siblings, device):
    store.add(of("B"), 2)
    assert mark(device_name=device) is None
    assert mark(device_name=device, siblings=True) == 2
    assert get_config(3, 8, 1, device_name=device, triton_version="3.8.0", siblings=True)["num_warps"] == 2
    assert get_config(3, 8, 1, device_name=device, triton_version="3.8.0") is None


def test_a_sibling_comes_after_every_tier_and_every_name_of_the_device(store, user, siblings):
    order = [("B_OEM", ""), ("B", "legacy_configs"), ("B", ""), ("A_OEM", "legacy_configs"), ("A", "legacy_configs")]
    for number, (device, tier) in enumerate(order, 1):
        store.add(of(device), number, tier)
        cache_clear()
        assert mark(device_name="A", siblings=True) == number
    user.add(of("B"), 9)
    cache_clear()
    assert mark(device_name="A", siblings=True) == len(order)


def test_siblings_hold_one_way(store, siblings):
    store.add(of("A"), 1)
    assert mark(device_name="B", siblings=True) is None
    chain = Chain(store.root)
    assert [chain.carried_to(device) for device in ("A", "A_OEM", "B", "B_OEM", "C")] == [[], [], ["A"], ["A"], []]


def test_a_device_has_each_of_its_names_once_its_own_first(store, siblings):
    chain = Chain(store.root)
    assert [list(chain.devices(device)) for device in ("A", "A_OEM", "C")] == [["A", "A_OEM"], ["A_OEM", "A"], ["C"]]


def test_a_sibling_of_a_sibling_is_none(store):
    devices = [{"name": "A", "siblings": ["B"]}, {"name": "B", "siblings": ["C"]}]
    store.write("devices.json", {"devices": devices}, "registry")
    store.add(of("C"), 1)
    assert mark(device_name="A", siblings=True) is None


def test_a_sibling_may_be_a_name_that_the_registry_has_no_entry_for(store):
    store.write("devices.json", {"devices": [{"name": "A", "siblings": ["X"]}]}, "registry")
    store.add(of("X"), 1)
    assert mark(device_name="A", siblings=True) == 1


def test_a_siblings_down_and_per_channel_files_are_looked_for_as_the_devices_own(store, siblings):
    store.add(of("B"), 1)
    store.add(of("B").replace(".json", "_down.json"), 2)
    assert mark(device_name="A", siblings=True, down=True) == 2
    assert mark(device_name="A", siblings=True, per_channel_quant=True) == 1


def test_a_siblings_broken_file_is_not_passed_by(store, siblings):
    path = store.write(of("B"), b"{")
    assert mark(device_name="A") is None
    with pytest.raises(ConfigError) as raised:
        mark(device_name="A", siblings=True)
    assert raised.value.path == str(path)


def test_explain_names_a_siblings_file_that_exists_whether_or_not_it_is_asked_for(store, siblings):
    question = {"device_name": "A", "triton_version": "3.8.0"}
    assert "ibling" not in explain(8, 1, **question).reason
    path = store.add(of("B"), 1)
    lookup = explain(8, 1, **question)
    assert lookup.winner is None
    assert path not in dict(lookup.tried)
    assert lookup.reason.endswith(f" A sibling has {path}: siblings=True (--siblings) reads it.")
    lookup = explain(8, 1, **question, siblings=True)
    assert (lookup.winner, lookup.reason) == (path, "Served by the default tier (Triton 3.8.0) as B, a sibling.")
    assert lookup.tried[-1] == (path, "found")
    store.add(of("A"), 2, "legacy_configs")
    for siblings_or_not in (False, True):
        reason = explain(8, 1, **question, siblings=siblings_or_not).reason
        assert reason == f"Served by the legacy tier. A sibling has {path} too."


def test_explain_of_a_file_that_serves_says_that_the_registry_of_siblings_is_broken(store):
    store.add(NAME)
    path = store.write("devices.json", b"{", "registry")
    assert mark() == 1
    lookup = explain(8, 1, **MACHINE)
    assert lookup.winner == store.root / NAME
    assert (
        f"Served by the default tier (Triton 3.8.0). Whether a sibling has one too can't be said: {path}: line 1"
        in lookup.reason
    )


def test_nothing_found_is_logged_with_the_siblings_file(store, siblings, caplog):
    path = store.add(of("B"), 1)
    assert mark(device_name="A") is None
    assert f"A sibling has {path}" in caplog.text


def test_a_device_whose_name_is_part_of_the_rest_of_the_file_name(store):
    store.write("devices.json", {"devices": [{"name": "8", "aliases": ["N"]}]}, "registry")
    store.add("E=8,N=1,device_name=8.json", 5)
    assert mark(device_name="N") == 5


def test_a_down_file_counts_only_beside_the_up_file_that_won(store):
    down = NAME.replace(".json", "_down.json")
    store.add(NAME, 1)
    store.add(down, 9, "legacy_configs")
    assert mark(down=True) == 1
    assert "no _down file" in explain(8, 1, down=True, **MACHINE).reason
    store.add(down, 2)
    cache_clear()
    assert (mark(), mark(down=True)) == (1, 2)
    assert explain(8, 1, down=True, **MACHINE).winner == store.root / down


def test_a_down_file_alone_is_nothing(store):
    store.add(NAME.replace(".json", "_down.json"), 9)
    assert mark(down=True) is None


def test_per_channel_falls_back_to_the_plain_name(store):
    store.add(FP8, 1)
    assert mark("fp8_w8a8", per_channel_quant=True) == 1
    assert "no per-channel file" in explain(8, 1, "fp8_w8a8", per_channel_quant=True, **MACHINE).reason
    store.add(FP8.replace(".json", ",per_channel_quant=True.json"), 2, "legacy_configs")
    cache_clear()
    assert mark("fp8_w8a8", per_channel_quant=True) == 2
    assert mark("fp8_w8a8") == 1


def test_int8_never_reads_the_bf16_file(store):
    store.add(NAME, 1)
    assert mark("int8_w8a8") is None
    assert "int8_w8a8 never falls back" in explain(8, 1, "int8_w8a8", **MACHINE).reason
    store.add(INT8, 2)
    cache_clear()
    assert mark("int8_w8a8") == 2


def test_explain_lists_every_place_and_reads_well(store, user):
    winner = store.add(NAME, 1, "legacy_configs")
    store.add(FP8, 1, "triton_3_8_2")
    lookup = explain(8, 1, **MACHINE)
    folders = [user.root, store.root, store.root / "triton_3_8_2", store.root / "legacy_configs"]
    assert lookup.tried == tuple((f / NAME, "found" if f / NAME == winner else "no file") for f in folders)
    assert str(lookup).splitlines()[-1] == lookup.reason == "Served by the legacy tier."
    assert str(winner) in str(lookup)
    folders = [user.root, store.root / "triton_3_6_1", store.root, store.root / "legacy_configs"]
    assert [path.parent for path, _ in explain(8, 1, **MACHINE | {"triton_version": "3.6.1"}).tried] == folders
    store.add(NAME)
    assert explain(8, 1, **MACHINE).reason == "Served by the default tier (Triton 3.8.0)."
    store.add(NAME, 1, "triton_3_8_1")
    assert explain(8, 1, **MACHINE | {"triton_version": "3.8.1"}).reason == "Served by this Triton's folder."
    reason = "Served by the folder of another patch of this Triton."
    assert explain(8, 1, **MACHINE | {"triton_version": "3.8.2"}).reason == reason


def test_a_broken_file_is_never_passed_by(store, user):
    store.add(NAME, 1)
    broken = user.write(NAME, b"{")
    for call in (get_moe_configs, explain):
        with pytest.raises(ConfigError, match="line 1, column 2") as raised:
            call(8, 1, **MACHINE)
        assert raised.value.path == str(broken)


def test_only_the_users_folder_may_hold_a_triton_version(store, user):
    document = {"triton_version": "3.6.0", "1": ENTRY}
    user.write(NAME, document)
    assert list(get_moe_configs(8, 1, **MACHINE)) == [1]
    store.write(FP8, document)
    with pytest.raises(ConfigError, match="triton_version"):
        mark("fp8_w8a8")


@pytest.mark.parametrize("missing", [["num_warps"], ["num_stages"], ["num_warps", "num_stages"]])
def test_only_in_the_users_folder_a_row_without_warps_or_stages_means_tritons_defaults(store, user, missing):
    lean = {key: 8 for key in ENTRY if key not in missing}
    user.write(NAME, {"1": lean, "64": ENTRY | {"num_warps": 1, "num_stages": 1}})
    configs = get_moe_configs(8, 1, **MACHINE)
    assert configs == {1: {"num_warps": 4, "num_stages": 3} | lean, 64: ENTRY | {"num_warps": 1, "num_stages": 1}}
    assert get_config(16, 8, 1, **MACHINE) == {"num_warps": 4, "num_stages": 3} | lean
    store.write(FP8, {"1": lean})
    with pytest.raises(ConfigError, match=f"1: expected {', '.join(missing)}, found nothing"):
        mark("fp8_w8a8")


@pytest.mark.parametrize("key", ENTRY)
@pytest.mark.parametrize("value", [None, "4", 4.0, True])
def test_what_the_user_writes_is_checked_as_ever(user, key, value):
    user.write(NAME, {"1": ENTRY | {key: value}})
    with pytest.raises(ConfigError, match=f"1 / {key}: expected an integer"):
        mark()


@pytest.mark.parametrize("key", ["BLOCK_SIZE_M", "BLOCK_SIZE_N", "BLOCK_SIZE_K", "GROUP_SIZE_M"])
def test_a_users_row_needs_its_tiles(user, key):
    user.write(NAME, {"1": {other: value for other, value in ENTRY.items() if other != key}})
    with pytest.raises(ConfigError, match=f"1: expected {key}, found nothing"):
        mark()


@pytest.mark.parametrize("document", [{"triton_version": 3, "1": ENTRY}, {"triton_version": "3.6.0"},
                                      b'{"triton_version": "3", "triton_version": "3"}'])  # fmt: skip
def test_the_users_triton_version_is_one_string_beside_batch_sizes(user, document):
    user.write(NAME, document)
    with pytest.raises(ConfigError):
        mark()


def test_a_folder_that_does_not_let_itself_be_asked_is_no_missing_file(store, user, monkeypatch):
    store.add(NAME, 1)

    def lstat(path, lstat=Path.lstat):
        if path.parent == user.root:
            raise PermissionError(errno.EACCES, "Permission denied", path)
        return lstat(path)

    monkeypatch.setattr(Path, "lstat", lstat)
    with pytest.raises(ConfigError, match="cannot be looked for: Permission denied") as raised:
        mark()
    assert raised.value.path == str(user.root / NAME)


@pytest.mark.parametrize("bad", [{"device_name": "../x"}, {"device_name": "a\nb"}, {"dtype": "../.."}, {"E": 2**31}])
def test_a_name_that_could_leave_the_folder_is_refused(store, bad):
    with pytest.raises(ValueError, match=r"expected .* found"):
        get_moe_configs(**{"E": 8, "N": 1} | MACHINE | bad)


@pytest.mark.parametrize(
    ("device", "version", "expected"),
    [(H100, "3.6.0", "triton_3_6_0"), (H100, "3.6.1", "triton_3_6_0"), (H100, "3.5.0", ""), (H100, None, ""),
     ("NVIDIA_H100_OEM", "3.6.0", "triton_3_6_0"), ("NVIDIA_H200", "3.6.0", None)],
)  # fmt: skip
def test_any_folder_has_a_chain_and_the_users_folder_is_only_in_that_which_is_given_one(
    store, user, device, version, expected
):
    """What a tuner asks: the file that the loader would read of this folder, whatever this machine's user has."""
    user.add(NAME, 9)
    store.add(NAME, 1)
    store.add(NAME, 2, "triton_3_6_0")
    chain = Chain(store.root)
    lookup, entries = chain.look_up(get_config_file_name(8, 1, device), chain.tiers(version))
    assert lookup.winner == (None if expected is None else store.root / expected / NAME)
    assert (entries is None) == (expected is None)
    assert user.root not in {path.parent for path, _ in lookup.tried}


def test_an_installed_package_without_its_devices_is_damaged(store):
    """They give a GPU its other names: without them half of an export would be missing, without a word."""
    store.add(NAME, 1)
    (store.root / "registry" / "devices.json").unlink()
    assert get_config(1, 8, 1, **MACHINE), "a folder of tuned files needs none"
    cache_clear()
    store.index()
    with pytest.raises(ConfigError, match=r"devices\.json: expected the devices that the package brings, found none\."):
        get_config(1, 8, 1, device_name="NVIDIA H100 OEM", triton_version="3.8.0")


def test_version_folders_are_listed_newest_first_and_others_not_at_all(tmp_path):
    for name in ("triton_3_9_0", "triton_3_10_0", "triton_3_8_1", "triton_3_08_0", "triton_3_8", "legacy_configs"):
        (tmp_path / name).mkdir()
    assert list(version_folders(tmp_path)) == [(3, 10, 0), (3, 9, 0), (3, 8, 1)]


def test_a_folder_that_is_not_there_yet_has_no_file(tmp_path):
    chain = Chain(tmp_path / "not yet")
    assert chain.look_up(NAME, chain.tiers("3.8.0"))[1] is None


# ---------------------------------------------------------------
# Reading


D_NAME = "E=8,N=1,device_name=D.json"
GOOD = json.dumps(ENTRY)


def read():
    cache_clear()
    return get_moe_configs(8, 1, device_name="D", triton_version="3.8.0")


@pytest.mark.parametrize(
    ("data", "line", "column", "reason"),
    [
        (b"", 1, 1, "not JSON"),
        (b'{"1": ', 1, 7, "not JSON"),
        (b'{"1": %s} x' % GOOD.encode(), 1, 8 + len(GOOD) + 1, "Extra data"),
        (b"\xef\xbb\xbf{}", 1, 1, "byte order mark"),
        (b'{\n "\xff"', 2, 3, "UTF-8, found byte 0xff"),
        ('{"ü\n'.encode() + b"\xc3", 2, 1, "UTF-8"),
        (b"[" * 200_000, 1, 1, "nested too deeply"),
        (b'{"1": {"a": ' + b'{"a": ' * 100_000, 1, 1, "nested too deeply"),
        (b'{"1":' + b"9" * 5000 + b"}", 1, 6, "too many digits"),
        (b"[]", 1, 1, "expected a JSON object, found []"),
        (b"null", 1, 1, "found null"),
    ],
)  # fmt: skip
def test_what_is_no_json_object_is_refused_at_its_place(store, data, line, column, reason):
    path = store.write(D_NAME, data)
    with pytest.raises(ConfigError) as raised:
        read()
    assert reason in raised.value.reason
    assert raised.value.path == str(path)
    if reason != "nested too deeply":
        assert (raised.value.line, raised.value.column) == (line, column)
        assert str(raised.value).startswith(f"{path}: line {line}, column {column}: ")


SIZE_WISH = "expected an integer from 1 to 2147483647, found"
KEPT_WISH = "expected integer, true, false or string"
KEY_WISH = "expected a batch size (a positive decimal integer) as key, found"


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        ("{}", "expected at least one batch size, found none"),
        ('{"01": {}}', f"{KEY_WISH} '01'"),
        ('{"": {}}', f"{KEY_WISH} ''"),
        ('{"١": {}}', f"{KEY_WISH} '\\u0661'"),
        ('{"1\\n": {}}', f"{KEY_WISH} '1\\n'"),
        ('{"1000000000": {}}', f"{KEY_WISH} '1000000000'"),
        ('{"triton_version": "3.8.0"}', f"{KEY_WISH} 'triton_version'"),
        ('{"1": []}', "1: expected an object of launch keys, found []"),
        ('{"1": NaN}', "1: expected an object of launch keys, found nan"),
        (f'{{"1": {GOOD}, "1": {GOOD}}}', "1: expected it once, found a duplicate key"),
        (f'{{"16": {GOOD[:-1]}, "num_warps": 4}}}}', "16 / num_warps: expected it once, found a duplicate key"),
        (f'{{"16": {GOOD[:-1]}, "a\\nb": 4, "a\\nb": 4}}}}', "16 / 'a\\nb': expected it once, found a duplicate key"),
        *(
            (f'{{"16": {GOOD[:-1]}, "x": {value}}}}}', f"16 / x: {KEPT_WISH}, found {found}")
            for value, found in (
                ("NaN", "nan"), ("-Infinity", "-inf"), ("1.0", "1.0"), ("null", "null"), ("[1]", "[1]"),
                ("{}", "an object"),
            )
        ),
        *(
            (json.dumps({"1": ENTRY, "64": ENTRY | {key: value}}), f"64 / {key}: {SIZE_WISH} {found}")
            for key in ENTRY
            for value, found in (
                (0, "0"), (-1, "-1"), (True, "true"), ("4", "'4'"), (2**31, "2147483648"), (4.0, "4.0"), (None, "null"),
            )
        ),
        (f'{{"1": {GOOD[:-1]}000000000000}}}}', f"1 / num_stages: {SIZE_WISH} 3000000000000"),
        (f'{{"1": {GOOD}, "2": {{"num_warps": 4, "num_stages": 3}}}}',
         "2: expected BLOCK_SIZE_M, BLOCK_SIZE_N, BLOCK_SIZE_K, GROUP_SIZE_M, found nothing"),
    ],
)  # fmt: skip
def test_what_no_entry_can_hold_is_refused_by_its_key(store, data, reason):
    path = store.write(D_NAME, data.encode())
    with pytest.raises(ConfigError) as raised:
        read()
    assert raised.value.reason == f"{reason}. Fix: correct the file, or remove it"
    assert str(raised.value) == f"{path}: {raised.value.reason}"
    assert (raised.value.line, raised.value.column) == (None, None)


def test_a_file_over_one_mebibyte_is_refused_and_one_below_is_not(store):
    store.write(D_NAME, json.dumps({"1": ENTRY}).encode().ljust(2**20))
    assert read()
    store.write(D_NAME, json.dumps({"1": ENTRY}).encode().ljust(2**20 + 1))
    with pytest.raises(ConfigError, match="1 MiB"):
        read()


def test_a_directory_named_like_a_file_is_refused(store):
    (store.root / D_NAME).mkdir(parents=True)
    with pytest.raises(ConfigError, match="found a directory"):
        read()


def test_a_pipe_named_like_a_file_is_refused_without_waiting(store):
    os.mkfifo(store.root / D_NAME)
    with pytest.raises(ConfigError, match="device"):
        read()


def test_a_pipe_for_a_registry_is_refused_without_waiting(store):
    (store.root / "registry/devices.json").unlink()
    os.mkfifo(store.root / "registry/devices.json")
    with pytest.raises(ConfigError, match="device"):
        read()


def test_a_path_with_a_newline_keeps_a_message_on_one_line():
    assert "\n" not in str(ConfigError("a\nb", "reason", 3, 4))


def test_a_link_to_nothing_is_refused(store):
    (store.root / D_NAME).symlink_to(store.root / "gone")
    with pytest.raises(ConfigError, match="cannot be read"):
        read()


def test_an_unreadable_file_is_refused(store):
    store.add(D_NAME).chmod(0)
    with without_roots_rights(), pytest.raises(ConfigError, match="cannot be read"):
        read()


def test_an_error_travels_between_processes():
    error = pickle.loads(pickle.dumps(ConfigError("a b", "reason", 3, 4)))
    assert str(error) == "a b: line 3, column 4: reason"
    assert isinstance(error, ValueError)


def test_batch_sizes_come_in_order_whatever_the_files(store):
    path = store.write(NAME, dict.fromkeys(("1024", "8", "64"), ENTRY))
    assert list(read_config(path)) == [8, 64, 1024]


def test_integers_booleans_and_strings_are_kept_in_order(store):
    store.write(D_NAME, {"1": ENTRY | {"USE_TMA": True, "grf_mode": "256"}})
    assert list(read()[1].items()) == [*ENTRY.items(), ("USE_TMA", True), ("grf_mode", "256")]


@given(st.binary() | st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text() | st.sampled_from(["1", "8", *ENTRY]), inner),
).map(lambda document: json.dumps(document).encode()))  # fmt: skip
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
def test_any_bytes_give_a_mapping_or_a_config_error(store, data):
    store.write(D_NAME, data)
    try:
        configs = read()
    except ConfigError:
        return
    assert isinstance(configs, Mapping)
    assert all(isinstance(size, int) and set(ENTRY) <= set(entry) for size, entry in configs.items())


@given(st.data())
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
def test_a_file_cut_or_changed_anywhere_gives_a_mapping_or_a_config_error(store, data):
    whole = json.dumps({"1": ENTRY, "16": ENTRY}, indent=4).encode()
    start = data.draw(st.integers(0, len(whole)))
    end = data.draw(st.integers(start, len(whole)))
    store.write(D_NAME, whole[:start] + data.draw(st.binary(max_size=3)) + whole[end:])
    try:
        configs = read()
    except ConfigError:
        return
    assert isinstance(configs, Mapping)


BROKEN_REGISTRIES = [
    b"{",
    [],
    {},
    {"devices": 3},
    {"devices": [3]},
    {"devices": [{"aliases": []}]},
    {"devices": [{"name": "../x"}]},
    {"devices": [{"name": "D", "aliases": 3}]},
    {"devices": [{"name": "D", "aliases": "NVIDIA"}]},
    {"devices": [{"name": "D", "siblings": "NVIDIA"}]},
    {"devices": [{"name": "D", "siblings": [3]}]},
    {"devices": [{"name": "D", "siblings": ["../x"]}]},
]


@pytest.mark.parametrize("document", BROKEN_REGISTRIES)
def test_a_broken_registry_is_refused_where_it_is_needed(store, document):
    path = store.write("devices.json", document, "registry")
    with pytest.raises(ConfigError) as raised:
        read()
    assert raised.value.path == str(path)
    store.add(D_NAME)
    assert read()


def test_a_devices_odd_name_is_one_message(store):
    path = store.write("devices.json", {"devices": [{"name": "../x", "aliases": []}]}, "registry")
    with pytest.raises(ConfigError) as raised:
        mark()
    assert str(raised.value).startswith(f"{path}: device_name: expected ")
    assert [str(raised.value).count(word) for word in ("expected", "found")] == [1, 1]


def test_without_a_registry_there_are_no_other_names(store):
    (store.root / "registry/devices.json").unlink()
    assert read() is None


READER = """
import sys
from pathlib import Path
from fused_moe_configs.lookup import Chain, read_config
for _ in range(100):
    marks = {entry["num_warps"] for entry in read_config(Path(sys.argv[1])).values()}
    assert len(marks) == 1, marks
"""


def uniform(path):
    """Whether each of many readings saw one whole file."""
    return all(len({entry["num_warps"] for entry in read_config(path).values()}) == 1 for _ in range(50))


def document(mark):
    return json.dumps({str(size): ENTRY | {"num_warps": mark} for size in range(1, 60)}).encode()


def test_readers_in_threads_and_processes_see_whole_files_while_a_writer_replaces_them(store):
    path = store.write(D_NAME, document(1))
    stop = threading.Event()

    def write():
        mark = 1
        while not stop.is_set():
            mark += 1
            temporary = store.write("temporary", document(mark))
            os.replace(temporary, path)  # noqa: PTH105

    writer = threading.Thread(target=write)
    writer.start()
    try:
        processes = [subprocess.Popen([sys.executable, "-c", READER, path]) for _ in range(2)]
        with ThreadPoolExecutor(4) as threads:
            assert all(threads.map(uniform, [path] * 4))
        assert [process.wait(60) for process in processes] == [0, 0]
    finally:
        stop.set()
        writer.join()
