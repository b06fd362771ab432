"""Our kernel compiled for an H100 through the pool, and found again in Triton's cache by another process."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.tools.compile.tuned_files import SOUND, tuned
from tools.checkout import CHECKOUT

pytest.importorskip("triton")

from kernels.launch_config import LaunchConfig
from kernels.problem import Problem, QuantMode, Routing, up_and_down
from tools.compile.outcome import Status
from tools.compile.pool import CompilePool
from tools.measure.kernels import KernelTask
from tools.registry.devices import Target

TARGET = Target("cuda", 90, 32)
CONFIG = LaunchConfig(64, 128, 64, 1, 4, 4)

# The launch with tensors as a process with the GPU makes it; the driver stands in for the GPU's.
SECOND_PROCESS = """
import torch
from kernels.fused_moe_kernel import fused_moe_kernel
from kernels.launch import Pointers, plan_launch
from kernels.launch_config import LaunchConfig
from kernels.problem import Problem, QuantMode, Routing, up_and_down
from tools.compile.no_gpu import activate
from tools.registry.devices import Target
activate(Target("cuda", 90, 32))
up, _ = up_and_down(8, 256, 512, 2)
config = LaunchConfig(64, 128, 64, 8, 4, 4)
bf16, ints = (lambda *shape: torch.empty(shape, dtype=torch.bfloat16)), (lambda n: torch.empty(n, dtype=torch.int32))
pointers = Pointers(bf16(1024, 512), bf16(8, 512, 512), bf16(2048, 512), None, None, None, torch.empty(1024, 2),
                    ints(4096), ints(64), ints(1))
launch = plan_launch(Problem(up, Routing(1024, 2, 8), QuantMode(), config, "sm90"), pointers)
print(fused_moe_kernel.warmup(*launch.args, grid=launch.grid, **launch.kwargs).hash)
"""


def command(
    files: Path, cache: Path, most_blocks: int | None = None, **variables: str
) -> subprocess.CompletedProcess[str]:
    """The command as a person calls it. most_blocks: of 1 KiB, that a file may have; a full disk ends writes alike."""
    limit = "" if most_blocks is None else f"ulimit -f {most_blocks}; "
    shell = ["bash", "-c", f'{limit}exec "$0" -m tools.compile --jobs 2 "$1"', sys.executable, str(files)]
    env = {**environment(cache), **variables}
    return subprocess.run(shell, cwd=CHECKOUT, env=env, capture_output=True, text=True, check=False)


def test_a_disk_that_takes_no_kernel_is_the_machines_fault_and_nothing_of_it_stays(tmp_path: Path) -> None:
    """16 KiB hold a cache's small files, and the first part of what the assembler writes, which ends with 0 then."""
    files, cache = tmp_path / "files", tmp_path / "cache"
    tuned(files, {64: SOUND})
    full = command(files, cache, most_blocks=16)
    assert (full.returncode, full.stdout) == (2, "")
    assert full.stderr.startswith("compile: this machine: expected a place where Triton can compile, found: ")
    assert full.stderr.count("\n") == 1
    after = command(files, cache)
    assert (after.returncode, after.stderr) == (0, "")


def test_a_binary_that_was_cut_short_in_the_cache_is_compiled_again(tmp_path: Path) -> None:
    files, cache = tmp_path / "files", tmp_path / "cache"
    tuned(files, {64: SOUND})
    assert command(files, cache).returncode == 0
    for binary in cache.rglob("*.cubin"):
        binary.write_bytes(binary.read_bytes()[:4096])
    after = command(files, cache)
    assert (after.returncode, after.stderr) == (0, "")
    assert "2 ok" in after.stdout


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_cache_that_may_not_be_written_is_the_machines_fault(tmp_path: Path) -> None:
    files, cache = tmp_path / "files", tmp_path / "cache"
    tuned(files, {64: SOUND})
    cache.mkdir(mode=0o500)
    refused = command(files, cache)
    assert refused.returncode == 2
    assert "found: Permission denied at " in refused.stderr


def environment(cache: Path) -> dict[str, str]:
    without = {key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"}
    return {**without, "TRITON_CACHE_DIR": str(cache)}


def test_what_the_pool_compiled_is_found_in_the_cache_by_a_launch_with_tensors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    up, _ = up_and_down(8, 256, 512, 2)
    problem = Problem(up, Routing(64, 2, 8), QuantMode(), CONFIG, "sm90")
    with CompilePool(1) as pool:
        ((_, outcome),) = pool.run([KernelTask(problem, TARGET)])
    assert outcome.status is Status.OK, outcome.message
    assert outcome.resources is not None
    assert outcome.resources.smem_bytes == (64 + 128) * 64 * 2 * 4
    assert outcome.resources.registers in range(32, 256)
    assert outcome.resources.frame_bytes == 0

    before = {path.name for path in tmp_path.iterdir()}
    pytest.importorskip("torch")
    subprocess.run(
        [sys.executable, "-c", SECOND_PROCESS], cwd=CHECKOUT, env=environment(tmp_path), check=True, capture_output=True
    )
    assert {path.name for path in tmp_path.iterdir()} == before
