"""From a workload to tensors: random weights, several routings, alignments, pointers. Needs torch.

Several routings a row, rotated, so that no launch finds its weights in L2: at least 8 for up to 128 tokens, 2 for
more, and as many as it takes to touch four times the L2's size. Routing is uniform (softmax of random logits) or
skewed (`skewed_routing`).
Activations and outputs are shared by all routings: in serving the previous kernel has just written them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from kernels.checks import Scales, weight_dtypes
from kernels.launch import Pointers
from kernels.launch_config import LaunchConfig
from kernels.problem import Flavour, Routing, cdiv
from kernels.reference import quantize_reference
from kernels.testing import make_weight
from tools.measure.layer import DOWN, UP, LayerShape
from tools.measure.routing import ROUTING_KINDS

MAX_ROUTINGS = 32
L2_MULTIPLE = 4
COARSE_L2_MULTIPLE = 2

WEIGHTS_SEED = 1 << 40
"""None of a row's, which are small: weights from the activations' own numbers give products that are all positive, and
sums that no other operands have."""


@dataclass(frozen=True)
class Weights:
    """w: up [E, 2N, K] and down [E, K, N]; scales as `kernels.fused_experts.Scales` has them."""

    w: tuple[torch.Tensor, torch.Tensor]
    scales: tuple[torch.Tensor | None, torch.Tensor | None]

    @property
    def as_scales(self) -> Scales:
        return Scales(self.scales[UP], self.scales[DOWN])


def make_weights(shape: LayerShape, device: torch.device, seed: int = WEIGHTS_SEED) -> Weights:
    generator = torch.Generator(device).manual_seed(seed)
    up, down = (make_weight(p, shape.quant, generator, device) for p in shape.projections)
    return Weights((up[0], down[0]), (up[1], down[1]))


def num_routings(shape: LayerShape, num_tokens: int, l2_bytes: int) -> int:
    """How many routings keep the smaller projection's weights cold."""
    usual = 8 if num_tokens <= 128 else 2
    expert_bytes = min(shape.expert_bytes(UP), shape.expert_bytes(DOWN))
    return min(MAX_ROUTINGS, max(usual, _routings_that_touch(L2_MULTIPLE * l2_bytes, shape, num_tokens, expert_bytes)))


def num_coarse_routings(shape: LayerShape, num_tokens: int, l2_bytes: int) -> int:
    """How many suffice for a coarse time: as few as keep the weights cold where both projections are timed in turn.

    With few tokens at least two, since experts' shares then differ from routing to routing.
    """
    usual = 2 if num_tokens <= 128 else 1
    expert_bytes = shape.expert_bytes(UP) + shape.expert_bytes(DOWN)
    cold = _routings_that_touch(COARSE_L2_MULTIPLE * l2_bytes, shape, num_tokens, expert_bytes)
    return min(num_routings(shape, num_tokens, l2_bytes), max(usual, cold))


def _routings_that_touch(wanted_bytes: int, shape: LayerShape, num_tokens: int, expert_bytes: int) -> int:
    """How many together read so many bytes of weights, where no expert is chosen twice before all are."""
    active = min(shape.num_experts, num_tokens * shape.top_k)
    return math.ceil(wanted_bytes / (active * expert_bytes))


class RowInputs:
    """Tensors of one batch size. Alignments are made once for each engine and BLOCK_SIZE_M."""

    def __init__(
        self,
        shape: LayerShape,
        weights: Weights,
        num_tokens: int,
        count: int,
        seed: int = 0,
        routing_kind: str = "uniform",
    ) -> None:
        device = weights.w[UP].device
        self.shape, self.weights = shape, weights
        self.routing = Routing(num_tokens, shape.top_k, shape.num_experts)
        on_cpu = torch.Generator().manual_seed(seed)
        draw = ROUTING_KINDS[routing_kind]
        drawn = [draw(num_tokens, shape.num_experts, shape.top_k, on_cpu) for _ in range(count)]
        self.topk_weights = [weight.to(device) for weight, _ in drawn]
        self.topk_ids = [ids.to(device) for _, ids in drawn]
        self.active_experts = sum(ids.unique().numel() for _, ids in drawn) / count
        generator = torch.Generator(device).manual_seed(seed)
        dtype = torch.bfloat16 if shape.quant.compute_type == "bf16" else torch.float16
        pairs = self.routing.num_pairs

        def rows(count: int, width: int) -> torch.Tensor:
            return torch.randn((count, width), generator=generator, device=device).to(dtype)

        up, down = shape.projections
        self.hidden_states = rows(num_tokens, up.k)
        kind = weight_dtypes(shape.quant)[0]
        quantised = [quantize_reference(x, shape.quant, kind) for x in (self.hidden_states, rows(pairs, down.k))]
        self.a = [a for a, _ in quantised]
        self.a_scales = [scale for _, scale in quantised]
        self.c = [torch.empty((pairs, p.n), dtype=dtype, device=device) for p in (up, down)]
        self._aligned: dict[tuple[Flavour, int], list[tuple[torch.Tensor | None, torch.Tensor, torch.Tensor]]] = {}

    @property
    def num_routings(self) -> int:
        return len(self.topk_ids)

    def routing_of(self, flavour: Flavour) -> Routing:
        """The row's routing as the engine aligns it."""
        return replace(self.routing, flavour=flavour)

    def pointers(self, projection: int, config: LaunchConfig, routing: int, flavour: Flavour) -> Pointers:
        """Of one launch."""
        key = (flavour, config.BLOCK_SIZE_M)
        if key not in self._aligned:
            sizes = self.routing_of(flavour)
            self._aligned[key] = [align(ids, sizes, config.BLOCK_SIZE_M) for ids in self.topk_ids]
        return Pointers(
            self.a[projection],
            self.weights.w[projection],
            self.c[projection],
            None,
            self.a_scales[projection],
            self.weights.scales[projection],
            self.topk_weights[routing],
            *self._aligned[key][routing],
        )


def align(
    topk_ids: torch.Tensor, routing: Routing, block_size_m: int
) -> tuple[torch.Tensor | None, torch.Tensor, torch.Tensor]:
    """(sorted_token_ids, expert_ids, num_tokens_post_padded), all int32, in plain torch.

    Not the project's own kernel: that would have to be compiled once for each BLOCK_SIZE_M and count of pairs.
    """
    device = topk_ids.device
    pairs, experts = routing.num_pairs, routing.num_experts
    if routing.is_naive:
        rows_in_use = torch.tensor([pairs * block_size_m], dtype=torch.int32, device=device)
        return None, topk_ids.reshape(-1).int(), rows_in_use
    chosen = topk_ids.reshape(-1).long()
    order = chosen.argsort(stable=True)
    counts = chosen.bincount(minlength=experts)
    tiles = (counts + block_size_m - 1) // block_size_m
    starts = (tiles.cumsum(0) - tiles) * block_size_m
    before = counts.cumsum(0) - counts
    by_expert = chosen[order]
    places = starts[by_expert] + torch.arange(pairs, device=device) - before[by_expert]
    capacity = routing.capacity(block_size_m)
    sorted_token_ids = torch.full((capacity,), pairs, dtype=torch.int32, device=device)
    sorted_token_ids[places] = order.int()
    expert_ids = torch.zeros(cdiv(capacity, block_size_m), dtype=torch.int32, device=device)
    used = torch.arange(experts, device=device).repeat_interleave(tiles)
    expert_ids[: len(used)] = used.int()
    return sorted_token_ids, expert_ids, (tiles.sum() * block_size_m).reshape(1).int()


def sorted_rows(topk_ids: torch.Tensor, num_experts: int) -> torch.Tensor:
    """Where each expert's rows end once pairs are sorted by expert, int32 [E]."""
    return topk_ids.reshape(-1).long().bincount(minlength=num_experts).cumsum(0).int()


def checked_tokens(num_tokens: int, limit: int = 64) -> Sequence[int]:
    """Evenly spread tokens, the last among them: the highest offsets are where indexing breaks."""
    count = min(num_tokens, limit)
    return [(i + 1) * num_tokens // count - 1 for i in range(count)]
