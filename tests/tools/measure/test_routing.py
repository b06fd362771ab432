"""How tokens choose their experts: uniform, or popular experts and idle ones."""

from __future__ import annotations

import pytest
import torch

from tools.measure.routing import ROUTING_KINDS, skewed_routing


def busiest(kind: str, seed: int, num_tokens: int = 4096, num_experts: int = 128, top_k: int = 8) -> float:
    """Tokens of the busiest expert over its even share."""
    _, ids = ROUTING_KINDS[kind](num_tokens, num_experts, top_k, torch.Generator().manual_seed(seed))
    counts = ids.flatten().bincount(minlength=num_experts)
    return float(counts.max()) * num_experts / (num_tokens * top_k)


@pytest.mark.parametrize("kind", sorted(ROUTING_KINDS))
@pytest.mark.parametrize(("num_tokens", "num_experts", "top_k"), [(1, 8, 2), (64, 128, 8), (33, 7, 7), (5, 1, 1)])
def test_each_token_has_distinct_experts_and_weights_that_sum_to_one(
    kind: str, num_tokens: int, num_experts: int, top_k: int
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
def test_a_seed_gives_one_routing_and_the_next_another(kind: str) -> None:
    def draw(generator: torch.Generator) -> list[list[int]]:
        return ROUTING_KINDS[kind](16, 64, 4, generator)[1].tolist()

    generator = torch.Generator().manual_seed(1)
    first, second = draw(generator), draw(generator)
    assert first == draw(torch.Generator().manual_seed(1))
    assert first != second


def test_under_skew_the_busiest_of_128_has_several_times_its_even_share() -> None:
    shares = [busiest("skew", seed) for seed in range(20)]
    # The largest of 128 even Dirichlet shares is 5.4 times the mean (H_128), less what top_k 8 evens out.
    assert 3.5 < sum(shares) / len(shares) < 5.5
    assert min(shares) > 2.0


def test_without_skew_it_has_hardly_more_than_others() -> None:
    assert max(busiest("uniform", seed) for seed in range(5)) < 1.4


def test_popularity_is_drawn_anew_for_each_routing() -> None:
    generator = torch.Generator().manual_seed(0)
    favourites = {int(skewed_routing(4096, 128, 8, generator)[1].flatten().mode()[0]) for _ in range(5)}
    assert len(favourites) > 1


def test_a_popular_expert_is_popular_with_all_tokens() -> None:
    _, ids = skewed_routing(2000, 64, 2, torch.Generator().manual_seed(0))
    halves = [half.flatten().bincount(minlength=64).double() for half in ids.split(1000)]
    assert float(torch.corrcoef(torch.stack(halves))[0, 1]) > 0.95


def test_skew_leaves_more_experts_idle_at_decode() -> None:
    def active(kind: str) -> float:
        generator = torch.Generator().manual_seed(0)
        return sum(ROUTING_KINDS[kind](32, 128, 8, generator)[1].unique().numel() for _ in range(20)) / 20

    assert active("skew") < 0.9 * active("uniform")
