"""From a workload to tensors: random weights, several routings, alignments, pointers. Needs torch.

Several routings a row, rotated, so that no launch finds its weights in L2: as many as it takes to touch four times the
L2's size. They are a block: `RowInputs.deal` draws the next one into the same buffers, so that CUDA graphs that were
captured over them stay valid and replay it. Blocks are small, since what tells configs apart is many draws, not many in
one block.
Activations and outputs are shared by all routings: in serving the previous kernel has just written them. All batch
sizes share one buffer of them (`Operands`), so that what has to fit is the largest.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from kernels.checks import Scales, weight_dtypes
from kernels.launch import Pointers
from kernels.problem import Flavour, Problem, Routing, cdiv
from kernels.reference import quantize_reference
from kernels.testing import make_weight
from tools.measure.layer import DOWN, UP, ForeignPairs, LayerShape, Load, foreign_pairs
from tools.measure.recorded_routing import RoutingSource
from tools.measure.routing import Draws, draw, generator_of, place, weigh

MAX_ROUTINGS = 32
MANY_TOKENS = 4096
"""Beyond it a draw gives nearly every expert its average share, and takes milliseconds."""
L2_MULTIPLE = 4
COARSE_L2_MULTIPLE = 2

ACTIVATIONS_SEED, WEIGHTS_SEED = (1 << 63) + 1, (1 << 63) + 2
"""None of a routing's, and not the same: weights from the activations' own numbers give products that are all positive,
and sums that no other operands have."""

_ALIGNED_BYTES = 512
"""Where every buffer of a row starts, as one of torch's own would: Triton compiles other code where one doesn't."""


@dataclass(frozen=True)
class Weights:
    """w: up [E, 2N, K] and down [E, K, N]; scales as `kernels.fused_experts.Scales` has them."""

    w: tuple[torch.Tensor, torch.Tensor]
    scales: tuple[torch.Tensor | None, torch.Tensor | None]

    @property
    def as_scales(self) -> Scales:
        return Scales(self.scales[UP], self.scales[DOWN])


def make_weights(shape: LayerShape, device: torch.device, seed: int = WEIGHTS_SEED) -> Weights:
    generator = generator_of(seed, device)
    up, down = (make_weight(p, shape.quant, generator, device) for p in shape.projections)
    return Weights((up[0], down[0]), (up[1], down[1]))


def num_routings(shape: LayerShape, num_tokens: int, l2_bytes: int) -> int:
    """How many routings keep the smaller projection's weights cold; at least two where draws still differ much."""
    usual = 2 if num_tokens <= MANY_TOKENS else 1
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
    chosen = num_tokens * shape.routed_top_k / shape.ep
    active = min(shape.routed_experts, chosen) + shape.fused_shared_experts
    return math.ceil(wanted_bytes / (active * expert_bytes))


class Operands:
    """Activations and outputs of up and down. A batch size uses the first rows, so all of them start at one place."""

    def __init__(self, layers: Sequence[LayerShape], num_tokens: int, device: torch.device) -> None:
        """For as many tokens as the largest batch size has. layers: of one size, that differ in top_k and placement."""
        layer = max(layers, key=lambda layer: layer.top_k)
        pairs = num_tokens * layer.top_k
        generator = generator_of(ACTIVATIONS_SEED, device)
        dtype = torch.bfloat16 if layer.quant.compute_type == "bf16" else torch.float16

        def rows(count: int, width: int) -> torch.Tensor:
            return torch.randn((count, width), generator=generator, device=device).to(dtype)

        up, down = layer.projections
        self.hidden_states = rows(num_tokens, up.k)
        kind = weight_dtypes(layer.quant)[0]
        quantised = [quantize_reference(x, layer.quant, kind) for x in (self.hidden_states, rows(pairs, down.k))]
        self.a = [a for a, _ in quantised]
        self.a_scales = [scale for _, scale in quantised]
        self.c = [torch.empty((pairs, p.n), dtype=dtype, device=device) for p in (up, down)]


class RowInputs:
    """Tensors of one batch size, and a block of `count` routings. Aligned once for each engine and BLOCK_SIZE_M."""

    def __init__(
        self,
        shape: LayerShape,
        weights: Weights,
        num_tokens: int,
        count: int,
        source: RoutingSource,
        seed: int,
        operands: Operands | None = None,
    ) -> None:
        """source and seed: of the first block, as in `deal`. operands: shared ones, of at least so many tokens."""
        device = weights.w[UP].device
        self.shape, self.weights = shape, weights
        self.routing = shape.routing(num_tokens)
        pairs = self.routing.num_pairs
        self._all_weights, self.topk_weights = _buffers(count, (num_tokens, shape.top_k), torch.float32, device)
        self._all_ids, self.topk_ids = _buffers(count, (num_tokens, shape.top_k), torch.int32, device)
        self._aligned: dict[tuple[Flavour, int], _AlignedBlock] = {}
        self._sorted: dict[ForeignPairs, SortedPairs] = {}
        self._laid_rows: dict[int, _LaidRows] = {}
        self.deal(source, seed)
        operands = operands or Operands([shape], num_tokens, device)
        rows = num_tokens, pairs
        self.hidden_states = operands.hidden_states[:num_tokens]
        self.a = [a[:count] for a, count in zip(operands.a, rows, strict=True)]
        # One scale of a whole tensor has no rows.
        self.a_scales = [
            scale if scale is None or scale.dim() < 2 else scale[:count]
            for scale, count in zip(operands.a_scales, rows, strict=True)
        ]
        self.c = [c[:pairs] for c in operands.c]

    @property
    def num_routings(self) -> int:
        return len(self.topk_ids)

    def deal(self, source: RoutingSource, seed: int) -> None:
        """The next block: all routings are drawn anew, and what they were aligned to, into the same buffers.

        What a captured graph holds (pointers, grid, EM) depends on sizes only, so its next replay runs the new block.
        On the stream of the replays, or after them. seed: as `seed_of` gives it.
        """
        num_tokens, device = self.routing.num_tokens, self._all_ids.device
        generator = generator_of(seed, device)
        if source.recorded is None:
            self.draws = draw(source.kind, self.shape, num_tokens, self.num_routings, generator)
        else:
            chosen = torch.from_numpy(source.recorded.sample(self.num_routings, num_tokens, seed)).to(device)
            self.draws = place(chosen, weigh(chosen, generator), self.shape, generator)
        self.dealt = source.kind, seed
        """What the buffers hold."""
        self._all_weights.copy_(self.draws.topk_weights)
        self._all_ids.copy_(self.draws.local_ids)
        self._sorted.clear()
        for block in self._aligned.values():
            block.fill(self._pairs)

    def _pairs(self, foreign: ForeignPairs) -> SortedPairs:
        """Of the draws that are dealt; sorted once for all sizes of a block."""
        if foreign not in self._sorted:
            self._sorted[foreign] = sort_pairs(self.draws, foreign, self.routing.experts_here)
        return self._sorted[foreign]

    @property
    def load(self) -> Load:
        """What reaches the rank of the block that is dealt. Waits for the GPU."""
        return self.draws.load(self.shape)

    def routing_of(self, flavour: Flavour) -> Routing:
        """The row's routing as the engine aligns it."""
        return self.shape.routing(self.routing.num_tokens, flavour)

    def foreign_pairs(self, flavour: Flavour) -> ForeignPairs:
        """What the engine does with pairs of other ranks."""
        return foreign_pairs(flavour, self.shape.quant)

    def pointers(self, projection: int, problem: Problem, routing: int) -> Pointers:
        """Of one launch."""
        a, a_scale, c = self.a[projection], self.a_scales[projection], self.c[projection]
        if problem.descriptors.a:
            a, a_scale = self._laid(problem).a, self._laid(problem).a_scale
        if problem.descriptors.sorted_c:
            c = self._laid(problem).c
        return Pointers(
            a,
            self.weights.w[projection],
            c,
            None,
            a_scale,
            self.weights.scales[projection],
            self.topk_weights[routing],
            *self._block(problem).arrays(routing, self.topk_ids[routing]),
        )

    def prepare(self, projection: int, problem: Problem, routing: int) -> None:
        """Before a launch whose output is looked at: no output is written, and A's rows lie as the routing has them."""
        (self._laid(problem).c if problem.descriptors.sorted_c else self.c[projection]).fill_(torch.nan)
        if problem.descriptors.a:
            self._laid(problem).lay(self._block(problem).sorted_token_ids[routing])

    def output(self, projection: int, problem: Problem, routing: int) -> torch.Tensor:
        """What the launch stored, [pairs, n]; NaN where it stored nothing."""
        c = self.c[projection]
        if problem.descriptors.sorted_c:
            block, stored = self._block(problem), self._laid(problem).c
            in_use = int(block.rows_in_use[routing])
            pairs = block.sorted_token_ids[routing][:in_use].long()
            is_pair = pairs < len(c)
            c.fill_(torch.nan)
            c[pairs[is_pair]] = stored[:in_use][is_pair]
        return c

    def _block(self, problem: Problem) -> _AlignedBlock:
        """As the problem's engine aligns the routings for its BLOCK_SIZE_M."""
        flavour, block_size_m = problem.flavour, problem.config.BLOCK_SIZE_M
        key = (flavour, block_size_m)
        if key not in self._aligned:
            self._aligned[key] = _AlignedBlock(
                problem.routing, block_size_m, self.foreign_pairs(flavour), self.num_routings, self._all_ids.device
            )
            self._aligned[key].fill(self._pairs)
        return self._aligned[key]

    def _laid(self, problem: Problem) -> _LaidRows:
        block_size_m = problem.config.BLOCK_SIZE_M
        if block_size_m not in self._laid_rows:
            rows = problem.routing.padded_rows(block_size_m)
            found = _LaidRows(rows, self.c[UP], self.a[DOWN], self.a_scales[DOWN])
            found.lay(self._block(problem).sorted_token_ids[0])
            self._laid_rows[block_size_m] = found
        return self._laid_rows[block_size_m]


class _AlignedBlock:
    """The index arrays of all routings for one engine and BLOCK_SIZE_M. Buffers that stay where they are."""

    def __init__(
        self, routing: Routing, block_size_m: int, foreign: ForeignPairs, count: int, device: torch.device
    ) -> None:
        self._routing, self._block_size_m, self._foreign = routing, block_size_m, foreign
        self._all_rows_in_use, self.rows_in_use = _buffers(count, (1,), torch.int32, device)
        if routing.is_naive:
            self._all_rows_in_use.fill_(routing.rows(block_size_m))
            return
        capacity = routing.capacity(block_size_m)
        self._all_sorted, self.sorted_token_ids = _buffers(count, (capacity,), torch.int32, device)
        self._all_experts, self.expert_ids = _buffers(count, (cdiv(capacity, block_size_m),), torch.int32, device)

    def fill(self, pairs: Callable[[ForeignPairs], SortedPairs]) -> None:
        if self._routing.is_naive:
            return
        found = align(pairs(self._foreign), self._routing, self._block_size_m)
        for buffer, values in zip((self._all_sorted, self._all_experts, self._all_rows_in_use), found, strict=True):
            buffer.copy_(values)

    def arrays(self, index: int, topk_ids: torch.Tensor) -> tuple[torch.Tensor | None, torch.Tensor, torch.Tensor]:
        """The kernel's index arrays of a routing. topk_ids: the routing's own."""
        if self._routing.is_naive:
            return None, topk_ids.view(-1), self.rows_in_use[index]
        return self.sorted_token_ids[index], self.expert_ids[index], self.rows_in_use[index]


class _LaidRows:
    """Up's output and down's input where their rows lie in the alignment's order, padding among them (SGLang, USE_TMA).

    Buffers that stay where they are. As all activations, those of one routing serve every one while they are timed.
    """

    def __init__(self, rows: int, c: torch.Tensor, a: torch.Tensor, a_scale: torch.Tensor | None) -> None:
        """c: up's output; a and a_scale: down's input; all by pair."""
        self.c = c.new_empty((rows, c.shape[1]))
        self.a, self.a_scale = a.new_empty((rows, a.shape[1])), a_scale
        self._laid_from = [(a, self.a)]
        if a_scale is not None and a_scale.dim() == 2:  # else one for all rows
            self.a_scale = a_scale.new_empty((rows, a_scale.shape[1]))
            self._laid_from.append((a_scale, self.a_scale))

    def lay(self, sorted_token_ids: torch.Tensor) -> None:
        """Down's input as that alignment has it. Rows that only pad are some pair's: the tensor cores work on them."""
        for by_pair, laid in self._laid_from:
            pairs, rows = len(by_pair), len(laid)
            ids = sorted_token_ids[:rows].long()
            laid.copy_(by_pair[torch.where(ids < pairs, ids, torch.arange(rows, device=ids.device) % pairs)])


def _buffers(
    count: int, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device
) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """`count` contiguous tensors, as one of [count, *shape] and one by one."""
    size, unit = math.prod(shape), _ALIGNED_BYTES // dtype.itemsize
    storage = torch.zeros((count, cdiv(size, unit) * unit), dtype=dtype, device=device)
    together = storage[:, :size].unflatten(1, shape)
    return together, list(together.unbind())


@dataclass(frozen=True)
class SortedPairs:
    """Pairs in the order of their buckets, for every draw: what aligning starts from, whatever the size of a block.

    buckets: that each pair is in [draws, pairs], already in order. order: whose pair it is [draws, pairs]. sizes: of
    each bucket [draws, buckets + 1], the last of what is left out. experts: of each bucket, -1 elsewhere's
    [draws, buckets].
    """

    buckets: torch.Tensor
    order: torch.Tensor
    sizes: torch.Tensor
    experts: torch.Tensor


def sort_pairs(draws: Draws, foreign: ForeignPairs, held: int) -> SortedPairs:
    """held: experts on the rank."""
    buckets, experts = _buckets(draws, foreign, held)
    sizes = torch.zeros((len(buckets), experts.shape[1] + 1), dtype=torch.int64, device=buckets.device)
    sizes.scatter_add_(1, buckets, torch.ones_like(buckets))
    order = buckets.argsort(dim=1, stable=True)
    return SortedPairs(buckets.gather(1, order), order.int(), sizes, experts)


def align(pairs: SortedPairs, routing: Routing, block_size_m: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """(sorted_token_ids [draws, capacity], expert_ids [draws, tiles], num_tokens_post_padded [draws, 1]), all int32.

    As the engine does it, for all draws at once and in plain torch: not the project's own kernel, which would have to
    be compiled once for each BLOCK_SIZE_M and count of pairs. What lies past num_tokens_post_padded no kernel reads.
    """
    count, num_pairs = pairs.buckets.shape
    last, device = pairs.experts.shape[1], pairs.buckets.device  # the bucket of what is left out
    tiles = (pairs.sizes[:, :last] + block_size_m - 1) // block_size_m
    ends = tiles.cumsum(1)
    # Of each bucket: where its rows start, less how many pairs stand before it.
    before = pairs.sizes.cumsum(1) - pairs.sizes
    shifts = torch.nn.functional.pad((ends - tiles) * block_size_m, (0, 1)) - before
    places = shifts.gather(1, pairs.buckets) + torch.arange(num_pairs, device=device)
    capacity = routing.capacity(block_size_m)
    places = torch.where(pairs.buckets == last, capacity, places)
    sorted_token_ids = torch.full((count, capacity + 1), num_pairs, dtype=torch.int32, device=device)
    sorted_token_ids.scatter_(1, places, pairs.order)

    tile = torch.arange(cdiv(capacity, block_size_m), device=device).expand(count, -1).contiguous()
    bucket_of_tile = torch.searchsorted(ends, tile, right=True).clamp_max(last - 1)
    expert_ids = pairs.experts.gather(1, bucket_of_tile).int()
    return sorted_token_ids[:, :capacity], expert_ids, (ends[:, -1:] * block_size_m).int()


def _buckets(draws: Draws, foreign: ForeignPairs, held: int) -> tuple[torch.Tensor, torch.Tensor]:
    """(the bucket of each pair [draws, pairs], the rank's expert of each bucket or -1 [draws, buckets]).

    Buckets are aligned in their order. A pair in the bucket after the last one is left out. held: experts on the rank.
    """
    local = draws.local_ids.flatten(1)
    count = len(local)
    if foreign is ForeignPairs.BY_EXPERT:
        return draws.chosen.flatten(1), draws.local_experts
    if foreign is ForeignPairs.IN_FRONT:
        return local + 1, torch.arange(-1, held, device=local.device).expand(count, -1)
    return torch.where(local < 0, held, local), torch.arange(held, device=local.device).expand(count, -1)


def sorted_rows(topk_ids: torch.Tensor, num_experts: int) -> torch.Tensor:
    """Where each expert's rows end once the rank's pairs are sorted by expert, int32 [E]. topk_ids: -1 is elsewhere."""
    here = topk_ids.reshape(-1).long()
    return here[here >= 0].bincount(minlength=num_experts).cumsum(0).int()


def checked_tokens(num_tokens: int, limit: int = 64) -> Sequence[int]:
    """Evenly spread tokens, the last among them: the highest offsets are where indexing breaks."""
    count = min(num_tokens, limit)
    return [(i + 1) * num_tokens // count - 1 for i in range(count)]
