"""The published functions: whose answer is asked for, what is remembered, and what is logged."""

from __future__ import annotations

import functools
import json
import logging
import os
import subprocess
import sys
import threading
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import fused_moe_configs
from fused_moe_configs import cache_clear, explain, get_config, get_moe_configs

from .conftest import ENTRY, H100

NAME = f"E=8,N=1,device_name={H100}.json"
FP8 = NAME.replace(".json", ",dtype=fp8_w8a8.json")
MACHINE = {"device_name": H100, "triton_version": "3.8.0"}


def mark(*arguments, **options):
    configs = get_moe_configs(8, 1, *arguments, **MACHINE | options)
    return configs and configs[1]["num_warps"]


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


def document(mark):
    return json.dumps({str(size): ENTRY | {"num_warps": mark} for size in range(1, 60)}).encode()


def test_threads_share_one_result_and_one_message(store, caplog):
    store.write("E=8,N=1,device_name=D.json", document(1))
    barrier = threading.Barrier(8)

    def look_up(N):
        barrier.wait()
        return fused_moe_configs.get_moe_configs(8, N, device_name="D", triton_version="3.8.0")

    with ThreadPoolExecutor(8) as threads:
        assert len({id(found) for found in threads.map(look_up, [1] * 8)}) == 1
        assert set(threads.map(look_up, [2] * 8)) == {None}
    assert len(caplog.records) == 1


def test_where_is_the_folder_that_is_read(store):
    assert fused_moe_configs.where() == store.root


# ---------------------------------------------------------------
# Where the package has no folder of its own

PACKAGE = Path(fused_moe_configs.__file__).parent
MISSING = "expected the folder of tuned files, found none, as in a zipped application"
CALLS = """
import sys
import fused_moe_configs as loader
workload = {"E": 8, "N": 1, "device_name": "D", "triton_version": "3.8.0"}
for call in (
    lambda: loader.get_moe_configs(**workload), lambda: loader.get_config(1, **workload),
    lambda: loader.explain(**workload), lambda: loader.export("out", "vllm"), lambda: loader.where(),
):
    try:
        print("found", call())
    except Exception as error:
        print(type(error).__name__, error)
"""


def run(code, path, **environment):
    environment = os.environ | environment | {"PYTHONPATH": str(path)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, env=environment, cwd=path.parent)
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout.decode().splitlines()


@pytest.fixture
def application(tmp_path):
    """The package in a zip file, with its data, which nothing can read there as files."""
    path = tmp_path / "an application.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for file in PACKAGE.rglob("*.py"):
            archive.write(file, file.relative_to(PACKAGE.parent))
        archive.writestr("fused_moe_configs/configs/registry/devices.json", '{"devices": []}')
        archive.writestr("fused_moe_configs/configs/E=8,N=1,device_name=D.json", json.dumps({"1": ENTRY}))
    return path


def test_in_a_zipped_application_every_call_says_that_the_folder_is_missing(application):
    lines = run(CALLS, application)
    where = application / "fused_moe_configs" / "configs"
    assert len(lines) == 5
    assert all(line.startswith(f"RuntimeError {where}: {MISSING}") and ". Fix: " in line for line in lines)
    assert not (application.parent / "out").exists()


def test_in_a_zipped_application_the_users_folder_still_serves(application, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "E=8,N=1,device_name=D.json").write_text(json.dumps({"1": ENTRY}))
    lines = run(CALLS, application, VLLM_TUNED_CONFIG_FOLDER=str(tmp_path / "mine"))
    assert lines[1] == f"found {ENTRY}"
    assert "Served by the user's folder." in lines
    assert MISSING in lines[-1]
    (tmp_path / "mine" / "E=8,N=1,device_name=D.json").unlink()
    assert MISSING in run(CALLS, application, VLLM_TUNED_CONFIG_FOLDER=str(tmp_path / "mine"))[0]


@pytest.mark.parametrize("command", ["where", "doctor", "export out --engine vllm",
                                     "explain 8 1 --device-name D --triton-version 3.8.0"])  # fmt: skip
def test_in_a_zipped_application_the_command_says_so_too(application, command):
    code = "import sys; from fused_moe_configs.cli import main; sys.stderr = sys.stdout"
    said, code = run(f"{code}; print(main({command.split()}))", application)
    assert said.startswith(f"error: {application / 'fused_moe_configs' / 'configs'}: {MISSING}")
    assert code == "2"


def test_a_strangers_configs_folder_beside_the_package_is_not_taken_for_ours(tmp_path):
    """As in a frozen binary without our data, whose application has a folder of that name."""
    bundle = tmp_path / "bundle"
    for file in PACKAGE.rglob("*.py"):
        copy = bundle / file.relative_to(PACKAGE.parent)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(file.read_bytes())
    (bundle / "configs").mkdir()
    (bundle / "configs" / "settings.json").write_text("{}")
    lines = run(CALLS, bundle)
    assert all(line.startswith(f"RuntimeError {bundle / 'fused_moe_configs' / 'configs'}: {MISSING}") for line in lines)


def test_a_folder_that_is_there_and_empty_is_no_error(store):
    for path in sorted(store.root.rglob("*"), reverse=True):
        path.unlink() if path.is_file() else path.rmdir()
    assert mark() is None
    store.root.rmdir()
    cache_clear()
    with pytest.raises(RuntimeError, match=MISSING):
        mark()
