"""How tokens choose their experts: drawn routings, by kind. Needs torch.

A routing is (topk_weights fp32, topk_ids int32), [num_tokens, top_k], on the CPU; a generator gives one after another.
"""

from __future__ import annotations

import torch

DIRICHLET_CONCENTRATION = 1.0
"""At 128 experts the busiest has five times its even share, and hardly one is idle."""


def uniform_routing(
    num_tokens: int, num_experts: int, top_k: int, generator: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """Every expert is as likely: softmax of random logits."""
    return _chosen(torch.randn(num_tokens, num_experts, generator=generator), top_k)


def skewed_routing(
    num_tokens: int, num_experts: int, top_k: int, generator: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """As `uniform_routing`, but popular experts and idle ones: popularity is drawn from a symmetric Dirichlet.

    Tokens choose top_k distinct experts by it (Gumbel's trick).
    """
    draws = torch._standard_gamma(torch.full((num_experts,), DIRICHLET_CONCENTRATION), generator=generator)
    noise = torch.rand((num_tokens, num_experts), generator=generator).clamp(1e-20, 1 - 1e-7)
    logits = draws.clamp_min(1e-20).log() - (-noise.log()).log()
    return _chosen(logits, top_k)


def _chosen(logits: torch.Tensor, top_k: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The top_k experts of each token, their weights made to sum to 1."""
    weights, ids = logits.softmax(-1).topk(top_k, dim=-1)
    return (weights / weights.sum(-1, keepdim=True)).contiguous(), ids.int().contiguous()


ROUTING_KINDS = {"uniform": uniform_routing, "skew": skewed_routing}
