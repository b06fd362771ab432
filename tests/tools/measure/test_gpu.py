"""What a bench asks of the machine, and one line for a machine that can't."""

from __future__ import annotations

import sys
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from kernels.problem import QuantMode
from tests.tools.bench.fake_gpu import fake_torch
from tools.errors import UserError
from tools.measure import gpu
from tools.measure.gpu import BUSY_BYTES, VisibleGpu, check_memory, find_gpu, find_gpus, torch_with_gpu
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

    @pytest.mark.parametrize(
        ("name", "said"),
        [
            ("NVIDIA H100", r"^expected torch, found none \(.*\)\. Fix: install PyTorch for this GPU"),
            (None, r"^expected a GPU that torch can use, found neither\. Fix: run where there is one\.$"),
        ],
        ids=["with a GPU", "without"],
    )
    def test_no_torch_is_what_is_missing_only_where_there_is_a_gpu(
        self, monkeypatch: pytest.MonkeyPatch, name: str | None, said: str
    ) -> None:
        monkeypatch.setitem(sys.modules, "torch", None)
        monkeypatch.setattr(gpu, "find_gpu", lambda: name)
        with pytest.raises(UserError, match=said):
            torch_with_gpu()

    def test_without_a_gpu_it_is_one_line(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "torch", fake_torch(is_available=lambda: False))
        with pytest.raises(
            UserError, match=r"^expected a GPU that torch can use, found none\. Fix: run where there is"
        ):
            torch_with_gpu()

    def test_rocms_is_as_good(self, monkeypatch: pytest.MonkeyPatch) -> None:
        torch = fake_torch("AMD Instinct MI300X")
        torch.version.hip = "6.4"
        monkeypatch.setitem(sys.modules, "torch", torch)
        assert torch_with_gpu() is torch


class TestCheckMemory:
    def test_what_fits_into_an_idle_gpu_needs_no_note(self) -> None:
        assert check_memory(with_memory(79 * GIB, 80 * GIB), [("a", [MIXTRAL], 4096)]) == ()

    def test_the_border_is_what_the_layer_takes(self) -> None:
        need = MIXTRAL.memory_bytes(4096)
        assert check_memory(with_memory(need, need), [("a", [MIXTRAL], 4096)]) == ()
        with pytest.raises(match=r"^a: expected \d+\.\d GiB of free GPU memory, found \d+\.\d\. Fix: "):
            check_memory(with_memory(need - 1, need), [("a", [MIXTRAL], 4096)])

    def test_every_one_must_fit_by_itself(self) -> None:
        need = MIXTRAL.memory_bytes(1)
        wanted = [("small", [MIXTRAL], 1), ("large", [MIXTRAL], 65536)]
        with pytest.raises(match=r"^large: "):
            check_memory(with_memory(need, need), wanted)

    def test_another_process_on_the_gpu_is_noted(self) -> None:
        total = 80 * GIB
        assert check_memory(with_memory(total - BUSY_BYTES, total), []) == ()
        (note,) = check_memory(with_memory(total - BUSY_BYTES - GIB, total), [])
        assert note == "another process uses the GPU (3.0 GiB at the start); timings may be noisy"


@dataclass
class Busy:
    """A GPU's memory, in GiB: what other processes have, this one's context, what torch holds here and could let go."""

    others: float = 0.0
    context: float = 0.5
    held: float = 0.0
    cache: float = 0.0

    def torch(self) -> Any:
        def mem_get_info() -> tuple[int, int]:
            return int((80 - self.others - self.context - self.held - self.cache) * GIB), 80 * GIB

        def empty_cache() -> None:
            self.cache = 0.0

        def memory_reserved() -> int:
            return int((self.held + self.cache) * GIB)

        return fake_torch(mem_get_info=mem_get_info, empty_cache=empty_cache, memory_reserved=memory_reserved)


class TestAProcessThatHasMeasuredBefore:
    def test_is_no_other_process(self) -> None:
        assert check_memory(Busy(cache=40.0).torch(), []) == ()
        assert check_memory(Busy(held=2.3).torch(), []) == ()

    def test_sees_another_one_beside_its_own_memory(self) -> None:
        (note,) = check_memory(Busy(others=3.0, held=2.3, cache=5.0).torch(), [])
        assert note == "another process uses the GPU (3.5 GiB at the start); timings may be noisy"

    def test_has_the_memory_of_its_cache_for_what_comes_next(self) -> None:
        need = MIXTRAL.memory_bytes(4096) / GIB
        assert need > 1.0
        check_memory(Busy(cache=79.0).torch(), [("a", [MIXTRAL], 4096)])
        with pytest.raises(UserError, match=r"^a: expected "):
            check_memory(Busy(held=79.0).torch(), [("a", [MIXTRAL], 4096)])

    def test_frees_what_only_a_cycle_holds(self) -> None:
        class Tensor:
            def __init__(self) -> None:
                self.itself = self

        freed = list[bool]()
        weakref.finalize(Tensor(), lambda: freed.append(True))
        check_memory(fake_torch(empty_cache=lambda: freed.append(False)), [])
        assert freed == [True, False]


# Which GPU is here: as `nvidia-smi` prints it, else as torch names it, without importing torch into the tuner.

Install = Callable[[str, str], None]

TWO_GPUS = """
case "$*" in
  "--query-gpu=name --format=csv,noheader --id=0") echo "NVIDIA H100 80GB HBM3";;
  "--query-gpu=name --format=csv,noheader --id=1"|*--id=GPU-5a1e*) echo "NVIDIA A100-SXM4-80GB";;
  "--query-gpu=name --format=csv,noheader") echo "NVIDIA H100 80GB HBM3"; echo "NVIDIA A100-SXM4-80GB";;
  *) echo "No devices were found"; exit 6;;
esac
"""
NO_TORCH = "exit 1"


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Install:
    """Puts a program on a PATH that holds no other; `python` is what asks torch."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)

    def install(name: str, script: str) -> None:
        path = folder / name
        path.write_text(f"#!/bin/sh\n{script}\n", "utf-8")
        path.chmod(0o755)
        if name == "python":
            monkeypatch.setattr(sys, "executable", str(path))

    install("python", NO_TORCH)
    return install


def test_the_first_gpu_by_the_drivers_own_name(install: Install) -> None:
    install("nvidia-smi", TWO_GPUS)
    assert find_gpu() == "NVIDIA H100 80GB HBM3"


@pytest.mark.parametrize(
    ("visible", "expected"),
    [
        ("0", "NVIDIA H100 80GB HBM3"),
        ("1", "NVIDIA A100-SXM4-80GB"),
        ("1,0", "NVIDIA A100-SXM4-80GB"),
        ("GPU-5a1e8f10", "NVIDIA A100-SXM4-80GB"),
        ("", None),
        ("-1", None),
        ("7", None),
    ],
)
def test_hidden_gpus_are_not_there(
    visible: str, expected: str | None, install: Install, monkeypatch: pytest.MonkeyPatch
) -> None:
    install("nvidia-smi", TWO_GPUS)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert find_gpu() == expected


@pytest.mark.parametrize(
    "script",
    [
        'echo "NVIDIA-SMI has failed because it couldn\'t communicate with the NVIDIA driver."; exit 9',
        'echo "No devices were found"; exit 6',
        "exit 0",
        'echo ""',
    ],
    ids=["no driver", "no device", "silent", "blank"],
)
def test_what_nvidia_smi_says_when_it_fails_is_no_name(script: str, install: Install) -> None:
    install("nvidia-smi", script)
    assert find_gpu() is None


def test_of_several_lines_the_first_counts(install: Install) -> None:
    install("nvidia-smi", 'echo " NVIDIA H200 "; echo "NVIDIA A10"')
    assert find_gpu() == "NVIDIA H200"


def test_without_nvidia_smi_torch_is_asked(install: Install) -> None:
    install("python", 'echo "AMD Instinct MI300X"')
    assert find_gpu() == "AMD Instinct MI300X"


def test_without_either_there_is_none(install: Install) -> None:
    assert find_gpu() is None
    assert find_gpus() == ()


@pytest.mark.parametrize(
    ("visible", "expected"),
    [
        (None, ["0 NVIDIA H100 80GB HBM3", "1 NVIDIA A100-SXM4-80GB"]),
        ("1,0", ["1 NVIDIA A100-SXM4-80GB", "0 NVIDIA H100 80GB HBM3"]),
        ("GPU-5a1e8f10", ["GPU-5a1e8f10 NVIDIA A100-SXM4-80GB"]),
        ("0,7,1", ["0 NVIDIA H100 80GB HBM3"]),  # as CUDA reads it: those before the first that isn't there
        ("", []),
    ],
)
def test_every_visible_gpu_goes_by_what_makes_it_visible(
    visible: str | None, expected: list[str], install: Install, monkeypatch: pytest.MonkeyPatch
) -> None:
    install("nvidia-smi", TWO_GPUS)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert [f"{gpu.id} {gpu.name}" for gpu in find_gpus()] == expected


def test_without_nvidia_smi_torch_lists_them(install: Install) -> None:
    install("python", 'echo "AMD Instinct MI300X"; echo "AMD Instinct MI300X"')
    assert find_gpus() == (VisibleGpu("0", "AMD Instinct MI300X"), VisibleGpu("1", "AMD Instinct MI300X"))


def test_torch_itself_answers(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    monkeypatch.setenv("PATH", str(tmp_path))
    expected = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    assert find_gpu() == expected


# What the card reaches at best.


def test_ceilings_are_bytes_and_operations_over_the_measured_times(monkeypatch: pytest.MonkeyPatch) -> None:
    torch = pytest.importorskip("torch")
    from tools.measure import gpu, timing

    times_us = iter([10.0, 4.0, 2.0, 1.0])

    def medians_us(replays: list[Any]) -> list[float]:
        replays[0]()
        return [next(times_us)]

    monkeypatch.setattr(timing, "capture", lambda launches: launches[0])
    monkeypatch.setattr(timing, "medians_us", medians_us)
    monkeypatch.setattr(gpu, "_TRAFFIC_BYTES", 1 << 16)
    monkeypatch.setattr(gpu, "_DENSE", 32)
    found = gpu.measure_ceilings(torch.device("cpu"))
    # Copying moves twice the bytes of reading, and takes 10 µs against 4.
    assert found.memory_bytes_per_s == pytest.approx((1 << 16) / 4e-6)
    assert found.dense_bf16_per_s == pytest.approx(2 * 32**3 / 2e-6)
    assert found.dense_8bit_per_s == pytest.approx(2 * found.dense_bf16_per_s)
    assert (found.dense_per_s(8), found.dense_per_s(16)) == (found.dense_8bit_per_s, found.dense_bf16_per_s)
