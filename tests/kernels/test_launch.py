"""What `kernels.launch` decides without torch or triton, and how many kernels the usual space needs."""

from __future__ import annotations

import itertools
import subprocess
import sys
from dataclasses import fields

import pytest

from kernels.fused_moe_kernel import fused_moe_kernel
from kernels.launch import (
    DO_NOT_SPECIALIZE,
    Pointers,
    Strides,
    binary_key,
    plan_launch,
)
from kernels.launch_config import LaunchConfig
from kernels.problem import Problem, QuantMode, Routing, up_and_down

ENTRY = {
    "BLOCK_SIZE_M": 64,
    "BLOCK_SIZE_N": 128,
    "BLOCK_SIZE_K": 64,
    "GROUP_SIZE_M": 1,
    "num_warps": 4,
    "num_stages": 3,
}
SMEM_LIMIT_BYTES = 227 * 1024
FP8_BLOCK = QuantMode("fp8_w8a8", block_shape=(128, 128))


def config_of(**entry: int) -> LaunchConfig:
    return LaunchConfig.from_entry(ENTRY | entry)


def usual_space(block_k: int | None) -> list[LaunchConfig]:
    """The tuner's space. In block modes a tile along K is one scale group: narrower loads each scale twice."""
    axes = itertools.product(
        (16, 32, 64, 128, 256),
        (32, 64, 128, 256),
        (64, 128, 256) if block_k is None else (block_k,),
        (1, 8, 16, 32, 64),
        (4, 8),
        (2, 3, 4, 5),
    )
    keys = ("BLOCK_SIZE_M", "BLOCK_SIZE_N", "BLOCK_SIZE_K", "GROUP_SIZE_M", "num_warps", "num_stages")
    return [LaunchConfig.from_entry(dict(zip(keys, values, strict=True))) for values in axes]


def smem_bytes(config: LaunchConfig, item_bytes: int, is_block_quantized: bool) -> int:
    """Shared memory on sm90: the tiles of every stage that is in flight, and the scales' of block quantisation."""
    options = dict(config.options)
    m, n = config.BLOCK_SIZE_M, config.BLOCK_SIZE_N
    stages = options["num_stages"] if m >= 64 else max(1, options["num_stages"] - 1)
    sides = [side for side in (m, n) if side >= 32 * options["num_warps"]]
    extra = 4 * max(sides, default=0) if is_block_quantized else 0
    return (m + n) * config.BLOCK_SIZE_K * item_bytes * stages + extra


@pytest.mark.parametrize(
    ("quant", "layer", "most"),
    [(QuantMode(), (8, 7168, 4096, 2), 326), (FP8_BLOCK, (256, 128, 7168, 8), 152)],
    ids=["bf16", "fp8-block128"],
)
@pytest.mark.parametrize("which", [0, 1], ids=["up", "down"])
def test_kernels_that_the_usual_space_needs(quant: QuantMode, layer: tuple, most: int, which: int) -> None:
    projection = up_and_down(*layer)[which]
    item_bytes = 2 if quant.dtype is None else 1
    fitting = [
        config
        for config in usual_space(quant.block_shape and quant.block_shape[1])
        if smem_bytes(config, item_bytes, quant.block_shape is not None) <= SMEM_LIMIT_BYTES
    ]
    routings = [Routing(m, layer[3], layer[0], allow_naive=False) for m in (1, 2, 7, 16, 64, 1000, 4096, 65536)]
    keys = {binary_key(Problem(projection, r, quant, config, "sm90")) for r in routings for config in fitting}
    assert len(fitting) > 4 * most, "the group sizes alone are five"
    assert len(keys) <= most


BF16 = QuantMode()


def key(num_tokens: int = 64, which: int = 0, quant: QuantMode = BF16, arch: str = "sm90", **entry: int):
    projection = up_and_down(64, 768, 2048, 8)[which]
    return binary_key(Problem(projection, Routing(num_tokens, 8, 64), quant, config_of(**entry), arch))


def test_the_key_ignores_what_varies_at_run_time() -> None:
    assert key(16) == key(17) == key(4096) == key(64, GROUP_SIZE_M=16) == key(64, num_ctas=1)


def test_the_key_sees_what_shapes_the_code() -> None:
    others = [
        key(),
        key(which=1),
        key(num_stages=4),
        key(num_warps=8),
        key(BLOCK_SIZE_N=64),
        key(num_tokens=1),
        key(quant=QuantMode(compute_type="fp16")),
        key(quant=QuantMode("fp8_w8a8")),
        key(arch="sm80"),
        key(arch="gfx942"),
    ]
    assert len(set(others)) == len(others)


def test_a_buffer_over_two_gibibytes_counts_on_amd_only() -> None:
    few, many = up_and_down(8, 14336, 4096, 2)[0], up_and_down(16, 14336, 4096, 2)[0]
    config = LaunchConfig.from_entry(ENTRY)
    for arch, same in (("gfx942", False), ("sm90", True)):
        routings = [Routing(64, 2, p.num_experts) for p in (few, many)]
        keys = {
            binary_key(Problem(p, routing, QuantMode(), config, arch))
            for p, routing in zip((few, many), routings, strict=True)
        }
        assert (len(keys) == 1) is same


def test_arguments_come_in_the_kernels_order() -> None:
    names = list(fused_moe_kernel.arg_names)
    projection = up_and_down(4, 100, 200, 2, has_bias=True)[0]
    problem = Problem(projection, Routing(10, 2, 4), FP8_BLOCK, config_of(), "sm90")
    launch = plan_launch(problem, Pointers(*(f"{field.name}_ptr" for field in fields(Pointers))))
    bound = dict(zip(names, launch.args, strict=False)) | launch.named
    assert list(bound) == names
    assert all(value == name for name, value in bound.items() if name.endswith("_ptr"))
    assert (bound["N"], bound["K"], bound["num_valid_tokens"], bound["GROUP_SIZE_M"]) == (200, 200, 20, 1)
    assert {name: bound[f"stride_{name}"] for name in vars(Strides.contiguous(problem))} == {
        "am": 200,
        "be": 40000,
        "bn": 200,
        "cm": 200,
        "bias_e": 200,
        "asm": 2,
        "ask": 1,
        "bse": 4,
        "bsn": 2,
        "bsk": 1,
    }
    # EM: 20 pairs + 4 experts * 63, but no more than 20 tiles of 64 and, as 10 < 64, as many as pairs.
    assert bound["EM"] == 20 + 4 * 63
    assert launch.grid == (5 * 2,)


def test_an_old_split_k_of_one_says_nothing() -> None:
    assert key(SPLIT_K=1) == key()


def test_the_kernels_decorator_and_the_key_agree() -> None:
    # Under the interpreter the decorator's arguments are gone; the source still has them.
    import inspect

    from kernels import fused_moe_kernel as module

    line = next(line for line in inspect.getsource(module).splitlines() if "do_not_specialize=[" in line)
    assert {name for name in DO_NOT_SPECIALIZE if f'"{name}"' in line} == DO_NOT_SPECIALIZE


def test_needs_neither_torch_nor_triton() -> None:
    code = "import sys, kernels.launch; sys.exit(any(name in sys.modules for name in ('torch', 'triton')))"
    assert subprocess.run([sys.executable, "-c", code], check=False, cwd=".").returncode == 0
