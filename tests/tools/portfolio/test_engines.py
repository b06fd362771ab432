from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from kernels.problem import Flavour
from tests import builders
from tests.tools.portfolio.stocked import engine_package
from tests.tools.portfolio.unpacked_engine import DEEPSEEK, MIXTRAL, rows
from tools.errors import UserError
from tools.launch.engine_package import KERNEL_MODULES
from tools.portfolio import engines
from tools.portfolio.engines import engine_arguments, engines_at_hand, on_device
from tools.registry.sharding import Engine

DEVICE = builders.devices().find(builders.H100)


def test_one_that_was_named_and_has_no_kernel_is_bad_use(tmp_path: Path) -> None:
    broken = engine_package(tmp_path / "v", Engine.VLLM, kernel="def fused_moe_kernel(): pass\n")
    whole = engine_package(tmp_path / "s", Engine.SGLANG)
    for path in (broken, tmp_path / "nowhere"):
        with pytest.raises(UserError, match=r"^--engine vllm: "):
            engines_at_hand({Engine.VLLM: path, Engine.SGLANG: whole})


def test_one_that_is_installed_and_has_no_kernel_is_a_note(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engines, "_installed", lambda engine: tmp_path)
    found, notes = engines_at_hand({Engine.SGLANG: engine_package(tmp_path / "s", Engine.SGLANG)})
    assert list(found) == [Engine.SGLANG]
    assert [note.split(":")[0] for note in notes] == ["vllm is installed, but nothing is judged on its kernel"]


def test_one_that_is_neither_named_nor_installed_is_a_note(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engines, "_installed", lambda engine: None)
    found, notes = engines_at_hand({})
    assert found == {}
    assert [note.split(":")[0] for note in notes] == ["no source of vllm at hand", "no source of sglang at hand"]


@pytest.mark.parametrize("lost", ["configs", "dist-info"])
def test_a_kernel_alone_judges_and_one_line_says_that_shipped_files_are_not_met(tmp_path: Path, lost: str) -> None:
    root = engine_package(tmp_path / "v", Engine.VLLM, {MIXTRAL: rows(1)})
    for path in root.rglob(f"*{lost}"):
        shutil.rmtree(path)
    sglang = engine_package(tmp_path / "s", Engine.SGLANG)
    found, (note,) = engines_at_hand({Engine.VLLM: root, Engine.SGLANG: sglang})
    assert note.startswith("vllm: files are judged on its kernel, but not beside those that it ships: ")
    here = on_device(found, DEVICE, "3.8.0")[Engine.VLLM]
    assert (here.kernel, here.shipped) == (root / KERNEL_MODULES[Flavour.VLLM], {})


def test_one_that_is_installed_is_found_without_being_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = engine_package(tmp_path, Engine.SGLANG)
    monkeypatch.setattr(engines, "_installed", lambda engine: root if engine is Engine.SGLANG else None)
    found, (note,) = engines_at_hand({})
    assert list(found) == [Engine.SGLANG]
    assert note.startswith("no source of vllm at hand")


def test_engines_are_given_with_their_paths() -> None:
    asked = engine_arguments(["sglang=/a=b", "vllm=c"])
    assert asked == {Engine.SGLANG: Path("/a=b"), Engine.VLLM: Path("c")}


class TestWhatIsShipped:
    def test_goes_by_this_stores_names(self, tmp_path: Path) -> None:
        root = engine_package(tmp_path, Engine.SGLANG, {f"triton_3_6_0/{DEEPSEEK}": rows(1, 64)})
        packages, _ = engines_at_hand({Engine.SGLANG: root})
        here = on_device(packages, DEVICE, "3.8.0")[Engine.SGLANG]
        assert list(here.shipped) == [DEEPSEEK.replace(", ", ",")]
        assert here.shipped[DEEPSEEK.replace(", ", ",")].name == DEEPSEEK

    def test_what_no_bench_can_run_is_left_out(self, tmp_path: Path) -> None:
        files = {MIXTRAL: {**rows(1), **rows(64, BLOCK_SIZE_M=None)}}
        packages, _ = engines_at_hand({Engine.VLLM: engine_package(tmp_path, Engine.VLLM, files)})
        assert on_device(packages, DEVICE, "3.8.0")[Engine.VLLM].shipped == {}
