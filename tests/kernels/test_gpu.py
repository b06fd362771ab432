"""On a GPU: realistic sizes, 64-bit offsets, CUDA graphs. `pytest -m gpu tests/kernels`."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from kernels.fused_experts import device_arch, fused_experts, invoke_fused_moe_kernel
from kernels.launch_config import LaunchConfig
from kernels.moe_align import align, moe_align_block_size
from kernels.problem import Flavour, Problem
from kernels.reference import product_reference
from kernels.testing import assert_close, product_bound
from tests.kernels.layers import MODES, make_layer, make_routing
from tests.kernels.twin_checks import check_layer, check_projection

pytestmark = pytest.mark.gpu

ENTRY = {
    "BLOCK_SIZE_M": 64,
    "BLOCK_SIZE_N": 128,
    "BLOCK_SIZE_K": 64,
    "GROUP_SIZE_M": 8,
    "num_warps": 4,
    "num_stages": 3,
}
DECODE = ENTRY | {"BLOCK_SIZE_M": 16, "GROUP_SIZE_M": 1}
SIZES = {"num_experts": 32, "intermediate_size": 768, "hidden_size": 2048, "top_k": 8}


def entry_for(mode: str, entry: dict[str, int] = ENTRY) -> dict[str, int]:
    block = MODES[mode].block_shape
    return entry if block is None else entry | {"BLOCK_SIZE_K": min(entry["BLOCK_SIZE_K"], block[1])}


def skip_unsupported(mode: str) -> None:
    arch = device_arch(torch.device("cuda", torch.cuda.current_device()))
    if mode.startswith("fp8") and arch in ("sm80", "sm86"):
        pytest.skip(f"{arch} has no fp8")


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("num_tokens", [1, 33, 1024])
@pytest.mark.parametrize("which", ["up", "down"])
@pytest.mark.parametrize("flavour", Flavour)
def test_projection_at_realistic_size(mode: str, num_tokens: int, which: str, flavour: Flavour) -> None:
    skip_unsupported(mode)
    sizes = {"num_tokens": num_tokens, **SIZES}
    layer = make_layer(MODES[mode], **sizes, has_bias=True, flavour=flavour, device="cuda", seed=num_tokens)
    for entry in (ENTRY, DECODE):
        check_projection(layer, which, entry_for(mode, entry))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("kind", ["uniform", "skewed", "empty"])
@pytest.mark.parametrize("flavour", Flavour)
def test_layer_at_realistic_size(mode: str, kind: str, flavour: Flavour) -> None:
    skip_unsupported(mode)
    layer = make_layer(MODES[mode], num_tokens=256, **SIZES, kind=kind, flavour=flavour, device="cuda", seed=5)
    check_layer(layer, entry_for(mode))


@pytest.mark.parametrize("mode", MODES)
def test_experts_of_other_ranks(mode: str) -> None:
    skip_unsupported(mode)
    layer = make_layer(MODES[mode], num_tokens=200, **SIZES, local_experts=16, device="cuda", seed=6)
    check_layer(layer, entry_for(mode))


@pytest.mark.parametrize("swizzle", [(32, 4, 2), (256, 8, 5), (128, 4, 4)])
def test_other_launch_configs(swizzle: tuple[int, int, int]) -> None:
    n, warps, stages = swizzle
    layer = make_layer(MODES["bf16"], num_tokens=512, **SIZES, device="cuda", seed=7)
    check_projection(layer, "up", ENTRY | {"BLOCK_SIZE_N": n, "num_warps": warps, "num_stages": min(stages, 3)})


@pytest.mark.parametrize("mode", ["bf16", "fp8-block128"])
def test_offsets_beyond_32_bits_at_65536_tokens(mode: str) -> None:
    """C has 65536 * 8 * 5120 = 2.7e9 elements; every 4099th pair is compared, and no element may stay NaN."""
    skip_unsupported(mode)
    quant = MODES[mode]
    sizes = {"num_experts": 16, "intermediate_size": 2560, "hidden_size": 256, "top_k": 8}
    layer = make_layer(quant, num_tokens=65536, **sizes, device="cuda", seed=8)
    config = LaunchConfig.from_entry(entry_for(mode, ENTRY | {"BLOCK_SIZE_M": 128}))
    from kernels.quantization import quantize

    a, a_scale = quantize(layer.hidden_states, quant, layer.w1.dtype)
    c = torch.full((layer.routing.num_pairs, layer.up.n), torch.nan, dtype=torch.bfloat16, device="cuda")
    assert c.numel() > 2**31
    invoke_fused_moe_kernel(
        a,
        layer.w1,
        c,
        problem=Problem(layer.up, layer.routing, quant, config, device_arch(a.device)),
        alignment=align(layer.topk_ids, layer.routing, config.BLOCK_SIZE_M),
        topk_weights=layer.topk_weights,
        a_scale=a_scale,
        b_scale=layer.scales.w1,
    )
    assert not any(bool(part.isnan().any()) for part in c.chunk(64))
    chosen = torch.arange(0, layer.routing.num_pairs, 4099, device="cuda")
    tokens = chosen // layer.routing.top_k
    ids = layer.topk_ids.flatten()[chosen].unsqueeze(1)
    scale = None if a_scale is None else a_scale[tokens]
    expected, magnitude = product_reference(
        a[tokens], layer.w1, ids, None, quant=quant, a_scale=scale, b_scale=layer.scales.w1
    )
    assert_close(c[chosen], expected, magnitude, product_bound(layer.up.k, quant, torch.bfloat16))


@pytest.mark.parametrize("num_tokens", [1, 64, 4096])
def test_align_is_captured_in_a_graph(num_tokens: int) -> None:
    """Replayed on other ids it sorts those: nothing was decided on the host."""
    _, first = make_routing(num_tokens, 64, 8, "uniform", torch.Generator().manual_seed(1))
    _, second = make_routing(num_tokens, 64, 8, "skewed", torch.Generator().manual_seed(2))
    ids = first.cuda()
    moe_align_block_size(ids, 64, 64)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = moe_align_block_size(ids, 64, 64)
    ids.copy_(second)
    graph.replay()
    expected = moe_align_block_size(second.cuda(), 64, 64)
    in_use = int(expected.num_tokens_post_padded)
    assert int(captured.num_tokens_post_padded) == in_use
    assert torch.equal(captured.expert_ids[: in_use // 64], expected.expert_ids[: in_use // 64])
    # Where two launches scatter, the order within a tile is free.
    for start in range(0, in_use, 64):
        rows = slice(start, start + 64)
        found, right = captured.sorted_token_ids[rows], expected.sorted_token_ids[rows]
        if num_tokens * 8 <= 4096:
            assert torch.equal(found, right)
    assert torch.equal(
        captured.sorted_token_ids[:in_use].sort().values, expected.sorted_token_ids[:in_use].sort().values
    )


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("num_tokens", [1, 64])
def test_a_whole_layer_in_a_graph_equals_the_eager_one(mode: str, num_tokens: int) -> None:
    skip_unsupported(mode)
    layer = make_layer(MODES[mode], num_tokens=num_tokens, **SIZES, device="cuda", seed=9)
    arguments = (layer.hidden_states, layer.w1, layer.w2, layer.topk_weights, layer.topk_ids)
    common = {"config": entry_for(mode), "quant": layer.quant, "scales": layer.scales}
    eager = fused_experts(*arguments, **common)
    graph = torch.cuda.CUDAGraph()
    torch.cuda.synchronize()
    with torch.cuda.graph(graph):
        captured = fused_experts(*arguments, **common)
    captured.fill_(torch.nan)
    graph.replay()
    torch.cuda.synchronize()
    assert torch.equal(captured, eager)


def test_wrong_device_is_named() -> None:
    layer = make_layer(MODES["bf16"], num_tokens=4, **SIZES, device="cuda", seed=10)
    layer = replace(layer, w2=layer.w2.cpu())
    with pytest.raises(ValueError, match=r"w2, device: expected cuda:0 as hidden_states, found cpu"):
        fused_experts(layer.hidden_states, layer.w1, layer.w2, layer.topk_weights, layer.topk_ids, config=ENTRY)
