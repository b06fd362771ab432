"""What a rank computes, in numbers: sizes, bytes, operations. Standard library only."""

from __future__ import annotations

from dataclasses import dataclass

from kernels.problem import Projection, QuantMode, up_and_down

UP, DOWN = 0, 1


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

    def expert_bytes(self, projection: int) -> int:
        """One expert's weights of one projection."""
        p = self.projections[projection]
        return p.n * p.k * self.weight_bytes

    def memory_bytes(self, num_tokens: int) -> int:
        """What the bench takes at most: weights, twice w1 in fp32 while it is made, rows in and out."""
        up, down = self.projections
        weights = sum(p.num_experts * p.n * p.k for p in (up, down)) * self.weight_bytes
        making = 8 * up.num_experts * up.n * up.k
        rows = num_tokens * self.top_k * (up.n + up.k + down.n + down.k) * 2
        # Twice the rows: the peer has its own, the layer as a whole too.
        return weights + max(making, 2 * rows) + (2 << 30)


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
