"""How tokens choose their experts, as servers have it: by kind, over the whole layer, on one rank. Needs torch.

Tokens choose among all experts of the layer. Under expert parallelism this rank holds one contiguous share of them;
which one is drawn with the routing, so that under skew busy ranks and idle ones are met. Fused shared experts are
appended to what every token chose, and every rank holds them.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass

import torch

from tools.measure.layer import LayerShape, Load
from tools.measure.panel import RoutingKind
from tools.measure.seeds import mixed

CONCENTRATIONS = {RoutingKind.SKEW_1: 1.0, RoutingKind.SKEW_03: 0.3}
"""Of the symmetric Dirichlet that experts' popularity is drawn from. With 1.0 the busiest of 128 experts has five times
its even share, and hardly one is idle; with 0.3 it has some twelve times, and most are nearly idle."""

MOST_LOGITS = 1 << 22
"""Held at a time, in fp32."""


@dataclass(frozen=True)
class Draws:
    """Several routings of one batch size, each as one rank meets it.

    topk_weights: fp32 [draws, num_tokens, top_k]. chosen: int64 [draws, num_tokens, top_k], ids of the layer's experts,
    the fused shared ones last. local_experts: int64 [draws, layer's experts], which of the rank's each is; -1: another
    rank holds it.
    """

    topk_weights: torch.Tensor
    chosen: torch.Tensor
    local_experts: torch.Tensor

    @functools.cached_property
    def local_ids(self) -> torch.Tensor:
        """int64 [draws, num_tokens, top_k]: the rank's expert of each pair, or -1."""
        return self.local_experts.gather(1, self.chosen.flatten(1)).view_as(self.chosen)

    def load(self, layer: LayerShape) -> Load:
        """What reaches the rank, on average over the draws."""
        is_local = self.local_ids >= 0
        count = len(self.chosen)
        # One more for pairs of other ranks.
        reached = torch.zeros((count, layer.num_experts + 1), dtype=torch.bool, device=self.chosen.device)
        reached.scatter_(1, self.local_ids.flatten(1) + 1, value=True)
        sums = (reached[:, 1:].sum(), is_local.sum(), is_local.any(-1).sum())
        active, pairs, tokens = torch.stack(sums).tolist()
        return Load(active / count, pairs / count, tokens / count)


def generator_of(seed: int, device: torch.device) -> torch.Generator:
    """Whose numbers depend on all bits of the seed. What it gives is the device's own: a GPU draws other numbers."""
    return torch.Generator(device).manual_seed(mixed(seed))


def draw(kind: RoutingKind, layer: LayerShape, num_tokens: int, count: int, generator: torch.Generator) -> Draws:
    """`count` routings of a drawn kind, on the generator's device.

    uniform: softmax of random logits. skews: popularity is drawn for each routing, and tokens choose distinct experts
    by it (Gumbel's trick).
    """
    device, experts = generator.device, layer.routed_experts * layer.ep
    popularity = None
    if kind is not RoutingKind.UNIFORM:
        concentration = torch.full((count, experts), CONCENTRATIONS[kind], device=device)
        popularity = torch._standard_gamma(concentration, generator=generator).clamp_min(1e-20).log()
    rows = count * num_tokens
    chosen = torch.empty((rows, layer.routed_top_k), dtype=torch.int64, device=device)
    weights = torch.empty((rows, layer.routed_top_k), dtype=torch.float32, device=device)
    for part in _parts(rows, max(1, MOST_LOGITS // experts)):
        size = part.stop - part.start
        if popularity is None:
            logits = torch.randn((size, experts), generator=generator, device=device)
        else:
            noise = torch.rand((size, experts), generator=generator, device=device).clamp_(1e-20, 1 - 1e-7)
            of_draw = torch.arange(part.start, part.stop, device=device) // num_tokens
            logits = popularity[of_draw] - noise.log_().neg_().log_()
        values, chosen[part] = logits.topk(layer.routed_top_k, dim=-1)
        weights[part] = values.softmax(-1)
    shape = (count, num_tokens, layer.routed_top_k)
    return place(chosen.view(shape), weights.view(shape), layer, generator)


def weigh(chosen: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Weights for experts that are known already: positive, and of each token they sum to 1."""
    return torch.randn(chosen.shape, generator=generator, device=chosen.device).softmax(-1)


def place(chosen: torch.Tensor, weights: torch.Tensor, layer: LayerShape, generator: torch.Generator) -> Draws:
    """What one rank meets of each routing; the rank is drawn.

    chosen, weights: [draws, num_tokens, routed top_k], as the router gives them. Fused shared experts get the weight 1.
    """
    count, num_tokens, _ = chosen.shape
    fused, local, device = layer.fused_shared_experts, layer.routed_experts, chosen.device
    routed = local * layer.ep
    shared = torch.arange(routed, routed + fused, device=device).expand(count, num_tokens, fused)
    chosen = torch.cat((chosen, shared), -1)
    weights = torch.cat((weights, weights.new_ones(shared.shape)), -1)
    ranks = torch.randint(layer.ep, (count, 1), generator=generator, device=device)
    index = torch.arange(routed, device=device) - ranks * local
    held = torch.where((index >= 0) & (index < local), index, -1)
    everywhere = torch.arange(local, local + fused, device=device).expand(count, fused)
    return Draws(weights, chosen, torch.cat((held, everywhere), 1))


def _parts(size: int, most: int) -> Iterator[slice]:
    return (slice(start, min(start + most, size)) for start in range(0, size, most))
