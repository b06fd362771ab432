"""Where figures were measured: asked of the machine, and the same in every document."""

from __future__ import annotations

import platform
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.tools.bench.fake_gpu import H100, fake_torch
from tools.measure import environment
from tools.measure.environment import as_text, driver, environment_here
from tools.store import schemas
from tools.store.record import Environment

TRITON = SimpleNamespace(__version__="3.8.0")


class TestHere:
    def test_on_nvidias(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(environment, "driver", lambda: "575.57.08")
        found = environment_here(fake_torch(), TRITON)
        assert found == Environment(
            H100, "9.0", 132, "575.57.08", "12.9", "2.13.0+cu129", "3.8.0", platform.python_version()
        )
        faults = schemas.faults("record", {"environment": found.to_json()})
        assert [fault for fault in faults if fault.where.startswith("environment")] == []

    def test_on_amds_nvidias_driver_is_not_asked_for(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(environment, "driver", lambda: pytest.fail("asked"))
        properties = SimpleNamespace(gcnArchName="gfx942:sramecc+", major=9, minor=4, multi_processor_count=304)
        torch = fake_torch("AMD Instinct MI300X", get_device_properties=lambda index: properties)
        torch.version = SimpleNamespace(cuda=None, hip="6.4.1")
        found = environment_here(torch, TRITON)
        assert (found.compute_capability, found.driver, found.cuda) == ("gfx942", None, "6.4.1")


def test_a_report_says_every_part_and_what_is_not_known() -> None:
    told = as_text(Environment(H100, "9.0", 132, None, "12.9", "2.13.0", "3.8.0", "3.12.3"))
    assert (told["device"], told["sm_count"], told["driver"]) == (H100, "132", "unknown")
    assert list(told)[1:] == ["compute_capability", "sm_count", "driver", "cuda", "torch", "triton", "python"]


class TestDriver:
    def answer(self, folder: Path, script: str, monkeypatch: pytest.MonkeyPatch) -> str | None:
        tool = folder / "nvidia-smi"
        tool.write_text(f"#!/bin/sh\n{script}\n", "utf-8")
        tool.chmod(0o755)
        monkeypatch.setenv("PATH", str(folder), prepend=":")
        return driver()

    @pytest.mark.parametrize(
        ("script", "expected"),
        [("echo 575.57.08", "575.57.08"), ("echo 575.57.08; echo 575.57.08", "575.57.08"), ("true", None)],
        ids=["one GPU", "two GPUs", "no answer"],
    )
    def test_the_first_gpus_counts(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, expected: str | None
    ) -> None:
        assert self.answer(tmp_path, script, monkeypatch) == expected

    def test_a_tool_that_fails_is_unknown(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        assert self.answer(tmp_path, "echo broken; exit 9", monkeypatch) is None

    def test_no_tool_is_unknown(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("PATH", str(tmp_path))
        assert driver() is None
