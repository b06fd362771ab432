"""The space a tuner searches: axes as data, and named constraints that say why a candidate is out. Pure."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from kernels.launch import LaunchConfig as KernelConfig
from kernels.launch import check_launch
from tools.launch_config import LaunchConfig
from tools.shared_memory import loop_bytes
from tools.tune.model import Subject


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
        """Every distinct kernel, with group size 1: group sizes share their binaries."""
        tiles = itertools.product(self.BLOCK_SIZE_M, self.BLOCK_SIZE_N, self.BLOCK_SIZE_K)
        options = list(itertools.product(self.num_warps, self.num_stages))
        names = [name for name, _ in self.extra]
        extras: list[dict[str, Any]] = [
            dict(zip(names, values, strict=True)) for values in itertools.product(*(v for _, v in self.extra))
        ]
        for (m, n, k), (warps, stages), extra in itertools.product(list(tiles), options, extras):
            yield replace(LaunchConfig(m, n, k, 1, warps, stages), **extra)


NVIDIA = Axes()

# A wavefront has 64 lanes, so half as many are needed; the software pipeline of two stages is what the compiler
# makes well there. kpack and matrix_instr_nonkdim choose the matrix instruction, waves_per_eu how many wavefronts the
# register allocator makes room for (0: it chooses).
AMD = Axes(
    num_warps=(2, 4, 8),
    num_stages=(2,),
    extra=(("waves_per_eu", (0, 1, 2)), ("matrix_instr_nonkdim", (16, 32)), ("kpack", (1, 2))),
)


@dataclass(frozen=True)
class Constraint:
    """A rule on launch configs. why: what breaks it, None where nothing does."""

    name: str
    why: Callable[[LaunchConfig, Subject], str | None]


@dataclass(frozen=True)
class Rejected:
    """A candidate that is not tried, and the constraint that it breaks."""

    config: LaunchConfig
    constraint: str
    message: str


@dataclass(frozen=True)
class Space:
    """kernels: those that pass, each standing for all of the group_sizes."""

    kernels: tuple[LaunchConfig, ...]
    group_sizes: tuple[int, ...]
    rejected: tuple[Rejected, ...]


def candidates(subject: Subject, axes: Axes | None = None) -> Space:
    """The subject's space, by its vendor's axes unless others are given."""
    axes = axes or _axes_of(subject)
    kernels: list[LaunchConfig] = []
    rejected: list[Rejected] = []
    for kernel in axes.kernels():
        broken = next(((c.name, why) for c in CONSTRAINTS if (why := c.why(kernel, subject))), None)
        if broken is None:
            kernels.append(kernel)
        else:
            rejected.append(Rejected(kernel, *broken))
    return Space(tuple(kernels), axes.GROUP_SIZE_M, tuple(rejected))


def _axes_of(subject: Subject) -> Axes:
    """Block scales leave one K tile: a lower one multiplies by the same scales twice.

    On an H100 it lost at least 13 % at every batch size of DeepSeek-V3 TP16 (docs/measurements).
    """
    axes = AMD if subject.is_rocm else NVIDIA
    if subject.quant.block_shape is None:
        return axes
    return replace(axes, BLOCK_SIZE_K=(min(subject.quant.block_shape),))


def _launch_rule(config: LaunchConfig, subject: Subject) -> str | None:
    try:
        check_launch(subject.quant, KernelConfig.of(config.to_entry()), subject.kernel_arch)  # type: ignore[arg-type]
    except ValueError as error:
        return str(error)
    return None


def _shared_memory(config: LaunchConfig, subject: Subject) -> str | None:
    smem = loop_bytes(
        config,
        arch=subject.arch,
        dtype=subject.workload.dtype,
        block_quantised=subject.workload.block_shape is not None,
    )
    if smem is None or smem.total_bytes <= subject.smem_bytes:
        return None
    return f"expected at most {subject.smem_bytes} bytes, found {smem.total_bytes} = {smem.explanation}"


def _tile_over_columns(config: LaunchConfig, subject: Subject) -> str | None:
    """A tile wider than the whole product would be mostly empty."""
    narrowest = min(2 * subject.workload.N, *(named.shape.K for named in subject.shapes))
    if max(narrowest, 32) >= config.BLOCK_SIZE_N:
        return None
    return f"expected BLOCK_SIZE_N at most {narrowest}, the narrower product's columns, found {config.BLOCK_SIZE_N}"


def _matrix_instruction(config: LaunchConfig, subject: Subject) -> str | None:  # noqa: ARG001
    side = config.matrix_instr_nonkdim
    if side is None or side <= min(config.BLOCK_SIZE_M, config.BLOCK_SIZE_N):
        return None
    found = f"{config.BLOCK_SIZE_M} x {config.BLOCK_SIZE_N}"
    return f"expected a tile of at least {side} x {side} for the instruction, found {found}"


CONSTRAINTS = (
    Constraint("launch-rule", _launch_rule),
    Constraint("shared-memory", _shared_memory),
    Constraint("tile-over-columns", _tile_over_columns),
    Constraint("matrix-instruction", _matrix_instruction),
)
