"""Tensors of the bench, as far as they need no GPU: alignment as each engine does it, and blocks dealt in place."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kernels.launch import Pointers
from kernels.launch_config import LaunchConfig
from kernels.problem import Flavour, Problem, QuantMode
from tests.tools.measure.torch_kernel import TorchKernel
from tools.measure.inputs import (
    Operands,
    RowInputs,
    align,
    checked_tokens,
    make_weights,
    num_coarse_routings,
    num_routings,
    sort_pairs,
    sorted_rows,
)
from tools.measure.layer import DOWN, UP, ForeignPairs, LayerShape, foreign_pairs
from tools.measure.panel import RoutingKind
from tools.measure.recorded_routing import RoutingSource
from tools.measure.routing import draw, generator_of

CPU = torch.device("cpu")
VLLM, SGLANG = Flavour.VLLM, Flavour.SGLANG
PER_TENSOR = QuantMode("fp8_w8a8")
DRAWN = [RoutingSource(kind) for kind in RoutingKind if kind is not RoutingKind.RECORDED]

DEEPSEEK = LayerShape(256, 128, 7168, 8, QuantMode("fp8_w8a8", block_shape=(128, 128)))
MIXTRAL = LayerShape(8, 7168, 4096, 2, QuantMode())
EP8 = LayerShape(64, 1024, 4096, 10, QuantMode("fp8_w8a8", block_shape=(128, 128)), ep=8)
L2_BYTES = 50 << 20


# ---------------------------------------------------------------
# Alignment, against each engine's own rule written out slowly

Aligned = tuple[list[int], list[int]]
"""Of one routing: the rows in use, and the expert of each tile."""


def padded(buckets: Sequence[tuple[int, list[int]]], pairs: int, block: int) -> Aligned:
    """buckets: (what the tiles' expert is, pairs in their order)."""
    rows: list[int] = []
    tiles: list[int] = []
    for expert, members in buckets:
        rows += members + [pairs] * (-len(members) % block)
        tiles += [expert] * -(-len(members) // block)
    return rows, tiles


def vllm(chosen: list[int], expert_map: list[int], block: int, *, ignores_invalid: bool) -> Aligned:
    """moe_align_block_size of vLLM 0.33 with num_experts of the whole layer.

    It maps ids first and leaves out what becomes -1, or sorts by the layer's ids and maps the tiles' experts after.
    """
    if ignores_invalid:
        local = [expert_map[expert] for expert in chosen]
        buckets = [(e, [p for p, found in enumerate(local) if found == e]) for e in range(len(expert_map))]
    else:
        buckets = [(expert_map[e], [p for p, found in enumerate(chosen) if found == e]) for e in range(len(expert_map))]
    return padded(buckets, len(chosen), block)


def sglang(chosen: list[int], expert_map: list[int], block: int, local_experts: int) -> Aligned:
    """moe_align_block_size of SGLang 0.5.23: ids are the rank's or -1, and the kernel counts them from 1 on."""
    shifted = [expert_map[expert] + 1 for expert in chosen]
    buckets = [(b - 1, [p for p, found in enumerate(shifted) if found == b]) for b in range(local_experts + 1)]
    return padded(buckets, len(chosen), block)


@st.composite
def layers(draw: st.DrawFn) -> LayerShape:
    ep = draw(st.sampled_from([1, 2, 3, 8]))
    fused = draw(st.integers(0, 2))
    routed = draw(st.integers(1, 9))
    top_k = draw(st.integers(1, min(8, routed * ep)))
    quant = draw(st.sampled_from([QuantMode(), PER_TENSOR, EP8.quant]))
    return LayerShape(routed + fused, 32, 64, top_k + fused, quant, ep, fused)


@settings(max_examples=150)
@given(
    layers(), st.integers(1, 70), st.sampled_from([16, 32, 64, 128]), st.sampled_from(DRAWN), st.sampled_from(Flavour),
    st.integers(0, 1 << 40),
)  # fmt: skip
def test_alignment_is_the_engines(
    layer: LayerShape, num_tokens: int, block: int, source: RoutingSource, flavour: Flavour, seed: int
) -> None:
    draws = draw(source.kind, layer, num_tokens, 3, generator_of(seed, CPU))
    routing = replace(layer.routing(num_tokens, flavour), allow_naive=False)
    found = align(sort_pairs(draws, foreign_pairs(flavour, layer.quant), routing.experts_here), routing, block)
    assert {array.dtype for array in found} == {torch.int32}
    for index, (sorted_token_ids, expert_ids, rows_in_use) in enumerate(zip(*(a.tolist() for a in found), strict=True)):
        chosen, expert_map = draws.chosen[index].flatten().tolist(), draws.local_experts[index].tolist()
        if flavour is SGLANG:
            rows, tiles = sglang(chosen, expert_map, block, layer.num_experts)
        else:
            # The scale of per-tensor activations is taken over rows of other ranks too, so they must be written.
            rows, tiles = vllm(chosen, expert_map, block, ignores_invalid=layer.quant != PER_TENSOR)
        assert rows_in_use == [len(rows)]
        assert sorted_token_ids[: len(rows)] == rows
        assert set(sorted_token_ids[len(rows) :]) <= {len(chosen)}
        assert expert_ids[: len(tiles)] == tiles
        assert len(sorted_token_ids) == routing.rows(block) >= len(rows)


@pytest.mark.parametrize(
    ("flavour", "num_tokens", "block", "capacity"),
    [
        # vLLM: pairs + experts of the layer x (block - 1), or a block a pair where there are fewer pairs than experts.
        (VLLM, 4096, 128, 40960 + 512 * 127),
        (VLLM, 16, 16, 160 * 16),
        # SGLang: one more than the rank's experts, in fours.
        (SGLANG, 4096, 128, 40960 + 65 * 127 + 1),
        (SGLANG, 16, 16, 160 + 65 * 15 + 1),
        (SGLANG, 1, 16, 160),
    ],
)
def test_the_grid_under_expert_parallelism_follows_the_layer_in_vllm_and_the_rank_in_sglang(
    flavour: Flavour, num_tokens: int, block: int, capacity: int
) -> None:
    assert EP8.routing(num_tokens, flavour).rows(block) == capacity


def test_vllm_has_no_naive_mode_under_an_expert_map() -> None:
    assert not EP8.routing(1).is_naive
    assert replace(EP8, num_experts=512, ep=1).routing(1).is_naive


@pytest.mark.parametrize(
    ("flavour", "quant", "expected"),
    [
        (VLLM, QuantMode(), ForeignPairs.LEFT_OUT),
        (VLLM, EP8.quant, ForeignPairs.LEFT_OUT),
        (VLLM, QuantMode("fp8_w8a8", per_channel=True), ForeignPairs.LEFT_OUT),
        (VLLM, QuantMode("int8_w8a16", per_channel=True), ForeignPairs.LEFT_OUT),
        (VLLM, PER_TENSOR, ForeignPairs.BY_EXPERT),
        (SGLANG, QuantMode(), ForeignPairs.IN_FRONT),
        (SGLANG, PER_TENSOR, ForeignPairs.IN_FRONT),
    ],
)
def test_pairs_of_other_ranks_are_left_out_or_stored_as_zeros(
    flavour: Flavour, quant: QuantMode, expected: ForeignPairs
) -> None:
    assert foreign_pairs(flavour, quant) is expected


def test_rows_of_the_grouped_product_end_where_the_next_expert_starts() -> None:
    assert sorted_rows(torch.tensor([[2, 0], [2, 3]]), 5).tolist() == [1, 1, 3, 4, 4]
    assert sorted_rows(torch.tensor([[2, -1], [-1, 3]]), 5).tolist() == [0, 0, 1, 2, 2]


@pytest.mark.parametrize(
    ("shape", "num_tokens", "expected"),
    [
        (MIXTRAL, 1, 2),
        (MIXTRAL, 512, 2),
        (MIXTRAL, 4096, 2),
        (MIXTRAL, 8192, 1),
        (DEEPSEEK, 1, 29),
        (DEEPSEEK, 4, 8),
        (DEEPSEEK, 64, 2),
        (EP8, 1, 32),
        (EP8, 64, 2),
    ],
)
def test_so_many_routings_that_weights_stay_cold(shape: LayerShape, num_tokens: int, expected: int) -> None:
    found = num_routings(shape, num_tokens, L2_BYTES)
    assert found == expected
    active = min(shape.num_experts, num_tokens * shape.top_k / shape.ep)
    assert found * active * shape.expert_bytes(DOWN) >= 4 * L2_BYTES or found == 32


@pytest.mark.parametrize(
    ("shape", "num_tokens", "expected"), [(MIXTRAL, 1, 2), (MIXTRAL, 512, 1), (DEEPSEEK, 1, 5), (DEEPSEEK, 4, 2)]
)
def test_a_coarse_time_takes_fewer_and_weights_stay_cold(shape: LayerShape, num_tokens: int, expected: int) -> None:
    found = num_coarse_routings(shape, num_tokens, L2_BYTES)
    assert found == expected
    active = min(shape.num_experts, num_tokens * shape.top_k)
    assert found * active * (shape.expert_bytes(UP) + shape.expert_bytes(DOWN)) >= 1.5 * L2_BYTES
    assert found <= num_routings(shape, num_tokens, L2_BYTES)


@pytest.mark.parametrize("num_tokens", [1, 63, 64, 4096])
def test_checked_tokens_are_spread_and_end_with_the_last(num_tokens: int) -> None:
    tokens = checked_tokens(num_tokens)
    assert len(set(tokens)) == min(num_tokens, 64)
    assert (min(tokens) >= 0, max(tokens)) == (True, num_tokens - 1)


# ---------------------------------------------------------------
# Blocks dealt in place

CONFIG = LaunchConfig(16, 32, 32, 1, 4, 3)


def pointers_of(
    inputs: RowInputs, config: LaunchConfig, routing: int, flavour: Flavour, projection: int = UP
) -> Pointers:
    shape = inputs.shape
    problem = Problem(shape.projections[projection], inputs.routing_of(flavour), shape.quant, config, "sm90")
    return inputs.pointers(projection, problem, routing)


SMALL = LayerShape(16, 32, 64, 2, QuantMode())
SPREAD = LayerShape(4, 32, 64, 4, QuantMode(), ep=4)
SHARED = LayerShape(5, 32, 64, 4, QuantMode(), ep=2, fused_shared_experts=1)


def row(shape: LayerShape, num_tokens: int = 24, count: int = 3, source: RoutingSource = DRAWN[0]) -> RowInputs:
    return RowInputs(shape, make_weights(shape, CPU), num_tokens, count, source, seed=5)


class TestDealing:
    @pytest.mark.parametrize("source", DRAWN)
    @pytest.mark.parametrize("shape", [SMALL, SPREAD, SHARED])
    def test_a_block_is_what_its_seed_draws(self, source: RoutingSource, shape: LayerShape) -> None:
        inputs = row(shape, source=source)
        for seed in (5, 6):
            inputs.deal(source, seed)
            expected = draw(source.kind, shape, 24, 3, generator_of(seed, CPU))
            assert [ids.tolist() for ids in inputs.topk_ids] == expected.local_ids.tolist()
            assert [weights.tolist() for weights in inputs.topk_weights] == expected.topk_weights.tolist()
            assert inputs.load == expected.load(shape)
        assert inputs.num_routings == 3

    @pytest.mark.parametrize("flavour", list(Flavour))
    @pytest.mark.parametrize("shape", [SMALL, SPREAD, SHARED, replace(SPREAD, quant=PER_TENSOR)])
    @pytest.mark.parametrize("num_tokens", [1, 24])
    def test_every_pointer_stays_and_points_to_the_new_block(
        self, flavour: Flavour, shape: LayerShape, num_tokens: int
    ) -> None:
        inputs = row(shape, num_tokens)
        configs = [replace(CONFIG, BLOCK_SIZE_M=size) for size in (16, 64)]
        launches = [(config, i) for config in configs for i in range(3)]
        before = [pointers_of(inputs, config, i, flavour) for config, i in launches]
        inputs.deal(DRAWN[2], 77)
        fresh = row(shape, num_tokens)
        fresh.deal(DRAWN[2], 77)
        for held, (config, i) in zip(before, launches, strict=True):
            now, expected = (pointers_of(one, config, i, flavour) for one in (inputs, fresh))
            for name in ("topk_weights", "sorted_token_ids", "expert_ids", "num_tokens_post_padded"):
                mine, again, new = (getattr(pointers, name) for pointers in (held, now, expected))
                if mine is None:
                    assert (flavour, num_tokens, shape) == (VLLM, 1, SMALL)
                    continue
                assert mine.data_ptr() == again.data_ptr()
                assert (mine.shape, mine.stride()) == (again.shape, again.stride())
                assert mine.tolist() == new.tolist()

    def test_buffers_start_where_torchs_own_do(self) -> None:
        """Triton compiles other code for a pointer that isn't a multiple of 16."""
        inputs = row(SMALL, num_tokens=3)
        for i in range(3):
            pointers = pointers_of(inputs, CONFIG, i, SGLANG)
            arrays = (pointers.topk_weights, pointers.sorted_token_ids, pointers.expert_ids)
            starts = [array.data_ptr() for array in (*arrays, pointers.num_tokens_post_padded)]
            base = pointers_of(inputs, CONFIG, 0, SGLANG)
            firsts = (base.topk_weights, base.sorted_token_ids, base.expert_ids, base.num_tokens_post_padded)
            assert all((s - f.data_ptr()) % 512 == 0 for s, f in zip(starts, firsts, strict=True))

    @pytest.mark.parametrize("shape", [SMALL, SPREAD])
    @pytest.mark.parametrize("flavour", list(Flavour))
    def test_what_was_captured_before_replays_the_new_block(self, shape: LayerShape, flavour: Flavour) -> None:
        """As a CUDA graph: the launch is made once, with tensors and grid, and only run again."""
        inputs, kernel = row(shape), TorchKernel(flavour)
        problem = Problem(shape.projections[UP], inputs.routing_of(flavour), shape.quant, CONFIG, "sm90")
        bound = kernel.bind(problem, pointers_of(inputs, CONFIG, 1, flavour))
        captured = kernel.load()[bound.grid]
        for seed in (8, 9):
            inputs.deal(DRAWN[1], seed)
            inputs.c[UP].fill_(torch.nan)
            captured(*bound.args)
            ids = draw(DRAWN[1].kind, shape, 24, 3, generator_of(seed, CPU)).local_ids[1]
            for token, experts in enumerate(ids.tolist()):
                for place, expert in enumerate(experts):
                    output = inputs.c[UP][token * shape.top_k + place].float()
                    if expert < 0:
                        assert bool(output.isnan().all() if flavour is VLLM else (output == 0).all())
                        continue
                    expected = inputs.a[UP][token].float() @ inputs.weights.w[UP][expert].float().T
                    torch.testing.assert_close(output, expected, rtol=1e-2, atol=1e-2)

    def test_the_naive_mode_aligns_nothing_and_reads_the_new_ids(self) -> None:
        inputs = row(SMALL, num_tokens=2)
        pointers = pointers_of(inputs, CONFIG, 0, VLLM)
        assert pointers.sorted_token_ids is None
        inputs.deal(DRAWN[0], 9)
        assert pointers.expert_ids.tolist() == inputs.topk_ids[0].flatten().tolist()
        assert pointers.num_tokens_post_padded.tolist() == [4 * 16]

    @pytest.mark.parametrize("quant", [QuantMode(), PER_TENSOR, QuantMode("fp8_w8a8", block_shape=(32, 32))])
    def test_batch_sizes_share_the_largest_ones_operands(self, quant: QuantMode) -> None:
        """So that the largest is what has to fit; no kernel sees a difference."""
        shape = replace(SMALL, quant=quant)
        weights, operands = make_weights(shape, CPU), Operands([shape, replace(shape, top_k=4)], 24, CPU)
        for num_tokens in (24, 3):
            shared = RowInputs(shape, weights, num_tokens, 1, DRAWN[0], 5, operands)
            alone = RowInputs(shape, weights, num_tokens, 1, DRAWN[0], 5)
            mine, own = (pointers_of(one, CONFIG, 0, SGLANG, DOWN) for one in (shared, alone))
            for name in ("a", "c", "a_scale"):
                held, fresh = getattr(mine, name), getattr(own, name)
                assert (held is None) == (fresh is None)
                if held is not None:
                    assert (held.shape, held.stride(), held.dtype) == (fresh.shape, fresh.stride(), fresh.dtype)
            assert (mine.a.data_ptr(), mine.c.data_ptr()) == (operands.a[DOWN].data_ptr(), operands.c[DOWN].data_ptr())

    def test_activations_stay(self) -> None:
        inputs = row(SMALL)
        before = inputs.hidden_states.clone()
        inputs.deal(DRAWN[0], 9)
        assert torch.equal(inputs.hidden_states, before)


def test_weights_are_not_made_of_the_activations_numbers() -> None:
    """They were on the CPU, where a seed's high bits count for nothing: all products were positive."""
    inputs = row(replace(SMALL, num_experts=1, top_k=1))
    weight = inputs.weights.w[UP].flatten()[:1024].double()
    assert abs(float(torch.corrcoef(torch.stack((weight, inputs.hidden_states.flatten()[:1024].double())))[0, 1])) < 0.2
