"""Checking a result: how near it must come to its twin, with the derivation, and random weights that show a fault."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from kernels.checks import weight_dtypes, weight_scale_shape
from kernels.problem import Projection, QuantMode
from kernels.quantization import largest_value

MAKING_BYTES = 1 << 29
"""Of the fp32 values that random weights are made from, at a time."""


@dataclass(frozen=True)
class Bound:
    """|error| <= max_value * |expected| + max_terms * magnitude for each element, and the same of the rms values.

    magnitude: sum of the absolute terms of each element (`product_reference`).
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


def make_weight(
    projection: Projection, quant: QuantMode, generator: torch.Generator, device: torch.device
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """(weight, scale): values of the format's whole range, scales that differ by up to 4 between groups.

    So a scale of the wrong group shows, whatever the operands. Beside the weight it takes `MAKING_BYTES`, or one
    expert in fp32 where that is more: whole layers in fp32 would need several times the memory that serving does.
    """
    shape = (projection.num_experts, projection.n, projection.k)
    dtype = weight_dtypes(quant)[0]
    weight = torch.empty(shape, dtype=dtype, device=device)
    scale_shape = weight_scale_shape(projection, quant)
    gain = projection.k**-0.5
    for part in weight.split(max(1, MAKING_BYTES // (4 * projection.n * projection.k))):
        value = torch.randn(part.shape, generator=generator, device=device)
        if scale_shape is None:
            part.copy_(value.mul_(gain))
            continue
        q_max = largest_value(dtype)
        value.mul_(q_max / 4).clamp_(-q_max, q_max)
        part.copy_(value.round_() if dtype == torch.int8 else value)
    if scale_shape is None:
        return weight, None
    spread = torch.exp2(torch.rand(scale_shape, generator=generator, device=device) * 2 - 1)
    return weight, (spread * gain * 4 / largest_value(dtype)).float()
