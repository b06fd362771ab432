"""From files to distinct kernels."""

from __future__ import annotations

import json
from pathlib import Path, PurePosixPath

import pytest

from tests.builders import Store
from tests.tools.compile.tuned_files import DEEPSEEK, MIXTRAL, SOUND, read, registries, tuned
from tools.checkout import CHECKOUT, CONFIGS
from tools.compile.plan import CompilePlan, concerned, make_plan
from tools.store.config_file import ConfigFile, load
from tools.store.files import Content, discover
from tools.store.tiers import Found, Role
from tools.store.workload import Layout, parse_file_name


def plan(root: Path) -> CompilePlan:
    known = registries()
    return make_plan(read(root), known.devices, known.models)


def test_rows_that_share_a_binary_are_compiled_once(tmp_path: Path) -> None:
    grouped = (64, 64, 64, 32, 4, 3)
    tuned(tmp_path, {64: SOUND, 128: SOUND, 4096: grouped})
    made = plan(tmp_path)
    assert sorted(kernel.rows[0].projection for kernel in made.binaries) == ["down", "up"]
    assert {row.num_tokens for row in made.binaries[0].rows} == {64, 128, 4096}


def test_files_of_one_architecture_share_kernels(tmp_path: Path) -> None:
    tuned(tmp_path, {64: SOUND})
    tuned(tmp_path, {64: SOUND}, MIXTRAL.replace("H100_80GB_HBM3", "H200"))
    made = plan(tmp_path)
    assert len(made.binaries) == 2
    assert len(made.binaries[0].rows) == 2


def test_decode_without_alignment_is_another_kernel(tmp_path: Path) -> None:
    tuned(tmp_path, {1: SOUND, 64: SOUND})
    assert len(plan(tmp_path).binaries) == 4


def test_a_down_file_compiles_the_down_projection_only(tmp_path: Path) -> None:
    tuned(tmp_path, {64: SOUND}, MIXTRAL.replace(".json", "_down.json"))
    assert [kernel.rows[0].projection for kernel in plan(tmp_path).binaries] == ["down"]


def test_shape_comes_from_the_record_first(tmp_path: Path) -> None:
    path = tuned(tmp_path, {64: SOUND})
    Store(tmp_path).measured(path, shapes=[{"K": 512, "top_k": 4, "models": []}])
    (up,) = (k.task.problem.projection for k in plan(tmp_path).binaries if k.rows[0].projection == "up")
    assert (path.name, up.k, up.top_k) == (MIXTRAL, 512, 4)


def test_shape_comes_from_a_registered_model_next(tmp_path: Path) -> None:
    tuned(tmp_path, {64: SOUND})
    made = plan(tmp_path)
    (up,) = (kernel.task.problem.projection for kernel in made.binaries if kernel.rows[0].projection == "up")
    assert (up.k, up.top_k) == (4096, 2)
    assert made.notes == ()


def test_an_unknown_shape_is_assumed_and_said(tmp_path: Path) -> None:
    tuned(tmp_path, {64: SOUND}, "E=7,N=112,device_name=NVIDIA_H100_80GB_HBM3.json")
    made = plan(tmp_path)
    assert [note.message.split(":")[0] for note in made.notes] == ["assumed K=4096, top_k=2"]
    assert len(made.binaries) == 2


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("E=8,N=7168,device_name=NVIDIA_H101.json", "unknown device 'NVIDIA_H101'"),
        ("E=8,N=7168,device_name=AMD_Radeon_Graphics.json", "no architecture that Triton compiles for"),
        (MIXTRAL.replace(".json", ",dtype=int4_w4a16.json"), "no kernel for int4_w4a16"),
    ],
    ids=["unknown device", "no architecture", "no kernel"],
)
def test_what_cannot_be_compiled_is_said(tmp_path: Path, name: str, said: str) -> None:
    tuned(tmp_path, {64: SOUND}, name)
    made = plan(tmp_path)
    assert made.binaries == ()
    assert len(made.notes) == 1
    assert said in made.notes[0].message


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        (MIXTRAL, "{", "not compiled: line 1, column 2: not JSON: "),
        (MIXTRAL, "{}", "not compiled: expected launch configs, found none"),
        (MIXTRAL, '{"1": {}}', "not compiled: expected launch configs, found none"),
        ("config.json", '{"1": {}}', "not compiled: expected E=…,N=…,device_name=…"),
    ],
)
def test_an_unreadable_file_is_a_fault_of_the_file(tmp_path: Path, name: str, text: str, said: str) -> None:
    (tmp_path / name).write_text(text, "utf-8")
    made = plan(tmp_path)
    (unread,) = made.unread
    assert unread.message.startswith(said)
    assert (made.binaries, made.notes) == ((), ())


def test_rows_that_cannot_be_read_are_said_and_the_others_compiled(tmp_path: Path) -> None:
    path = tuned(tmp_path, {64: SOUND, 128: SOUND})
    document = json.loads(path.read_text("utf-8"))
    del document["128"]["num_stages"]
    path.write_text(json.dumps(document), "utf-8")
    made = plan(tmp_path)
    assert [unread.message for unread in made.unread] == ["row 128: not compiled: expected launch configs"]
    assert {row.num_tokens for binary in made.binaries for row in binary.rows} == {64}


def test_in_an_engines_folder_tritons_defaults_are_compiled(tmp_path: Path) -> None:
    path = tuned(tmp_path, {64: (64, 64, 64, 1, 8, 2)})
    document = json.loads(path.read_text("utf-8"))
    del document["64"]["num_warps"], document["64"]["num_stages"]
    path.write_text(json.dumps(document), "utf-8")
    known = registries()
    files = load(discover([tmp_path], Layout.VLLM), Layout.VLLM).configs
    made = make_plan(files, known.devices, known.models)
    assert made.unread == ()
    assert {(b.task.problem.config.num_warps, b.task.problem.config.num_stages) for b in made.binaries} == {(4, 3)}


def test_a_tile_deeper_than_a_scale_group_is_rejected_before_compiling(tmp_path: Path) -> None:
    tuned(tmp_path, {64: (64, 64, 256, 1, 4, 2)}, DEEPSEEK)
    made = plan(tmp_path)
    assert made.binaries == ()
    assert {rejected.row.projection for rejected in made.rejected} == {"up", "down"}
    assert "256" in made.rejected[0].message


def test_sglangs_load_path_does_not_hide_the_tile(tmp_path: Path) -> None:
    tuned(tmp_path, {64: SOUND}, USE_TMA=True)
    assert len(plan(tmp_path).binaries) == 2


def file_at(path: Path) -> ConfigFile:
    found = Found(path, path.parent, PurePosixPath(path.name), Role.CONFIG)
    return ConfigFile(found, parse_file_name(path.name), Content(b"", None, ()))


ONE, OTHER = file_at(CONFIGS / "legacy_configs" / "one.json"), file_at(CONFIGS / "other.json")


def test_a_change_concerns_only_the_files_that_changed() -> None:
    changed = ["configs/legacy_configs/one.json", "configs/records/other.json", "README.md"]
    assert concerned([ONE, OTHER], changed) == [ONE]
    assert concerned([ONE, OTHER], []) == []


@pytest.mark.parametrize("path", ["kernels/launch.py", "tools/compile/check.py", "configs/registry/devices.json"])
def test_it_concerns_all_files_where_something_changed_that_each_hangs_on(path: str) -> None:
    assert concerned([ONE, OTHER], [path]) == [ONE, OTHER]


def test_files_outside_the_checkout_have_no_history_here() -> None:
    assert concerned([file_at(CHECKOUT.parent / "one.json")], ["one.json"]) == []
