"""Host half of `quantization_kernel`: activations to fp8 or int8 as a `QuantMode` says."""

from __future__ import annotations

import torch

from kernels.activation import COMPUTE_DTYPES, activate_and_mul, check_activation, check_gated
from kernels.checks import check_tensor
from kernels.problem import QuantMode, cdiv
from kernels.quantization_kernel import absmax_kernel, quantize_groups_kernel, quantize_tensor_kernel

# At most so many partial results, which every program of the second launch reads.
MAX_PARTIALS = 512
BLOCK = 1024


def largest_value(dtype: torch.dtype) -> float:
    """The value that a group's absmax is mapped to. int8 leaves -128 out, so that the range is symmetric."""
    return 127.0 if dtype == torch.int8 else float(torch.finfo(dtype).max)


def quantize(
    x: torch.Tensor,
    quant: QuantMode,
    dtype: torch.dtype,
    scale: torch.Tensor | None = None,
    activation: str | None = None,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """(operand A, its scale) for x [rows, K] 16-bit; with `activation`, x is [rows, 2K] and activated on the way.

    dtype: the 8-bit type of the weights. scale: fp32 [1], given per tensor. Returned scale, fp32: [1] per tensor,
    [rows, 1] per channel, [rows, cdiv(K, block_k)] in blocks, None where A stays 16-bit. One launch, two per
    tensor without a given scale. ValueError: wrong shape, dtype, device or strides, or a scale that isn't used.
    """
    if scale is not None:
        if quant.scaling != "tensor":
            raise ValueError(f"activation scale: expected None for scaling {quant.scaling!r}, found a tensor.")
        check_tensor("activation scale", scale, (1,), (torch.float32,), x.device)
    if activation is None:
        check_tensor("x", x, x.shape, COMPUTE_DTYPES, x.device, contiguous=True)
        rows, k = x.shape
    else:
        check_activation(activation)
        rows, k = check_gated(x)
    if not quant.quantizes_activations:
        return (x if activation is None else activate_and_mul(x, activation)), None

    q = torch.empty((rows, k), dtype=dtype, device=x.device)
    q_max = largest_value(dtype)
    if quant.scaling != "tensor":
        return q, _quantize_groups(x, q, k if quant.block_shape is None else quant.block_shape[1], q_max, activation)
    grid = (rows, cdiv(k, BLOCK))
    if scale is not None:
        quantize_tensor_kernel[grid](x, q, scale, None, 0, k, q_max, activation, 1, BLOCK)
        return q, scale
    num_partials = min(rows, MAX_PARTIALS)
    partials = torch.empty(num_partials, dtype=torch.float32, device=x.device)
    scale = torch.empty(1, dtype=torch.float32, device=x.device)
    absmax_kernel[(num_partials,)](x, partials, rows, k, activation, BLOCK)
    power = 1 << (num_partials - 1).bit_length()
    quantize_tensor_kernel[grid](x, q, scale, partials, num_partials, k, q_max, activation, power, BLOCK)
    return q, scale


def _quantize_groups(
    x: torch.Tensor, q: torch.Tensor, group_k: int, q_max: float, activation: str | None
) -> torch.Tensor:
    rows, k = q.shape
    groups = cdiv(k, group_k)
    scale = torch.empty((rows, groups), dtype=torch.float32, device=x.device)
    block = 1 << (group_k - 1).bit_length()
    tile = min(max(1, BLOCK // block), 1 << (groups - 1).bit_length())
    # A long row is one group: 16 values a thread.
    num_warps = min(16, max(4, block * tile // 512))
    quantize_groups_kernel[(rows, cdiv(groups, tile))](
        x, q, scale, k, groups, group_k, q_max, activation, tile, block, num_warps=num_warps
    )
    return scale
