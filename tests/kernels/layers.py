"""Layers with random inputs, in every mode that the kernels compute."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from kernels.checks import Scales
from kernels.problem import Flavour, Projection, QuantMode, Routing, up_and_down
from kernels.testing import make_weight

MODES: dict[str, QuantMode] = {
    "bf16": QuantMode(),
    "fp16": QuantMode(compute_type="fp16"),
    "fp8-tensor": QuantMode("fp8_w8a8"),
    "fp8-channel": QuantMode("fp8_w8a8", per_channel=True),
    "fp8-block128": QuantMode("fp8_w8a8", block_shape=(128, 128)),
    "fp8-block64": QuantMode("fp8_w8a8", block_shape=(64, 64)),
    "fp8-block32": QuantMode("fp8_w8a8", block_shape=(32, 32)),
    "int8-channel": QuantMode("int8_w8a8", per_channel=True),
    "int8-block": QuantMode("int8_w8a8", block_shape=(64, 64)),
    "int8-w8a16": QuantMode("int8_w8a16", per_channel=True),
}
SMALL = {
    "BLOCK_SIZE_M": 16,
    "BLOCK_SIZE_N": 32,
    "BLOCK_SIZE_K": 32,
    "GROUP_SIZE_M": 2,
    "num_warps": 4,
    "num_stages": 3,
}
# Small, odd, and no multiple of any tile or scale group.
ODD = {"num_tokens": 9, "num_experts": 4, "intermediate_size": 73, "hidden_size": 201, "top_k": 2}


@dataclass(frozen=True)
class Layer:
    """Fresh random inputs of `fused_experts`."""

    hidden_states: torch.Tensor
    w1: torch.Tensor
    w2: torch.Tensor
    topk_weights: torch.Tensor
    topk_ids: torch.Tensor
    scales: Scales
    w1_bias: torch.Tensor | None
    w2_bias: torch.Tensor | None
    expert_map: torch.Tensor | None
    quant: QuantMode
    up: Projection
    down: Projection
    routing: Routing


def make_routing(
    num_tokens: int, num_experts: int, top_k: int, kind: str, generator: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """(topk_weights fp32, topk_ids int32), [num_tokens, top_k], on the CPU.

    uniform: softmax of random logits. skewed: the first experts take most. empty: every odd expert stays empty.
    """
    logits = torch.randn(num_tokens, num_experts, generator=generator)
    if kind == "skewed":
        logits -= 4.0 * torch.arange(num_experts).float().log1p()
    elif kind == "empty":
        logits[:, 1::2] = -torch.inf
    elif kind != "uniform":
        raise ValueError(f"routing: expected uniform, skewed or empty, found {kind!r}.")
    weights, ids = logits.softmax(-1).topk(top_k, dim=-1)
    return (weights / weights.sum(-1, keepdim=True)).contiguous(), ids.int().contiguous()


def make_layer(
    quant: QuantMode,
    *,
    num_tokens: int,
    num_experts: int,
    intermediate_size: int,
    hidden_size: int,
    top_k: int,
    kind: str = "uniform",
    has_bias: bool = False,
    local_experts: int | None = None,
    allow_naive: bool = True,
    flavour: Flavour = Flavour.VLLM,
    device: str = "cpu",
    seed: int = 0,
) -> Layer:
    """Inputs on `device`. local_experts: every other expert of the layer, from the first, lives on this rank."""
    where = torch.device(device)
    on_cpu = torch.Generator().manual_seed(seed)
    generator = torch.Generator(where).manual_seed(seed)
    dtype = torch.bfloat16 if quant.compute_type == "bf16" else torch.float16
    experts = num_experts if local_experts is None else local_experts
    up, down = up_and_down(experts, intermediate_size, hidden_size, top_k, has_bias=has_bias)
    topk_weights, topk_ids = make_routing(num_tokens, num_experts, top_k, kind, on_cpu)
    expert_map = None
    if local_experts is not None:
        expert_map = torch.full((num_experts,), -1, dtype=torch.int32)
        here = torch.arange(num_experts)[::2][:local_experts]
        expert_map[here] = torch.arange(len(here), dtype=torch.int32)
        expert_map = expert_map.to(where)
    x = torch.randn((num_tokens, hidden_size), generator=generator, device=where)
    # Groups of a row differ in size, so that their scales do.
    x *= torch.exp2(torch.rand((num_tokens, 1), generator=generator, device=where) * 2 - 1)
    x *= torch.exp2(torch.rand((1, hidden_size), generator=generator, device=where).cumsum(1).sin() * 2)
    w1, w1_scale = make_weight(up, quant, generator, where)
    w2, w2_scale = make_weight(down, quant, generator, where)
    biases = [
        torch.randn((experts, p.n), generator=generator, device=where).to(dtype) if has_bias else None
        for p in (up, down)
    ]
    return Layer(
        x.to(dtype),
        w1,
        w2,
        topk_weights.to(where),
        topk_ids.to(where),
        Scales(w1_scale, w2_scale),
        biases[0],
        biases[1],
        expert_map,
        quant,
        up,
        down,
        Routing(num_tokens, top_k, num_experts, local_experts is not None, allow_naive, flavour),
    )
