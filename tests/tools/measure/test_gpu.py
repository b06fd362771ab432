"""What a bench asks of the machine, and one line for a machine that can't."""

from __future__ import annotations

import sys
from typing import Any

import pytest

from kernels.problem import QuantMode
from tests.tools.bench.fake_gpu import H100, fake_torch
from tools.errors import UserError
from tools.measure.gpu import BUSY_BYTES, check_memory, find_device, torch_with_gpu
from tools.measure.layer import LayerShape

MIXTRAL = LayerShape(8, 7168, 4096, 2, QuantMode())
GIB = 1 << 30


def with_memory(free: int, total: int) -> Any:
    return fake_torch(mem_get_info=lambda: (free, total))


class TestTorchWithGpu:
    def test_torch_with_a_gpu_is_handed_on(self, monkeypatch: pytest.MonkeyPatch) -> None:
        torch = fake_torch()
        monkeypatch.setitem(sys.modules, "torch", torch)
        assert torch_with_gpu() is torch

    def test_no_torch_is_refused(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "torch", None)
        with pytest.raises(UserError, match=r"expected torch, found none .*Fix: run on a machine with torch"):
            torch_with_gpu()

    @pytest.mark.parametrize(("available", "hip"), [(False, None), (True, "6.4")], ids=["no GPU", "AMD's"])
    def test_no_nvidia_gpu_is_refused(self, monkeypatch: pytest.MonkeyPatch, available: bool, hip: str | None) -> None:
        torch = fake_torch(is_available=lambda: available)
        torch.version.hip = hip
        monkeypatch.setitem(sys.modules, "torch", torch)
        with pytest.raises(UserError, match="expected an NVIDIA GPU, found none that torch can use"):
            torch_with_gpu()


class TestFindDevice:
    def test_the_drivers_name_and_the_registrys_entry(self) -> None:
        reported, device = find_device(fake_torch())
        assert (reported, device.name, device.arch) == (H100, "NVIDIA_H100_80GB_HBM3", "sm_90")

    @pytest.mark.parametrize("name", ["Toaster 3000", "AMD Instinct MI300X", ""])
    def test_what_is_no_known_nvidia_gpu_is_refused_by_name(self, name: str) -> None:
        with pytest.raises(UserError) as raised:
            find_device(fake_torch(name))
        message = f"device: expected an NVIDIA GPU of configs/registry/devices.json, found {name!r}."
        assert str(raised.value) == message


class TestCheckMemory:
    def test_what_fits_into_an_idle_gpu_needs_no_note(self) -> None:
        assert check_memory(with_memory(79 * GIB, 80 * GIB), [("a", MIXTRAL, 4096)]) == ()

    def test_the_border_is_what_the_layer_takes(self) -> None:
        need = MIXTRAL.memory_bytes(4096)
        assert check_memory(with_memory(need, need), [("a", MIXTRAL, 4096)]) == ()
        with pytest.raises(UserError, match=r"^a: expected \d+\.\d GiB of free GPU memory, found \d+\.\d\. Fix: "):
            check_memory(with_memory(need - 1, need), [("a", MIXTRAL, 4096)])

    def test_every_one_must_fit_by_itself(self) -> None:
        need = MIXTRAL.memory_bytes(1)
        wanted = [("small", MIXTRAL, 1), ("large", MIXTRAL, 65536)]
        with pytest.raises(UserError, match=r"^large: "):
            check_memory(with_memory(need, need), wanted)

    def test_another_process_on_the_gpu_is_noted(self) -> None:
        total = 80 * GIB
        assert check_memory(with_memory(total - BUSY_BYTES, total), []) == ()
        (note,) = check_memory(with_memory(total - BUSY_BYTES - GIB, total), [])
        assert (
            note == "3.0 GiB of the GPU were in use at the start: another process uses the GPU; timings may be noisy."
        )
