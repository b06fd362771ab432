"""Which files an engine is given, under which names, with which bytes."""

from __future__ import annotations

import json

import pytest

from fused_moe_configs import export
from fused_moe_configs.exporting import summary, write_export
from tests.loader.conftest import ENTRY

from .conftest import SGLANG, D, name, notes, tree


def test_vllm_without_a_version_gets_default_then_legacy_and_is_told_of_the_rest(store, destination):
    store.add(D, 1)
    store.add(D, 2, "legacy_configs")
    store.add(name(N=7), 3, "legacy_configs")
    store.add(name(N=8), 4, "triton_3_6_0")
    store.add(name(N=9), 5, "triton_3_8_0")
    assert notes(store, destination, "vllm").splitlines() == [
        f"{store.root}/triton_3_8_0: 1 file left out: the default tier is this Triton's. Fix: move its files",
        f"{store.root}/triton_3_6_0: 1 file left out: vLLM's folder is flat. Fix: pass a Triton version "
        "(--triton-version 3.6.0)",
    ]
    assert tree(destination) == {D: 1, name(N=7): 3}


def test_what_is_left_out_for_want_of_a_triton_version_is_said_last_and_only_of_what_it_would_bring(store, destination):
    store.add(D, 1)
    store.add(name(device="OTHER"), 1)
    store.add(name("dtype=int8_w8a8"), 1)
    store.add(D, 2, "triton_3_6_0")
    store.add(name("dtype=int8_w8a8"), 2, "triton_3_6_0")
    *_, last = notes(store, destination, "vllm", device_name="D").splitlines()
    assert f"{store.root}/triton_3_6_0: 1 file left out" in last
    export(destination, "vllm", device_name="D", triton_version=last.split("--triton-version ")[1].rstrip(")"))
    assert tree(destination) == {D: 2}
    assert "triton_3_6_0" not in notes(store, destination, "vllm", device_name="OTHER")
    assert "triton_3_6_0" not in notes(store, destination, "sglang")


@pytest.mark.parametrize(("engine", "folder"), [("vllm", ""), ("sglang", "configs/triton_3_6_1/")])
def test_with_a_version_it_is_the_chains_answer_for_it(store, destination, engine, folder):
    store.add(D, 1)
    store.add(D, 2, "triton_3_6_0")
    store.add(D, 3, "triton_3_8_0")
    store.add(name(N=7), 4, "legacy_configs")
    store.add(name(N=8), 5, "triton_3_8_0")
    export(destination, engine, triton_version="3.6.1+git")
    assert tree(destination) == {folder + D: 2, folder + name(N=7): 4}


@pytest.mark.parametrize("engine", ["vllm", "sglang"])
def test_a_tier_that_was_tuned_for_another_triton_is_named_and_is_no_loss(store, destination, engine):
    store.add(D, 1)
    store.add(name(N=7), 2, "triton_99_0_1")
    store.add(name(N=8), 3, "legacy_configs")
    store.add(name(N=9), 4, "legacy_configs")
    done = write_export(store.root, destination, engine, triton_version="99.0.0")
    assert done.is_whole
    assert done.notes == [
        "Triton 99.0.0: no file here was tuned for it",
        "Triton 99.0.0: 1 file comes from the folder of another patch of this Triton, tuned for Triton 99.0.1",
        "Triton 99.0.0: 1 file comes from the default tier, tuned for Triton 3.8.0",
        "Triton 99.0.0: 2 files come from the legacy tier, tuned for an older Triton",
    ]


def test_where_some_were_tuned_for_it_only_the_others_are_named(store, destination):
    store.add(D, 1)
    store.add(name(N=7), 2, "triton_99_0_0")
    assert write_export(store.root, destination, "vllm", triton_version="99.0.0").notes == [
        "Triton 99.0.0: 1 file comes from the default tier, tuned for Triton 3.8.0"
    ]


def test_a_file_that_was_tuned_for_this_triton_needs_no_word(store, destination):
    store.add(D, 1)
    store.add(name(N=7), 2, "triton_3_6_0")
    assert "tuned for" not in notes(store, destination, "vllm", triton_version="3.8.0")
    (store.root / D).unlink()
    assert "tuned for" not in notes(store, destination, "vllm", triton_version="3.6.0")


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


@pytest.mark.parametrize("device", [None, "D", "OTHER"])
def test_what_is_left_out_is_said_of_the_devices_that_are_asked_for_alone(store, destination, device):
    for each in ("D", "OTHER"):
        store.add(name(device=each), 1)
        store.add(name("dtype=int8_w8a8", device=each), 1)
    of = [each for each in ("D", "OTHER") if device in (None, each)]
    names = "; ".join(name("dtype=int8_w8a8", device=each) for each in of)
    assert notes(store, destination, "vllm", device_name=device) == (
        f"{names}: left out: vllm never asks for dtype=int8_w8a8"
    )


CHANNELS = "per_channel_quant=True"


@pytest.mark.parametrize("dtype", ["fp8_w8a8", "int8_w8a8"])
def test_where_sglang_asks_for_scales_per_channel_the_plain_file_stands_in(store, destination, dtype):
    """As the loader answers: `Chain.look_up` by that name finds it."""
    plain, channels = name(f"dtype={dtype}"), name(f"dtype={dtype}", CHANNELS)
    store.add(plain, 1)
    done = write_export(store.root, destination, "sglang")
    assert tree(destination) == {f"{SGLANG}/{plain}": 1, f"{SGLANG}/{channels}": 1}
    assert any(line.endswith(", for scales per channel too") for line in summary(done))
    store.add(channels, 2)
    write_export(store.root, destination, "sglang")
    assert tree(destination) == {f"{SGLANG}/{plain}": 1, f"{SGLANG}/{channels}": 2}


@pytest.mark.parametrize("parts", [(), ("dtype=int8_w8a16",), ("dtype=fp8_w8a8", "block_shape=[128, 128]")])
def test_other_weights_have_no_such_name(store, destination, parts):
    store.add(name(*parts).replace(" ", ""), 1)
    write_export(store.root, destination, "sglang")
    assert tree(destination) == {f"{SGLANG}/{name(*parts)}": 1}


def test_nor_does_it_come_before_a_real_one_of_another_triton(store, destination):
    """SGLang would find it first; the loader prefers the real one of whatever folder."""
    store.add(name("dtype=fp8_w8a8", CHANNELS), 1)
    store.add(name("dtype=fp8_w8a8"), 2, "triton_3_6_0")
    store.add(name("dtype=fp8_w8a8").replace(".json", "_down.json"), 3, "triton_3_6_0")
    done = write_export(store.root, destination, "sglang")
    written = tree(destination)
    assert {path: mark for path, mark in written.items() if CHANNELS in path} == {
        f"{SGLANG}/{name('dtype=fp8_w8a8', CHANNELS)}": 1
    }
    assert not any("left out: no up file" in note for note in done.notes)


def test_nor_does_it_take_the_place_of_the_engines_own_for_channels(store, destination, tmp_path):
    own = tmp_path / "own" / "triton_3_6_0" / name("dtype=fp8_w8a8", CHANNELS)
    own.parent.mkdir(parents=True)
    own.write_text(json.dumps({"1": ENTRY | {"num_warps": 7}}))
    store.add(name("dtype=fp8_w8a8"), 1)
    write_export(store.root, destination, "sglang", overlay=tmp_path / "own")
    assert tree(destination) == {
        f"{SGLANG}/{name('dtype=fp8_w8a8')}": 1,
        f"configs/triton_3_6_0/{name('dtype=fp8_w8a8', CHANNELS)}": 7,
    }


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


def test_an_h200_of_any_name_that_sglang_may_ask_for_gets_the_h200s_file(store, destination):
    """vLLM folds those names by itself; SGLang asks for the driver's, which the registry may not know."""
    store.add(name(device="NVIDIA_H200"), 1)
    export(destination, "sglang", device_name="NVIDIA H200 SXM 141GB")
    assert tree(destination) == {f"{SGLANG}/{name(device='NVIDIA_H200_SXM_141GB')}": 1}


def test_what_is_shipped_for_an_h200_is_written_for_an_nvl_too(destination):
    """Of the real store: SGLang on an H200 NVL finds what vLLM finds there."""
    export(destination, "sglang")
    names = {path.name for path in destination.rglob("E=*.json")}
    shipped = {name for name in names if "device_name=NVIDIA_H200." in name or "device_name=NVIDIA_H200," in name}
    assert shipped
    assert {name.replace("NVIDIA_H200", "NVIDIA_H200_NVL") for name in shipped} <= names


# ---------------------------------------------------------------
# Siblings


@pytest.mark.parametrize(("engine", "below"), [("vllm", ""), ("sglang", f"{SGLANG}/")])
def test_a_siblings_file_is_written_under_every_name_of_a_device_that_has_none(
    store, destination, siblings, engine, below
):
    store.add(name(device="B"), 1)
    export(destination, engine)
    assert tree(destination) == {below + name(device=device): 1 for device in ("B", "B_OEM")}
    export(destination, engine, siblings=True)
    assert tree(destination) == {below + name(device=device): 1 for device in ("A", "A_OEM", "B", "B_OEM")}


def test_siblings_are_not_taken_the_other_way_round(store, destination, siblings):
    store.add(name(device="A"), 1)
    export(destination, "vllm", siblings=True)
    assert tree(destination) == {name(device=device): 1 for device in ("A", "A_OEM")}


@pytest.mark.parametrize("engine", ["vllm", "sglang"])
def test_a_devices_own_file_stands_before_a_siblings_in_any_tier(store, destination, siblings, engine):
    """SGLang reads its folders newest first: a sibling's file in a newer one would go before the device's own."""
    store.add(name(device="B"), 1)
    store.add(name(device="A"), 2, "legacy_configs")
    export(destination, engine, siblings=True)
    marks = {path.rpartition("/")[2]: mark for path, mark in tree(destination).items()}
    assert marks == {name(device="B"): 1, name(device="B_OEM"): 1, name(device="A"): 2, name(device="A_OEM"): 2}


def test_a_device_asked_for_gets_its_siblings_file(store, destination, siblings):
    store.add(name(device="B"), 1)
    assert "no shipped file serves A" in notes(store, destination, "vllm", device_name="A")
    assert notes(store, destination, "vllm", device_name="A", siblings=True) == ""
    assert tree(destination) == {name(device="A"): 1}


def test_a_siblings_down_file_goes_with_its_up_file(store, destination, siblings):
    store.add(name(device="B"), 1)
    store.add(name(device="B").replace(".json", "_down.json"), 2)
    export(destination, "sglang", device_name="A", siblings=True)
    up = f"{SGLANG}/{name(device='A')}"
    assert tree(destination) == {up: 1, up.replace(".json", "_down.json"): 2}


@pytest.mark.parametrize("engine", ["vllm", "sglang"])
def test_the_builds_index_is_no_tuned_file_and_no_matter_of_notes(store, destination, engine):
    store.add(D, 1)
    store.index()
    assert "index.json" not in notes(store, destination, engine)
    assert [*tree(destination).values()] == [1]
