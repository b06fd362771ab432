"""Quantised activations against their twins."""

from __future__ import annotations

import pytest
import torch

from kernels.checks import weight_dtypes
from kernels.quantization import quantize
from kernels.reference import activate_reference, dequantize_activation, quantize_reference
from tests.kernels.layers import MODES

EIGHT_BIT = [mode for mode, quant in MODES.items() if quant.quantizes_activations]


def assert_quantized(q, scale, ref_q, ref_scale, quant) -> None:
    """Scales to fp32 rounding; values equal, or one spacing apart at a rounding boundary, and that rarely."""
    torch.testing.assert_close(scale, ref_scale, rtol=2.0**-21, atol=0.0)
    value, expected = dequantize_activation(q, scale, quant), dequantize_activation(ref_q, ref_scale, quant)
    # Spacing of e4m3: 2^-3 of a value and 2^-9 below 2^-6; of int8: 1. In units of the scale.
    unit = (value / q.double().where(q.double() != 0, 1.0)).abs()
    spacing = unit if q.dtype == torch.int8 else torch.maximum(expected.abs() * 2.0**-3, unit * 2.0**-9)
    off = (value - expected).abs()
    assert bool((off <= spacing * 1.01 + expected.abs() * 2.0**-20).all())
    assert float((off > expected.abs() * 2.0**-20).float().mean()) < 0.01


@pytest.mark.parametrize("mode", EIGHT_BIT)
@pytest.mark.parametrize("width", [201, 256])
def test_quantize(mode: str, width: int, device: str) -> None:
    quant = MODES[mode]
    dtype = weight_dtypes(quant)[0]
    x = (torch.randn(7, width, device=device) * torch.rand(7, 1, device=device) * 10).bfloat16()
    x[3] = 0
    assert_quantized(*quantize(x, quant, dtype), *quantize_reference(x, quant, dtype), quant)


@pytest.mark.parametrize("mode", EIGHT_BIT)
def test_activation_and_quantization_in_one_launch(mode: str, device: str) -> None:
    quant = MODES[mode]
    dtype = weight_dtypes(quant)[0]
    x = torch.randn(5, 2 * 137, device=device).bfloat16()
    activated = activate_reference(x, "silu").bfloat16()
    assert_quantized(*quantize(x, quant, dtype, activation="silu"), *quantize_reference(activated, quant, dtype), quant)


def test_given_scale_per_tensor_saturates(device: str) -> None:
    x = torch.tensor([[1.0, -1000.0, 1000.0]], device=device).bfloat16()
    scale = torch.tensor([0.5], device=device)
    q, returned = quantize(x, MODES["fp8-tensor"], torch.float8_e4m3fn, scale)
    assert q.float().tolist() == [[2.0, -448.0, 448.0]]
    assert returned is scale


def test_sixteen_bit_modes_quantize_nothing(device: str) -> None:
    x = torch.randn(2, 8, device=device).bfloat16()
    assert quantize(x, MODES["bf16"], torch.bfloat16) == (x, None)


def test_wrong_input_is_named(device: str) -> None:
    x = torch.zeros((2, 8), device=device).bfloat16()
    with pytest.raises(ValueError, match=r"expected None for scaling 'block', found a tensor"):
        quantize(x, MODES["fp8-block32"], torch.float8_e4m3fn, torch.ones(1, device=device))
    with pytest.raises(ValueError, match=r"activation scale, shape: expected \(1,\), found \(2,\)"):
        quantize(x, MODES["fp8-tensor"], torch.float8_e4m3fn, torch.ones(2, device=device))
    with pytest.raises(ValueError, match=r"x, strides: expected a contiguous tensor"):
        quantize(x.T, MODES["fp8-channel"], torch.float8_e4m3fn)
