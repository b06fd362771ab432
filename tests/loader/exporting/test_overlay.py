"""The engine's own files beneath an export: found, told from other folders, and only those that the engine asks for."""

from __future__ import annotations

import hashlib
import importlib.machinery
import importlib.util
import json
import os
import re
import sys
from pathlib import Path

import pytest

from fused_moe_configs import export
from fused_moe_configs.exporting import write_export
from fused_moe_configs.exporting.overlay import PACKAGED
from fused_moe_configs.gains import BesideShipped
from fused_moe_configs.index import IndexedFile
from tests.loader.conftest import ENTRY

from .conftest import SGLANG, D, name, notes, row, tree

H200 = "NVIDIA_H200"
ROW = row(7)


@pytest.fixture
def overlay(tmp_path):
    folder = tmp_path / "engine ö"
    folder.mkdir()
    return folder


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """Installs an engine of one's own making: its package can be found and must not be imported."""
    site = tmp_path / "site-packages"
    monkeypatch.syspath_prepend(str(site))

    def install(engine: str, folder: str) -> Path:
        package = site / engine
        (package / folder).mkdir(parents=True)
        (package / "__init__.py").write_text("raise AssertionError('imported')")
        return package / folder

    yield install
    assert not {"vllm", "sglang"} & {*sys.modules}


# ---------------------------------------------------------------
# Which files go along


def test_an_overlay_comes_first_and_ours_over_it(store, destination, overlay):
    (overlay / D).write_text(row(7, triton_version="3.6.0"))
    (overlay / name(N=7)).write_text(row(7, triton_version="3.6.0"))
    (overlay / name(N=8)).write_text(row(8))
    store.add(D, 1)
    done = write_export(store.root, destination, "vllm", overlay=overlay)
    assert tree(destination) == {D: 1, name(N=7): 7, name(N=8): 8}
    assert (destination / name(N=8)).read_text() == row(8)
    assert "triton_version" not in (destination / name(N=7)).read_text()
    assert (done.engines_own, [*done.served], done.is_whole) == (2, [D], True)


@pytest.mark.parametrize(
    "read",
    [
        name("dtype=fp8_w8a8", "block_shape=[128,128]"),
        name("dtype=int4_w4a16", "backend=flydsl"),
        "headdim=64,dstate=128,device_name=D,cache_dtype=float16.json",
        "NVIDIA_H200_SHRINK.json",
        "NVIDIA_H200_EXPAND_TRUE.json",
        "NVIDIA_H200_FUSED_MOE_LORA_W13_SHRINK.json",
    ],
)
def test_what_vllm_reads_from_its_variables_folder_goes_along(store, destination, overlay, read):
    """LoRA's and Mamba's configs are read from that folder as well: a server that has some must not lose them."""
    store.add(D, 1)
    (overlay / name(N=7)).write_text(ROW)
    (overlay / read).write_text(ROW)
    assert notes(store, destination, "vllm", overlay=overlay) == ""
    assert tree(destination) == {D: 1, name(N=7): 7, read: 7}


@pytest.mark.parametrize(
    "other",
    [
        "config.json",
        "N=1,K=2,device_name=D,dtype=fp8_w8a8,block_shape=[128,128].json",
        name("dtype=fp8_w8a8", "block_shape=[128, 128]"),
        name("dtype=fp8_w8a8", "per_channel_quant=True"),
        D.replace(".json", "_down.json"),
    ],
)
def test_what_vllm_asks_for_by_no_such_name_is_named_and_left_out(store, destination, overlay, other):
    store.add(D, 1)
    (overlay / name(N=7)).write_text(ROW)
    (overlay / other).write_text(ROW)
    done = write_export(store.root, destination, "vllm", overlay=overlay)
    assert done.notes == [f"{overlay}: left out, vLLM asks for no such name there: {other}"]
    assert done.is_whole, "it was never vLLM's"
    assert tree(destination) == {D: 1, name(N=7): 7}


# ---------------------------------------------------------------
# An engine's own file that was measured to be faster


@pytest.fixture
def faster(store, overlay):
    """Of the store's file D beside this one of SGLang's, in a folder of an older Triton; after all else is stored."""

    def beside(ratio: float, text: str = ROW, file: str = D) -> Path:
        theirs = overlay / "triton_3_6_0" / file
        theirs.parent.mkdir(exist_ok=True)
        theirs.write_text(text)
        ours = store.add(D, 1)
        shipped = BesideShipped(hashlib.sha256(text.encode()).hexdigest(), ratio, ratio)
        entry = IndexedFile(D, (), "3.8.0", "2026-11-26", {}, "claimed", "0" * 64, (), {"sglang": shipped})
        store.index(entry)
        return ours

    return beside


def test_a_file_of_the_engines_that_was_measured_to_be_faster_stays(store, destination, overlay, faster):
    store.add(name(N=7), 2)
    faster(1.21)
    done = write_export(store.root, destination, "sglang", overlay=overlay)
    assert tree(destination) == {f"configs/triton_3_6_0/{D}": 7, f"{SGLANG}/{name(N=7)}": 2}
    assert done.notes == [f"{D}: the engine's own file stays: ours takes 1.21 of its time"]
    assert done.is_whole, "nothing that was asked for is missing: the engine reads its own"


def test_with_it_ours_of_every_version_and_for_down_stay_away(store, destination, overlay, faster):
    store.add(D.replace(".json", "_down.json"), 3)
    store.add(D, 4, "triton_3_6_0")
    faster(1.21)
    write_export(store.root, destination, "sglang", overlay=overlay)
    assert tree(destination) == {f"configs/triton_3_6_0/{D}": 7}


@pytest.mark.parametrize("text", [ROW, row(7, triton_version="3.6.0")])
def test_it_is_known_by_the_bytes_that_the_engine_ships(store, destination, overlay, faster, text):
    faster(1.21, text)
    write_export(store.root, destination, "sglang", overlay=overlay)
    assert tree(destination) == {f"configs/triton_3_6_0/{D}": 7}


def test_one_that_is_not_faster_or_another_one_gives_way(store, destination, overlay, faster):
    faster(1.01)
    write_export(store.root, destination, "sglang", overlay=overlay)
    assert tree(destination)[f"{SGLANG}/{D}"] == 1
    faster(1.21)
    (overlay / "triton_3_6_0" / D).write_text(row(9))
    done = write_export(store.root, destination, "sglang", overlay=overlay)
    assert (tree(destination)[f"{SGLANG}/{D}"], done.notes) == (1, [])


@pytest.mark.parametrize(("version", "read"), [("triton_3_7_1", True), ("triton_3_8_0", True), ("triton_3_5_1", False)])
def test_it_stays_only_where_it_is_the_one_that_the_engine_reads(store, destination, overlay, faster, version, read):
    """Under the reference Triton: of its own folder, else of the newest."""
    faster(1.21)
    other = overlay / version / D
    other.parent.mkdir()
    other.write_text(row(9))
    write_export(store.root, destination, "sglang", overlay=overlay)
    assert (tree(destination).get(f"{SGLANG}/{D}") == 1) is read


def test_without_an_overlay_ours_is_written_for_then_the_engine_reads_no_file_of_its_own(store, destination, faster):
    faster(1.21)
    assert notes(store, destination, "sglang") == ""
    assert tree(destination) == {f"{SGLANG}/{D}": 1}


@pytest.mark.parametrize("below", ["", "configs"])
def test_an_overlay_for_sglang_is_a_tree_of_versions(store, destination, overlay, below):
    for version in ("triton_3_1_0", "triton_3_8_0", "triton_3_6_0_rc1"):
        folder = overlay / below / version
        folder.mkdir(parents=True)
        (folder / D).write_text(row(8))
    store.add(D, 1)
    export(destination, "sglang", overlay=overlay)
    assert tree(destination) == {f"{SGLANG}/{D}": 1, f"configs/triton_3_1_0/{D}": 8}


def test_of_sglangs_folder_other_kernels_files_are_named_and_left_out(store, destination, overlay):
    """SGLang 0.5.23 has ten of them beside its version folders; nothing reads them through the variable."""
    folder = overlay / "triton_3_6_0"
    folder.mkdir()
    read = [
        D,
        D.replace(".json", "_down.json"),
        name("dtype=fp8_w8a8", "block_shape=[128, 128]"),
        name("dtype=int8_w8a8", "per_channel_quant=True"),
    ]
    for each in (*read, name("dtype=fp8_w8a8", "block_shape=[128,128]"), "notes.json"):
        (folder / each).write_text(ROW)
    (overlay / "causal_conv1d_fwd_sm_90.json").write_text("{}")
    store.add(name(N=7), 1)
    done = write_export(store.root, destination, "sglang", overlay=overlay)
    assert {Path(path).name for path in tree(destination)} == {*read, name(N=7)}
    (note,) = done.notes
    found = "triton_3_6_0/E=8,N=6,device_name=D,dtype=fp8_w8a8,block_shape=[128,128].json, triton_3_6_0/notes.json"
    assert note.endswith(f"asks for no such name there: {found}, causal_conv1d_fwd_sm_90.json")
    assert done.is_whole


@pytest.mark.parametrize(
    "text",
    ["{}", '{"1": {}}', '{"x": {"num_warps": 4}}', f'{{"1": {json.dumps(ENTRY)}, "1": {json.dumps(ENTRY)}}}',
     '{"1": {"num_warps": 7}}'],
    ids=["no row", "an empty row", "no batch size", "a row twice", "half a row"],
)  # fmt: skip
def test_one_that_the_engine_would_fall_over_is_left_out_with_a_loss(store, destination, overlay, text):
    store.add(D, 1)
    (overlay / name(N=7)).write_text(text)
    (overlay / name(N=8)).write_text(ROW)
    done = write_export(store.root, destination, "vllm", overlay=overlay)
    assert tree(destination) == {D: 1, name(N=8): 7}
    (note,) = done.notes
    assert note.startswith(f"{overlay / name(N=7)}: left out: ")
    assert not done.is_whole


def test_folders_that_sglang_takes_for_no_version_are_named(store, destination, overlay):
    for folder in ("triton_3_6_0", "triton_03_06_00", "triton_3_6"):
        (overlay / folder).mkdir()
        (overlay / folder / D).write_text(ROW)
    done = write_export(store.root, destination, "sglang", overlay=overlay)
    (note,) = done.notes
    assert note.endswith("SGLang asks for no such name there: triton_03_06_00/, triton_3_6/")


def test_sglangs_folder_is_not_vllms_because_a_file_lies_beside(store, destination, overlay):
    (overlay / "triton_3_6_0").mkdir()
    (overlay / D).write_text(ROW)
    with pytest.raises(ValueError, match=r"expected the configs folder of vLLM, .*, which is SGLang's"):
        write_export(store.root, destination, "vllm", overlay=overlay)


def test_a_tuned_file_of_the_overlay_that_is_broken_is_a_loss(store, destination, overlay):
    E8 = [name(N=n) for n in range(10, 18)]
    folder, gone, pipe, garbage, cut, of_a_list, deep, large = (overlay / each for each in E8)
    folder.mkdir()
    gone.symlink_to(overlay / "nothing")
    os.mkfifo(pipe)
    garbage.write_bytes(b"\xff")
    cut.write_text('{"triton_version')
    of_a_list.write_text("[1]")
    deep.write_text('{"triton_version": "3", "1": ' + "[" * 100_000)
    large.write_bytes(b"{}".ljust(2**20 + 1))
    (overlay / D).write_text(ROW)
    done = write_export(store.root, destination, "vllm", overlay=overlay)
    assert tree(destination) == {D: 7}
    for each in E8:
        assert any(line.startswith(f"{overlay / each}: left out: ") for line in done.notes)
    assert not done.is_whole


def test_an_overlay_that_is_an_export_does_not_give_its_manifest(store, destination, tmp_path):
    store.add(D, 1)
    export(tmp_path / "first", "vllm")
    assert export(destination, "vllm", overlay=tmp_path / "first") == [destination / D]


# ---------------------------------------------------------------
# A folder that is none


def refused(store, destination, engine, overlay):
    with pytest.raises(ValueError, match=r"^overlay: expected ") as raised:
        export(destination, engine, overlay=overlay)
    assert not destination.exists()
    said = str(raised.value)
    assert said.count("Fix: ") == 1
    return said


@pytest.mark.parametrize("engine", ["vllm", "sglang"])
def test_missing_empty_a_file_and_wrong_are_told_apart(store, destination, overlay, tmp_path, engine):
    store.add(D, 1)
    (tmp_path / "file").touch()
    (tmp_path / "wrong" / "src").mkdir(parents=True)
    (tmp_path / "wrong" / "notes.json").write_text("{}")
    assert "none, which does not exist. Fix: " in refused(store, destination, engine, tmp_path / "none")
    assert "file, which is a file. Fix: " in refused(store, destination, engine, tmp_path / "file")
    assert f"{overlay}, an empty folder. Fix: " in refused(store, destination, engine, overlay)
    assert ", another folder: it holds notes.json, src, and no " in refused(
        store, destination, engine, tmp_path / "wrong"
    )


def test_a_tree_of_empty_version_folders_has_no_tuned_file(store, destination, overlay):
    (overlay / "triton_3_6_0").mkdir()
    store.add(D, 1)
    assert "found no tuned file in " in refused(store, destination, "sglang", overlay)


@pytest.mark.parametrize("below", ["", "configs"])
def test_sglangs_folder_is_no_overlay_for_vllm(store, destination, overlay, below):
    store.add(D, 1)
    folder = overlay / below / "triton_3_6_0"
    folder.mkdir(parents=True)
    (folder / D).write_text(ROW)
    assert "which is SGLang's" in refused(store, destination, "vllm", overlay)
    assert "which is SGLang's" in refused(store, destination, "vllm", folder)


def test_vllms_folder_is_no_overlay_for_sglang(store, destination, overlay):
    store.add(D, 1)
    (overlay / D).write_text(ROW)
    assert "which is vLLM's" in refused(store, destination, "sglang", overlay)


def test_of_one_version_of_sglangs_the_fix_names_the_folder_above_which_works(store, destination, overlay):
    store.add(D, 1)
    folder = overlay / "triton_3_6_0"
    folder.mkdir()
    (folder / name(N=7)).write_text(ROW)
    said = refused(store, destination, "sglang", folder)
    (fix,) = re.findall(r"Fix: name the folder above it, (.*)", said)
    export(destination, "sglang", overlay=fix)
    assert tree(destination) == {f"{SGLANG}/{D}": 1, f"configs/triton_3_6_0/{name(N=7)}": 7}


# ---------------------------------------------------------------
# auto


@pytest.mark.parametrize("folder", PACKAGED["sglang"])
def test_auto_finds_the_folder_of_an_installed_sglang_without_importing_it(store, destination, installed, folder):
    version = installed("sglang", folder) / "triton_3_6_0"
    version.mkdir()
    (version / name(N=7)).write_text(ROW)
    store.add(D, 1)
    export(destination, "sglang", overlay="auto")
    assert tree(destination) == {f"{SGLANG}/{D}": 1, f"configs/triton_3_6_0/{name(N=7)}": 7}


def test_auto_finds_vllms_too(store, destination, installed):
    (installed("vllm", *PACKAGED["vllm"]) / name(N=7)).write_text(ROW)
    store.add(D, 1)
    export(destination, "vllm", overlay="auto")
    assert tree(destination) == {D: 1, name(N=7): 7}


@pytest.mark.parametrize("engine", ["vllm", "sglang"])
def test_auto_without_the_engine_says_where_it_looked(store, destination, monkeypatch, engine):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    store.add(D, 1)
    said = refused(store, destination, engine, "auto")
    assert f" installed for {sys.executable}, found none. Fix: run this in the environment of " in said


def test_auto_with_an_sglang_that_keeps_its_files_elsewhere_names_the_package(store, destination, installed):
    package = installed("sglang", "srt").parent
    store.add(D, 1)
    assert f"found {package} without it. Fix: " in refused(store, destination, "sglang", "auto")


def test_auto_is_not_fooled_by_a_module_of_that_name(store, destination, monkeypatch):
    spec = importlib.machinery.ModuleSpec("sglang", None)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: spec)
    store.add(D, 1)
    assert "found none" in refused(store, destination, "sglang", "auto")


def test_a_folder_of_that_name_is_written_with_a_path(store, destination, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "auto"
    folder.mkdir()
    (folder / name(N=7)).write_text(ROW)
    store.add(D, 1)
    export(destination, "vllm", overlay="./auto")
    assert tree(destination) == {D: 1, name(N=7): 7}


# ---------------------------------------------------------------
# Siblings


def test_an_engines_own_file_of_the_device_stands_before_a_siblings(store, destination, overlay, siblings):
    folder = overlay / "triton_3_6_0"
    folder.mkdir()
    (folder / name(device="A")).write_text(ROW)
    store.add(name(device="B"), 1)
    store.add(name(device="B", N=9), 2)
    export(destination, "sglang", device_name="A", overlay=overlay, siblings=True)
    assert tree(destination) == {
        f"{SGLANG}/{name(device='A', N=9)}": 2,
        f"configs/triton_3_6_0/{name(device='A')}": 7,
    }
