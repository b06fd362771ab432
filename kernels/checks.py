"""Checks of tensors before a launch. Each raises ValueError that names what was expected and what was found."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from kernels.problem import Problem, Projection, QuantMode, Routing, cdiv

COMPUTE = {"bf16": torch.bfloat16, "fp16": torch.float16}
_FP8 = (torch.float8_e4m3fn, torch.float8_e4m3fnuz)


@dataclass(frozen=True)
class Scales:
    """Scales of the weights and, per tensor only, given scales of the activations; all fp32.

    w1, w2: [E] per tensor, [E, N] per channel, [E, cdiv(N, block_n), cdiv(K, block_k)] in blocks, N and K being
    that projection's own. a1, a2: [1], or None to measure the activations at run time.
    """

    w1: torch.Tensor | None = None
    w2: torch.Tensor | None = None
    a1: torch.Tensor | None = None
    a2: torch.Tensor | None = None


def check_tensor(
    name: str,
    tensor: torch.Tensor,
    shape: Sequence[int],
    dtypes: Sequence[torch.dtype],
    device: torch.device,
    *,
    contiguous: bool = False,
) -> None:
    """ValueError unless shape, dtype and device agree and the last dimension (`contiguous`: all) is contiguous."""
    if tuple(tensor.shape) != tuple(shape):
        raise ValueError(f"{name}, shape: expected {tuple(shape)}, found {tuple(tensor.shape)}.")
    if tensor.dtype not in dtypes:
        expected = " or ".join(map(str, dtypes))
        raise ValueError(f"{name}, dtype: expected {expected}, found {tensor.dtype}.")
    if tensor.device != device:
        raise ValueError(f"{name}, device: expected {device} as hidden_states, found {tensor.device}.")
    if contiguous and not tensor.is_contiguous():
        raise ValueError(
            f"{name}, strides: expected a contiguous tensor, found {tensor.stride()} for shape "
            f"{tuple(tensor.shape)}. Fix: .contiguous()."
        )
    if tensor.dim() and tensor.shape[-1] > 1 and tensor.stride(-1) != 1:
        raise ValueError(
            f"{name}, strides: expected 1 in the last dimension, found {tensor.stride()}. Fix: .contiguous()."
        )


def weight_dtypes(quant: QuantMode) -> tuple[torch.dtype, ...]:
    if quant.dtype is None:
        return (COMPUTE[quant.compute_type],)
    return _FP8 if quant.dtype == "fp8_w8a8" else (torch.int8,)


def weight_scale_shape(projection: Projection, quant: QuantMode) -> tuple[int, ...] | None:
    """Shape of a projection's weight scales; None where there are none."""
    experts, n, k = projection.num_experts, projection.n, projection.k
    if quant.block_shape is not None:
        return (experts, cdiv(n, quant.block_shape[0]), cdiv(k, quant.block_shape[1]))
    return {"none": None, "tensor": (experts,)}.get(quant.scaling, (experts, n))


def check_optional(
    name: str, tensor: torch.Tensor | None, shape: tuple[int, ...] | None, dtype: torch.dtype, device: torch.device
) -> None:
    if (tensor is None) != (shape is None):
        found = "none" if tensor is None else f"shape {tuple(tensor.shape)}"
        raise ValueError(f"{name}: expected {f'shape {shape}' if shape else 'none'} in this mode, found {found}.")
    if tensor is not None and shape is not None:
        check_tensor(name, tensor, shape, (dtype,), device)


def check_weights(
    names: tuple[str, str, str],
    problem: Problem,
    weight: torch.Tensor,
    scale: torch.Tensor | None,
    bias: torch.Tensor | None,
    device: torch.device,
) -> None:
    """What one projection multiplies by. names: of the weight, its scale and its bias, for people."""
    projection, quant = problem.projection, problem.quant
    experts, n, k = projection.num_experts, projection.n, projection.k
    check_tensor(names[0], weight, (experts, n, k), weight_dtypes(quant), device)
    check_optional(names[1], scale, weight_scale_shape(projection, quant), torch.float32, device)
    bias_shape = (experts, n) if projection.has_bias else None
    check_optional(names[2], bias, bias_shape, COMPUTE[quant.compute_type], device)


def check_topk_weights(topk_weights: torch.Tensor, routing: Routing, device: torch.device) -> None:
    shape = (routing.num_tokens, routing.top_k)
    check_tensor("topk_weights", topk_weights, shape, (torch.float32,), device, contiguous=True)


def check_layer_inputs(
    hidden_states: torch.Tensor,
    w1: torch.Tensor,
    w2: torch.Tensor,
    topk_weights: torch.Tensor,
    topk_ids: torch.Tensor,
    up: Problem,
    down: Problem,
    scales: Scales,
    w1_bias: torch.Tensor | None,
    w2_bias: torch.Tensor | None,
) -> None:
    """Everything that a caller's tensors can disagree in, before the first launch of the chain."""
    device, routing, quant = hidden_states.device, up.routing, up.quant
    shape = (routing.num_tokens, up.projection.k)
    check_tensor("hidden_states", hidden_states, shape, (COMPUTE[quant.compute_type],), device, contiguous=True)
    check_weights(("w1", "scales.w1", "w1_bias"), up, w1, scales.w1, w1_bias, device)
    check_weights(("w2", "scales.w2", "w2_bias"), down, w2, scales.w2, w2_bias, device)
    check_tensor("w2", w2, w2.shape, (w1.dtype,), device)
    check_topk_weights(topk_weights, routing, device)
    ids_shape = (routing.num_tokens, routing.top_k)
    check_tensor("topk_ids", topk_ids, ids_shape, (torch.int32, torch.int64), device, contiguous=True)
    for name, scale in (("scales.a1", scales.a1), ("scales.a2", scales.a2)):
        if scale is not None:
            check_optional(name, scale, (1,) if quant.scaling == "tensor" else None, torch.float32, device)
