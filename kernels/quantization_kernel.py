# mypy: ignore-errors
"""Quantising activations to fp8 or int8, per group, per token or per tensor (JIT).

A scale is absmax / Q_MAX of its group and dequantises by multiplication. ACTIVATION None quantises x itself;
else x is [rows, 2K] and is activated first, rounded to its own type between, as two kernels would.
"""

import triton
import triton.language as tl

from kernels.activation_kernel import activate

# absmax of an all-zero group; keeps the scale above zero and finite.
_TINY = tl.constexpr(1e-10)


@triton.jit
def _load(x_ptr, row, cols, mask, K, ACTIVATION: tl.constexpr):
    if ACTIVATION is None:
        x = tl.load(x_ptr + row.to(tl.int64) * K + cols, mask=mask, other=0.0).to(tl.float32)
    else:
        x = activate(x_ptr, row, cols, mask, K, ACTIVATION).to(x_ptr.dtype.element_ty).to(tl.float32)
    return x


@triton.jit
def _round(x, dtype: tl.constexpr, Q_MAX: tl.constexpr):
    x = tl.minimum(tl.maximum(x, -Q_MAX), Q_MAX)
    if dtype == tl.int8:
        x = tl.floor(x + 0.5)
    return x.to(dtype)


@triton.jit
def quantize_groups_kernel(
    x_ptr,  # [rows, K], or [rows, 2K] with ACTIVATION
    q_ptr,  # [rows, K] 8-bit
    scale_ptr,  # fp32 [rows, groups]
    K,
    groups,
    group_k,
    Q_MAX: tl.constexpr,
    ACTIVATION: tl.constexpr,
    GROUPS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Each row in groups of group_k <= BLOCK; per token is one group of K. Grid (rows, cdiv(groups, GROUPS))."""
    row = tl.program_id(0)
    group = tl.program_id(1) * GROUPS + tl.arange(0, GROUPS)
    offs = tl.arange(0, BLOCK)
    cols = group[:, None] * group_k + offs[None, :]
    mask = (offs[None, :] < group_k) & (cols < K)
    x = _load(x_ptr, row, cols, mask, K, ACTIVATION)
    scale = tl.maximum(tl.max(tl.abs(x), 1), _TINY) / Q_MAX
    q = _round(x / scale[:, None], q_ptr.dtype.element_ty, Q_MAX)
    tl.store(q_ptr + row.to(tl.int64) * K + cols, q, mask=mask)
    tl.store(scale_ptr + row.to(tl.int64) * groups + group, scale, mask=group < groups)


@triton.jit
def absmax_kernel(
    x_ptr,  # [rows, K], or [rows, 2K] with ACTIVATION
    partial_ptr,  # fp32 [programs]
    rows,
    K,
    ACTIVATION: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Each program's largest |x| over the rows that it strides through. Grid (programs,)."""
    pid = tl.program_id(0)
    largest = tl.zeros((BLOCK,), dtype=tl.float32)
    for step in range(tl.cdiv(rows, tl.num_programs(0))):
        row = pid + step * tl.num_programs(0)
        for first in range(0, K, BLOCK):
            cols = first + tl.arange(0, BLOCK)
            mask = (cols < K) & (row < rows)
            largest = tl.maximum(largest, tl.abs(_load(x_ptr, row, cols, mask, K, ACTIVATION)))
    tl.store(partial_ptr + pid, tl.max(largest, 0))


@triton.jit
def quantize_tensor_kernel(
    x_ptr,  # [rows, K], or [rows, 2K] with ACTIVATION
    q_ptr,  # [rows, K] 8-bit
    scale_ptr,  # fp32 [1]: read if it is given, else written
    partial_ptr,  # fp32 [num_partials], or None if the scale is given
    num_partials,
    K,
    Q_MAX: tl.constexpr,
    ACTIVATION: tl.constexpr,
    PARTIALS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """One scale for the tensor, given or from `absmax_kernel`'s partial results. Grid (rows, cdiv(K, BLOCK))."""
    row = tl.program_id(0)
    cols = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    if partial_ptr is None:
        scale = tl.load(scale_ptr)
    else:
        offs = tl.arange(0, PARTIALS)
        partial = tl.load(partial_ptr + offs, mask=offs < num_partials, other=0.0)
        scale = tl.maximum(tl.max(partial, 0), _TINY) / Q_MAX
        if (row == 0) & (tl.program_id(1) == 0):
            tl.store(scale_ptr, scale)
    x = _load(x_ptr, row, cols, cols < K, K, ACTIVATION)
    q = _round(x / scale, q_ptr.dtype.element_ty, Q_MAX)
    tl.store(q_ptr + row.to(tl.int64) * K + cols, q, mask=cols < K)
