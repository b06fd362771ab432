"""What a rank computes, in numbers: sizes, bytes, operations. Standard library only."""

from __future__ import annotations

import enum
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from kernels.problem import Flavour, Projection, QuantMode, Routing, up_and_down
from tools.store.workload import Shape, Workload

UP, DOWN = 0, 1

DESCRIPTOR_ALIGNMENT = 16
"""Bytes: rows that are read through a tensor descriptor start at multiples of it."""

MAKING_BYTES = 1 << 30
"""A part of the weights in fp32 while it is made, and its copy."""

_DRAWN_BYTES, _DRAWN_QUANTISED_BYTES = 6, 28
"""Of an activation while it is drawn in fp32 and, with 8-bit operands, quantised by the reference in fp64."""

_CHECKED_BYTES, _CHECKED_SCALED_BYTES = 16, 32
"""Of a weight of one expert in the fp64 reference; with scales, scaled as well."""

_OTHER_BYTES = 1 << 28
"""Scales, routings and alignments."""

CEILINGS_BYTES = (4 << 30) + _OTHER_BYTES
"""What measuring the memory's own speed takes, before any layer."""


@dataclass(frozen=True)
class LayerShape:
    """What a rank computes: E experts, N per shard, K, top_k, how it is quantised, and the placement.

    ep and fused_shared_experts as in `Shape`.
    """

    num_experts: int
    intermediate_size: int
    hidden_size: int
    top_k: int
    quant: QuantMode
    ep: int = 1
    fused_shared_experts: int = 0

    @classmethod
    def of(cls, workload: Workload, shape: Shape, quant: QuantMode) -> LayerShape:
        return cls(workload.E, workload.N, shape.K, shape.top_k, quant, shape.ep, shape.fused_shared_experts)

    @property
    def shape(self) -> Shape:
        return Shape(self.hidden_size, self.top_k, self.ep, self.fused_shared_experts)

    @property
    def layer_experts(self) -> int:
        """Of the whole layer; `num_experts` of them are on this rank."""
        return self.shape.layer_experts(self.num_experts)

    @property
    def routed_experts(self) -> int:
        """On this rank, without the fused shared ones."""
        return self.num_experts - self.fused_shared_experts

    @property
    def routed_top_k(self) -> int:
        """Experts that the router chooses for a token; the fused shared ones come on top."""
        return self.top_k - self.fused_shared_experts

    def routing(self, num_tokens: int, flavour: Flavour = Flavour.VLLM) -> Routing:
        """The sizes by which the engine aligns a batch on this rank."""
        return Routing(
            num_tokens,
            self.top_k,
            self.layer_experts,
            has_expert_map=self.ep > 1,
            flavour=flavour,
            local_experts=self.num_experts,
        )

    @property
    def projections(self) -> tuple[Projection, Projection]:
        return up_and_down(self.num_experts, self.intermediate_size, self.hidden_size, self.top_k)

    @property
    def weight_bytes(self) -> int:
        """Of one value. 1 or 2."""
        return 2 if self.quant.dtype is None else 1

    @property
    def weights_bytes(self) -> int:
        """All experts' weights of both projections."""
        return self.num_experts * (self.expert_bytes(UP) + self.expert_bytes(DOWN))

    def expert_bytes(self, projection: int) -> int:
        """One expert's weights of one projection."""
        p = self.projections[projection]
        return p.n * p.k * self.weight_bytes

    def why_no_descriptor(self, projection: int) -> str | None:
        """Of its weights' rows, and so of its activations', whose values take as many bytes or twice as many."""
        row_bytes = self.projections[projection].k * self.weight_bytes
        if row_bytes % DESCRIPTOR_ALIGNMENT == 0:
            return None
        return f"expected rows of a multiple of {DESCRIPTOR_ALIGNMENT} bytes for USE_TMA, found {row_bytes}"

    def memory_bytes(self, num_tokens: int) -> int:
        """GPU memory that measuring the layer takes at its peak, beside the context.

        Weights, and whichever is most: making them, drawing the rows, or the rows with a check of their outputs. Of 8
        layers at 5 batch sizes each, 1 to 16384, on an H100: 1.02 to 1.3 times torch's own peak; 1.8 times where 16384
        rows with per-tensor scales are drawn.
        """
        up, down = self.projections
        pairs = num_tokens * self.top_k
        largest = max(num_tokens * up.k, pairs * down.k)
        drawing = largest * (_DRAWN_QUANTISED_BYTES if self.quant.quantizes_activations else _DRAWN_BYTES)
        is_scaled = self.quant.dtype is not None
        checking = up.n * up.k * (_CHECKED_SCALED_BYTES if is_scaled else _CHECKED_BYTES) + pairs * max(up.n, down.n)
        activations = row_bytes(self, num_tokens, Load(0.0, pairs, num_tokens))
        least = max(MAKING_BYTES, drawing, int(activations) + checking)
        return max(self.weights_bytes + least + _OTHER_BYTES, CEILINGS_BYTES)

    def resident_bytes(self, num_tokens: int) -> int:
        """Of that, what stays: weights, and activations in and out of the largest batch size."""
        activations = row_bytes(self, num_tokens, Load(0.0, num_tokens * self.top_k, num_tokens))
        unquantised = num_tokens * self.hidden_size * 2 if self.quant.quantizes_activations else 0
        return self.weights_bytes + int(activations) + unquantised


def memory_bytes(layers: Iterable[LayerShape], num_tokens: int) -> int:
    """GPU memory that measuring all of these takes at its peak, at batch sizes up to so many tokens.

    Layers of one hidden size share weights and activations (`tools.measure.blocks`): the one with most top_k counts.
    """
    by_width: dict[int, LayerShape] = {}
    for layer in sorted(layers, key=lambda layer: layer.top_k):
        by_width[layer.hidden_size] = layer
    resident = sum(layer.resident_bytes(num_tokens) for layer in by_width.values())
    return max(
        layer.memory_bytes(num_tokens) + resident - layer.resident_bytes(num_tokens) for layer in by_width.values()
    )


# ---------------------------------------------------------------
# What a batch asks of the rank


@dataclass(frozen=True)
class Load:
    """What reaches this rank of a batch, on average over routings.

    active_experts: of the rank, that some token chose. local_pairs: (token, expert) pairs whose expert is on the rank.
    local_tokens: those with at least one such pair.
    """

    active_experts: float
    local_pairs: float
    local_tokens: float


def mean_load(loads: Sequence[Load]) -> Load:
    """Of blocks that hold as many draws each. ValueError: of none."""
    return Load(
        statistics.fmean(load.active_experts for load in loads),
        statistics.fmean(load.local_pairs for load in loads),
        statistics.fmean(load.local_tokens for load in loads),
    )


def expected_load(shape: LayerShape, num_tokens: int) -> Load:
    """Under uniform routing: an expert has no token of the M with a chance of (1 - top_k/E)^M, over the whole layer.

    Of a shape that no layer can have (`Shape.fault`), whatever comes nearest: records of strangers are held against it.
    """
    experts, fused = max(1, shape.routed_experts * shape.ep), shape.fused_shared_experts
    chosen = max(0, min(shape.routed_top_k, experts))
    reached = shape.routed_experts * (1.0 - (1.0 - chosen / experts) ** num_tokens) + fused
    pairs = num_tokens * (chosen / shape.ep + fused)
    away = 1.0
    for taken in range(chosen):  # none of a token's experts on this rank
        away *= max(0.0, 1.0 - shape.routed_experts / (experts - taken))
    return Load(reached, pairs, num_tokens * (1.0 if fused else 1.0 - away))


class ForeignPairs(enum.Enum):
    """What an engine does with pairs whose expert another rank holds."""

    LEFT_OUT = "left out at alignment; their rows of the output stay as they were"
    BY_EXPERT = "aligned like the others, in blocks of expert -1 that store zeros"
    IN_FRONT = "aligned in one bucket before all others, in blocks of expert -1 that store zeros"

    @property
    def store_zeros(self) -> bool:
        return self is not ForeignPairs.LEFT_OUT


def foreign_pairs(flavour: Flavour, quant: QuantMode) -> ForeignPairs:
    """vLLM 0.33 keeps them where one scale of the activations is taken over all rows: dynamic per-tensor fp8.

    experts/triton_moe.py, `skip_invalid`. (Static activation scales go to another backend there.) SGLang 0.5.23:
    moe_runner/triton_utils/moe_align_block_size.py, one bucket more than the rank has experts.
    """
    if flavour is Flavour.SGLANG:
        return ForeignPairs.IN_FRONT
    return ForeignPairs.BY_EXPERT if quant.scaling == "tensor" else ForeignPairs.LEFT_OUT


def row_bytes(shape: LayerShape, num_tokens: int, load: Load, flavour: Flavour = Flavour.VLLM) -> float:
    """Least bytes of up and down: active experts' weights, local pairs' activations in and out once each.

    And the zeros that both projections store for pairs of other ranks, where the engine does.
    """
    up, down = shape.projections
    weights = load.active_experts * (shape.expert_bytes(UP) + shape.expert_bytes(DOWN))
    bytes_in = 1 if shape.quant.quantizes_activations else 2
    activations = (load.local_tokens * up.k + load.local_pairs * down.k) * bytes_in
    foreign = num_tokens * shape.top_k - load.local_pairs
    stored = load.local_pairs + (foreign if foreign_pairs(flavour, shape.quant).store_zeros else 0.0)
    return weights + activations + stored * (up.n + down.n) * 2


def row_operations(shape: LayerShape, load: Load) -> float:
    """Multiplications and additions of up and down."""
    return float(sum(2 * load.local_pairs * p.n * p.k for p in shape.projections))
