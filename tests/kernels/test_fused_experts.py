"""A whole layer against the twins in a chain, and what is refused before any launch."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from kernels import fused_experts as module
from kernels.activation import ACTIVATIONS
from kernels.fused_experts import Scales, fused_experts
from kernels.problem import QuantMode
from tests.kernels.layers import MODES, ODD, SMALL, make_layer
from tests.kernels.twin_checks import check_layer

every_mode = pytest.mark.parametrize("mode", MODES)


@every_mode
def test_every_mode(mode: str, device: str) -> None:
    check_layer(make_layer(MODES[mode], **ODD, device=device, seed=11), SMALL)


@every_mode
def test_every_mode_with_bias_and_experts_elsewhere(mode: str, device: str) -> None:
    sizes = ODD | {"num_experts": 6}
    layer = make_layer(MODES[mode], **sizes, has_bias=True, local_experts=3, device=device, seed=12)
    out = check_layer(layer, SMALL)
    nowhere = (layer.expert_map[layer.topk_ids.long()] == -1).all(1)
    assert not out[nowhere].any(), "a token none of whose experts is here sums to zero"


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("mode", ["bf16", "fp8-block64"])
def test_every_activation(mode: str, activation: str, device: str) -> None:
    check_layer(make_layer(MODES[mode], **ODD, device=device, seed=13), SMALL, activation)


def test_given_scales_per_tensor(device: str) -> None:
    layer = make_layer(MODES["fp8-tensor"], **ODD, device=device, seed=14)
    given = torch.tensor([0.05], device=device)
    check_layer(replace(layer, scales=Scales(layer.scales.w1, layer.scales.w2, given, given)), SMALL)


@pytest.mark.parametrize("dtype", [torch.int32, torch.int64])
def test_naive_mode_equals_the_aligned_mode(dtype: torch.dtype, device: str) -> None:
    sizes = ODD | {"num_tokens": 2, "num_experts": 16}
    layer = make_layer(MODES["bf16"], **sizes, device=device, seed=15)
    layer = replace(layer, topk_ids=layer.topk_ids.to(dtype))
    naive = check_layer(layer, SMALL)
    aligned = check_layer(replace(layer, routing=replace(layer.routing, allow_naive=False)), SMALL)
    assert torch.equal(naive, aligned)


@pytest.mark.parametrize(("num_tokens", "top_k"), [(1, 1), (0, 2)])
def test_smallest_batches(num_tokens: int, top_k: int, device: str) -> None:
    check = ODD | {"num_tokens": num_tokens, "top_k": top_k}
    layer = make_layer(MODES["bf16"], **check, device=device, seed=16)
    if num_tokens:
        check_layer(layer, SMALL)
    else:
        args = (layer.hidden_states, layer.w1, layer.w2, layer.topk_weights, layer.topk_ids)
        assert fused_experts(*args, config=SMALL).shape == (0, ODD["hidden_size"])


# ---------------------------------------------------------------
# Refused before any launch


def arguments(mode: str, device: str) -> dict:
    layer = make_layer(MODES[mode], **ODD, device=device, seed=17)
    names = ("hidden_states", "w1", "w2", "topk_weights", "topk_ids", "quant", "scales")
    return {name: getattr(layer, name) for name in names} | {"config": SMALL}


# (mode, what is changed, the message)
WRONG = {
    "w1-shape": (
        "bf16",
        lambda a: {"w1": a["w1"][:, :-1]},
        r"w1, shape: expected \(4, 146, 201\), found \(4, 145, 201\)",
    ),
    "w2-shape": (
        "bf16",
        lambda a: {"w2": a["w2"][:, :-1]},
        r"w2, shape: expected \(4, 201, 73\), found \(4, 200, 73\)",
    ),
    "weights-shape": (
        "bf16",
        lambda a: {"topk_weights": a["topk_weights"][:4]},
        r"topk_weights, shape: expected \(9, 2\), found \(4, 2\)",
    ),
    "hidden-dtype": (
        "bf16",
        lambda a: {"hidden_states": a["hidden_states"].half()},
        r"hidden_states, dtype: expected torch.bfloat16, found torch.float16",
    ),
    "weight-dtype": (
        "int8-channel",
        lambda a: {"w1": a["w1"].half()},
        r"w1, dtype: expected torch.int8, found torch.float16",
    ),
    "ids-dtype": ("bf16", lambda a: {"topk_ids": a["topk_ids"].float()}, r"topk_ids, dtype: .*found torch.float32"),
    "device": (
        "bf16",
        lambda a: {"w1": torch.empty_like(a["w1"], device="meta")},
        r"w1, device: expected \S+ as hidden_states, found meta",
    ),
    "strides": (
        "bf16",
        lambda a: {"w1": a["w1"].mT.contiguous().mT},
        r"w1, strides: expected 1 in the last dimension, found \(29346, 1, 146\)",
    ),
    "scale-missing": (
        "fp8-block64",
        lambda a: {"scales": Scales()},
        r"scales.w1: expected shape \(4, 3, 4\) .*found none",
    ),
    "scale-not-dividing": (
        "fp8-block64",
        lambda a: {"scales": replace(a["scales"], w1=a["scales"].w1[:, :-1])},
        r"scales.w1, shape: expected \(4, 3, 4\), found \(4, 2, 4\)",
    ),
    "scale-unused": (
        "bf16",
        lambda a: {"scales": Scales(w1=torch.ones(4))},
        r"scales.w1: expected none in this mode, found shape \(4,\)",
    ),
    "block-k-over-group": (
        "fp8-block32",
        lambda a: {"config": SMALL | {"BLOCK_SIZE_K": 64}},
        r"BLOCK_SIZE_K: expected a divisor of block_k 32.*found 64",
    ),
    "block-k-not-dividing": (
        "fp8-block64",
        lambda a: {"quant": QuantMode("fp8_w8a8", block_shape=(96, 96)), "config": SMALL | {"BLOCK_SIZE_K": 64}},
        r"(BLOCK_SIZE_K: expected a divisor of block_k 96.*found 64)|(scales.w1, shape)",
    ),
    "unknown-key": (
        "bf16",
        lambda a: {"config": SMALL | {"USE_TMA": True}},
        r"expected keys out of .*found \['USE_TMA'\]",
    ),
    "amd-key-elsewhere": (
        "bf16",
        lambda a: {"config": SMALL | {"kpack": 2}},
        r"expected no AMD keys on \w+, found \['kpack'\]",
    ),
    "two-tiles": (
        "bf16",
        lambda a: {"config": (SMALL, SMALL | {"BLOCK_SIZE_M": 32})},
        r"one BLOCK_SIZE_M for up and down, found 16 and 32",
    ),
    "activation": ("bf16", lambda a: {"activation": "relu"}, r"activation: expected one of .*found 'relu'"),
    "one-bias": ("bf16", lambda a: {"w1_bias": torch.zeros(4, 146)}, r"both or neither .*found a tensor and none"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_input_is_refused_before_any_launch(case: str, device: str, monkeypatch) -> None:
    def launched(*_: object, **__: object) -> None:
        raise AssertionError("something was launched")

    for name in ("align", "quantize", "fused_moe_kernel", "moe_sum"):
        monkeypatch.setattr(module, name, launched)
    mode, change, message = WRONG[case]
    good = arguments(mode, device)
    with pytest.raises(ValueError, match=message):
        fused_experts(**(good | change(good)))
