"""What one launch computes: quantisation, projection, routing, launch config, GPU. Imports neither torch nor triton.

Rules the engines apply at launch live here too: the operand swap on Hopper fp8, the naive mode of decode, the number
of rows that the grid covers, the limit on BLOCK_SIZE_K of block-quantised weights, SGLang's dependent launches. They
are vLLM 0.33's and SGLang 0.5.23's; `Flavour` says whose. `kernels.launch` turns a problem
into the kernel's argument list.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass

from kernels.launch_config import AMD_KEYS, OPTION_KEYS, TILE_KEYS, LaunchConfig

DTYPES = (None, "fp8_w8a8", "int8_w8a8", "int8_w8a16")
COMPUTE_TYPES = {"bf16": "bfloat16", "fp16": "float16"}


GDC_EARLY_ROWS = 512
"""SGLang lets the next launch start at once where A has at most so many rows, else when a program has stored."""


class Flavour(enum.StrEnum):
    """Whose kernel a launch stands for, where the engines' kernels differ in what a launch config meets."""

    VLLM = "vllm"
    SGLANG = "sglang"


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

    has_expert_map: this rank holds a share of them only. allow_naive=False measures the aligned mode where the engine
    would not align. flavour: which engine aligns. local_experts: on this rank, by which SGLang sizes its arrays; None:
    as many as the layer has.
    """

    num_tokens: int
    top_k: int
    num_experts: int
    has_expert_map: bool = False
    allow_naive: bool = True
    flavour: Flavour = Flavour.VLLM
    local_experts: int | None = None

    @property
    def num_pairs(self) -> int:
        return self.num_tokens * self.top_k

    @property
    def is_naive(self) -> bool:
        """vLLM's decode path: so few pairs that aligning them costs more than half-empty tiles."""
        if self.flavour is Flavour.SGLANG:
            return False
        return self.allow_naive and not self.has_expert_map and self.num_pairs * 4 <= self.num_experts

    @property
    def experts_here(self) -> int:
        """On this rank."""
        return self.num_experts if self.local_experts is None else self.local_experts

    def capacity(self, block_size_m: int) -> int:
        """Rows of sorted_token_ids that suffice for any routing.

        vLLM counts the layer's experts, also where a rank holds a share of them. SGLang counts the rank's and one more
        bucket, for pairs of other ranks, and stores four ids at a time.
        """
        padded = self.padded_rows(block_size_m)
        return cdiv(padded, 4) * 4 if self.flavour is Flavour.SGLANG else padded

    def padded_rows(self, block_size_m: int) -> int:
        """At most so many rows, where each bucket in use is padded to whole tiles."""
        buckets = self.experts_here + 1 if self.flavour is Flavour.SGLANG else self.num_experts
        return self.num_pairs + min(self.num_pairs, buckets) * (block_size_m - 1)

    def rows(self, block_size_m: int) -> int:
        """The kernel's EM: rows that the grid covers.

        vLLM's limit for fewer tokens than a tile has rows (num_pairs tiles) never lies below the capacity.
        """
        return self.num_pairs * block_size_m if self.is_naive else self.capacity(block_size_m)


@dataclass(frozen=True)
class Descriptors:
    """What of a launch goes through tensor descriptors, where an entry of SGLang's says USE_TMA.

    a, b: loaded so. A's rows then lie in the alignment's order, as a launch with sorted_c stored them.
    """

    a: bool = False
    b: bool = False
    sorted_c: bool = False


NO_DESCRIPTORS = Descriptors()


@dataclass(frozen=True)
class Problem:
    """One launch but for its tensors. arch: "sm90", "gfx942", …; "cpu" under Triton's interpreter.

    descriptors: of SGLang's own kernel; ours has none. ValueError: a launch that would compute wrong numbers or not
    compile, as `check_launch` says. What is handed a problem need not check it again.
    """

    projection: Projection
    routing: Routing
    quant: QuantMode
    config: LaunchConfig
    arch: str
    descriptors: Descriptors = NO_DESCRIPTORS

    def __post_init__(self) -> None:
        check_launch(self.quant, self.config, self.arch)

    @property
    def rows(self) -> int:
        """The kernel's EM: rows that the grid covers."""
        return self.routing.rows(self.config.BLOCK_SIZE_M)

    @property
    def rows_of_a(self) -> int:
        """Of the activations that the launch reads."""
        if self.descriptors.a:
            return self.routing.padded_rows(self.config.BLOCK_SIZE_M)
        return cdiv(self.routing.num_pairs, self.projection.top_k)

    @property
    def rows_of_c(self) -> int:
        """Of the buffer that it stores into."""
        is_sorted = self.descriptors.sorted_c
        return self.routing.padded_rows(self.config.BLOCK_SIZE_M) if is_sorted else self.routing.num_pairs

    @property
    def grid(self) -> tuple[int]:
        """One program a tile."""
        return (cdiv(self.rows, self.config.BLOCK_SIZE_M) * cdiv(self.projection.n, self.config.BLOCK_SIZE_N),)

    @property
    def flavour(self) -> Flavour:
        return self.routing.flavour

    @property
    def has_even_ks(self) -> bool:
        """SGLang's kernel then loads without a mask along K."""
        return self.flavour is Flavour.SGLANG and self.projection.k % self.config.BLOCK_SIZE_K == 0

    @property
    def gdc(self) -> str:
        """When the next launch may start: none (after this one), late (its stores), early (at once).

        SGLang's dependent launches, from capability 9.0 on.
        """
        if self.flavour is not Flavour.SGLANG or not self.arch.startswith("sm") or int(self.arch[2:]) < 90:
            return "none"
        return "early" if self.rows_of_a <= GDC_EARLY_ROWS else "late"

    @property
    def options(self) -> dict[str, int]:
        """The compiler's options: the launch config's, and whether the launch depends on the one before."""
        return {**dict(self.config.options), **({} if self.gdc == "none" else {"launch_pdl": True})}

    @property
    def swaps_operands(self) -> bool:
        """The engines' rule for fp8 on Hopper: a narrow tile puts N on the tensor core's 64-row side."""
        is_hopper_fp8 = self.quant.dtype == "fp8_w8a8" and self.arch == "sm90"
        return is_hopper_fp8 and self.config.BLOCK_SIZE_M < 64 <= self.config.BLOCK_SIZE_N


def check_launch(quant: QuantMode, config: LaunchConfig, arch: str) -> None:
    """ValueError where the launch would compute wrong numbers or not compile.

    A tile that spans two scale groups multiplies the second by the first one's scale (relative error 0.44).
    vLLM clamps BLOCK_SIZE_K to the smaller side of block_shape; what is measured must be what runs.
    """
    _check_values(config)
    if quant.block_shape is not None:
        block_n, block_k = quant.block_shape
        limit, tile_k = min(block_n, block_k), config.BLOCK_SIZE_K
        if tile_k > limit or block_k % tile_k:
            raise ValueError(
                f"launch config, BLOCK_SIZE_K: expected a divisor of block_k {block_k}, at most {limit} for "
                f"block_shape {quant.block_shape}, found {tile_k}. Fix: BLOCK_SIZE_K <= {limit}."
            )
    foreign = [key for key, _ in config.options if key in AMD_KEYS and not arch.startswith("gfx")]
    if foreign:
        raise ValueError(f"launch config: expected no AMD keys on {arch}, found {foreign}. Fix: remove them.")


def _check_values(config: LaunchConfig) -> None:
    taken = (*TILE_KEYS, *OPTION_KEYS)
    written = config.to_entry()
    # Old files carry SPLIT_K 1, which is what the kernel does anyway.
    unknown = [key for key, value in written.items() if key not in taken and (key, value) != ("SPLIT_K", 1)]
    if unknown:
        raise ValueError(f"launch config: expected keys out of {taken}, found {unknown}. Fix: remove them.")
    for key in taken:
        least = 0 if key in AMD_KEYS else 1
        value = written.get(key, least)
        if type(value) is not int or value < least:
            raise ValueError(f"launch config, {key}: expected an integer >= {least}, found {value!r}.")
    for key in TILE_KEYS[:3]:
        size = getattr(config, key)
        if size & (size - 1):
            raise ValueError(f"launch config, {key}: expected a power of two, found {size}.")
