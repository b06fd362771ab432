"""What tests of the kernels share: inputs, bounds with their derivation, and the interpreter's repairs."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from typing import Any

import torch

from kernels.checks import Scales, weight_dtypes, weight_scale_shape
from kernels.problem import Projection, QuantMode, Routing, up_and_down
from kernels.quantization import largest_value

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


# ---------------------------------------------------------------
# Bounds


@dataclass(frozen=True)
class Bound:
    """|error| <= max_value * |expected| + max_terms * magnitude for each element, and the same of the rms values.

    magnitude: sum of the absolute terms of each element (`product_reference(magnitude=True)`).
    """

    max_value: float
    max_terms: float
    rms_value: float
    rms_terms: float


# Half the spacing of the format relative to the value: 2^-p with p significant bits (8 and 11).
UNIT_ROUNDOFF = {torch.bfloat16: 2.0**-8, torch.float16: 2.0**-11}
UNIT_FP32 = 2.0**-24


def product_bound(k: int, quant: QuantMode, dtype: torch.dtype) -> Bound:
    """For one projection against `product_reference` of the very same 8- or 16-bit operands.

    Products of 8- and 16-bit operands are exact in fp32 and int8 dots exact in int32, so what rounds is: the
    accumulator, at each step by at most 2 u of it (tensor cores truncate); the final scales, bias and routed
    weight, six operations; and the store, u of the value. |accumulator| <= magnitude bounds the maximum. The rms
    takes the steps' errors as independent: sqrt(steps), and a uniform rounding error is u / sqrt(3).
    Hopper adds fp8 products in steps of 32 with 13 fraction bits kept, hence steps of 2^-13 instead.
    """
    if quant.dtype == "fp8_w8a8":
        steps, step = math.ceil(k / 32) + 1, 2.0**-13
    else:
        steps, step = k + 6, 2 * UNIT_FP32
    u = UNIT_ROUNDOFF[dtype]
    return Bound(u * (1 + 2.0**-6), steps * step, u / math.sqrt(3) * 1.1, math.sqrt(steps) * step)


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


def assert_close(
    actual: torch.Tensor, expected: torch.Tensor, magnitude: torch.Tensor, bound: Bound, where: str = "output"
) -> None:
    """AssertionError unless both the largest and the rms error keep the bound. NaN never does."""
    found, right, terms = actual.double(), expected.double(), magnitude.double()
    error = (found - right).abs()
    # Below this a 16-bit float is subnormal and its error no longer relative.
    tiny = 2.0**-24
    limit = bound.max_value * right.abs() + bound.max_terms * terms + tiny
    within = error <= limit
    if not bool(within.all()):
        index = tuple(int(i) for i in torch.nonzero(~within)[0])
        raise AssertionError(
            f"{where}: {int((~within).sum())} of {within.numel()} beyond the max bound; the first, at {index}: "
            f"expected {float(right[index])} +- {float(limit[index])}, found {float(found[index])}."
        )
    rms = float(error.square().mean().sqrt())
    rms_limit = bound.rms_value * _rms(right) + bound.rms_terms * _rms(terms) + tiny
    if not rms <= rms_limit:
        raise AssertionError(f"{where}: expected an rms error <= {rms_limit}, found {rms}.")


def _rms(x: torch.Tensor) -> float:
    return float(x.square().mean().sqrt())


# ---------------------------------------------------------------
# Inputs


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


def make_weight(
    projection: Projection, quant: QuantMode, generator: torch.Generator, device: torch.device
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """(weight, scale): values of the format's whole range, scales that differ by up to 4 between groups.

    So a scale of the wrong group shows, whatever the operands.
    """
    shape = (projection.num_experts, projection.n, projection.k)
    dtype = weight_dtypes(quant)[0]
    value = torch.randn(shape, generator=generator, device=device)
    scale_shape = weight_scale_shape(projection, quant)
    gain = projection.k**-0.5
    if scale_shape is None:
        return (value * gain).to(dtype), None
    q_max = largest_value(dtype)
    value = (value * (q_max / 4)).clamp(-q_max, q_max)
    if dtype == torch.int8:
        value = value.round()
    spread = torch.exp2(torch.rand(scale_shape, generator=generator, device=device) * 2 - 1)
    return value.to(dtype), (spread * gain * 4 / q_max).float()


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
        Routing(num_tokens, top_k, num_experts, local_experts is not None, allow_naive),
    )


# ---------------------------------------------------------------
# Triton's interpreter


def is_interpreted() -> bool:
    return os.environ.get("TRITON_INTERPRET") == "1"


def repair_interpreter() -> None:
    """Makes the interpreter's arithmetic that of a GPU where it differs (Triton 3.6 to 3.9). Does nothing without it.

    A dot of bf16 multiplies the raw 16-bit patterns; fp32 to fp8 loses the carry of rounding up (127.9 becomes 64);
    fp32 to bf16 truncates; integers to bf16 keep their bits.
    """
    if not is_interpreted():
        return
    import numpy as np
    import triton.language as tl
    from triton.runtime.interpreter import InterpreterBuilder, TensorHandle

    if getattr(InterpreterBuilder, "repaired", False):
        return
    torch_types = {
        tl.bfloat16: torch.bfloat16,
        tl.float8e4nv: torch.float8_e4m3fn,
        tl.float8e4b8: torch.float8_e4m3fnuz,
    }
    create_dot, fp_to_fp = InterpreterBuilder.create_dot, InterpreterBuilder.create_fp_to_fp
    fp_trunc, si_to_fp = InterpreterBuilder.create_fp_trunc, InterpreterBuilder.create_si_to_fp

    def widen(operand: TensorHandle) -> TensorHandle:
        if operand.dtype.scalar != tl.bfloat16:
            return operand
        bits = operand.data.view(np.uint16).astype(np.uint32) << 16
        return TensorHandle(bits.view(np.float32), tl.float32)

    def dot(self, a, b, d, *rest):  # type: ignore[no-untyped-def]
        return create_dot(self, widen(a), widen(b), d, *rest)

    def narrow(source: Any, target: Any) -> Any:
        """Round to nearest even by torch; None where the interpreter's own conversion is right."""
        kind = torch_types.get(target.scalar)
        if kind is None or source.dtype.scalar not in (tl.float32, tl.int8):
            return None
        value = torch.from_numpy(np.ascontiguousarray(source.data)).to(kind)
        bits = value.view(torch.uint16 if kind == torch.bfloat16 else torch.uint8).numpy()
        return TensorHandle(bits.reshape(source.data.shape), target.scalar)

    def to_fp(self, source, target, *rest):  # type: ignore[no-untyped-def]
        narrowed = narrow(source, target)
        return fp_to_fp(self, source, target, *rest) if narrowed is None else narrowed

    def trunc(self, source, target):  # type: ignore[no-untyped-def]
        narrowed = narrow(source, target)
        return fp_trunc(self, source, target) if narrowed is None else narrowed

    def from_int(self, source, target):  # type: ignore[no-untyped-def]
        narrowed = narrow(source, target)
        return si_to_fp(self, source, target) if narrowed is None else narrowed

    InterpreterBuilder.create_dot = dot
    InterpreterBuilder.create_si_to_fp = from_int
    InterpreterBuilder.create_fp_to_fp = to_fp
    InterpreterBuilder.create_fp_trunc = trunc
    InterpreterBuilder.repaired = True
