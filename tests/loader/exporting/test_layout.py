"""Which files an engine is given, under which names, with which bytes."""

from __future__ import annotations

import json
import os

import pytest

from fused_moe_configs import export
from tests.loader.conftest import ENTRY

from .conftest import SGLANG, D, name, notes, tree


def test_vllm_without_a_version_gets_default_then_legacy_and_is_told_of_the_rest(store, destination):
    store.add(D, 1)
    store.add(D, 2, "legacy_configs")
    store.add(name(N=7), 3, "legacy_configs")
    store.add(name(N=8), 4, "triton_3_8_0")
    assert "triton_3_8_0: left out" in notes(store, destination, "vllm")
    assert tree(destination) == {D: 1, name(N=7): 3}


@pytest.mark.parametrize(("engine", "folder"), [("vllm", ""), ("sglang", "configs/triton_3_6_1/")])
def test_with_a_version_it_is_the_chains_answer_for_it(store, destination, engine, folder):
    store.add(D, 1)
    store.add(D, 2, "triton_3_6_0")
    store.add(D, 3, "triton_3_8_0")
    store.add(name(N=7), 4, "legacy_configs")
    store.add(name(N=8), 5, "triton_3_8_0")
    export(destination, engine, triton_version="3.6.1+git")
    assert tree(destination) == {folder + D: 2, folder + name(N=7): 4}


def test_sglang_without_a_version_gets_every_folder(store, destination):
    store.add(D, 1)
    store.add(D, 2, "triton_3_6_0")
    store.add(name(N=8), 3, "triton_3_8_1")
    store.add(D, 4, "legacy_configs")
    export(destination, "sglang")
    assert tree(destination) == {
        f"{SGLANG}/{D}": 1,
        f"configs/triton_3_6_0/{D}": 2,
        f"configs/triton_3_8_1/{name(N=8)}": 3,
        f"configs/triton_0_0_0/{D}": 4,
    }


@pytest.mark.parametrize("options", [{}, {"triton_version": "3.8.0"}])
def test_no_other_patch_hides_the_default_from_the_reference(store, destination, options):
    store.add(D, 1)
    store.add(D, 2, "triton_3_8_1")
    export(destination, "sglang", **options)
    others = {} if options else {f"configs/triton_3_8_1/{D}": 2}
    assert tree(destination) == {f"{SGLANG}/{D}": 1} | others


@pytest.mark.parametrize("folder", ["triton_0_0_0", "triton_3_8_0"])
def test_no_folder_takes_a_tiers_place(store, destination, folder):
    store.add(D, 1)
    store.add(name(N=7), 2, "legacy_configs")
    for N in (6, 7, 8):
        store.add(name(N=N), 3, folder)
    assert f"{folder}: left out: another tier is exported as this version. Fix: " in notes(store, destination, "sglang")
    assert tree(destination) == {f"{SGLANG}/{D}": 1, f"configs/triton_0_0_0/{name(N=7)}": 2}


def test_each_engine_gets_its_own_spelling(store, destination):
    block = name("dtype=fp8_w8a8", "block_shape=[128,128]")
    store.add(block, 1)
    store.add(name("dtype=int4_w4a16"), 2)
    export(destination, "vllm")
    export(destination, "sglang")
    assert tree(destination) == {
        block: 1,
        name("dtype=int4_w4a16"): 2,
        f"{SGLANG}/{name('dtype=fp8_w8a8', 'block_shape=[128, 128]')}": 1,
        f"{SGLANG}/{name('dtype=int4_w4a16', N=3)}": 2,
    }


@pytest.mark.parametrize(
    ("engine", "dead"),
    [
        ("vllm", name("dtype=int8_w8a8")),
        ("vllm", name("dtype=fp8_w8a8", "per_channel_quant=True")),
        ("vllm", D.replace(".json", "_down.json")),
        ("sglang", name("dtype=fp8_w8a16")),
        ("sglang", name("dtype=int4_w4a16", N=7)),
    ],
)
def test_what_an_engine_never_asks_for_is_left_out_and_said(store, destination, engine, dead):
    store.add(D, 1)
    store.add(dead, 2)
    said = notes(store, destination, engine)
    assert list(tree(destination).values()) == [1]
    assert "left out" in said
    assert dead.split("device_name")[1].split(".json")[0] in said


def test_sglang_keeps_down_and_per_channel_and_tma_and_vllm_loses_tma(store, destination):
    store.add(D, 1, USE_TMA=True)
    store.add(D.replace(".json", "_down.json"), 2)
    store.add(name("dtype=int8_w8a8", "per_channel_quant=True"), 3)
    export(destination, "sglang")
    assert sorted(tree(destination).values()) == [1, 2, 3]
    assert json.loads((destination / SGLANG / D).read_text())["1"]["USE_TMA"] is True
    assert "USE_TMA left out" in notes(store, destination, "vllm")
    assert "USE_TMA" not in json.loads((destination / D).read_text())["1"]


def test_sglang_never_pairs_an_up_file_with_another_versions_down_file(store, destination):
    down = D.replace(".json", "_down.json")
    for mark, tier in ((1, ""), (2, "triton_3_6_0"), (3, "triton_3_4_0")):
        store.add(D, mark, tier)
    store.add(down, 4, "triton_3_6_0")
    store.add(name(N=7), 5)
    export(destination, "sglang")
    assert tree(destination) == {
        f"{SGLANG}/{D}": 1,
        f"{SGLANG}/{down}": 1,
        f"configs/triton_3_6_0/{D}": 2,
        f"configs/triton_3_6_0/{down}": 4,
        f"configs/triton_3_4_0/{D}": 3,
        f"configs/triton_3_4_0/{down}": 3,
        f"{SGLANG}/{name(N=7)}": 5,
    }


def test_a_down_file_is_exported_only_where_its_up_file_wins(store, destination):
    down = D.replace(".json", "_down.json")
    store.add(D, 1, "triton_3_6_0")
    store.add(down, 2)
    assert "no up file wins beside it" in notes(store, destination, "sglang", triton_version="3.6.0")
    assert tree(destination) == {f"configs/triton_3_6_0/{D}": 1}


def test_one_file_for_each_name_that_the_driver_may_report(store, destination):
    store.add(name(device="NVIDIA_H200"), 1)
    store.add(name(device="NVIDIA_H200_X"), 2)
    export(destination, "sglang")
    assert tree(destination) == {
        f"{SGLANG}/{name(device='NVIDIA_H200')}": 1,
        f"{SGLANG}/{name(device='NVIDIA_H200_NVL')}": 1,
        f"{SGLANG}/{name(device='NVIDIA_H200_X')}": 2,
    }


@pytest.mark.parametrize("registry", [True, False])
def test_vllm_asks_for_the_whole_h200_family_under_one_name(store, destination, registry):
    if not registry:
        (store.root / "registry/devices.json").unlink()
    store.add(name(device="NVIDIA_H200_NVL"), 1)
    store.add(name(device="NVIDIA_GH200_480GB"), 2)
    export(destination, "vllm")
    assert tree(destination) == {name(device="NVIDIA_H200"): 1, name(device="NVIDIA_GH200_480GB"): 2}


@pytest.mark.parametrize(
    ("engine", "asked", "written"),
    [
        ("vllm", "NVIDIA H200 NVL", name(device="NVIDIA_H200")),
        ("sglang", "NVIDIA H200 NVL", f"{SGLANG}/{name(device='NVIDIA_H200_NVL')}"),
    ],
)
def test_only_the_device_asked_for(store, destination, engine, asked, written):
    store.add(D, 1)
    store.add(name(device="NVIDIA_H200"), 2)
    export(destination, engine, device_name=asked)
    assert tree(destination) == {written: 2}


def test_files_are_canonical_bytes(store, destination):
    store.write(D, {"16": ENTRY, "2": ENTRY})
    (path,) = export(destination, "vllm")
    assert path == destination / D
    assert path.read_text() == json.dumps({"2": ENTRY, "16": ENTRY}, indent=4) + "\n"


@pytest.mark.parametrize("engine", ["vllm", "sglang"])
@pytest.mark.parametrize("junk", ["E=a,N=b,device_name=D.json", "E=8,N=0,device_name=D.json", "E=8,device_name=D.json"])
def test_a_name_of_no_workload_is_left_out_and_said(store, destination, engine, junk):
    store.add(D, 1)
    store.add(junk, 2)
    assert f"{junk}: left out: no workload has this name" in notes(store, destination, engine)
    assert [*tree(destination).values()] == [1]


def test_an_overlay_comes_first_and_ours_over_it(store, destination, tmp_path):
    overlay = tmp_path / "engine ö"
    overlay.mkdir()
    (overlay / D).write_text('{"triton_version": "3.6.0", "1": {"num_warps": 7}}')
    (overlay / name(N=7)).write_text('{"triton_version": "3.6.0", "1": {"num_warps": 7}}')
    (overlay / name(N=8)).write_text('{"1":{"num_warps":8}}')
    store.add(D, 1)
    export(destination, "vllm", overlay=overlay)
    assert tree(destination) == {D: 1, name(N=7): 7, name(N=8): 8}
    assert (destination / name(N=8)).read_text() == '{"1":{"num_warps":8}}'
    assert "triton_version" not in (destination / name(N=7)).read_text()


def test_an_overlay_gives_regular_json_objects_only_and_what_else_it_holds_is_said(store, destination, tmp_path):
    overlay = tmp_path / "overlay"
    (overlay / "folder.json").mkdir(parents=True)
    (overlay / D).write_text('{"1":{"num_warps":7}}')
    (overlay / "gone.json").symlink_to(overlay / "nothing")
    os.mkfifo(overlay / "pipe.json")
    (overlay / "garbage.json").write_bytes(os.urandom(8) + b"\xff")
    (overlay / "cut.json").write_text('{"triton_version')
    (overlay / "list.json").write_text("[1]")
    (overlay / "deep.json").write_text('{"triton_version": "3", "1": ' + "[" * 100_000)
    (overlay / "large.json").write_bytes(b"{}".ljust(2**20 + 1))
    said = notes(store, destination, "vllm", overlay=overlay)
    assert tree(destination) == {D: 7}
    for other in ("folder", "gone", "pipe", "garbage", "cut", "list", "deep", "large"):
        assert f"{other}.json: left out: " in said


def test_an_overlay_that_is_an_export_does_not_give_its_manifest(store, destination, tmp_path):
    store.add(D, 1)
    export(tmp_path / "first", "vllm")
    assert export(destination, "vllm", overlay=tmp_path / "first") == [destination / D]


@pytest.mark.parametrize(("engine", "below"), [("vllm", ""), ("sglang", ""), ("sglang", "configs")])
def test_an_overlay_cannot_be_the_folder_written_to(store, destination, engine, below):
    store.add(D, 1)
    export(destination, engine)
    with pytest.raises(ValueError, match="overlay: expected another folder"):
        export(destination, engine, overlay=destination / below)


@pytest.mark.parametrize("below", ["", "configs"])
def test_an_overlay_for_sglang_is_a_tree_of_versions(store, destination, tmp_path, below):
    overlay = tmp_path / "overlay"
    for version in ("triton_3_1_0", "triton_3_8_0", "triton_3_6_0_rc1"):
        folder = overlay / below / version
        folder.mkdir(parents=True)
        (folder / D).write_text('{"1":{"num_warps":8}}')
    store.add(D, 1)
    export(destination, "sglang", overlay=overlay)
    assert tree(destination) == {f"{SGLANG}/{D}": 1, f"configs/triton_3_1_0/{D}": 8}


def test_an_overlay_without_files_is_bad_use(store, destination, tmp_path):
    with pytest.raises(ValueError, match="overlay: expected"):
        export(destination, "vllm", overlay=tmp_path / "none")
