"""Tensors of the bench, as far as they need no GPU."""

from __future__ import annotations

import pytest
import torch

from kernels.problem import QuantMode, Routing
from kernels.reference import align_reference
from tests.kernels.layers import make_routing
from tools.measure.inputs import (
    RowInputs,
    align,
    checked_tokens,
    make_weights,
    num_coarse_routings,
    num_routings,
    sorted_rows,
)
from tools.measure.layer import DOWN, UP, LayerShape, row_bytes
from tools.measure.routing import ROUTING_KINDS

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
