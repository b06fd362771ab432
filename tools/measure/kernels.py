"""Kernels that can be timed side by side: how each takes one and the same problem. Imports triton only when asked to.

A contender turns a problem and a launch config into the arguments of its own kernel. With tensors that is a launch;
with stand-ins for pointers and the JIT's `warmup` it is a compilation without a GPU (`CompileLaunch`).
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, fields
from functools import cache
from pathlib import Path
from typing import Any, Protocol

from kernels.launch import (
    DO_NOT_SPECIALIZE,
    Pointers,
    Projection,
    QuantMode,
    Routing,
    StandIn,
    Strides,
    check_launch,
    plan_launch,
    pointer_stand_ins,
    swaps_operands,
)
from kernels.launch_config import LaunchConfig
from tools.compile.outcome import ConstraintError
from tools.measure.engine_kernel import EngineKernelError, cut, load_kernel
from tools.registry.devices import Target


@dataclass(frozen=True)
class Problem:
    """One launch but for its tensors."""

    projection: Projection
    routing: Routing
    quant: QuantMode
    config: LaunchConfig
    arch: str


@dataclass(frozen=True)
class BoundLaunch:
    """`kernel[grid](*args, **kwargs)`."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    grid: tuple[int]


class Contender(Protocol):
    """A kernel under test. Pickles, so that children of the compile pool can load it."""

    @property
    def name(self) -> str: ...

    def load(self) -> Any:
        """The JIT function."""

    def bind(self, problem: Problem, pointers: Pointers) -> BoundLaunch:
        """Its arguments."""

    def integers_kept_general(self) -> frozenset[str]:
        """Arguments that its JIT does not specialise."""


@dataclass(frozen=True)
class OwnKernel:
    """`kernels.fused_moe_kernel`."""

    name: str = "ours"

    def load(self) -> Any:
        from kernels.fused_moe_kernel import fused_moe_kernel

        return fused_moe_kernel

    def bind(self, problem: Problem, pointers: Pointers) -> BoundLaunch:
        launch = plan_launch(problem.projection, problem.routing, problem.quant, problem.config, problem.arch, pointers)
        return BoundLaunch(launch.args, launch.kwargs, launch.grid)

    def integers_kept_general(self) -> frozenset[str]:
        return DO_NOT_SPECIALIZE


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
                "Fix: use that version, or teach tools/bench/contenders.py the new interface."
            )

    def load(self) -> Any:
        return load_kernel(self.path)

    def bind(self, problem: Problem, pointers: Pointers) -> BoundLaunch:
        check_launch(problem.quant, problem.config, problem.arch)
        values = _engine_arguments(problem, pointers)
        taken = _parameters(self.path)
        rows = problem.routing.rows(problem.config.BLOCK_SIZE_M)
        tiles = -(-rows // problem.config.BLOCK_SIZE_M) * -(-problem.projection.n // problem.config.BLOCK_SIZE_N)
        kwargs = {name: value for name, value in values.items() if name in taken}
        return BoundLaunch((), {**kwargs, **dict(problem.config.options)}, (tiles,))

    def integers_kept_general(self) -> frozenset[str]:
        return frozenset()


@cache
def _parameters(path: Path) -> frozenset[str]:
    return frozenset(cut(path).parameters)


def _engine_arguments(problem: Problem, pointers: Pointers) -> dict[str, Any]:
    """Every argument by the engine's name. USE_TD is what vLLM sets on NVIDIA and AMD unless told otherwise."""
    projection, routing, quant, config = problem.projection, problem.routing, problem.quant, problem.config
    strides = Strides.contiguous(projection, quant)
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
        "EM": routing.rows(config.BLOCK_SIZE_M),
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
        "SWAP_AB": swaps_operands(quant, config, problem.arch),
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
class CompileLaunch:
    """A task of the compile pool: one contender's kernel for one problem."""

    contender: Contender
    problem: Problem
    target: Target

    def compile(self) -> Any:
        import triton.language as tl

        launch = bind_stand_ins(self.contender, self.problem, lambda name: getattr(tl, name))
        return self.contender.load().warmup(*launch.args, grid=launch.grid, **launch.kwargs)


def bind_stand_ins(contender: Contender, problem: Problem, to_dtype: Any) -> BoundLaunch:
    """The launch with stand-ins for its pointers. ConstraintError: a rule forbids this launch config."""
    try:
        pointers = pointer_stand_ins(
            problem.projection, problem.routing, problem.quant, problem.config, problem.arch, to_dtype
        )
        return contender.bind(problem, pointers)
    except EngineKernelError:
        raise
    except ValueError as error:
        raise ConstraintError(str(error)) from error


def compile_key(contender: Contender, problem: Problem) -> Hashable:
    """Equal where two problems share one binary of the contender, so that each is compiled once (NVIDIA).

    Triton's rule: an integer is constant if it is 1, else it counts by its width and divisibility by 16.
    """
    launch = bind_stand_ins(contender, problem, str)
    params = {param.name: param.is_constexpr for param in contender.load().params}
    values = {**dict(zip(params, launch.args, strict=False)), **launch.kwargs}
    general = contender.integers_kept_general()
    # What is no parameter is an option of the compiler.
    return tuple(
        (name, _argument_class(values[name], params.get(name, True), name in general)) for name in sorted(values)
    )


def _argument_class(value: Any, is_constant: bool, is_general: bool) -> Hashable:
    if is_constant or value is None:
        return str(value)
    if isinstance(value, StandIn):
        return str(value.dtype)
    width = 32 if value < 2**31 else 64
    return width if is_general else (width, value == 1, value % 16 == 0)
