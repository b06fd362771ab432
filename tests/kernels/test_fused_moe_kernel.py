"""One launch of `fused_moe_kernel` against the fp64 twin of the very same operands."""

from __future__ import annotations

import pytest

from kernels.problem import Flavour
from tests.kernels.layers import MODES, ODD, SMALL, make_layer
from tests.kernels.twin_checks import check_projection

both = pytest.mark.parametrize("which", ["up", "down"])
every_mode = pytest.mark.parametrize("mode", MODES)
FP8 = [mode for mode in MODES if mode.startswith("fp8")]


@every_mode
@both
def test_every_mode_at_odd_sizes(mode: str, which: str, device: str) -> None:
    check_projection(make_layer(MODES[mode], **ODD, device=device, seed=1), which, SMALL)


@pytest.mark.parametrize("mode", FP8)
@both
def test_operand_swap_of_hopper(mode: str, which: str, device: str) -> None:
    check_projection(make_layer(MODES[mode], **ODD, device=device, seed=2), which, SMALL | {"BLOCK_SIZE_N": 64}, "sm90")


@every_mode
@both
def test_bias_is_added_after_the_scales_and_before_the_routed_weight(mode: str, which: str, device: str) -> None:
    check_projection(make_layer(MODES[mode], **ODD, has_bias=True, device=device, seed=3), which, SMALL)


@every_mode
def test_experts_of_other_ranks_write_zeros(mode: str, device: str) -> None:
    layer = make_layer(MODES[mode], **(ODD | {"num_experts": 6}), local_experts=3, device=device, seed=4)
    assert bool((layer.expert_map[layer.topk_ids.long()] == -1).any()), "the case has no pair of another rank"
    check_projection(layer, "up", SMALL)


@every_mode
@both
def test_naive_mode(mode: str, which: str, device: str) -> None:
    layer = make_layer(MODES[mode], **(ODD | {"num_experts": 16, "num_tokens": 2}), device=device, seed=5)
    assert layer.routing.is_naive
    check_projection(layer, which, SMALL | {"BLOCK_SIZE_N": 64}, "sm90")


@pytest.mark.parametrize("kind", ["skewed", "empty"])
@pytest.mark.parametrize("mode", ["bf16", "fp8-block32"])
def test_skewed_routing_and_empty_experts(mode: str, kind: str, device: str) -> None:
    sizes = ODD | {"num_tokens": 40, "num_experts": 8}
    check_projection(make_layer(MODES[mode], **sizes, kind=kind, device=device, seed=6), "up", SMALL)


@pytest.mark.parametrize("group_size_m", [1, 3, 8])
def test_any_group_size_covers_every_tile(group_size_m: int, device: str) -> None:
    sizes = ODD | {"num_tokens": 70, "hidden_size": 33}
    layer = make_layer(MODES["fp16"], **sizes, device=device, seed=7)
    check_projection(layer, "up", SMALL | {"GROUP_SIZE_M": group_size_m})


# ---------------------------------------------------------------
# SGLang's flavour

SGLANG = Flavour.SGLANG
EVEN = ODD | {"intermediate_size": 64, "hidden_size": 128}


@every_mode
@both
@pytest.mark.parametrize("sizes", [ODD, EVEN], ids=["masked along K", "without a mask"])
def test_every_mode_of_sglangs_flavour(sizes: dict[str, int], mode: str, which: str, device: str) -> None:
    layer = make_layer(MODES[mode], **sizes, flavour=SGLANG, device=device, seed=8)
    projection = layer.up if which == "up" else layer.down
    assert (projection.k % SMALL["BLOCK_SIZE_K"] == 0) is (sizes is EVEN)
    check_projection(layer, which, SMALL)


@pytest.mark.parametrize("mode", FP8)
@both
@pytest.mark.parametrize("sizes", [ODD, EVEN], ids=["masked along K", "without a mask"])
def test_operand_swap_by_transposing(sizes: dict[str, int], mode: str, which: str, device: str) -> None:
    layer = make_layer(MODES[mode], **sizes, flavour=SGLANG, device=device, seed=9)
    check_projection(layer, which, SMALL | {"BLOCK_SIZE_N": 64}, "sm90")


@every_mode
def test_sglang_aligns_what_vllm_would_not(mode: str, device: str) -> None:
    sizes = ODD | {"num_experts": 16, "num_tokens": 2}
    layer = make_layer(MODES[mode], **sizes, flavour=SGLANG, device=device, seed=10)
    assert not layer.routing.is_naive
    check_projection(layer, "up", SMALL | {"BLOCK_SIZE_N": 64})
