"""The fallback chain: which file serves a workload, and how explain says so."""

from __future__ import annotations

import errno
import functools
import logging
import os

import pytest

import fused_moe_configs
from fused_moe_configs import ConfigError, cache_clear, explain, get_config, get_moe_configs

from .conftest import ENTRY, H100

NAME = f"E=8,N=1,device_name={H100}.json"
FP8 = NAME.replace(".json", ",dtype=fp8_w8a8.json")
INT8 = NAME.replace(".json", ",dtype=int8_w8a8.json")
MACHINE = {"device_name": H100, "triton_version": "3.8.0"}


def mark(*arguments, **options):
    configs = get_moe_configs(8, 1, *arguments, **MACHINE | options)
    return configs and configs[1]["num_warps"]


def test_the_tiers_come_in_order(store, user):
    legacy = store.add(NAME, 4, "legacy_configs")
    default, version, own = store.add(NAME, 3), store.add(NAME, 2, "triton_3_8_0"), user.add(NAME, 1)
    for expected, path in enumerate((own, version, default, legacy), start=1):
        cache_clear()
        assert mark() == expected
        assert explain(8, 1, **MACHINE).winner == path
        path.unlink()
    cache_clear()
    assert mark() is None


def test_the_first_file_wins_whole(store):
    store.write(NAME, {"1": ENTRY, "64": ENTRY})
    store.write(NAME, {"8": ENTRY}, "triton_3_8_0")
    assert list(get_moe_configs(8, 1, **MACHINE)) == [8]


@pytest.mark.parametrize(
    ("version", "expected"),
    [("3.8.0", 80), ("3.8.0+git12ab", 80), ("3.8.0rc1", 80), ("3.8.0.post1", 80), ("3.8", 80), ("3.8.7", 82),
     ("3.6.0", 1), ("3.80.0", 1), ("4.8.0", 1)],
)  # fmt: skip
def test_the_version_is_exact_or_the_highest_patch_that_has_the_file(store, version, expected):
    store.add(NAME, 1)
    store.add(NAME, 80, "triton_3_8_0")
    store.add(NAME, 82, "triton_3_8_2")
    store.add(FP8, 10, "triton_3_8_10")
    for junk in ("triton_3_8", "triton_3_8_0_rc1", "triton_x_y_z", "triton_3_08_1", "triton_3_8_²"):
        store.add(NAME, 99, junk)
    assert mark(triton_version=version) == expected


def test_patches_are_numbers_not_strings(store):
    store.add(NAME, 9, "triton_3_8_9")
    store.add(NAME, 10, "triton_3_8_10")
    assert mark() == 10


@pytest.mark.parametrize("version", ["", "3", "three", "3.8.0/../..", "9" * 5000 + ".1", 3.8, "3.8.0junk"])
def test_what_is_no_version_is_named(store, version):
    with pytest.raises(ValueError, match="triton_version: expected a version"):
        mark(triton_version=version)


def test_without_any_triton_version_folders_do_not_count(store, monkeypatch):
    monkeypatch.setattr("fused_moe_configs.machine.version_of", lambda package: None)
    store.add(NAME, 2, "triton_3_8_0")
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
    lookup = explain(8, 1, **MACHINE)
    folders = [user.root, store.root / "triton_3_8_0", store.root, store.root / "legacy_configs"]
    assert lookup.tried == tuple((f / NAME, "found" if f / NAME == winner else "no file") for f in folders)
    assert str(lookup).splitlines()[-1] == lookup.reason == "Served by the legacy tier."
    assert str(winner) in str(lookup)


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


@pytest.mark.parametrize("document", [{"triton_version": 3, "1": ENTRY}, {"triton_version": "3.6.0"},
                                      b'{"triton_version": "3", "triton_version": "3"}'])  # fmt: skip
def test_the_users_triton_version_is_one_string_beside_batch_sizes(user, document):
    user.write(NAME, document)
    with pytest.raises(ConfigError):
        mark()


@pytest.mark.parametrize("kind", ["missing", "a file"])
def test_a_users_folder_that_is_none_is_warned_of_once_and_the_chain_goes_on(store, user, kind, monkeypatch, caplog):
    folder = user.root / "nicht da"
    if kind == "a file":
        folder.write_text("")
    monkeypatch.setenv("VLLM_TUNED_CONFIG_FOLDER", str(folder))
    store.add(NAME, 1)
    assert mark() == 1
    assert mark("fp8_w8a8") is None
    warnings = [record.message for record in caplog.records if "expected a folder" in record.message]
    assert len(warnings) == 1
    assert str(folder) in warnings[0]


def test_a_newline_in_the_variable_does_not_split_the_warning(store, monkeypatch, caplog):
    monkeypatch.setenv("VLLM_TUNED_CONFIG_FOLDER", "/none\nFATAL: forged")
    mark()
    assert caplog.records
    assert not any("\n" in record.message for record in caplog.records)
    assert all(" file  " in line for line in str(explain(8, 1, **MACHINE)).splitlines()[:-1])


def test_a_folder_that_does_not_let_itself_be_asked_is_no_missing_file(store, user, monkeypatch):
    store.add(NAME, 1)

    def lstat(path, lstat=os.lstat):
        if str(path).startswith(str(user.root)):
            raise PermissionError(errno.EACCES, "Permission denied", path)
        return lstat(path)

    monkeypatch.setattr(os, "lstat", lstat)
    with pytest.raises(ConfigError, match="cannot be looked for: Permission denied") as raised:
        mark()
    assert raised.value.path == str(user.root / NAME)


ODD = [[1], {"a": 1}, {1}]


@pytest.mark.parametrize("odd", [*ODD, ([1], 2)])
@pytest.mark.parametrize("what", ["E", "N", "device_name", "triton_version", "dtype", "block_shape"])
@pytest.mark.parametrize("call", [get_moe_configs, explain, functools.partial(get_config, 64)])
def test_what_cannot_be_hashed_is_named(store, call, what, odd):
    with pytest.raises(ValueError, match=f"^{what}: expected"):
        call(**{"E": 8, "N": 1} | MACHINE | {what: odd})


@pytest.mark.parametrize("odd", ODD)
def test_a_number_of_tokens_that_cannot_be_hashed_is_named(store, odd):
    with pytest.raises(ValueError, match=r"^M: expected"):
        get_config(odd, 8, 1, **MACHINE)


@pytest.mark.parametrize("flag", [[], {}, [1]])
def test_a_flag_is_as_true_as_python_says(store, flag):
    store.add(NAME)
    assert get_moe_configs(8, 1, down=flag, **MACHINE)


@pytest.mark.parametrize(
    "odd", [{"M": 1.0}, {"M": True}, {"E": 8.0}, {"N": 1.0}, {"N": True}, {"block_shape": (128.0, 1)},
            {"block_shape": [128, True]}, {"block_shape": {128, 1}}, {"block_shape": ()}],
)  # fmt: skip
def test_what_only_equals_a_size_is_refused_though_the_size_is_cached(store, odd):
    good = {"M": 1, "E": 8, "N": 1, "block_shape": (128, 1), "dtype": "fp8_w8a8"} | MACHINE
    store.add(FP8.replace(".json", ",block_shape=[128,1].json"))
    store.add(FP8)
    assert get_config(**good)
    assert get_config(**good | {"block_shape": None})
    with pytest.raises(ValueError, match=r"expected .* found"):
        get_config(**good | odd)


def test_nothing_found_is_logged_once_a_workload(store, caplog):
    with caplog.at_level(logging.WARNING):
        assert [mark(), mark(), get_config(5, 8, 1, **MACHINE)] == [None, None, None]
        assert len(caplog.records) == 1
        mark("fp8_w8a8")
    assert len(caplog.records) == 2


@pytest.mark.parametrize(("M", "size"), [(1, 1), (2, 1), (16, 24), (12, 8), (17, 24), (10**6, 24), (15, 8), (8, 8)])
def test_the_nearest_batch_size_serves_and_ties_go_to_the_smaller(store, M, size):
    sizes = (24, 8, 1) if M % 2 else (1, 24, 8)
    store.write(NAME, {str(s): ENTRY | {"num_warps": s} for s in sizes})
    expected = min(sorted(sizes), key=lambda s: abs(s - M))
    assert get_config(M, 8, 1, **MACHINE)["num_warps"] == expected
    assert expected == size or abs(size - M) == abs(expected - M)


def test_a_tie_does_not_depend_on_the_order_in_the_file(store):
    store.write(NAME, {"24": ENTRY | {"num_warps": 24}, "8": ENTRY | {"num_warps": 8}})
    assert get_config(16, 8, 1, **MACHINE)["num_warps"] == 8


@pytest.mark.parametrize("M", [0, -1, True, 1.5, "1", None])
def test_the_number_of_tokens_is_a_positive_integer(store, M):
    store.add(NAME)
    with pytest.raises(ValueError, match="M: expected an integer"):
        get_config(M, 8, 1, **MACHINE)


def test_mappings_are_read_only_and_dicts_are_fresh(store):
    store.add(NAME, 1)
    configs = get_moe_configs(8, 1, **MACHINE)
    for mapping in (configs, configs[1]):
        with pytest.raises(TypeError):
            mapping["x"] = 1
    get_config(1, 8, 1, **MACHINE)["num_warps"] = 99
    assert get_config(1, 8, 1, **MACHINE)["num_warps"] == 1


def test_results_and_the_variable_are_read_once_until_cache_clear(store, user, monkeypatch):
    store.add(NAME, 1)
    assert mark() == 1
    user.add(NAME, 2)
    assert (mark(), get_config(1, 8, 1, **MACHINE)["num_warps"]) == (1, 1)
    cache_clear()
    assert (mark(), get_config(1, 8, 1, **MACHINE)["num_warps"]) == (2, 2)
    monkeypatch.delenv("VLLM_TUNED_CONFIG_FOLDER")
    assert mark("bf16") == 2
    cache_clear()
    assert mark() == 1


def test_a_block_shape_may_be_a_list_or_a_tuple(store):
    store.add(FP8.replace(".json", ",block_shape=[128,128].json"), 3)
    assert mark("fp8_w8a8", [128, 128]) == mark("fp8_w8a8", (128, 128)) == 3


@pytest.mark.parametrize("bad", [{"device_name": "../x"}, {"device_name": "a\nb"}, {"dtype": "../.."}, {"E": 2**31}])
def test_a_name_that_could_leave_the_folder_is_refused(store, bad):
    with pytest.raises(ValueError, match=r"expected .* found"):
        get_moe_configs(**{"E": 8, "N": 1} | MACHINE | bad)


def test_the_published_names_are_there():
    for name in fused_moe_configs.__all__:
        assert hasattr(fused_moe_configs, name)
    assert os.path.isdir(fused_moe_configs.where())  # noqa: PTH112
