"""Host half of `activation_kernel`."""

from __future__ import annotations

import torch

from kernels.activation_kernel import activation_kernel, moe_sum_kernel
from kernels.checks import check_tensor
from kernels.problem import cdiv

ACTIVATIONS = ("silu", "gelu", "swiglu_clamped")
COMPUTE_DTYPES = (torch.bfloat16, torch.float16)
BLOCK = 1024


def check_activation(activation: str) -> None:
    """ValueError: a name that no kernel computes."""
    if activation not in ACTIVATIONS:
        raise ValueError(f"activation: expected one of {ACTIVATIONS}, found {activation!r}.")


def activate_and_mul(x: torch.Tensor, activation: str = "silu") -> torch.Tensor:
    """[rows, 2N] gate and up values -> [rows, N]; 16-bit, contiguous. One launch.

    `silu` and `gelu` (the exact one) take gate as the first half; `swiglu_clamped` is gpt-oss's, interleaved.
    ValueError: unknown activation, odd width, wrong dtype or strides.
    """
    check_activation(activation)
    rows, width = check_gated(x)
    y = torch.empty((rows, width), dtype=x.dtype, device=x.device)
    if rows:
        activation_kernel[(rows, cdiv(width, BLOCK))](x, y, width, activation, BLOCK)
    return y


def moe_sum(x: torch.Tensor, out: torch.Tensor) -> None:
    """out [num_tokens, K] = x [num_tokens, top_k, K] summed over top_k in fp32. One launch."""
    if x.dim() != 3:
        raise ValueError(f"x, shape: expected (num_tokens, top_k, K), found {tuple(x.shape)}.")
    num_tokens, top_k, k = x.shape
    check_tensor("x", x, x.shape, COMPUTE_DTYPES, x.device, contiguous=True)
    check_tensor("out", out, (num_tokens, k), (x.dtype,), x.device, contiguous=True)
    if num_tokens:
        moe_sum_kernel[(num_tokens, cdiv(k, BLOCK))](x, out, k, top_k, BLOCK)


def check_gated(x: torch.Tensor) -> tuple[int, int]:
    """(rows, N) of a [rows, 2N] tensor of gate and up values."""
    if x.dim() != 2 or x.shape[1] % 2:
        raise ValueError(f"x, shape: expected (rows, 2N), found {tuple(x.shape)}.")
    check_tensor("x", x, x.shape, COMPUTE_DTYPES, x.device, contiguous=True)
    return x.shape[0], x.shape[1] // 2
