"""The values that each launch key takes in a search: what a tuner tries, and what kernels are compared on. Pure."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from kernels.launch_config import LaunchConfig

COMMON_GROUP_SIZE = 16
"""Of a kernel whose best group size is not known yet, so that kernels can be compared.

Exhaustive landscapes of three workloads on an H100: with 16 the twelve best kernels of a row lose 0.2 to 3 % on average
against each one's best group size (Mixtral at 4096 tokens: 5 %). With 1 it is up to 30 %, and not the same for all:
kernels then rank wrong.
"""


@dataclass(frozen=True)
class Axes:
    """Values of each launch key. extra: keys of one vendor, as (key, values)."""

    BLOCK_SIZE_M: tuple[int, ...] = (16, 32, 64, 128, 256)
    BLOCK_SIZE_N: tuple[int, ...] = (32, 64, 128, 256)
    BLOCK_SIZE_K: tuple[int, ...] = (64, 128, 256)
    GROUP_SIZE_M: tuple[int, ...] = (1, 8, 16, 32, 64)
    num_warps: tuple[int, ...] = (4, 8)
    num_stages: tuple[int, ...] = (2, 3, 4, 5)
    extra: tuple[tuple[str, tuple[int, ...]], ...] = ()

    def kernels(self) -> Iterator[LaunchConfig]:
        """Every distinct kernel, with the common group size: group sizes share their binaries."""
        tiles = itertools.product(self.BLOCK_SIZE_M, self.BLOCK_SIZE_N, self.BLOCK_SIZE_K)
        options = list(itertools.product(self.num_warps, self.num_stages))
        names = [name for name, _ in self.extra]
        extras: list[dict[str, Any]] = [
            dict(zip(names, values, strict=True)) for values in itertools.product(*(v for _, v in self.extra))
        ]
        for (m, n, k), (warps, stages), extra in itertools.product(list(tiles), options, extras):
            yield replace(LaunchConfig(m, n, k, COMMON_GROUP_SIZE, warps, stages), **extra)


NVIDIA = Axes()

# A wavefront has 64 lanes, so half as many are needed; the software pipeline of two stages is what the compiler
# makes well there. kpack and matrix_instr_nonkdim choose the matrix instruction, waves_per_eu how many wavefronts the
# register allocator makes room for (0: it chooses).
AMD = Axes(
    num_warps=(2, 4, 8),
    num_stages=(2,),
    extra=(("waves_per_eu", (0, 1, 2)), ("matrix_instr_nonkdim", (16, 32)), ("kpack", (1, 2))),
)
