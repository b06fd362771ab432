"""How kernels take one and the same problem, and which problems share a binary."""

from __future__ import annotations

import pickle
from dataclasses import replace
from pathlib import Path

import pytest

pytest.importorskip("triton")

from kernels.launch import Pointers, binary_key
from kernels.launch_config import LaunchConfig
from kernels.problem import Flavour, Problem, QuantMode, Routing, up_and_down
from tools.measure.kernels import EngineKernel, Kernel, KernelTask, OwnKernel
from tools.registry.devices import Target

FIXTURE = Path(__file__).with_name("fused_moe_fixture.txt")
SGLANG_FIXTURE = """
import triton
import triton.language as tl

@triton.jit
def fused_moe_kernel(
    a_ptr, a_desc, EM, even_Ks: tl.constexpr, USE_GDC: tl.constexpr = False, GDC_EARLY: tl.constexpr = False
):
    pass
"""
CONFIG = LaunchConfig(16, 64, 128, 1, 4, 3)
POINTERS = Pointers(*"abcdefghij")


def problem(num_tokens: int = 64, config: LaunchConfig = CONFIG, arch: str = "sm90") -> Problem:
    return Problem(up_and_down(8, 1024, 4096, 2)[0], Routing(num_tokens, 2, 8), QuantMode(), config, arch)


@pytest.fixture(params=["ours", "vllm"])
def kernel(request: pytest.FixtureRequest, tmp_path: Path) -> Kernel:
    if request.param == "ours":
        return OwnKernel()
    path = tmp_path / "fused_moe.py"
    path.write_text(FIXTURE.read_text("utf-8"), "utf-8")
    return EngineKernel(path)


def test_tasks_that_compile_one_binary_have_one_key(kernel: Kernel) -> None:
    def key(given: Problem) -> object:
        return KernelTask(given, Target("cuda", 90, 32), kernel).key

    assert key(problem()) == key(problem(1024)) == key(problem(config=replace(CONFIG, num_ctas=1)))
    others = [problem(config=replace(CONFIG, **{name: 32})) for name in ("BLOCK_SIZE_M", "num_warps", "num_stages")]
    assert len({key(other) for other in (problem(), *others)}) == 4


def test_kernels_share_no_key(tmp_path: Path) -> None:
    target = Target("cuda", 90, 32)
    own, other = OwnKernel(), replace(OwnKernel(), name="another")
    assert KernelTask(problem(), target, own).key != KernelTask(problem(), target, other).key


@pytest.mark.parametrize(("arch", "same"), [("sm90", True), ("gfx942", False)])
def test_a_buffer_over_two_gibibytes_is_another_binary_on_amd_only(kernel: Kernel, arch: str, same: bool) -> None:
    few, many = problem(1024, arch=arch), problem(1 << 19, arch=arch)
    assert (kernel.key(few) == kernel.key(many)) is same


def test_our_key_is_that_of_the_launch() -> None:
    assert OwnKernel().key(problem()) == binary_key(problem())


def test_an_engines_kernel_is_given_the_parameters_that_it_has_by_name(tmp_path: Path) -> None:
    path = tmp_path / "fused_moe.py"
    path.write_text(FIXTURE.read_text("utf-8"), "utf-8")
    launch = EngineKernel(path).bind(problem(), POINTERS)
    assert launch.args == ()
    assert launch.named == {"a_ptr": "a", "c_ptr": "c", "N": 2048, "BLOCK_SIZE_M": 16, "USE_TD": False}
    assert launch.options == {"num_ctas": 1, "num_stages": 3, "num_warps": 4}
    assert launch.grid == OwnKernel().bind(problem(), POINTERS).grid


def test_each_flavour_of_ours_has_binaries_of_its_own() -> None:
    own, other = OwnKernel(), OwnKernel(flavour=Flavour.SGLANG)
    sglangs = replace(problem(), routing=Routing(64, 2, 8, flavour=Flavour.SGLANG))
    assert own.key(problem()) != other.key(sglangs)
    assert other.bind(sglangs, POINTERS).options == {"num_ctas": 1, "num_stages": 3, "num_warps": 4, "launch_pdl": True}


def test_sglangs_kernel_is_given_what_it_calls_them(tmp_path: Path) -> None:
    path = tmp_path / "fused_moe_triton_kernels.py"
    path.write_text(SGLANG_FIXTURE, "utf-8")
    sglangs = replace(problem(), routing=Routing(64, 2, 8, flavour=Flavour.SGLANG))
    launch = EngineKernel(path, Flavour.SGLANG).bind(sglangs, POINTERS)
    assert launch.named == {
        "a_ptr": "a",
        "a_desc": None,
        "EM": 264,
        "even_Ks": True,
        "USE_GDC": True,
        "GDC_EARLY": True,
    }
    assert launch.options["launch_pdl"] is True


def test_a_task_reaches_another_process(kernel: Kernel) -> None:
    task = KernelTask(problem(), Target("cuda", 90, 32), kernel)
    assert pickle.loads(pickle.dumps(task)) == task
