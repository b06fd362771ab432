"""Torch twins of every kernel, in fp64 and plain. They say what is right; speed is no concern."""

from __future__ import annotations

import torch

from kernels.problem import QuantMode, cdiv
from kernels.quantization import largest_value


def expand_blocks(scale: torch.Tensor, block: tuple[int, int], shape: tuple[int, int]) -> torch.Tensor:
    """Scales [..., cdiv(N, block_n), cdiv(K, block_k)] -> one for each of [..., N, K]."""
    rows = scale.repeat_interleave(block[0], dim=-2)[..., : shape[0], :]
    return rows.repeat_interleave(block[1], dim=-1)[..., : shape[1]]


def dequantize_weight(weight: torch.Tensor, scale: torch.Tensor | None, quant: QuantMode) -> torch.Tensor:
    """[E, N, K] in fp64."""
    value = weight.double()
    if scale is None:
        return value
    if quant.block_shape is not None:
        return value * expand_blocks(scale.double(), quant.block_shape, (weight.shape[1], weight.shape[2]))
    if quant.scaling == "tensor":
        return value * scale.double()[:, None, None]
    return value * scale.double()[:, :, None]


def dequantize_activation(a: torch.Tensor, scale: torch.Tensor | None, quant: QuantMode) -> torch.Tensor:
    """[rows, K] in fp64."""
    value = a.double()
    if scale is None:
        return value
    if quant.block_shape is not None:
        return value * expand_blocks(scale.double(), (1, quant.block_shape[1]), (a.shape[0], a.shape[1]))
    return value * scale.double()


def quantize_reference(
    x: torch.Tensor, quant: QuantMode, dtype: torch.dtype, scale: torch.Tensor | None = None
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """(q, scale) of x [rows, K], as `kernels.quantization.quantize`; scales in fp32."""
    if not quant.quantizes_activations:
        return x, None
    value = x.float()
    q_max = largest_value(dtype)
    rows, k = x.shape
    if quant.scaling == "tensor":
        if scale is None:
            scale = value.abs().max().clamp(min=1e-10).reshape(1) / q_max
        spread = scale.expand(rows, k)
    else:
        group_k = k if quant.block_shape is None else quant.block_shape[1]
        padded = torch.nn.functional.pad(value.abs(), (0, cdiv(k, group_k) * group_k - k))
        scale = padded.view(rows, -1, group_k).amax(-1).clamp(min=1e-10) / q_max
        spread = scale.repeat_interleave(group_k, dim=1)[:, :k]
    q = (value / spread).clamp(-q_max, q_max)
    return (torch.floor(q + 0.5) if dtype == torch.int8 else q).to(dtype), scale


def activate_reference(x: torch.Tensor, activation: str) -> torch.Tensor:
    """[rows, 2N] -> [rows, N] in fp64."""
    value = x.double()
    if activation == "swiglu_clamped":
        gate, up = value[:, ::2].clamp(max=7.0), value[:, 1::2].clamp(-7.0, 7.0)
        return (up + 1.0) * gate * torch.sigmoid(1.702 * gate)
    gate, up = value.chunk(2, dim=1)
    if activation == "silu":
        return gate * torch.sigmoid(gate) * up
    return 0.5 * gate * (1.0 + torch.erf(gate / 2.0**0.5)) * up


def moe_sum_reference(x: torch.Tensor) -> torch.Tensor:
    """[num_tokens, top_k, K] -> [num_tokens, K] in fp64."""
    return x.double().sum(1)


def align_reference(
    topk_ids: torch.Tensor, block_size_m: int, num_experts: int, expert_map: torch.Tensor | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """(sorted_token_ids, expert_ids) up to num_tokens_post_padded."""
    flat = topk_ids.flatten().tolist()
    rows: list[int] = []
    tiles: list[int] = []
    for expert in range(num_experts):
        pairs = [pair for pair, chosen in enumerate(flat) if chosen == expert]
        padding = -len(pairs) % block_size_m
        rows += pairs + [len(flat)] * padding
        local = expert if expert_map is None else int(expert_map[expert])
        tiles += [local] * ((len(pairs) + padding) // block_size_m)
    return torch.tensor(rows, dtype=torch.int32), torch.tensor(tiles, dtype=torch.int32)


def product_reference(
    a: torch.Tensor,
    b: torch.Tensor,
    topk_ids: torch.Tensor,
    topk_weights: torch.Tensor | None,
    *,
    quant: QuantMode,
    a_scale: torch.Tensor | None = None,
    b_scale: torch.Tensor | None = None,
    bias: torch.Tensor | None = None,
    expert_map: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """One projection from the operands as the kernel gets them: (product, magnitude), both [pairs, N] in fp64.

    a [rows, K] with rows = num_tokens (up) or pairs (down); topk_weights None: not multiplied. magnitude: the sum of
    the absolute values of all terms, which is what rounding errors are proportional to. On a GPU it waits as often as
    experts are chosen, not as there are.
    """
    left = dequantize_activation(a, a_scale, quant)
    pairs = topk_ids.numel()
    left = left.repeat_interleave(pairs // a.shape[0], dim=0)
    experts = topk_ids.flatten().long()
    if expert_map is not None:
        experts = expert_map.long()[experts]
    product, magnitude = torch.zeros((2, pairs, b.shape[1]), dtype=torch.float64, device=a.device)
    for expert in experts[experts >= 0].unique().tolist():
        chosen = (experts == expert).nonzero().flatten()
        scale = None if b_scale is None else b_scale[expert : expert + 1]
        right = dequantize_weight(b[expert : expert + 1], scale, quant)[0]
        rows = left[chosen]
        term = torch.zeros((), device=a.device) if bias is None else bias[expert].double()
        product[chosen] = rows @ right.T + term
        magnitude[chosen] = rows.abs() @ right.abs().T + term.abs()
    if topk_weights is not None:
        weights = topk_weights.double().reshape(-1, 1)
        product, magnitude = product * weights, magnitude * weights.abs()
    return product, magnitude
