"""Kernels that can be timed side by side: how each takes one and the same problem. Imports triton only when asked to.

A kernel turns a problem into its own arguments. With tensors that is a launch; with stand-ins for pointers and the
JIT's `warmup` it is a compilation without a GPU (`KernelTask`).
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, fields
from functools import cache
from pathlib import Path
from typing import Any, Protocol

from kernels.launch import Launch, Pointers, Strides, argument_class, binary_key, plan_launch, pointer_stand_ins
from kernels.launch_config import LaunchConfig
from kernels.problem import Problem, Projection, QuantMode, Routing
from tools.measure.engine_kernel import EngineKernelError, EngineSource, cut, load_kernel
from tools.registry.devices import Target


class Kernel(Protocol):
    """A kernel under test. Pickles, so that children of the compile pool can load it."""

    @property
    def name(self) -> str: ...

    def load(self) -> Any:
        """The JIT function."""

    def bind(self, problem: Problem, pointers: Pointers) -> Launch:
        """Its arguments."""

    def key(self, problem: Problem) -> Hashable:
        """Equal where two problems share one binary, so that each is compiled once."""


@dataclass(frozen=True)
class OwnKernel:
    """`kernels.fused_moe_kernel`."""

    name: str = "ours"

    def load(self) -> Any:
        from kernels.fused_moe_kernel import fused_moe_kernel

        return fused_moe_kernel

    def bind(self, problem: Problem, pointers: Pointers) -> Launch:
        return plan_launch(problem, pointers)

    def key(self, problem: Problem) -> Hashable:
        return binary_key(problem)


@dataclass(frozen=True)
class EngineKernel:
    """vLLM's kernel, cut out of `fused_moe.py`. Arguments go by name, as vLLM 0.33's host function sets them."""

    path: Path
    name: str = "vllm"

    def check(self) -> None:
        """EngineKernelError: the kernel can't be cut out, or takes other arguments than this class knows."""
        source = cut(self.path)
        known = set(_engine_arguments(_ANY_PROBLEM, Pointers(*[None] * len(fields(Pointers)))))
        missing = sorted(known - _OPTIONAL - set(source.parameters))
        unknown = sorted(set(source.parameters) - known - source.optional)
        if missing or unknown:
            raise EngineKernelError(
                f"{self.path}: expected the parameters of vLLM 0.33's fused_moe_kernel, found "
                f"{f'none named {missing}' if missing else f'unknown ones {unknown}'}. "
                "Fix: use that version, or teach tools/measure/kernels.py the new interface."
            )

    def load(self) -> Any:
        return load_kernel(self.path)

    def bind(self, problem: Problem, pointers: Pointers) -> Launch:
        taken = _source(self.path).parameters
        named = {name: value for name, value in _engine_arguments(problem, pointers).items() if name in taken}
        return Launch((), named, dict(problem.config.options), problem.grid)

    def key(self, problem: Problem) -> Hashable:
        launch = self.bind(problem, pointer_stand_ins(problem, str))
        constants = _source(self.path).constants
        classes = [
            (name, str(value) if name in constants else argument_class(value, problem.arch))
            for name, value in launch.named.items()
        ]
        return (problem.arch, *classes, *launch.options.items())


@cache
def _source(path: Path) -> EngineSource:
    return cut(path)


def _engine_arguments(problem: Problem, pointers: Pointers) -> dict[str, Any]:
    """Every argument by the engine's name. USE_TD is what vLLM sets on NVIDIA and AMD by default."""
    projection, routing, quant, config = problem.projection, problem.routing, problem.quant, problem.config
    strides = Strides.contiguous(problem)
    group_n, group_k = quant.block_shape or (0, 0)
    import triton.language as tl

    return {
        "a_ptr": pointers.a,
        "b_ptr": pointers.b,
        "c_ptr": pointers.c,
        "b_bias_ptr": pointers.b_bias,
        "a_scale_ptr": pointers.a_scale,
        "b_scale_ptr": pointers.b_scale,
        "topk_weights_ptr": pointers.topk_weights,
        "sorted_token_ids_ptr": pointers.sorted_token_ids,
        "expert_ids_ptr": pointers.expert_ids,
        "num_tokens_post_padded_ptr": pointers.num_tokens_post_padded,
        "N": projection.n,
        "K": projection.k,
        "EM": problem.rows,
        "num_valid_tokens": routing.num_pairs,
        "stride_am": strides.am,
        "stride_ak": 1,
        "stride_be": strides.be,
        "stride_bk": 1,
        "stride_bn": strides.bn,
        "stride_cm": strides.cm,
        "stride_cn": 1,
        "stride_asm": strides.asm,
        "stride_ask": strides.ask,
        "stride_bse": strides.bse,
        "stride_bsk": strides.bsk,
        "stride_bsn": strides.bsn,
        "stride_bbe": strides.bias_e,
        "stride_bbn": int(projection.has_bias),
        "group_n": group_n,
        "group_k": group_k,
        "naive_block_assignment": routing.is_naive,
        "BLOCK_SIZE_M": config.BLOCK_SIZE_M,
        "BLOCK_SIZE_N": config.BLOCK_SIZE_N,
        "BLOCK_SIZE_K": config.BLOCK_SIZE_K,
        "GROUP_SIZE_M": config.GROUP_SIZE_M,
        "SPLIT_K": 1,
        "MUL_ROUTED_WEIGHT": projection.mul_routed_weight,
        "top_k": projection.top_k,
        "compute_type": getattr(tl, quant.operand_types(problem.arch)[2]),
        "use_fp8_w8a8": quant.dtype == "fp8_w8a8",
        "use_int8_w8a8": quant.dtype == "int8_w8a8",
        "use_int8_w8a16": quant.dtype == "int8_w8a16",
        "per_channel_quant": quant.per_channel,
        "HAS_BIAS": projection.has_bias,
        "SWAP_AB": problem.swaps_operands,
        "USE_TD": False,
    }


# Parameters that other versions lack; none of them is needed for the modes here.
_OPTIONAL = frozenset({"USE_TD", "SPLIT_K"})
_ANY_PROBLEM = Problem(
    Projection(1, 16, 16, 1, False), Routing(1, 1, 1), QuantMode(), LaunchConfig(16, 16, 16, 1, 4, 3), "sm90"
)


# ---------------------------------------------------------------
# Compiling without a GPU


@dataclass(frozen=True)
class KernelTask:
    """A task of the compile pool: what one kernel compiles for one problem on one GPU."""

    problem: Problem
    target: Target
    kernel: Kernel = OwnKernel()

    @property
    def key(self) -> Hashable:
        """Equal for tasks that compile one binary."""
        return self.kernel.name, self.kernel.key(self.problem)

    def compile(self) -> Any:
        """Triton's `CompiledKernel`, through the JIT's own `warmup`."""
        import triton.language as tl

        pointers = pointer_stand_ins(self.problem, lambda name: getattr(tl, name))
        launch = self.kernel.bind(self.problem, pointers)
        return self.kernel.load().warmup(*launch.args, grid=launch.grid, **launch.kwargs)
