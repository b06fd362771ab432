"""From a problem and a launch config to the kernel's argument list. Imports neither torch nor triton.

The one place that knows `fused_moe_kernel`'s arguments. The host half calls it with tensors; the compile check
and the tuner call it with stand-ins for pointers, through `fused_moe_kernel.warmup`, on machines without a GPU.
`binary_key` tells whether two launches share one compiled kernel.

Rules the engines apply at launch live here too: the operand swap on Hopper fp8, the naive mode of decode, the
number of rows that the grid covers, the limit on BLOCK_SIZE_K of block-quantised weights.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, fields
from typing import Any

from kernels.launch_config import AMD_KEYS, OPTION_KEYS, TILE_KEYS, LaunchConfig
from kernels.problem import Projection, QuantMode, Routing, cdiv, up_and_down

__all__ = [
    "Launch",
    "Pointers",
    "Projection",
    "QuantMode",
    "Routing",
    "StandIn",
    "Strides",
    "binary_key",
    "check_launch",
    "plan_launch",
    "pointer_stand_ins",
    "pointer_types",
    "swaps_operands",
    "up_and_down",
]

_ITEM_BYTES = {"bfloat16": 2, "float16": 2, "float8e4nv": 1, "float8e4b8": 1, "int8": 1, "float32": 4, "int32": 4}
_MAX_INT32 = 2**31 - 1


def check_launch(quant: QuantMode, config: LaunchConfig, arch: str) -> None:
    """ValueError where the launch would compute wrong numbers or not compile.

    A tile that spans two scale groups multiplies the second by the first one's scale (relative error 0.44).
    vLLM clamps BLOCK_SIZE_K to the smaller side of block_shape; what is measured must be what runs.
    """
    _check_values(config)
    if quant.block_shape is not None:
        block_n, block_k = quant.block_shape
        limit, tile_k = min(block_n, block_k), config.BLOCK_SIZE_K
        if tile_k > limit or block_k % tile_k:
            raise ValueError(
                f"launch config, BLOCK_SIZE_K: expected a divisor of block_k {block_k}, at most {limit} for "
                f"block_shape {quant.block_shape}, found {tile_k}. Fix: BLOCK_SIZE_K <= {limit}."
            )
    foreign = [key for key, _ in config.options if key in AMD_KEYS and not arch.startswith("gfx")]
    if foreign:
        raise ValueError(f"launch config: expected no AMD keys on {arch}, found {foreign}. Fix: remove them.")


def _check_values(config: LaunchConfig) -> None:
    taken = (*TILE_KEYS, *OPTION_KEYS)
    written = config.to_entry()
    # Old files carry SPLIT_K 1, which is what the kernel does anyway.
    unknown = [key for key, value in written.items() if key not in taken and (key, value) != ("SPLIT_K", 1)]
    if unknown:
        raise ValueError(f"launch config: expected keys out of {taken}, found {unknown}. Fix: remove them.")
    for key in taken:
        least = 0 if key in AMD_KEYS else 1
        value = written.get(key, least)
        if type(value) is not int or value < least:
            raise ValueError(f"launch config, {key}: expected an integer >= {least}, found {value!r}.")
    for key in TILE_KEYS[:3]:
        size = getattr(config, key)
        if size & (size - 1):
            raise ValueError(f"launch config, {key}: expected a power of two, found {size}.")


def swaps_operands(quant: QuantMode, config: LaunchConfig, arch: str) -> bool:
    """The engines' rule for fp8 on Hopper: a narrow tile puts N on the tensor core's 64-row side."""
    return quant.dtype == "fp8_w8a8" and arch == "sm90" and config.BLOCK_SIZE_M < 64 <= config.BLOCK_SIZE_N


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
    def contiguous(cls, projection: Projection, quant: QuantMode) -> Strides:
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
    """What one launch hands to Triton: `kernel[grid](*args, **kwargs)`, or `kernel.warmup(*args, grid=…, **kwargs)`."""

    args: tuple[Any, ...]
    constexprs: Mapping[str, Any]
    options: Mapping[str, int]
    grid: tuple[int]

    @property
    def kwargs(self) -> dict[str, Any]:
        return {**self.constexprs, **self.options}


def plan_launch(
    projection: Projection,
    routing: Routing,
    quant: QuantMode,
    config: LaunchConfig,
    arch: str,
    pointers: Pointers,
    strides: Strides | None = None,
) -> Launch:
    """The launch of one projection. arch: "sm90", "gfx942", …; strides: contiguous unless given.

    ValueError as `check_launch`.
    """
    check_launch(quant, config, arch)
    sizes, constexprs, rows = _scalars(projection, routing, quant, config, arch)
    strides = strides or Strides.contiguous(projection, quant)
    args = (*_values(pointers), *sizes.values(), *_values(strides))
    grid = (cdiv(rows, config.BLOCK_SIZE_M) * cdiv(projection.n, config.BLOCK_SIZE_N),)
    return Launch(args, constexprs, dict(config.options), grid)


def _values(record: Pointers | Strides) -> tuple[Any, ...]:
    return tuple(getattr(record, field.name) for field in fields(record))


def _scalars(
    projection: Projection, routing: Routing, quant: QuantMode, config: LaunchConfig, arch: str
) -> tuple[dict[str, int], dict[str, Any], int]:
    rows = routing.rows(config.BLOCK_SIZE_M)
    sizes = {
        "N": projection.n,
        "K": projection.k,
        "EM": rows,
        "num_valid_tokens": routing.num_pairs,
        "GROUP_SIZE_M": config.GROUP_SIZE_M,
    }
    group_n, group_k = quant.block_shape or (0, 0)
    constexprs = {
        "group_n": group_n,
        "group_k": group_k,
        "SCALING": quant.scaling,
        "top_k": projection.top_k,
        "MUL_ROUTED_WEIGHT": projection.mul_routed_weight,
        "naive_block_assignment": routing.is_naive,
        "SWAP_AB": swaps_operands(quant, config, arch),
        "BLOCK_SIZE_M": config.BLOCK_SIZE_M,
        "BLOCK_SIZE_N": config.BLOCK_SIZE_N,
        "BLOCK_SIZE_K": config.BLOCK_SIZE_K,
    }
    return sizes, constexprs, rows


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


def pointer_types(
    projection: Projection, routing: Routing, quant: QuantMode, config: LaunchConfig, arch: str
) -> dict[str, tuple[str, int] | None]:
    """Per pointer its element type as `triton.language` names it and its size in bytes; None where unused."""
    a_type, b_type, c_type = quant.operand_types(arch)
    n, k, experts, pairs = projection.n, projection.k, projection.num_experts, routing.num_pairs
    rows = cdiv(pairs, projection.top_k)
    scaling = quant.scaling
    group_n, group_k = quant.block_shape or (1, 1)
    a_scales = {"tensor": 1, "channel": rows, "block": rows * cdiv(k, group_k)}.get(scaling, 0)
    b_scales = {
        "tensor": experts,
        "channel": experts * n,
        "weight": experts * n,
        "block": experts * cdiv(n, group_n) * cdiv(k, group_k),
    }.get(scaling, 0)
    naive = routing.is_naive
    block_size_m = config.BLOCK_SIZE_M
    capacity = 0 if naive else routing.capacity(block_size_m)
    blocks = pairs if naive else cdiv(capacity, block_size_m)
    counts = {
        "a": (a_type, rows * k),
        "b": (b_type, experts * n * k),
        "c": (c_type, pairs * n),
        "b_bias": (c_type, experts * n if projection.has_bias else 0),
        "a_scale": ("float32", a_scales),
        "b_scale": ("float32", b_scales),
        "topk_weights": ("float32", pairs),
        "sorted_token_ids": ("int32", capacity),
        "expert_ids": ("int32", blocks),
        "num_tokens_post_padded": ("int32", 1),
    }
    return {name: (dtype, count * _ITEM_BYTES[dtype]) if count else None for name, (dtype, count) in counts.items()}


def pointer_stand_ins(
    projection: Projection,
    routing: Routing,
    quant: QuantMode,
    config: LaunchConfig,
    arch: str,
    to_dtype: Callable[[str], Any],
) -> Pointers:
    """Pointers for `warmup`. to_dtype: `lambda name: getattr(triton.language, name)`."""
    types = pointer_types(projection, routing, quant, config, arch)
    return Pointers(**{name: StandIn(to_dtype(kind[0]), kind[1]) if kind else None for name, kind in types.items()})


def binary_key(
    projection: Projection,
    routing: Routing,
    quant: QuantMode,
    config: LaunchConfig,
    arch: str,
    strides: Strides | None = None,
) -> Hashable:
    """Equal for two launches exactly if Triton compiles one kernel for both (allocator-aligned tensors).

    Follows Triton's rules: an integer is constant if it is 1, else it counts by width and divisibility by 16; a
    pointer counts by element type and, on AMD, by whether its buffer is under 2 GiB.
    """
    check_launch(quant, config, arch)
    sizes, constexprs, _ = _scalars(projection, routing, quant, config, arch)
    strides = strides or Strides.contiguous(projection, quant)
    is_amd = arch.startswith("gfx")
    pointers = tuple(
        kind and (kind[0], is_amd and kind[1] <= _MAX_INT32)
        for kind in pointer_types(projection, routing, quant, config, arch).values()
    )
    integers = tuple(_integer_class(value, name not in DO_NOT_SPECIALIZE) for name, value in sizes.items())
    integers += tuple(_integer_class(value, True) for value in _values(strides))
    return (arch, pointers, integers, tuple(constexprs.items()), config.options)


def _integer_class(value: int, specializes: bool) -> str:
    width = "i32" if value <= _MAX_INT32 else "i64"
    if not specializes:
        return width
    return "1" if value == 1 else width + ("D" if value % 16 == 0 else "")
