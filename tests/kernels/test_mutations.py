"""Breaks the kernel on purpose, in a copy: the suite must notice each time."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tools.checkout import CHECKOUT

pytestmark = pytest.mark.slow  # each test runs a part of the suite in a copy of the kernels

# name: (text in the kernel, what it becomes)
MUTATIONS = {
    "no-k-mask": (
        "b = tl.load(b_ptrs, mask=offs_k[:, None] < k_remaining, other=0.0)",
        "b = tl.load(b_ptrs)",
    ),
    "scale-groups-swapped": (
        "b_scale = tl.load(b_scale_ptrs + offs_group * stride_bsk)",
        "b_scale = tl.load(b_scale_ptrs + (tl.cdiv(K, group_k) - 1 - offs_group) * stride_bsk)",
    ),
    "no-zeros-for-other-ranks": (
        "        _store_zeros(c_ptr, offs_token, token_mask, pid_n, N, stride_cm, BLOCK_SIZE_N)\n        return\n",
        "        return\n",
    ),
}
TESTS = "test_every_mode_at_odd_sizes or test_experts_of_other_ranks"


def run_suite_on(kernel_source: str, folder: Path) -> subprocess.CompletedProcess[str]:
    shutil.copytree(CHECKOUT / "kernels", folder / "kernels", ignore=shutil.ignore_patterns("__pycache__"))
    tests = folder / "tests" / "kernels"
    tests.mkdir(parents=True)
    for name in ("conftest.py", "interpreter.py", "layers.py", "twin_checks.py", "test_fused_moe_kernel.py"):
        shutil.copy(CHECKOUT / "tests" / "kernels" / name, tests)
    (folder / "kernels" / "fused_moe_kernel.py").write_text(kernel_source)
    (folder / "pytest.ini").write_text("[pytest]\npythonpath = .\nmarkers = gpu: needs a GPU\n")
    return subprocess.run(
        [
            *(sys.executable, "-m", "pytest", "--import-mode=importlib", "-p", "no:cacheprovider", "-q", "-x"),
            *("-k", f"({TESTS}) and (bf16 or fp8-block64)"),
        ],
        cwd=folder,
        env={name: value for name, value in os.environ.items() if not name.startswith("PYTEST")},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


@pytest.fixture(scope="module")
def source() -> str:
    return (CHECKOUT / "kernels" / "fused_moe_kernel.py").read_text()


def test_the_kernel_as_it_is_passes(source: str, tmp_path: Path) -> None:
    result = run_suite_on(source, tmp_path)
    assert result.returncode == 0, result.stdout[-3000:]


@pytest.mark.skipif(torch.cuda.is_available(), reason="a mutation may read out of bounds: on the CPU only")
@pytest.mark.parametrize("mutation", MUTATIONS)
def test_a_broken_kernel_fails(mutation: str, source: str, tmp_path: Path) -> None:
    before, after = MUTATIONS[mutation]
    assert source.count(before) == 1, f"the kernel no longer reads {before!r}"
    result = run_suite_on(source.replace(before, after), tmp_path)
    assert result.returncode == 1, result.stdout[-3000:]
    assert "AssertionError" in result.stdout
    assert "beyond the max bound" in result.stdout or "rms error" in result.stdout
