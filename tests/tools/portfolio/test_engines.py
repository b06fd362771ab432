from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests import builders
from tests.tools.portfolio.stocked import engine_package, full
from tools.errors import UserError
from tools.portfolio.engines import engine_argument, engines_at_hand, find_at
from tools.registry.sharding import Engine
from tools.store.workload import Workload, parse_file_name

CONFIGS = {
    Engine.VLLM: "vllm/model_executor/layers/fused_moe/configs",
    Engine.SGLANG: "sglang/srt/layers/moe/moe_runner/triton_utils/configs",
}
BLOCKS = full("E=8,N=1024,dtype=fp8_w8a8,block_shape=[128,128]")


def workload(name: str = BLOCKS) -> Workload:
    found = parse_file_name(name).workload
    assert found is not None
    return found


def ship(root: Path, engine: Engine, name: str, folder: str = "", **changes: object) -> Path:
    path = root / CONFIGS[engine] / folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(builders.table([1, 64], **changes)), "utf-8")
    return path


@pytest.mark.parametrize("engine", list(Engine))
def test_folder_package_and_kernel_file_name_an_engine(tmp_path: Path, engine: Engine) -> None:
    root = engine_package(tmp_path / "site", engine)
    ship(root, engine, "E=1.json")
    by_folder = find_at(engine, root)
    assert by_folder.version == "0.33.0"
    assert by_folder.configs == root / CONFIGS[engine]
    assert find_at(engine, root / engine.value) == by_folder
    assert find_at(engine, by_folder.kernel).kernel == by_folder.kernel


def test_another_place_is_refused_with_what_was_expected(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"expected vLLM with model_executor.*, found none\. Fix: "):
        find_at(Engine.VLLM, tmp_path)


def test_an_engine_whose_kernel_cannot_be_cut_costs_a_line_and_the_other_stays(tmp_path: Path) -> None:
    vllm = engine_package(tmp_path / "v", Engine.VLLM, kernel="def fused_moe_kernel(): pass\n")
    sglang = engine_package(tmp_path / "s", Engine.SGLANG)
    found, faults = engines_at_hand([(Engine.VLLM, vllm), (Engine.SGLANG, sglang)])
    assert list(found) == [Engine.SGLANG]
    (fault,) = faults
    assert fault.startswith("--engine vllm: ")
    assert fault.endswith("Nothing is judged on its kernel.")


@pytest.mark.parametrize("text", ["vllm", "vllm=", "trtllm=/x", "=x", ""])
def test_an_engine_is_given_with_its_path(text: str) -> None:
    with pytest.raises(UserError, match=r"--engine: expected vllm=PATH or sglang=PATH, found "):
        engine_argument(text)


class TestShippedFiles:
    def test_vllm_has_one_folder(self, tmp_path: Path) -> None:
        root = engine_package(tmp_path, Engine.VLLM)
        path = ship(root, Engine.VLLM, BLOCKS)
        assert find_at(Engine.VLLM, root).shipped(workload(), "3.8.0") == path

    @pytest.mark.parametrize(("triton", "read"), [("3.6.0", "3_6_0"), ("3.8.0", "3_7_0"), ("3.1.0", "3_1_0")])
    def test_sglang_takes_its_own_version_else_the_newest(self, tmp_path: Path, triton: str, read: str) -> None:
        root = engine_package(tmp_path, Engine.SGLANG)
        name = BLOCKS.replace("[128,128]", "[128, 128]")
        paths = {
            version: ship(root, Engine.SGLANG, name, f"triton_{version}") for version in ("3_1_0", "3_6_0", "3_7_0")
        }
        assert find_at(Engine.SGLANG, root).shipped(workload(), triton) == paths[read]

    def test_a_name_that_is_not_shipped_is_none(self, tmp_path: Path) -> None:
        root = engine_package(tmp_path, Engine.VLLM)
        ship(root, Engine.VLLM, BLOCKS)
        assert find_at(Engine.VLLM, root).shipped(workload(full("E=9,N=1024")), "3.8.0") is None

    def test_one_that_no_bench_can_run_is_left_out(self, tmp_path: Path) -> None:
        root = engine_package(tmp_path, Engine.VLLM)
        ship(root, Engine.VLLM, BLOCKS, BLOCK_SIZE_M=None)
        assert find_at(Engine.VLLM, root).shipped(workload(), "3.8.0") is None
