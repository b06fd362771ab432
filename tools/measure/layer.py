"""What a rank computes, in numbers: sizes, bytes, operations. Standard library only."""

from __future__ import annotations

from dataclasses import dataclass

from kernels.problem import Projection, QuantMode, up_and_down

UP, DOWN = 0, 1

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
    """What a rank computes: E experts, N per shard, K, top_k, and how it is quantised."""

    num_experts: int
    intermediate_size: int
    hidden_size: int
    top_k: int
    quant: QuantMode

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
        least = max(MAKING_BYTES, drawing, int(row_bytes(self, num_tokens, active_experts=0)) + checking)
        return max(self.weights_bytes + least + _OTHER_BYTES, CEILINGS_BYTES)


def row_bytes(shape: LayerShape, num_tokens: int, active_experts: float) -> float:
    """Least bytes of up and down: active experts' weights, activations in and out once each."""
    pairs = num_tokens * shape.top_k
    up, down = shape.projections
    weights = active_experts * (shape.expert_bytes(UP) + shape.expert_bytes(DOWN))
    bytes_in = 1 if shape.quant.quantizes_activations else 2
    return weights + (num_tokens * up.k + pairs * down.k) * bytes_in + pairs * (up.n + down.n) * 2


def row_operations(shape: LayerShape, num_tokens: int) -> float:
    """Multiplications and additions of up and down."""
    return float(sum(2 * num_tokens * shape.top_k * p.n * p.k for p in shape.projections))


def expected_active_experts(num_experts: int, top_k: int, num_tokens: int) -> float:
    """Experts that at least one of the tokens chooses, under uniform routing: E · (1 - (1 - top_k/E)^M)."""
    return num_experts * (1.0 - (1.0 - top_k / num_experts) ** num_tokens)
