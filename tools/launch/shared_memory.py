"""Shared memory of a launch config by formula: a sieve in front of the compiler, which is the proof.

The pipelined loop keeps `buffers` tiles of both operands:
(BLOCK_SIZE_M · bytes_a + BLOCK_SIZE_N · bytes_b) · BLOCK_SIZE_K · buffers. Where the matrix unit reads its operands
from shared memory (wgmma on sm_90, tcgen05 on sm_100 and sm_103, from 64 rows on), every stage has a buffer; else the
last stage lives in registers. 8-bit weights beside 16-bit activations are converted into one more tile there. The
epilogue can only raise the total, so the result is a lower bound. Its test holds figures of the compiler itself. Older
Tritons differ: 3.1.0 keeps one tile less for 8-bit weights beside 16-bit activations.
"""

from __future__ import annotations

from dataclasses import dataclass

from kernels.launch_config import LaunchConfig

_SHARED_OPERAND_ARCHES = frozenset({"sm_90", "sm_100", "sm_103"})
_MIN_ROWS_FROM_SHARED = 64

OLDEST_TRITON = (3, 6, 0)
"""The formula is checked from this version on."""

_OPERAND_BYTES = {
    None: (2, 2),
    "fp8_w8a8": (1, 1),
    "int8_w8a8": (1, 1),
    "int8_w8a16": (2, 1),
    "fp8_w8a16": (2, 1),
    "float32": (4, 4),
}
"""Bytes an element of the activations' and the weights' tile. int4_w4a16 is another kernel: absent."""


@dataclass(frozen=True)
class SharedMemory:
    """What one block needs: `total_bytes`, and how the figure came about."""

    total_bytes: int
    explanation: str


def loop_bytes(
    config: LaunchConfig, *, arch: str, dtype: str | None, block_quantised: bool = False
) -> SharedMemory | None:
    """Lower bound of the shared memory of one block, or None for a dtype without a formula.

    arch is as in devices.json (`sm_90`, `gfx942`); dtype as in a file's name.
    """
    operand_bytes = _OPERAND_BYTES.get(dtype)
    if operand_bytes is None:
        return None
    bytes_a, bytes_b = operand_bytes
    tile = (config.BLOCK_SIZE_M * bytes_a + config.BLOCK_SIZE_N * bytes_b) * config.BLOCK_SIZE_K
    # There the kernel swaps the operands where N alone has rows enough (`kernels.problem`).
    swaps = arch == "sm_90" and dtype == "fp8_w8a8"
    rows = max(config.BLOCK_SIZE_M, config.BLOCK_SIZE_N) if swaps else config.BLOCK_SIZE_M
    from_shared = arch in _SHARED_OPERAND_ARCHES and rows >= _MIN_ROWS_FROM_SHARED
    buffers = config.num_stages if from_shared else max(1, config.num_stages - 1)
    parts = [
        f"({config.BLOCK_SIZE_M}·{bytes_a} + {config.BLOCK_SIZE_N}·{bytes_b}) · {config.BLOCK_SIZE_K} · "
        f"{buffers} buffer{'s' if buffers > 1 else ''}"
    ]
    total = tile * buffers
    if from_shared and bytes_a != bytes_b:
        total += config.BLOCK_SIZE_N * config.BLOCK_SIZE_K
        parts.append(f"{config.BLOCK_SIZE_N} · {config.BLOCK_SIZE_K} for the converted weights")
    if block_quantised:
        sides = (config.BLOCK_SIZE_M, config.BLOCK_SIZE_N)
        scales = 4 * max((side for side in sides if side >= 32 * config.num_warps), default=0)
        total += scales
        parts += [f"{scales} for scales"] if scales else []
    return SharedMemory(total, " + ".join(parts))
