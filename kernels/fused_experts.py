"""A whole MoE layer: align -> up -> activation -> down -> sum (torch host half).

At most seven launches; five where nothing is aligned or quantised per tensor.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping

import torch

from kernels.activation import check_activation, moe_sum
from kernels.checks import (
    COMPUTE,
    Scales,
    check_layer_inputs,
    check_optional,
    check_tensor,
    check_topk_weights,
    check_weights,
)
from kernels.fused_moe_kernel import fused_moe_kernel
from kernels.launch import Pointers, Strides, plan_launch
from kernels.launch_config import TRITON_DEFAULTS, EntryValue, LaunchConfig
from kernels.moe_align import Alignment, align
from kernels.problem import Flavour, Problem, Projection, QuantMode, Routing, cdiv, up_and_down
from kernels.quantization import quantize

Config = Mapping[str, EntryValue]

BF16 = QuantMode()
NO_SCALES = Scales()


@functools.cache
def device_arch(device: torch.device) -> str:
    """What `kernels.problem` calls arch: "sm90", "gfx942"; "cpu" under the interpreter."""
    if device.type != "cuda":
        return str(device.type)
    if torch.version.hip is not None:
        return str(torch.cuda.get_device_properties(device).gcnArchName).partition(":")[0]
    major, minor = torch.cuda.get_device_capability(device)
    return f"sm{major}{minor}"


def invoke_fused_moe_kernel(
    a: torch.Tensor,
    b: torch.Tensor,
    c: torch.Tensor,
    *,
    problem: Problem,
    alignment: Alignment,
    topk_weights: torch.Tensor,
    a_scale: torch.Tensor | None = None,
    b_scale: torch.Tensor | None = None,
    bias: torch.Tensor | None = None,
) -> None:
    """One launch of `fused_moe_kernel`: c [pairs, n] = a [pairs // top_k, k] x b [num_experts, n, k].

    a_scale as `quantize` returns it, b_scale as `Scales` says, bias [num_experts, n] of c's dtype, topk_weights
    fp32 [num_tokens, top_k]. Every pair's row of c is written, zeros for experts that aren't on this rank.
    ValueError, before any launch: what disagrees in shape, dtype, device or strides.
    """
    device, quant, projection, routing = a.device, problem.quant, problem.projection, problem.routing
    if alignment.block_size_m != problem.config.BLOCK_SIZE_M:
        raise ValueError(
            f"alignment: expected BLOCK_SIZE_M {problem.config.BLOCK_SIZE_M} of the launch config, found "
            f"{alignment.block_size_m}. Fix: one BLOCK_SIZE_M for both projections."
        )
    if (alignment.sorted_token_ids is None) != routing.is_naive:
        raise ValueError(
            f"alignment: expected the naive mode to be {routing.is_naive}, found "
            f"{alignment.sorted_token_ids is None}. Fix: `align` with the same routing."
        )
    check_weights(("b", "b_scale", "bias"), problem, b, b_scale, bias, device)
    check_topk_weights(topk_weights, routing, device)
    compute = COMPUTE[quant.compute_type]
    rows = cdiv(routing.num_pairs, projection.top_k)
    check_tensor("a", a, (rows, projection.k), (b.dtype if quant.quantizes_activations else compute,), device)
    check_tensor("c", c, (routing.num_pairs, projection.n), (compute,), device)
    a_scale_shape = {
        "tensor": (1,),
        "channel": (rows, 1),
        "block": (rows, cdiv(projection.k, quant.block_shape[1] if quant.block_shape else 1)),
    }.get(quant.scaling)
    check_optional("a_scale", a_scale, a_scale_shape, torch.float32, device)
    _launch(problem, Pointers(a, b, c, bias, a_scale, b_scale, topk_weights, *alignment.arrays))


def _launch(problem: Problem, pointers: Pointers) -> None:
    """Tensors that are checked already."""
    launch = plan_launch(problem, pointers, _strides(pointers, problem.quant))
    if launch.grid[0]:
        fused_moe_kernel[launch.grid](*launch.args, **launch.kwargs)


def _strides(pointers: Pointers, quant: QuantMode) -> Strides:
    """The tensors' own strides, which may be wider than the contiguous ones (padded weights)."""
    a, b, c, bias, a_scale, b_scale = (
        pointers.a,
        pointers.b,
        pointers.c,
        pointers.b_bias,
        pointers.a_scale,
        pointers.b_scale,
    )
    asm, ask = (a_scale.stride(0), a_scale.stride(1)) if a_scale is not None and a_scale.dim() == 2 else (0, 0)
    if quant.scaling == "channel":
        ask = 0
    scale = tuple(b_scale.stride()) if b_scale is not None else ()
    bse, bsn, bsk = (*scale, 0, 0, 0)[:3]
    bias_e = bias.stride(0) if bias is not None else 0
    return Strides(a.stride(0), b.stride(0), b.stride(1), c.stride(0), bias_e, asm, ask, bse, bsn, bsk)


def fused_experts(
    hidden_states: torch.Tensor,
    w1: torch.Tensor,
    w2: torch.Tensor,
    topk_weights: torch.Tensor,
    topk_ids: torch.Tensor,
    *,
    config: Config | tuple[Config, Config],
    quant: QuantMode = BF16,
    scales: Scales = NO_SCALES,
    activation: str = "silu",
    w1_bias: torch.Tensor | None = None,
    w2_bias: torch.Tensor | None = None,
    expert_map: torch.Tensor | None = None,
    out: torch.Tensor | None = None,
    allow_naive: bool = True,
    flavour: Flavour = Flavour.VLLM,
    arch: str | None = None,
) -> torch.Tensor:
    """One MoE layer on this rank: [num_tokens, K] -> [num_tokens, K] of hidden_states' dtype.

    hidden_states: 16-bit [num_tokens, K]; w1: [E, 2N, K] (gate and up); w2: [E, K, N]; topk_weights: fp32,
    topk_ids: int32 or int64, [num_tokens, top_k], ids of the whole layer; expert_map: int32 [global experts],
    local expert or -1. config: one entry of a tuned file, or a pair for up and down with one BLOCK_SIZE_M.
    quant and scales: `QuantMode`, `Scales`. out: where to write, else allocated. flavour: whose kernel's ways.
    arch: for tests; the device's own otherwise. No host synchronisation. ValueError, before any launch: anything that
    disagrees.
    """
    check_activation(activation)
    device = hidden_states.device
    if (w1_bias is None) != (w2_bias is None):
        found = ["none" if bias is None else "a tensor" for bias in (w1_bias, w2_bias)]
        raise ValueError(f"bias: expected both or neither of w1_bias and w2_bias, found {found[0]} and {found[1]}.")
    projections, global_experts = _sizes(hidden_states, w1, w2, topk_ids, expert_map, w1_bias is not None)
    num_tokens, top_k = topk_ids.shape
    routing = Routing(num_tokens, top_k, global_experts, expert_map is not None, allow_naive, flavour)
    entries = config if isinstance(config, tuple) else (config, config)
    configs = [LaunchConfig.from_entry({**TRITON_DEFAULTS, **entry}) for entry in entries]
    if configs[0].BLOCK_SIZE_M != configs[1].BLOCK_SIZE_M:
        raise ValueError(
            f"config: expected one BLOCK_SIZE_M for up and down, found {configs[0].BLOCK_SIZE_M} and "
            f"{configs[1].BLOCK_SIZE_M}. Fix: they share one alignment."
        )
    arch = arch or device_arch(device)
    up, down = (Problem(p, routing, quant, c, arch) for p, c in zip(projections, configs, strict=True))
    check_layer_inputs(hidden_states, w1, w2, topk_weights, topk_ids, up, down, scales, w1_bias, w2_bias)
    if expert_map is not None:
        check_tensor("expert_map", expert_map, (routing.num_experts,), (torch.int32,), device, contiguous=True)
    if out is None:
        out = torch.empty_like(hidden_states)
    check_tensor("out", out, hidden_states.shape, (hidden_states.dtype,), device, contiguous=True)
    if not routing.num_pairs:
        return out.zero_()

    def pair_rows(width: int) -> torch.Tensor:
        return torch.empty((routing.num_pairs, width), dtype=hidden_states.dtype, device=device)

    alignment = align(topk_ids, routing, up.config.BLOCK_SIZE_M, expert_map)
    a1, a1_scale = quantize(hidden_states, quant, w1.dtype, scales.a1)
    gate_up = pair_rows(up.projection.n)
    _launch(up, Pointers(a1, w1, gate_up, w1_bias, a1_scale, scales.w1, topk_weights, *alignment.arrays))
    a2, a2_scale = quantize(gate_up, quant, w2.dtype, scales.a2, activation)
    # One expert a token has nothing to sum.
    c2 = out if routing.top_k == 1 else pair_rows(down.projection.n)
    _launch(down, Pointers(a2, w2, c2, w2_bias, a2_scale, scales.w2, topk_weights, *alignment.arrays))
    if routing.top_k > 1:
        moe_sum(c2.view(routing.num_tokens, routing.top_k, down.projection.n), out)
    return out


def _sizes(
    hidden_states: torch.Tensor,
    w1: torch.Tensor,
    w2: torch.Tensor,
    topk_ids: torch.Tensor,
    expert_map: torch.Tensor | None,
    has_bias: bool,
) -> tuple[tuple[Projection, Projection], int]:
    """Both projections, and the number of experts of the whole layer."""
    dims = {"hidden_states": (hidden_states, 2), "w1": (w1, 3), "w2": (w2, 3), "topk_ids": (topk_ids, 2)}
    for name, (tensor, dim) in dims.items():
        if tensor.dim() != dim:
            raise ValueError(f"{name}, shape: expected {dim} dimensions, found {tuple(tensor.shape)}.")
    experts, _, intermediate_size = w2.shape
    top_k = topk_ids.shape[1]
    projections = up_and_down(experts, intermediate_size, hidden_states.shape[1], top_k, has_bias=has_bias)
    return projections, experts if expert_map is None else expert_map.numel()
