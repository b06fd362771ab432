# mypy: ignore-errors
# ruff: noqa: RET505 - a constexpr branch not taken is only dropped if it is an else
"""Gated activations between the two projections, and the sum over a token's experts (JIT).

`activate` is shared with the kernels that quantise what they activate.
"""

import triton
import triton.language as tl


@triton.jit
def activate(x_ptr, row, cols, mask, N, ACTIVATION: tl.constexpr):
    """One row's activated values (fp32) at `cols` of N, from a row of 2N gate and up values.

    silu, gelu: gate is the first half, up the second.
    swiglu_clamped: gate and up alternate; gate <= 7, -7 <= up <= 7, gate * sigmoid(1.702 gate) * (up + 1).
    """
    x_ptrs = x_ptr + row.to(tl.int64) * (2 * N)
    if ACTIVATION == "swiglu_clamped":
        gate = tl.load(x_ptrs + 2 * cols, mask=mask, other=0.0).to(tl.float32)
        up = tl.load(x_ptrs + 2 * cols + 1, mask=mask, other=0.0).to(tl.float32)
        gate = tl.minimum(gate, 7.0)
        up = tl.minimum(tl.maximum(up, -7.0), 7.0)
        return gate * tl.sigmoid(1.702 * gate) * (up + 1.0)
    else:
        gate = tl.load(x_ptrs + cols, mask=mask, other=0.0).to(tl.float32)
        up = tl.load(x_ptrs + N + cols, mask=mask, other=0.0).to(tl.float32)
        if ACTIVATION == "silu":
            return gate * tl.sigmoid(gate) * up
        else:
            tl.static_assert(ACTIVATION == "gelu")
            return 0.5 * gate * (1.0 + tl.erf(gate * 0.7071067811865476)) * up


@triton.jit
def activation_kernel(
    x_ptr,  # [rows, 2N] 16-bit
    y_ptr,  # [rows, N] 16-bit
    N,
    ACTIVATION: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Grid (rows, cdiv(N, BLOCK))."""
    row = tl.program_id(0)
    cols = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    mask = cols < N
    y = activate(x_ptr, row, cols, mask, N, ACTIVATION)
    tl.store(y_ptr + row.to(tl.int64) * N + cols, y.to(y_ptr.dtype.element_ty), mask=mask)


@triton.jit
def moe_sum_kernel(
    x_ptr,  # [num_tokens, top_k, K] 16-bit
    y_ptr,  # [num_tokens, K] 16-bit
    K,
    top_k: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Sums each token's experts in fp32. Grid (num_tokens, cdiv(K, BLOCK))."""
    token = tl.program_id(0).to(tl.int64)
    cols = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    mask = cols < K
    total = tl.zeros((BLOCK,), dtype=tl.float32)
    for choice in tl.static_range(top_k):
        total += tl.load(x_ptr + (token * top_k + choice) * K + cols, mask=mask, other=0.0).to(tl.float32)
    tl.store(y_ptr + token * K + cols, total.to(y_ptr.dtype.element_ty), mask=mask)
