"""Activations and the sum over experts against their twins."""

from __future__ import annotations

import pytest
import torch

from kernels.activation import ACTIVATIONS, activate_and_mul, moe_sum
from kernels.reference import activate_reference, moe_sum_reference
from kernels.testing import UNIT_ROUNDOFF, Bound, assert_close

DTYPES = pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=["bf16", "fp16"])


def pointwise_bound(dtype: torch.dtype) -> Bound:
    """The store's rounding; the exponential's error in fp32 is below 2^-20 of the terms."""
    u = UNIT_ROUNDOFF[dtype]
    return Bound(u * (1 + 2.0**-6), 2.0**-20, u, 2.0**-20)


@DTYPES
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_activation(activation: str, dtype: torch.dtype, device: str) -> None:
    # Wide enough for the clamps of swiglu_clamped to act, odd, and more than one block.
    x = (torch.randn(5, 2 * 1031, device=device) * 5).to(dtype)
    expected = activate_reference(x, activation)
    magnitude = x.double().abs().amax() * torch.ones_like(expected)
    assert_close(activate_and_mul(x, activation), expected, magnitude, pointwise_bound(dtype))


@DTYPES
@pytest.mark.parametrize("top_k", [1, 3, 8])
def test_sum_over_experts(top_k: int, dtype: torch.dtype, device: str) -> None:
    x = torch.randn(4, top_k, 1031, device=device).to(dtype)
    out = torch.full((4, 1031), torch.nan, dtype=dtype, device=device)
    moe_sum(x, out)
    assert_close(out, moe_sum_reference(x), x.double().abs().sum(1), pointwise_bound(dtype))


def test_clamps_of_gpt_oss(device: str) -> None:
    gate, up = [100.0, -100.0, 1.0], [100.0, 3.0, -100.0]
    x = torch.tensor([gate, up], device=device).T.reshape(1, 6).half()
    found = activate_and_mul(x, "swiglu_clamped").float().tolist()[0]
    assert found == pytest.approx([7.0 * 8.0, 0.0, -6.0 * 0.8458], rel=1e-3)


def test_wrong_input_is_named(device: str) -> None:
    with pytest.raises(ValueError, match=r"activation: expected one of .*, found 'relu'"):
        activate_and_mul(torch.zeros(1, 2, device=device).half(), "relu")
    with pytest.raises(ValueError, match=r"expected \(rows, 2N\), found \(1, 3\)"):
        activate_and_mul(torch.zeros(1, 3, device=device).half())
    with pytest.raises(ValueError, match=r"x, dtype: .* found torch.float32"):
        activate_and_mul(torch.zeros(1, 2, device=device))
