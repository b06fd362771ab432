"""Which GPU is here: as `nvidia-smi` prints it, else as torch names it, without importing torch into the tuner.

Programs of those names stand in for the machine's own; what asks them is the real thing.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tools.measure.device import find_gpu

Install = Callable[[str, str], None]

TWO_GPUS = """
case "$*" in
  "--query-gpu=name --format=csv,noheader --id=0") echo "NVIDIA H100 80GB HBM3";;
  "--query-gpu=name --format=csv,noheader --id=1"|*--id=GPU-5a1e*) echo "NVIDIA A100-SXM4-80GB";;
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


def test_torch_itself_answers(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    monkeypatch.setenv("PATH", str(tmp_path))
    expected = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    assert find_gpu() == expected
