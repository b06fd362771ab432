"""What an engine runs without a file, on a grid: each limit that moves is seen, and the hash says that code did."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.builders import Store
from tools.canary import child, defaults
from tools.canary.__main__ import main
from tools.canary.check import DefaultsChecked, check_defaults
from tools.canary.defaults import EXPERTS, KINDS, MACHINES, SHAPES, Machine, tokens_of
from tools.launch.engine_package import open_package
from tools.launch.heuristic_version import FOLLOWED, STAND_INS

from .conftest import FakeEngine, engine, heuristic

COUNT = {name: len(MACHINES[name]) * len(KINDS) * len(EXPERTS) * len(SHAPES) for name in MACHINES}


def checked(changed: FakeEngine, folder: Path, timeout_s: float = 60.0) -> DefaultsChecked:
    package = open_package(changed.name, changed.unpacked(folder / "package"))
    return check_defaults(changed.name, package, heuristic(engine(changed.name)), folder / "child", timeout_s)


@pytest.mark.parametrize("name", list(MACHINES))
def test_an_engine_that_runs_what_our_table_says_has_no_difference(tmp_path: Path, name: str) -> None:
    sound = engine(name)
    assert checked(sound, tmp_path) == DefaultsChecked(
        tuple(path for path in sound.modules if "platform" not in path), heuristic(sound).sha256, COUNT[name], ()
    )


@pytest.mark.parametrize("name", list(MACHINES))
def test_the_child_has_a_stand_in_for_each_name_at_which_the_cut_ends(name: str) -> None:
    assert set(child.default_stand_ins(name, False, None)) == STAND_INS[name]


CHANGES = [
    ("vllm", "(96, 64)", "(95, 64)", "bf16 and fp16, CUDA: ", "M=96: our table answers"),
    ("vllm", "GROUPED = 128", "GROUPED = 127", "bf16 and fp16, CUDA: ", "M=128: our table answers"),
    ("vllm", "if few and M <= 4", "if few and M <= 5", "fp8_w8a8, block_shape [128,128], CUDA: ", "M=5: our table"),
    ("vllm", "and n % 64 == 0", "", "fp8_w8a8, block_shape [32,32], CUDA: ", "M=1: our table answers"),
    ("vllm", "and not rocm", "", "fp8_w8a8, block_shape [128,128], ROCm: ", "M=1: our table answers"),
    ("vllm", '{"SPLIT_K": 1}', '{"SPLIT_K": 2}', "bf16 and fp16, CUDA: ", '"SPLIT_K": 2'),
    ("vllm", "8 if M > 128 else 4", "8 if M > 128 and N > 128 else 4", "CUDA: 11 of 33 workloads", "N=128, K=7168"),
    ("vllm", "3 if M > 32", "3 if M > 32 and M != 12288", "", ""),
    ("sglang", "M <= E", "M < E", "bf16 and fp16, CUDA: ", "M=1: our table answers"),
    ("sglang", "LITTLE = 128 * 1024", "LITTLE = 100000", "fp8_w8a8, CUDA, 101376 bytes of shared memory: ", "M=1:"),
    ("sglang", "if _is_hip or not", "if not", "fp8_w8a8, ROCm, 65536 bytes of shared memory: ", "M=1: our table"),
    ("sglang", "8, stages)", "8, 3)", "fp8_w8a8, CUDA: ", "M=2: our table answers"),
    ("sglang", "32, 4, 2 if _is_hip else 3)", "32, 4, True)", "block_shape [128,128], CUDA: ", '"num_stages": true'),
    ("sglang", "_entry(16, 32, 64, 1)", "None", "bf16 and fp16, CUDA: ", "gives no table of entries"),
    ("sglang", "_entry(64, 64, 32, 8)", "{}[M]", "bf16 and fp16, CUDA: ", "the engine's code fails: KeyError: 2"),
]


@pytest.mark.parametrize(("name", "old", "new", "where", "what"), CHANGES)
def test_a_change_is_a_finding_with_its_first_point(
    tmp_path: Path, name: str, old: str, new: str, where: str, what: str
) -> None:
    found = checked(engine(name).changed(old, new), tmp_path)
    moved, *apart = [f"{each.where}: {each.message}" for each in found.differences]
    assert moved.startswith("get_default_config: what ")
    assert "has moved" in moved
    if not where:  # between the points of the grid: the hash alone sees it
        assert apart == []
        assert "its answers on the grid are those of our table" in moved
        return
    assert "its answers on the grid differ from our table's" in moved
    assert any(where in line and what in line for line in apart), apart


def test_the_line_about_a_move_has_release_and_both_hashes(tmp_path: Path) -> None:
    old, new = engine("vllm"), engine("vllm").changed("rocm = ", "is_rocm = rocm = ")
    (line,) = checked(new, tmp_path).differences
    assert line.where == "get_default_config"
    assert line.message == (
        f"what vLLM 9.8.7 runs without a file has moved: {heuristic(old).sha256} in 9.8.7, {heuristic(new).sha256} "
        "now; its answers on the grid are those of our table. Fix: compare it with tools/launch/heuristics.py, and "
        "name it in FOLLOWED of heuristic_version.py"
    )


def test_a_function_that_cannot_be_cut_out_is_a_finding(tmp_path: Path) -> None:
    found = checked(engine("vllm").changed("rocm = current_platform", "rocm = nsm"), tmp_path)
    (difference,) = found.differences
    assert "found nsm (import vllm.no_such_module as nsm)" in difference.message
    assert (found.sha256, found.asked) == (None, 0)


def test_code_that_hangs_is_a_finding(tmp_path: Path) -> None:
    hanging = engine("vllm").changed("rocm = current_platform", "while True: pass\n    rocm = current_platform")
    moved, said = checked(hanging, tmp_path, timeout_s=2.0).differences
    assert "it gave no answers" in moved.message
    assert "expected answers within 2 s" in said.message


def test_the_command_says_it_and_fails(configs: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sound, changed = engine("vllm"), engine("vllm").changed("(96, 64)", "(90, 64)")
    assert main([f"vllm={sound.unpacked(tmp_path / 'sound')}"]) == 0
    assert f", {COUNT['vllm']} workloads without a file, 0 differences\n" in capsys.readouterr().out
    out = tmp_path / "canary.md"
    assert main([f"vllm={changed.unpacked(tmp_path / 'changed')}", "--out", str(out)]) == 1
    text = out.read_text("utf-8")
    assert re.search(r"^- `get_default_config`: `what vLLM 9\.8\.7 runs without a file has moved", text, re.MULTILINE)
    assert "- `get_default_config, bf16 and fp16, CUDA`: `33 of 33 workloads differ, first at E=1," in text


# The grid


@pytest.mark.parametrize("E", EXPERTS)
def test_every_usual_batch_size_and_both_sides_of_each_limit_are_asked_for(E: int) -> None:
    usual = {1, 2, 4, 8, 16, 24, 32, 48, 64, 96, 128, 256, 512, 1024, 1536, 2048, 3072, 4096, 8192, 16384}
    between = {12, 40, 80, 160, 384}
    limits = {size + side for size in (4, 8, 16, 32, 64, 96, 128, 512, E, 129 * E - 1) for side in (0, 1)}
    assert usual | between | limits <= set(tokens_of(E))
    assert list(tokens_of(E)) == sorted(set(tokens_of(E)))


def test_each_machine_is_told_apart() -> None:
    for machines in MACHINES.values():
        assert len(set(map(str, machines))) == len(machines)
    assert str(Machine(is_rocm=True, smem_bytes=65536)) == "ROCm, 65536 bytes of shared memory"


def test_vllm_has_no_word_for_int8_w8a8() -> None:
    asked = [question for question in defaults.questions() if question.workload.dtype == "int8_w8a8"]
    assert {defaults.to_json("vllm", question)["dtype"] for question in asked} == {None}
    assert {defaults.to_json("sglang", question)["dtype"] for question in asked} == {"int8_w8a8"}


def test_the_releases_that_our_table_follows_are_named_whole() -> None:
    assert {name: each.version for name, each in FOLLOWED.items()} == {"vllm": "0.33.0", "sglang": "0.5.23"}
