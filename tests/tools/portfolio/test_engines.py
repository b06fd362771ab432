from __future__ import annotations

from pathlib import Path

import pytest

from tests import builders
from tests.tools.portfolio.stocked import engine_package
from tests.tools.portfolio.unpacked_engine import DEEPSEEK, MIXTRAL, rows
from tools.errors import UserError
from tools.portfolio import engines
from tools.portfolio.engines import engine_argument, engines_at_hand, on_device
from tools.registry.sharding import Engine

DEVICE = builders.devices().find(builders.H100)


def test_an_engine_whose_kernel_cannot_be_cut_costs_a_line_and_the_other_stays(tmp_path: Path) -> None:
    vllm = engine_package(tmp_path / "v", Engine.VLLM, kernel="def fused_moe_kernel(): pass\n")
    sglang = engine_package(tmp_path / "s", Engine.SGLANG)
    found, faults = engines_at_hand([(Engine.VLLM, vllm), (Engine.SGLANG, sglang)])
    assert list(found) == [Engine.SGLANG]
    (fault,) = faults
    assert fault.startswith("--engine vllm: ")
    assert fault.endswith("Nothing is judged on its kernel.")


def test_a_path_without_an_engine_costs_a_line(tmp_path: Path) -> None:
    found, faults = engines_at_hand([(Engine.VLLM, tmp_path)])
    assert found == {}
    assert faults[0].startswith("--engine vllm: ")


def test_one_that_is_installed_is_found_without_being_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = engine_package(tmp_path, Engine.SGLANG)
    monkeypatch.setattr(engines, "_installed", lambda engine: root if engine is Engine.SGLANG else None)
    found, faults = engines_at_hand([])
    assert (list(found), faults) == ([Engine.SGLANG], ())


@pytest.mark.parametrize("text", ["vllm", "vllm=", "trtllm=/x", "=x", ""])
def test_an_engine_is_given_with_its_path(text: str) -> None:
    with pytest.raises(UserError, match=r"--engine: expected vllm=PATH or sglang=PATH, found "):
        engine_argument(text)


class TestWhatIsShipped:
    def test_goes_by_this_stores_names(self, tmp_path: Path) -> None:
        root = engine_package(tmp_path, Engine.SGLANG, {f"triton_3_6_0/{DEEPSEEK}": rows(1, 64)})
        packages, _ = engines_at_hand([(Engine.SGLANG, root)])
        here = on_device(packages, DEVICE, "3.8.0")[Engine.SGLANG]
        assert list(here.shipped) == [DEEPSEEK.replace(", ", ",")]
        assert here.shipped[DEEPSEEK.replace(", ", ",")].name == DEEPSEEK

    def test_what_no_bench_can_run_is_left_out(self, tmp_path: Path) -> None:
        files = {MIXTRAL: {**rows(1), **rows(64, BLOCK_SIZE_M=None)}}
        packages, _ = engines_at_hand([(Engine.VLLM, engine_package(tmp_path, Engine.VLLM, files))])
        assert on_device(packages, DEVICE, "3.8.0")[Engine.VLLM].shipped == {}
