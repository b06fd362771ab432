"""Runs a projection or a layer and compares it with its twin."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from kernels.fused_experts import device_arch, fused_experts, invoke_fused_moe_kernel
from kernels.launch_config import LaunchConfig
from kernels.moe_align import align
from kernels.problem import Problem, QuantMode
from kernels.reference import activate_reference, moe_sum_reference, product_reference, quantize_reference
from kernels.testing import UNIT_ROUNDOFF, Bound, assert_close, product_bound
from tests.kernels.layers import Layer


def chain_bound(quant: QuantMode, dtype: torch.dtype) -> Bound:
    """For `fused_experts` against the twins' chain; the magnitude is that of the down projection.

    The twins round at the same places, but a value near a rounding boundary may land on the other side, so each
    intermediate may be off by one spacing, 2 u of its format: gate_up twice (gate and up, and the activation's
    slope is at most 1.13), its activation, the down product, the sum. With quantised activations a value of A may
    move by one step: 2^-3 of itself in e4m3, of its group's largest value / 127 in int8 (at most all of itself).
    """
    u = 2 * UNIT_ROUNDOFF[dtype]
    step = {"fp8_w8a8": 2.0**-3, "int8_w8a8": 2.0**-4}.get(quant.dtype or "", 0.0)
    return Bound(3 * u, 4 * u + step, 2 * u, 2 * u + step / 8)


def poison_after_rows(x: torch.Tensor) -> torch.Tensor:
    """x itself, its rows followed by NaN (127 in int8), so that one forgotten mask along K shows.

    Zeros of the other operand would hide it: only NaN survives a product with zero.
    """
    k = x.shape[-1]
    wide = torch.full((*x.shape[:-1], k + 16), 127.0 if x.dtype == torch.int8 else torch.nan, device=x.device)
    padded = wide.to(x.dtype)
    padded[..., :k] = x
    return padded[..., :k]


def check_projection(layer: Layer, which: str, entry: Mapping[str, int], arch: str | None = None) -> None:
    """Runs one launch into NaN and compares every row with the fp64 twin of the same operands."""
    quant, routing = layer.quant, layer.routing
    is_up = which == "up"
    projection = layer.up if is_up else layer.down
    arch = arch or device_arch(layer.w1.device)
    problem = Problem(projection, routing, quant, LaunchConfig.from_entry(entry), arch)
    weight, bias = (layer.w1, layer.w1_bias) if is_up else (layer.w2, layer.w2_bias)
    weight_scale = layer.scales.w1 if is_up else layer.scales.w2
    x = layer.hidden_states
    if not is_up:
        x = torch.randn(routing.num_pairs, projection.k, device=x.device).to(x.dtype)
    a, a_scale = quantize_reference(x, quant, weight.dtype)
    a, weight = poison_after_rows(a), poison_after_rows(weight)
    c = torch.full((routing.num_pairs, projection.n), torch.nan, dtype=x.dtype, device=x.device)
    invoke_fused_moe_kernel(
        a,
        weight,
        c,
        problem=problem,
        alignment=align(layer.topk_ids, routing, problem.config.BLOCK_SIZE_M, layer.expert_map),
        topk_weights=layer.topk_weights,
        a_scale=a_scale,
        b_scale=weight_scale,
        bias=bias,
    )

    expected, magnitude = product_reference(
        a,
        weight,
        layer.topk_ids,
        None if is_up else layer.topk_weights,
        quant=quant,
        a_scale=a_scale,
        b_scale=weight_scale,
        bias=bias,
        expert_map=layer.expert_map,
    )
    bound = product_bound(projection.k, quant, x.dtype)
    assert_close(c, expected, magnitude, bound, f"{which} projection")


def check_layer(
    layer: Layer, entry: Mapping[str, int], activation: str = "silu", arch: str | None = None
) -> torch.Tensor:
    """Runs `fused_experts` into NaN and compares it with the twins in a chain."""
    out = torch.full_like(layer.hidden_states, torch.nan)
    fused_experts(
        layer.hidden_states,
        layer.w1,
        layer.w2,
        layer.topk_weights,
        layer.topk_ids,
        config=entry,
        quant=layer.quant,
        scales=layer.scales,
        activation=activation,
        w1_bias=layer.w1_bias,
        w2_bias=layer.w2_bias,
        expert_map=layer.expert_map,
        out=out,
        allow_naive=layer.routing.allow_naive,
        flavour=layer.routing.flavour,
        arch=arch,
    )
    expected, magnitude = layer_reference(layer, activation)
    assert_close(out, expected, magnitude, chain_bound(layer.quant, out.dtype), "layer")
    return out


def layer_reference(layer: Layer, activation: str) -> tuple[torch.Tensor, torch.Tensor]:
    """(expected, magnitude of the down projection's terms), [num_tokens, K]."""
    quant, scales = layer.quant, layer.scales
    dtype = layer.hidden_states.dtype

    def product(
        x: torch.Tensor, weight: torch.Tensor, given: torch.Tensor | None, is_up: bool
    ) -> tuple[torch.Tensor, torch.Tensor]:
        a, a_scale = quantize_reference(x, quant, weight.dtype, given)
        return product_reference(
            a,
            weight,
            layer.topk_ids,
            None if is_up else layer.topk_weights,
            quant=quant,
            a_scale=a_scale,
            b_scale=scales.w1 if is_up else scales.w2,
            bias=layer.w1_bias if is_up else layer.w2_bias,
            expert_map=layer.expert_map,
        )

    gate_up, _ = product(layer.hidden_states, layer.w1, scales.a1, True)
    activated = activate_reference(gate_up.to(dtype), activation).to(dtype)
    shape = (*layer.topk_ids.shape, -1)
    pairs, terms = product(activated, layer.w2, scales.a2, False)
    return moe_sum_reference(pairs.to(dtype).view(shape)), moe_sum_reference(terms.view(shape))
