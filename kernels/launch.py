"""From a problem to the kernel's argument list. Imports neither torch nor triton.

The one place that knows `fused_moe_kernel`'s arguments. The host half calls it with tensors; the compile check
and the tuner call it with stand-ins for pointers, through `fused_moe_kernel.warmup`, on machines without a GPU.
`binary_key` tells whether two launches share one compiled kernel, `argument_class` by which rule of Triton's.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, fields
from typing import Any

from kernels.problem import Problem, cdiv

_ITEM_BYTES = {"bfloat16": 2, "float16": 2, "float8e4nv": 1, "float8e4b8": 1, "int8": 1, "float32": 4, "int32": 4}
_MAX_INT32 = 2**31 - 1


@dataclass(frozen=True)
class Pointers:
    """The kernel's pointers in its order: tensors, or stand-ins of `pointer_stand_ins`. None: not used."""

    a: Any
    b: Any
    c: Any
    b_bias: Any
    a_scale: Any
    b_scale: Any
    topk_weights: Any
    sorted_token_ids: Any
    expert_ids: Any
    num_tokens_post_padded: Any


@dataclass(frozen=True)
class Strides:
    """The kernel's strides in elements, in its order. 0 where the tensor has no such dimension."""

    am: int
    be: int
    bn: int
    cm: int
    bias_e: int
    asm: int
    ask: int
    bse: int
    bsn: int
    bsk: int

    @classmethod
    def contiguous(cls, problem: Problem) -> Strides:
        projection, quant = problem.projection, problem.quant
        n, k = projection.n, projection.k
        bias_e = n if projection.has_bias else 0
        scale = (0, 0, 0, 0, 0)
        if quant.scaling == "tensor":
            scale = (0, 0, 1, 0, 0)
        elif quant.scaling == "channel":
            scale = (1, 0, n, 1, 0)
        elif quant.scaling == "weight":
            scale = (0, 0, n, 1, 0)
        elif quant.block_shape is not None:
            groups_n, groups_k = cdiv(n, quant.block_shape[0]), cdiv(k, quant.block_shape[1])
            scale = (groups_k, 1, groups_n * groups_k, groups_k, 1)
        return cls(k, n * k, k, n, bias_e, *scale)


@dataclass(frozen=True)
class Launch:
    """What one launch hands to Triton: `kernel[grid](*args, **kwargs)`, or `kernel.warmup(*args, grid=…, **kwargs)`.

    named: arguments by their names; of our kernel its constants. options: the compiler's.
    """

    args: tuple[Any, ...]
    named: Mapping[str, Any]
    options: Mapping[str, int]
    grid: tuple[int]

    @property
    def kwargs(self) -> dict[str, Any]:
        return {**self.named, **self.options}


def plan_launch(problem: Problem, pointers: Pointers, strides: Strides | None = None) -> Launch:
    """The launch of one projection by our kernel. strides: contiguous unless given."""
    strides = strides or Strides.contiguous(problem)
    args = (*_values(pointers), *_sizes(problem).values(), *_values(strides))
    return Launch(args, _constants(problem), problem.options, problem.grid)


def _values(record: Pointers | Strides) -> tuple[Any, ...]:
    return tuple(getattr(record, field.name) for field in fields(record))


def _sizes(problem: Problem) -> dict[str, int]:
    return {
        "N": problem.projection.n,
        "K": problem.projection.k,
        "EM": problem.rows,
        "num_valid_tokens": problem.routing.num_pairs,
        "GROUP_SIZE_M": problem.config.GROUP_SIZE_M,
    }


def _constants(problem: Problem) -> dict[str, Any]:
    group_n, group_k = problem.quant.block_shape or (0, 0)
    return {
        "group_n": group_n,
        "group_k": group_k,
        "SCALING": problem.quant.scaling,
        "top_k": problem.projection.top_k,
        "MUL_ROUTED_WEIGHT": problem.projection.mul_routed_weight,
        "naive_block_assignment": problem.routing.is_naive,
        "SWAP_AB": problem.swaps_operands,
        "FLAVOUR": problem.flavour.value,
        "EVEN_KS": problem.has_even_ks,
        "GDC": problem.gdc,
        "BLOCK_SIZE_M": problem.config.BLOCK_SIZE_M,
        "BLOCK_SIZE_N": problem.config.BLOCK_SIZE_N,
        "BLOCK_SIZE_K": problem.config.BLOCK_SIZE_K,
    }


# ---------------------------------------------------------------
# Without a GPU: what Triton's specialisation sees


# Arguments that the kernel keeps from specialising, as its decorator says (tests compare the two).
DO_NOT_SPECIALIZE = frozenset({"EM", "num_valid_tokens", "GROUP_SIZE_M"})


@dataclass(frozen=True)
class StandIn:
    """Stands for a tensor in `warmup`: dtype is a Triton dtype, aligned as an allocator aligns."""

    dtype: Any
    size_bytes: int

    def data_ptr(self) -> int:
        return 0

    def ptr_range(self) -> int:
        """On AMD a buffer under 2 GiB compiles to other code."""
        return self.size_bytes


def pointer_stand_ins(problem: Problem, to_dtype: Callable[[str], Any]) -> Pointers:
    """Pointers for `warmup`. to_dtype: `lambda name: getattr(triton.language, name)`."""
    projection, routing, quant = problem.projection, problem.routing, problem.quant
    a_type, b_type, c_type = quant.operand_types(problem.arch)
    n, k, experts, pairs = projection.n, projection.k, projection.num_experts, routing.num_pairs
    rows = problem.rows_of_a
    group_n, group_k = quant.block_shape or (1, 1)
    a_scales = {"tensor": 1, "channel": rows, "block": rows * cdiv(k, group_k)}.get(quant.scaling, 0)
    b_scales = {
        "tensor": experts,
        "channel": experts * n,
        "weight": experts * n,
        "block": experts * cdiv(n, group_n) * cdiv(k, group_k),
    }.get(quant.scaling, 0)
    block_size_m = problem.config.BLOCK_SIZE_M
    capacity = 0 if routing.is_naive else routing.capacity(block_size_m)

    def stand_in(dtype: str, count: int) -> StandIn | None:
        return StandIn(to_dtype(dtype), count * _ITEM_BYTES[dtype]) if count else None

    return Pointers(
        a=stand_in(a_type, rows * k),
        b=stand_in(b_type, experts * n * k),
        c=stand_in(c_type, problem.rows_of_c * n),
        b_bias=stand_in(c_type, experts * n if projection.has_bias else 0),
        a_scale=stand_in("float32", a_scales),
        b_scale=stand_in("float32", b_scales),
        topk_weights=stand_in("float32", pairs),
        sorted_token_ids=stand_in("int32", capacity),
        expert_ids=stand_in("int32", pairs if routing.is_naive else cdiv(capacity, block_size_m)),
        num_tokens_post_padded=stand_in("int32", 1),
    )


def binary_key(problem: Problem) -> Hashable:
    """Equal for two launches of our kernel exactly if Triton compiles one binary for both (contiguous tensors)."""
    pointers = _values(pointer_stand_ins(problem, str))
    classes = [argument_class(pointer, problem.arch) for pointer in pointers]
    for name, size in _sizes(problem).items():
        classes.append(argument_class(size, problem.arch, specializes=name not in DO_NOT_SPECIALIZE))
    classes += [argument_class(stride, problem.arch) for stride in _values(Strides.contiguous(problem))]
    return (problem.arch, *classes, *_constants(problem).items(), *problem.options.items())


def argument_class(value: StandIn | int | None, arch: str, *, specializes: bool = True) -> Hashable:
    """What of a run-time argument Triton compiles in: two values of one class share a binary.

    An integer is constant if it is 1, else it counts by width and divisibility by 16 (by width alone where the kernel
    keeps it from specialising); a pointer, aligned as allocators align, counts by element type and, on AMD, by whether
    its buffer is under 2 GiB.
    """
    if value is None:
        return None
    if isinstance(value, StandIn):
        return value.dtype, arch.startswith("gfx") and value.size_bytes <= _MAX_INT32
    width = "i32" if value <= _MAX_INT32 else "i64"
    if not specializes:
        return width
    return "1" if value == 1 else width + ("D" if value % 16 == 0 else "")
