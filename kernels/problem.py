"""What is computed: quantisation, projection, routing. Imports neither torch nor triton.

Facts that do not depend on the launch config, or only on BLOCK_SIZE_M, live here; `kernels.launch` turns them
into the kernel's argument list and re-exports them.
"""

from __future__ import annotations

from dataclasses import dataclass

DTYPES = (None, "fp8_w8a8", "int8_w8a8", "int8_w8a16")
COMPUTE_TYPES = {"bf16": "bfloat16", "fp16": "float16"}


def cdiv(a: int, b: int) -> int:
    return -(-a // b)


@dataclass(frozen=True)
class QuantMode:
    """How operands are quantised.

    dtype: as the tuned files name it (None: 16-bit). compute_type: "bf16" or "fp16", of C and of 16-bit operands.
    block_shape: (block_n, block_k) of the weights' scales; A's groups are block_k wide.
    ValueError: a combination that no kernel here computes.
    """

    dtype: str | None = None
    compute_type: str = "bf16"
    per_channel: bool = False
    block_shape: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        if self.dtype not in DTYPES:
            raise ValueError(f"QuantMode.dtype: expected one of {DTYPES}, found {self.dtype!r}.")
        if self.compute_type not in COMPUTE_TYPES:
            raise ValueError(
                f"QuantMode.compute_type: expected one of {tuple(COMPUTE_TYPES)}, found {self.compute_type!r}."
            )
        if self.block_shape is not None:
            if self.dtype not in ("fp8_w8a8", "int8_w8a8") or self.per_channel:
                raise ValueError(
                    f"QuantMode.block_shape: expected fp8_w8a8 or int8_w8a8 without per_channel, found dtype "
                    f"{self.dtype!r}, per_channel {self.per_channel}. Fix: leave block_shape out."
                )
            if len(self.block_shape) != 2 or min(self.block_shape) < 1:
                raise ValueError(f"QuantMode.block_shape: expected (block_n, block_k) > 0, found {self.block_shape}.")
        elif self.dtype in ("int8_w8a8", "int8_w8a16") and not self.per_channel:
            raise ValueError(f"QuantMode: expected per_channel=True for {self.dtype}, found False.")
        elif self.dtype is None and self.per_channel:
            raise ValueError("QuantMode.per_channel: expected False for 16-bit weights, found True.")

    @property
    def scaling(self) -> str:
        """The kernel's SCALING: none, tensor, channel, weight or block."""
        if self.dtype is None:
            return "none"
        if self.dtype == "int8_w8a16":
            return "weight"
        if self.block_shape is not None:
            return "block"
        return "channel" if self.per_channel else "tensor"

    @property
    def quantizes_activations(self) -> bool:
        return self.dtype in ("fp8_w8a8", "int8_w8a8")

    def operand_types(self, arch: str) -> tuple[str, str, str]:
        """Element types of A, B and C as Triton names them."""
        compute = COMPUTE_TYPES[self.compute_type]
        if self.dtype is None:
            return compute, compute, compute
        if self.dtype == "int8_w8a16":
            return compute, "int8", compute
        # gfx940 to 942 have their own fp8 (no negative zero); everything later has OCP's.
        eight_bit = ("float8e4b8" if arch.startswith("gfx94") else "float8e4nv") if self.dtype == "fp8_w8a8" else "int8"
        return eight_bit, eight_bit, compute


@dataclass(frozen=True)
class Projection:
    """One of a layer's two products, C [pairs, n] = A [pairs // top_k, k] x B [num_experts, n, k].

    top_k: pairs that share one row of A (the router's for up, 1 for down).
    """

    num_experts: int
    n: int
    k: int
    top_k: int
    mul_routed_weight: bool
    has_bias: bool = False


def up_and_down(
    num_experts: int, intermediate_size: int, hidden_size: int, top_k: int, *, has_bias: bool = False
) -> tuple[Projection, Projection]:
    """The two projections of a gated layer; num_experts on this rank, intermediate_size per shard."""
    up = Projection(num_experts, 2 * intermediate_size, hidden_size, top_k, False, has_bias)
    return up, Projection(num_experts, hidden_size, intermediate_size, 1, True, has_bias)


@dataclass(frozen=True)
class Routing:
    """Sizes of what the router chose. num_experts: of the whole layer, not of the rank.

    allow_naive=False measures the aligned mode where the engine would not align.
    """

    num_tokens: int
    top_k: int
    num_experts: int
    has_expert_map: bool = False
    allow_naive: bool = True

    @property
    def num_pairs(self) -> int:
        return self.num_tokens * self.top_k

    @property
    def is_naive(self) -> bool:
        """vLLM's decode path: so few pairs that aligning them costs more than half-empty tiles."""
        return self.allow_naive and not self.has_expert_map and self.num_pairs * 4 <= self.num_experts

    def capacity(self, block_size_m: int) -> int:
        """Rows of sorted_token_ids that suffice for any routing."""
        if self.num_pairs < self.num_experts:
            return min(self.num_pairs * block_size_m, self.num_pairs + self.num_experts * (block_size_m - 1))
        return self.num_pairs + self.num_experts * (block_size_m - 1)

    def rows(self, block_size_m: int) -> int:
        """The kernel's EM: rows that the grid covers."""
        if self.is_naive:
            return self.num_pairs * block_size_m
        capacity = self.capacity(block_size_m)
        # With fewer tokens than a tile has rows, no expert has a second tile.
        return min(capacity, self.num_pairs * block_size_m) if self.num_tokens < block_size_m else capacity
