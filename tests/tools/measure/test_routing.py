"""How tokens choose their experts: over the whole layer, on one of its ranks, by kind."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from kernels.problem import QuantMode
from tools.measure.layer import LayerShape, Load, expected_load
from tools.measure.panel import RoutingKind
from tools.measure.routing import MOST_LOGITS, Draws, draw, generator_of, weigh
from tools.measure.seeds import Purpose, seed_of

KINDS = [kind for kind in RoutingKind if kind is not RoutingKind.RECORDED]
UNIFORM, SKEW_1, SKEW_03 = KINDS
WHOLE = LayerShape(128, 32, 64, 8, QuantMode())
SPREAD = LayerShape(16, 32, 64, 8, QuantMode(), ep=8)
SHARED = LayerShape(17, 32, 64, 5, QuantMode(), ep=4, fused_shared_experts=1)
LAYERS = [WHOLE, SPREAD, SHARED, LayerShape(8, 1, 1, 2, QuantMode()), LayerShape(1, 1, 1, 8, QuantMode(), ep=8)]
CPU = torch.device("cpu")


def drawn(kind: RoutingKind, layer: LayerShape, num_tokens: int, count: int = 3, seed: int = 3) -> Draws:
    return draw(kind, layer, num_tokens, count, generator_of(seed, CPU))


def busiest(kind: RoutingKind, seed: int, num_tokens: int = 4096) -> float:
    """Tokens of the busiest of 128 experts over its even share."""
    counts = drawn(kind, WHOLE, num_tokens, 1, seed).chosen.flatten().bincount(minlength=128)
    return float(counts.max()) * 128 / (num_tokens * 8)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("num_tokens", [1, 33])
def test_each_token_has_distinct_experts_of_the_layer_and_positive_weights(
    kind: RoutingKind, layer: LayerShape, num_tokens: int
) -> None:
    found = drawn(kind, layer, num_tokens)
    assert found.topk_weights.shape == found.chosen.shape == (3, num_tokens, layer.top_k)
    assert (found.topk_weights.dtype, found.chosen.dtype) == (torch.float32, torch.int64)
    assert all(len(set(token)) == layer.top_k for one in found.chosen.tolist() for token in one)
    assert 0 <= int(found.chosen.min()) <= int(found.chosen.max()) < layer.layer_experts
    assert bool((found.topk_weights > 0).all())
    routed = found.topk_weights[..., : layer.routed_top_k].sum(-1)
    torch.testing.assert_close(routed, torch.ones(3, num_tokens))


@pytest.mark.parametrize("kind", KINDS)
def test_a_seed_gives_one_block_and_the_next_another(kind: RoutingKind) -> None:
    seeds = [seed_of(Purpose.CHOICE, 16, 0, kind, block) for block in (0, 0, 1)]
    first, again, second = (drawn(kind, WHOLE, 16, seed=seed).chosen.tolist() for seed in seeds)
    assert first == again
    assert first != second
    assert first[0] != first[1]


def test_seeds_that_differ_in_their_high_bits_alone_give_other_numbers() -> None:
    """torch's generator on the CPU drops them: judgement would draw what search has drawn."""
    seeds = [seed_of(purpose, 16, 0, UNIFORM, 0) for purpose in Purpose]
    assert len({seed & 0xFFFFFFFF for seed in seeds}) == 1
    assert len({str(drawn(UNIFORM, WHOLE, 16, seed=seed).chosen.tolist()) for seed in seeds}) == len(Purpose)


@pytest.mark.parametrize("kind", KINDS)
def test_many_tokens_are_drawn_in_parts(kind: RoutingKind, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of whatever size: a token's choice is never cut."""
    assert WHOLE.layer_experts < MOST_LOGITS
    monkeypatch.setattr("tools.measure.routing.MOST_LOGITS", 5 * 128)
    found = drawn(kind, WHOLE, 17)
    assert all(len(set(token)) == 8 for one in found.chosen.tolist() for token in one)


class TestSkew:
    def test_the_busiest_of_128_has_several_times_its_even_share(self) -> None:
        shares = [busiest(SKEW_1, seed) for seed in range(20)]
        # The largest of 128 even Dirichlet shares is 5.4 times the mean (H_128), less what top_k 8 evens out.
        assert 3.5 < sum(shares) / len(shares) < 5.5
        assert min(shares) > 2.0

    @pytest.mark.parametrize(("kind", "concentration"), [(SKEW_1, 1.0), (SKEW_03, 0.3)])
    def test_two_tokens_meet_as_often_as_under_the_dirichlet_of_its_name(
        self, kind: RoutingKind, concentration: float
    ) -> None:
        """Two tokens of one expert each: (a + 1) / (n a + 1) of n experts under the concentration a."""
        chosen = drawn(kind, replace(WHOLE, top_k=1), 256, 400).chosen.flatten(1)
        counts = torch.stack([one.bincount(minlength=128) for one in chosen]).double()
        met = float((counts * (counts - 1)).sum(1).mean()) / (256 * 255)
        assert met == pytest.approx((concentration + 1) / (128 * concentration + 1), rel=0.08)

    def test_a_smaller_concentration_is_more_of_it(self) -> None:
        shares = [busiest(SKEW_03, seed) for seed in range(20)]
        assert sum(shares) / len(shares) > 5.5

    def test_without_it_the_busiest_has_hardly_more_than_others(self) -> None:
        assert max(busiest(UNIFORM, seed) for seed in range(5)) < 1.4

    def test_popularity_is_drawn_anew_for_each_routing(self) -> None:
        favourites = {int(one.flatten().mode()[0]) for one in drawn(SKEW_1, WHOLE, 4096, 5).chosen}
        assert len(favourites) > 1

    def test_a_popular_expert_is_popular_with_all_tokens(self) -> None:
        (chosen,) = drawn(SKEW_1, replace(WHOLE, top_k=2), 8000, 1).chosen
        halves = [half.flatten().bincount(minlength=128).double() for half in chosen.split(4000)]
        assert float(torch.corrcoef(torch.stack(halves))[0, 1]) > 0.95

    def test_it_leaves_more_experts_idle_at_decode(self) -> None:
        active = [drawn(kind, WHOLE, 32, 20).load(WHOLE).active_experts for kind in KINDS]
        assert active[1] < 0.9 * active[0]
        assert active[2] < 0.9 * active[1]


def test_weights_of_known_experts_are_positive_and_sum_to_1_for_each_token() -> None:
    weights = weigh(torch.zeros(3, 16, 8, dtype=torch.int64), generator_of(1, CPU))
    assert bool((weights > 0).all())
    torch.testing.assert_close(weights.sum(-1), torch.ones(3, 16))


class TestPlacement:
    def test_a_rank_alone_has_every_pair(self) -> None:
        found = drawn(UNIFORM, WHOLE, 64)
        assert found.local_ids.tolist() == found.chosen.tolist()
        assert found.load(WHOLE).local_pairs == 64 * 8

    @pytest.mark.parametrize("layer", [SPREAD, SHARED])
    def test_a_rank_holds_one_contiguous_share_and_the_shared_experts(self, layer: LayerShape) -> None:
        found, fused = drawn(UNIFORM, layer, 64, 20), layer.fused_shared_experts
        starts = set()
        for held in found.local_experts.tolist():
            routed = held[: len(held) - fused]
            start = routed.index(0)
            starts.add(start)
            assert routed[start : start + layer.routed_experts] == list(range(layer.routed_experts))
            assert sum(expert >= 0 for expert in routed) == layer.routed_experts
            assert held[len(held) - fused :] == list(range(layer.routed_experts, layer.num_experts))[:fused]
        # Which rank it is differs from routing to routing.
        assert len(starts) > 1
        assert all(start % layer.routed_experts == 0 for start in starts)

    def test_every_token_has_the_shared_expert_here_and_last(self) -> None:
        found = drawn(SKEW_03, SHARED, 64)
        assert set(found.chosen[..., -1].flatten().tolist()) == {16 * 4}
        assert set(found.local_ids[..., -1].flatten().tolist()) == {16}
        assert found.load(SHARED).local_tokens == 64

    def test_pairs_of_other_ranks_are_minus_one(self) -> None:
        found = drawn(UNIFORM, SPREAD, 512)
        for chosen, ids, held in zip(found.chosen, found.local_ids, found.local_experts, strict=True):
            expected = [[int(held[expert]) for expert in token] for token in chosen.tolist()]
            assert ids.tolist() == expected
        assert bool((found.local_ids == -1).any())

    @pytest.mark.parametrize("layer", [WHOLE, SPREAD, SHARED])
    @pytest.mark.parametrize("num_tokens", [1, 8, 64])
    def test_what_reaches_a_rank_is_what_uniform_routing_brings_on_average(
        self, layer: LayerShape, num_tokens: int
    ) -> None:
        found = drawn(UNIFORM, layer, num_tokens, 400).load(layer)
        expected = expected_load(layer, num_tokens)
        for value, mean in zip(vars(found).values(), vars(expected).values(), strict=True):
            assert value == pytest.approx(mean, rel=0.1)

    def test_skew_makes_ranks_busy_or_idle(self) -> None:
        pairs = (drawn(SKEW_03, SPREAD, 512, 50).local_ids >= 0).sum((1, 2)).double()
        even = (drawn(UNIFORM, SPREAD, 512, 50).local_ids >= 0).sum((1, 2)).double()
        assert float(pairs.std()) > 3 * float(even.std())
        assert float(pairs.mean()) == pytest.approx(512, rel=0.25)


def test_the_load_counts_experts_pairs_and_tokens_of_the_rank() -> None:
    layer = LayerShape(2, 1, 1, 2, QuantMode(), ep=2)
    chosen = torch.tensor([[[0, 1], [0, 2], [3, 2]], [[0, 1], [0, 2], [3, 2]]])
    held = torch.tensor([[0, 1, -1, -1], [-1, -1, 0, 1]])
    draws = Draws(torch.ones(2, 3, 2), chosen, held)
    # The first rank holds 0 and 1: three pairs of two tokens; the second 2 and 3: three pairs of two tokens.
    assert draws.load(layer) == Load(2.0, 3.0, 2.0)
    assert draws.local_ids.tolist() == [[[0, 1], [0, -1], [-1, -1]], [[-1, -1], [-1, 0], [1, 0]]]
