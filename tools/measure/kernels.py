"""Kernels that can be timed side by side: how each takes one and the same problem. Imports triton only when asked to.

Ours in either engine's flavour, and the engines' own, cut out of their sources. A kernel turns a problem into its own
arguments. With tensors that is a launch; with stand-ins for pointers and the JIT's `warmup` it is a compilation without
a GPU (`KernelTask`).
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, fields, replace
from functools import cache
from pathlib import Path
from typing import Any, Protocol

from kernels.launch import Launch, Pointers, Strides, argument_class, binary_key, plan_launch, pointer_stand_ins
from kernels.launch_config import LaunchConfig
from kernels.problem import NO_DESCRIPTORS, Descriptors, Flavour, Problem, Projection, QuantMode, Routing
from tools.launch.layer_config import LayerConfig
from tools.measure.engine_kernel import EngineKernelError, EngineSource, cut, load_kernel
from tools.measure.layer import DOWN, UP, LayerShape
from tools.registry.devices import Target


class Kernel(Protocol):
    """A kernel under test. Pickles, so that children of the compile pool can load it."""

    @property
    def name(self) -> str: ...

    @property
    def flavour(self) -> Flavour:
        """Which engine's rules its problems follow."""

    @property
    def takes_descriptors(self) -> bool:
        """Whether it has the path of entries with USE_TMA."""

    def load(self) -> Any:
        """The JIT function."""

    def bind(self, problem: Problem, pointers: Pointers) -> Launch:
        """Its arguments."""

    def key(self, problem: Problem) -> Hashable:
        """Equal where two problems share one binary, so that each is compiled once."""


@dataclass(frozen=True)
class OwnKernel:
    """`kernels.fused_moe_kernel`, in either engine's flavour."""

    name: str = "ours"
    flavour: Flavour = Flavour.VLLM

    @property
    def takes_descriptors(self) -> bool:
        return False

    def load(self) -> Any:
        from kernels.fused_moe_kernel import fused_moe_kernel

        return fused_moe_kernel

    def bind(self, problem: Problem, pointers: Pointers) -> Launch:
        return plan_launch(problem, pointers)

    def key(self, problem: Problem) -> Hashable:
        return binary_key(problem)


@dataclass(frozen=True)
class EngineKernel:
    """An engine's own kernel, cut out of its source at `path`. Arguments go by name, as its host function sets them."""

    path: Path
    flavour: Flavour = Flavour.VLLM

    @property
    def name(self) -> str:
        return self.flavour.value

    @property
    def takes_descriptors(self) -> bool:
        return self.flavour is Flavour.SGLANG

    def check(self) -> None:
        """EngineKernelError: the kernel can't be cut out, or takes other arguments than this module knows."""
        source, interface = cut(self.path), _INTERFACES[self.flavour]
        any_problem = Problem(
            Projection(1, 16, 16, 1, False),
            Routing(1, 1, 1, flavour=self.flavour),
            QuantMode(),
            LaunchConfig(16, 16, 16, 1, 4, 3),
            "sm90",
        )
        known = set(interface.arguments(any_problem, Pointers(*[None] * len(fields(Pointers)))))
        missing = sorted(known - interface.optional - set(source.parameters))
        unknown = sorted(set(source.parameters) - known - source.optional)
        if missing or unknown:
            raise EngineKernelError(
                f"{self.path}: expected the parameters of {interface.version}'s fused_moe_kernel, found "
                f"{f'none named {missing}' if missing else f'unknown ones {unknown}'}. "
                "Fix: use that version, or teach tools/measure/kernels.py the new interface."
            )

    def load(self) -> Any:
        return load_kernel(self.path)

    def bind(self, problem: Problem, pointers: Pointers) -> Launch:
        taken, arguments = _source(self.path).parameters, _INTERFACES[self.flavour].arguments
        named = {name: value for name, value in arguments(problem, pointers).items() if name in taken}
        return Launch((), named, problem.options, problem.grid)

    def key(self, problem: Problem) -> Hashable:
        import triton.language as tl

        launch = self.bind(problem, pointer_stand_ins(problem, lambda name: getattr(tl, name)))
        constants = _source(self.path).constants
        classes = [
            (name, str(value) if name in constants else _class_of(value, problem.arch))
            for name, value in launch.named.items()
        ]
        return (problem.arch, *classes, *launch.options.items())


def _class_of(value: Any, arch: str) -> Hashable:
    """What Triton compiles in: of a tensor descriptor its element type and its block."""
    from triton.tools.tensor_descriptor import TensorDescriptor

    if isinstance(value, TensorDescriptor):
        return value.base.dtype, tuple(value.block_shape)
    return argument_class(value, arch)


@cache
def _source(path: Path) -> EngineSource:
    return cut(path)


def _shared_arguments(problem: Problem, pointers: Pointers) -> dict[str, Any]:
    """What both engines' kernels take under the same names."""
    projection, routing, quant, config = problem.projection, problem.routing, problem.quant, problem.config
    strides = Strides.contiguous(problem)
    group_n, group_k = quant.block_shape or (0, 0)
    import triton.language as tl

    return {
        "a_ptr": pointers.a,
        "b_ptr": pointers.b,
        "c_ptr": pointers.c,
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
        "group_n": group_n,
        "group_k": group_k,
        "BLOCK_SIZE_M": config.BLOCK_SIZE_M,
        "BLOCK_SIZE_N": config.BLOCK_SIZE_N,
        "BLOCK_SIZE_K": config.BLOCK_SIZE_K,
        "GROUP_SIZE_M": config.GROUP_SIZE_M,
        "MUL_ROUTED_WEIGHT": projection.mul_routed_weight,
        "top_k": projection.top_k,
        "compute_type": getattr(tl, quant.operand_types(problem.arch)[2]),
        "use_fp8_w8a8": quant.dtype == "fp8_w8a8",
        "use_int8_w8a8": quant.dtype == "int8_w8a8",
        "use_int8_w8a16": quant.dtype == "int8_w8a16",
        "per_channel_quant": quant.per_channel,
    }


def _vllm_arguments(problem: Problem, pointers: Pointers) -> dict[str, Any]:
    """USE_TD is what vLLM sets on NVIDIA and AMD by default."""
    has_bias = problem.projection.has_bias
    return {
        **_shared_arguments(problem, pointers),
        "b_bias_ptr": pointers.b_bias,
        "stride_bbe": Strides.contiguous(problem).bias_e,
        "stride_bbn": int(has_bias),
        "HAS_BIAS": has_bias,
        "naive_block_assignment": problem.routing.is_naive,
        "SPLIT_K": 1,
        "SWAP_AB": problem.swaps_operands,
        "USE_TD": False,
    }


def _sglang_arguments(problem: Problem, pointers: Pointers) -> dict[str, Any]:
    """Without what SGLang has off by default: LoRA's outputs, fused activation and sum."""
    launches_dependents = problem.gdc != "none"
    return {
        **_shared_arguments(problem, pointers),
        "a_desc": _descriptor_of_a(problem, pointers.a) if problem.descriptors.a else None,
        "b_desc": _descriptor_of_b(problem, pointers.b) if problem.descriptors.b else None,
        "bias_ptr": pointers.b_bias,
        "add_mask_ptr": None,
        "stride_bias_e": Strides.contiguous(problem).bias_e,
        "stride_bias_n": int(problem.projection.has_bias),
        "even_Ks": problem.has_even_ks,
        "c_sorted": problem.descriptors.sorted_c,
        "swap_ab": problem.swaps_operands,
        "FUSE_ADD_TO_OUTPUT": False,
        "MASK_OUTPUT": False,
        "FUSE_SUM_ALL_REDUCE": False,
        "ROUTER_TOPK": 1,
        "USE_GDC": launches_dependents,
        "GDC_EARLY": problem.gdc == "early",
    }


def _descriptor_of_a(problem: Problem, a: Any) -> Any:
    """SGLang's a_desc."""
    from triton.tools.tensor_descriptor import TensorDescriptor

    k, config = problem.projection.k, problem.config
    return TensorDescriptor(a, [problem.rows_of_a, k], [k, 1], [config.BLOCK_SIZE_M, config.BLOCK_SIZE_K])


def _descriptor_of_b(problem: Problem, b: Any) -> Any:
    """SGLang's b_desc."""
    from triton.tools.tensor_descriptor import TensorDescriptor

    p, config = problem.projection, problem.config
    return TensorDescriptor(
        b, [p.num_experts, p.n, p.k], [p.n * p.k, p.k, 1], [1, config.BLOCK_SIZE_N, config.BLOCK_SIZE_K]
    )


@dataclass(frozen=True)
class _Interface:
    """How an engine's kernel is called. optional: parameters that other versions lack and no mode here needs."""

    version: str
    arguments: Callable[[Problem, Pointers], dict[str, Any]]
    optional: frozenset[str]


_INTERFACES: Mapping[Flavour, _Interface] = {
    Flavour.VLLM: _Interface("vLLM 0.33", _vllm_arguments, frozenset({"USE_TD", "SPLIT_K"})),
    Flavour.SGLANG: _Interface(
        "SGLang 0.5.23", _sglang_arguments, frozenset({"add_mask_ptr", "FUSE_ADD_TO_OUTPUT", "MASK_OUTPUT"})
    ),
}


# ---------------------------------------------------------------
# From a layer's launch configs to its two launches


def problems_of(
    kernel: Kernel, shape: LayerShape, num_tokens: int, config: LayerConfig, arch: str
) -> tuple[Problem, Problem]:
    """Up's and down's launch by the kernel.

    ValueError: a rule forbids one, or an entry says USE_TMA and the kernel has no such path, or there are no tensor
    descriptors of such rows. (vLLM's own ends with an error at any value of the key; SGLang takes False for silence.)
    """
    routing = shape.routing(num_tokens, kernel.flavour)
    up, down = config.up, config.down
    up_descriptors = down_descriptors = NO_DESCRIPTORS
    if kernel.takes_descriptors:
        is_sorted = down.USE_TMA is True
        up_descriptors = Descriptors(b=up.USE_TMA is True, sorted_c=is_sorted)
        down_descriptors = Descriptors(a=is_sorted, b=is_sorted)
        for projection, config_of_it in ((UP, up), (DOWN, down)):
            if config_of_it.USE_TMA and (why := shape.why_no_descriptor(projection)):
                raise ValueError(why)
        up, down = replace(up, USE_TMA=None), replace(down, USE_TMA=None)
    of_up, of_down = shape.projections
    return (
        Problem(of_up, routing, shape.quant, up, arch, up_descriptors),
        Problem(of_down, routing, shape.quant, down, arch, down_descriptors),
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
