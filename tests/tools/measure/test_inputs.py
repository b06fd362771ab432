"""Tensors of the bench, as far as they need no GPU."""

from __future__ import annotations

import pytest
import torch

from kernels.problem import QuantMode, Routing
from kernels.reference import align_reference
from kernels.testing import make_routing
from tools.measure.inputs import (
    ROUTING_KINDS,
    RowInputs,
    align,
    checked_tokens,
    make_weights,
    num_coarse_routings,
    num_routings,
    skewed_routing,
    sorted_rows,
)
from tools.measure.layer import DOWN, UP, LayerShape, row_bytes

DEEPSEEK = LayerShape(256, 128, 7168, 8, QuantMode("fp8_w8a8", block_shape=(128, 128)))
MIXTRAL = LayerShape(8, 7168, 4096, 2, QuantMode())
L2_BYTES = 50 << 20


@pytest.mark.parametrize("kind", ["uniform", "skewed", "empty"])
@pytest.mark.parametrize("block_size_m", [16, 64])
def test_alignment_is_the_references(kind: str, block_size_m: int) -> None:
    _, topk_ids = make_routing(37, 12, 3, kind, torch.Generator().manual_seed(1))
    routing = Routing(37, 3, 12, allow_naive=False)
    sorted_token_ids, expert_ids, rows_in_use = align(topk_ids, routing, block_size_m)
    expected_rows, expected_tiles = align_reference(topk_ids, block_size_m, 12)
    assert sorted_token_ids is not None
    assert sorted_token_ids.dtype == expert_ids.dtype == rows_in_use.dtype == torch.int32
    assert len(sorted_token_ids) == routing.capacity(block_size_m)
    assert rows_in_use.tolist() == [len(expected_rows)]
    assert sorted_token_ids[: len(expected_rows)].tolist() == expected_rows.tolist()
    assert set(sorted_token_ids[len(expected_rows) :].tolist()) <= {111}
    assert expert_ids[: len(expected_tiles)].tolist() == expected_tiles.tolist()


def test_the_naive_mode_aligns_nothing() -> None:
    topk_ids = torch.tensor([[3, 0]])
    sorted_token_ids, expert_ids, rows_in_use = align(topk_ids, Routing(1, 2, 8), 16)
    assert sorted_token_ids is None
    assert (expert_ids.tolist(), rows_in_use.tolist()) == ([3, 0], [32])


def test_rows_of_the_grouped_product_end_where_the_next_expert_starts() -> None:
    assert sorted_rows(torch.tensor([[2, 0], [2, 3]]), 5).tolist() == [1, 1, 3, 4, 4]


@pytest.mark.parametrize(
    ("shape", "num_tokens", "expected"), [(MIXTRAL, 1, 8), (MIXTRAL, 512, 2), (DEEPSEEK, 1, 29), (DEEPSEEK, 4, 8)]
)
def test_so_many_routings_that_weights_stay_cold(shape: LayerShape, num_tokens: int, expected: int) -> None:
    found = num_routings(shape, num_tokens, L2_BYTES)
    assert found == expected
    active = min(shape.num_experts, num_tokens * shape.top_k)
    assert found * active * shape.expert_bytes(DOWN) >= 4 * L2_BYTES


@pytest.mark.parametrize(
    ("shape", "num_tokens", "expected"), [(MIXTRAL, 1, 2), (MIXTRAL, 512, 1), (DEEPSEEK, 1, 5), (DEEPSEEK, 4, 2)]
)
def test_a_coarse_time_takes_fewer_and_weights_stay_cold(shape: LayerShape, num_tokens: int, expected: int) -> None:
    found = num_coarse_routings(shape, num_tokens, L2_BYTES)
    assert found == expected
    active = min(shape.num_experts, num_tokens * shape.top_k)
    assert found * active * (shape.expert_bytes(UP) + shape.expert_bytes(DOWN)) >= 1.5 * L2_BYTES
    assert found <= num_routings(shape, num_tokens, L2_BYTES)


def test_bytes_of_a_row_count_active_experts_once() -> None:
    weights = 2 * 3 * 7168 * 4096 * 2
    activations = 4096 * 2 + 2 * 7168 * 2 + 2 * (2 * 7168 + 4096) * 2
    assert row_bytes(MIXTRAL, 1, 2) == weights + activations


@pytest.mark.parametrize("num_tokens", [1, 63, 64, 4096])
def test_checked_tokens_are_spread_and_end_with_the_last(num_tokens: int) -> None:
    tokens = checked_tokens(num_tokens)
    assert len(set(tokens)) == min(num_tokens, 64)
    assert (min(tokens) >= 0, max(tokens)) == (True, num_tokens - 1)


def busiest(kind: str, seed: int, num_tokens: int = 4096, num_experts: int = 128, top_k: int = 8) -> float:
    """Tokens of the busiest expert over its even share."""
    _, ids = ROUTING_KINDS[kind](num_tokens, num_experts, top_k, torch.Generator().manual_seed(seed))
    counts = ids.flatten().bincount(minlength=num_experts)
    return float(counts.max()) * num_experts / (num_tokens * top_k)


class TestRoutings:
    @pytest.mark.parametrize("kind", sorted(ROUTING_KINDS))
    @pytest.mark.parametrize(("num_tokens", "num_experts", "top_k"), [(1, 8, 2), (64, 128, 8), (33, 7, 7), (5, 1, 1)])
    def test_each_token_has_distinct_experts_and_weights_that_sum_to_one(
        self, kind: str, num_tokens: int, num_experts: int, top_k: int
    ) -> None:
        weights, ids = ROUTING_KINDS[kind](num_tokens, num_experts, top_k, torch.Generator().manual_seed(3))
        assert weights.shape == ids.shape == (num_tokens, top_k)
        assert (weights.dtype, ids.dtype) == (torch.float32, torch.int32)
        assert weights.is_contiguous()
        assert ids.is_contiguous()
        assert all(len(set(row)) == top_k for row in ids.tolist())
        assert 0 <= int(ids.min()) <= int(ids.max()) < num_experts
        assert bool((weights > 0).all())
        torch.testing.assert_close(weights.sum(-1), torch.ones(num_tokens))

    @pytest.mark.parametrize("kind", sorted(ROUTING_KINDS))
    def test_a_seed_gives_one_routing_and_the_next_another(self, kind: str) -> None:
        def draw(generator: torch.Generator) -> list[list[int]]:
            return ROUTING_KINDS[kind](16, 64, 4, generator)[1].tolist()

        generator = torch.Generator().manual_seed(1)
        first, second = draw(generator), draw(generator)
        assert first == draw(torch.Generator().manual_seed(1))
        assert first != second

    def test_under_skew_the_busiest_of_128_has_several_times_its_even_share(self) -> None:
        shares = [busiest("skew", seed) for seed in range(20)]
        # The largest of 128 even Dirichlet shares is 5.4 times the mean (H_128), less what top_k 8 evens out.
        assert 3.5 < sum(shares) / len(shares) < 5.5
        assert min(shares) > 2.0

    def test_without_skew_it_has_hardly_more_than_others(self) -> None:
        assert max(busiest("uniform", seed) for seed in range(5)) < 1.4

    def test_popularity_is_drawn_anew_for_each_routing(self) -> None:
        generator = torch.Generator().manual_seed(0)
        favourites = {int(skewed_routing(4096, 128, 8, generator)[1].flatten().mode()[0]) for _ in range(5)}
        assert len(favourites) > 1

    def test_a_popular_expert_is_popular_with_all_tokens(self) -> None:
        _, ids = skewed_routing(2000, 64, 2, torch.Generator().manual_seed(0))
        halves = [half.flatten().bincount(minlength=64).double() for half in ids.split(1000)]
        assert float(torch.corrcoef(torch.stack(halves))[0, 1]) > 0.95

    def test_skew_leaves_more_experts_idle_at_decode(self) -> None:
        def active(kind: str) -> float:
            generator = torch.Generator().manual_seed(0)
            return sum(ROUTING_KINDS[kind](32, 128, 8, generator)[1].unique().numel() for _ in range(20)) / 20

        assert active("skew") < 0.9 * active("uniform")


class TestRowInputs:
    SHAPE = LayerShape(16, 32, 64, 2, QuantMode())

    @pytest.mark.parametrize("kind", sorted(ROUTING_KINDS))
    def test_every_routing_is_of_the_kind_asked_for(self, kind: str) -> None:
        weights = make_weights(self.SHAPE, torch.device("cpu"))
        inputs = RowInputs(self.SHAPE, weights, 24, 3, seed=5, routing_kind=kind)
        generator = torch.Generator().manual_seed(5)
        expected = [ROUTING_KINDS[kind](24, 16, 2, generator) for _ in range(3)]
        assert inputs.num_routings == 3
        for i, (topk_weights, topk_ids) in enumerate(expected):
            assert inputs.topk_ids[i].tolist() == topk_ids.tolist()
            assert inputs.topk_weights[i].tolist() == topk_weights.tolist()
        assert inputs.active_experts == sum(ids.unique().numel() for _, ids in expected) / 3

    def test_uniform_is_the_default(self) -> None:
        weights = make_weights(self.SHAPE, torch.device("cpu"))
        default, named = (RowInputs(self.SHAPE, weights, 24, 1, **kind) for kind in ({}, {"routing_kind": "uniform"}))
        assert default.topk_ids[0].tolist() == named.topk_ids[0].tolist()
