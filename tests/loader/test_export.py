"""export: the chain's answers in an engine's own layout, and nothing of anybody else's touched."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import fused_moe_configs
from fused_moe_configs import ConfigError, export
from fused_moe_configs._export import LOCK, MANIFEST, write_export

from .conftest import ENTRY

D = "E=8,N=6,device_name=D.json"
SGLANG = "configs/triton_3_8_0"


def name(*parts, device="D", N=6):
    return ",".join([f"E=8,N={N},device_name={device}", *parts]) + ".json"


@pytest.fixture
def destination(tmp_path):
    return tmp_path / "für die engine"


def tree(destination):
    """Name → mark of every exported file."""
    paths = (path for path in destination.rglob("*.json") if path.name != MANIFEST)
    return {str(p.relative_to(destination)): json.loads(p.read_text())["1"]["num_warps"] for p in paths}


def notes(store, destination, engine, **options):
    options = {"triton_version": None, "device_name": None, "overlay": None} | options
    return "\n".join(write_export(str(store.root), destination, engine, **options)[1])


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
    store.add(name(N=8), 3, "triton_3_8_0")
    store.add(D, 4, "legacy_configs")
    export(destination, "sglang")
    assert tree(destination) == {
        f"{SGLANG}/{D}": 1,
        f"configs/triton_3_6_0/{D}": 2,
        f"{SGLANG}/{name(N=8)}": 3,
        f"configs/triton_0_0_0/{D}": 4,
    }


def test_the_version_folder_of_the_reference_wins_over_the_default(store, destination):
    store.add(D, 1)
    store.add(D, 2, "triton_3_8_0")
    export(destination, "sglang")
    assert tree(destination) == {f"{SGLANG}/{D}": 2}


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
    store.add(D, 1, "triton_3_8_0")
    store.add(down, 2)
    assert "no up file wins beside it" in notes(store, destination, "sglang", triton_version="3.8.0")
    assert tree(destination) == {f"{SGLANG}/{D}": 1}


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


def test_a_broken_file_stops_the_export_before_anything_is_written(store, destination):
    store.add(D, 1)
    store.write(name(N=9), b"{")
    with pytest.raises(ConfigError):
        export(destination, "vllm")
    assert not destination.exists()


def test_the_same_export_again_writes_the_same(store, destination):
    store.add(D, 1)
    first = export(destination, "vllm")
    assert export(destination, "vllm") == first


def test_what_another_hand_wrote_is_left_alone_and_said(store, destination):
    destination.mkdir()
    (destination / D).write_text("mine")
    store.add(D, 1)
    assert "left alone" in notes(store, destination, "vllm")
    assert (destination / D).read_text() == "mine"
    assert export(destination, "vllm") == []


def test_what_was_changed_since_is_left_alone(store, destination):
    store.add(D, 1)
    export(destination, "vllm")
    (destination / D).write_text("changed")
    store.add(D, 2)
    assert "left alone" in notes(store, destination, "vllm")
    assert (destination / D).read_text() == "changed"


def test_stale_files_go_only_while_unchanged_and_only_the_engines_own(store, destination):
    first, second = store.add(D, 1), store.add(name(N=9), 2)
    store.add(name(N=7), 3)
    export(destination, "sglang")
    export(destination, "vllm")
    (destination / name(N=9)).write_text("changed")
    (destination / "foreign.json").write_text("{}")
    first.unlink()
    second.unlink()
    assert "left alone" in notes(store, destination, "vllm")
    assert {path.name for path in destination.glob("*.json")} == {MANIFEST, name(N=7), name(N=9), "foreign.json"}
    assert len(list((destination / SGLANG).iterdir())) == 3


def test_a_file_that_has_our_bytes_already_is_taken_over(store, destination):
    store.add(D, 1)
    export(destination, "vllm")
    (destination / MANIFEST).unlink()
    assert export(destination, "vllm") == [destination / D]
    store.add(D, 2)
    export(destination, "vllm")
    assert tree(destination) == {D: 2}


@pytest.mark.parametrize("name", [MANIFEST, D])
def test_a_pipe_in_the_destination_is_not_waited_for(store, destination, name):
    destination.mkdir()
    os.mkfifo(destination / name)
    store.add(D, 1)
    if name == D:
        assert "left alone" in notes(store, destination, "vllm")
    else:
        with pytest.raises(ConfigError, match="list of exported files"):
            export(destination, "vllm")


def test_exports_at_one_time_take_turns(store, destination):
    for N in range(1, 401):
        store.add(name(N=N), 1)
    code = "import sys; from fused_moe_configs._export import write_export as w; w(*sys.argv[1:4], *[None] * 3)"
    command = [sys.executable, "-c", code, store.root, destination]
    runs = [subprocess.Popen([*command, engine]) for engine in ("vllm", "vllm", "sglang")]
    assert [run.wait(60) for run in runs] == [0, 0, 0]
    for N in range(1, 401):
        store.add(name(N=N), 2)
    assert [notes(store, destination, engine) for engine in ("vllm", "sglang")] == ["", ""]
    assert {*tree(destination).values()} == {2}
    assert len(tree(destination)) == 800
    assert not (destination / LOCK).exists()


def test_a_lock_that_nobody_lifts_is_named(store, destination, monkeypatch):
    monkeypatch.setattr("fused_moe_configs._export.WAIT_S", 0)
    store.add(D, 1)
    destination.mkdir()
    (destination / LOCK).touch()
    with pytest.raises(TimeoutError, match=r"lock: expected no other export .* remove the file"):
        export(destination, "vllm")
    assert [path.name for path in destination.iterdir()] == [LOCK]


@pytest.mark.parametrize("engine", ["vllm", "sglang"])
@pytest.mark.parametrize("junk", ["E=a,N=b,device_name=D.json", "E=8,N=0,device_name=D.json", "E=8,device_name=D.json"])
def test_a_name_of_no_workload_is_left_out_and_said(store, destination, engine, junk):
    store.add(D, 1)
    store.add(junk, 2)
    assert f"{junk}: left out: no workload has this name" in notes(store, destination, engine)
    assert [*tree(destination).values()] == [1]


def test_a_device_that_no_file_serves_is_said_and_what_was_exported_stays(store, destination):
    store.add(D, 1)
    export(destination, "vllm")
    assert "no shipped file serves nosuch" in notes(store, destination, "vllm", device_name="nosuch")
    assert tree(destination) == {D: 1}


def test_a_directory_named_like_a_file_is_left_alone(store, destination):
    (destination / D).mkdir(parents=True)
    store.add(D, 1)
    assert "left alone" in notes(store, destination, "vllm")


@pytest.mark.parametrize(
    "manifest", ["", "[]", "{", '{"vllm": 3}', '{"vllm": {"../x.json": ""}}', '{"vllm": {"/x.json": ""}}']
)
def test_a_broken_manifest_is_refused(store, destination, manifest):
    destination.mkdir()
    (destination / MANIFEST).write_text(manifest)
    store.add(D, 1)
    with pytest.raises(ConfigError, match="list of exported files"):
        export(destination, "vllm")


def test_a_failed_write_leaves_no_half_file_and_is_continued_by_the_next(store, destination, monkeypatch):
    store.add(D, 1)
    store.add(name(N=9), 2)
    replace, broken = Path.replace, [True]

    def fail(self, target):
        if Path(target).name == name(N=9) and broken:
            raise OSError("disk full")
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(OSError, match="disk full"):
        export(destination, "vllm")
    assert {path.name for path in destination.iterdir()} == {MANIFEST, D}
    broken.clear()
    assert len(export(destination, "vllm")) == 2


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


@pytest.mark.parametrize("what", ["destination", "overlay"])
@pytest.mark.parametrize(("folder", "found"), [("", "an empty string"), (None, "None"), (3, "3"), ([], r"\[\]")])
def test_a_folder_is_a_path(store, destination, what, folder, found):
    store.add(D, 1)
    if what == "overlay" and folder is None:
        folder, found = False, "False"
    with pytest.raises(ValueError, match=f"{what}: expected a folder, found {found}"):
        export(**{"destination": destination, "engine": "vllm", what: folder})


@pytest.mark.parametrize(
    "options",
    [
        {"engine": "trt"},
        {"engine": []},
        {"triton_version": []},
        {"device_name": []},
        {"triton_version": "x"},
        {"device_name": "../x"},
    ],
)
def test_bad_use_is_named(store, destination, options):
    with pytest.raises(ValueError, match=r"expected .* found"):
        export(destination, **{"engine": "vllm"} | options)


def test_the_api_logs_what_it_left_out(store, destination, caplog):
    store.add(name("dtype=int8_w8a8"), 1)
    fused_moe_configs.export(str(destination), "vllm")
    assert "vllm never asks for dtype=int8_w8a8" in caplog.text


def test_files_are_readable_by_whom_the_umask_lets(store, destination):
    store.add(D, 1)
    (path,) = export(destination, "vllm")
    mask = os.umask(0)
    os.umask(mask)
    assert path.stat().st_mode & 0o777 == 0o666 & ~mask
