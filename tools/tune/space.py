"""The space a tuner searches: `tools.launch.axes` and named constraints that say why a candidate is out. Pure."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from kernels.launch_config import LaunchConfig
from kernels.problem import Flavour, check_launch
from tools.launch.axes import AMD, COMMON_GROUP_SIZE, NVIDIA, Axes
from tools.launch.shared_memory import loop_bytes
from tools.measure.layer import DOWN
from tools.registry.devices import Target
from tools.tune.protocol import Subject


@dataclass(frozen=True)
class Constraint:
    """A rule on launch configs. why: what breaks it, None where nothing does."""

    name: str
    why: Callable[[LaunchConfig, Subject], str | None]


@dataclass(frozen=True)
class RejectedCandidate:
    """A candidate that is not tried, and the constraint that it breaks."""

    config: LaunchConfig
    constraint: str
    message: str


@dataclass(frozen=True)
class Space:
    """kernels: those that pass, each standing for all of the group_sizes."""

    kernels: tuple[LaunchConfig, ...]
    group_sizes: tuple[int, ...]
    rejected: tuple[RejectedCandidate, ...]


def candidates(subject: Subject, axes: Axes | None = None) -> Space:
    """The subject's space, by its vendor's axes unless others are given."""
    axes = axes or _axes_of(subject)
    kernels: list[LaunchConfig] = []
    rejected: list[RejectedCandidate] = []
    for kernel in axes.kernels():
        broken = next(((c.name, why) for c in CONSTRAINTS if (why := c.why(kernel, subject))), None)
        if broken is None:
            kernels.append(kernel)
        else:
            rejected.append(RejectedCandidate(kernel, *broken))
    return Space(tuple(kernels), axes.GROUP_SIZE_M, tuple(rejected))


DESCRIPTORS = Axes(BLOCK_SIZE_N=(64, 128, 256), BLOCK_SIZE_K=(64, 128), num_stages=(2, 3, 4))
"""Of entries for down with USE_TMA: what SGLang 0.5.23's own files for Hopper have. They take a low BLOCK_SIZE_K under
block scales too: down's K is one shard's N, and what is loaded through a descriptor needs no index arithmetic."""
DESCRIPTOR_GROUP_SIZES = (1, COMMON_GROUP_SIZE, 64)
FIRST_WITH_DESCRIPTORS = 90
"""NVIDIA's architecture. Elsewhere Triton makes plain loads of them."""


def loads_by_descriptors(target: Target) -> bool:
    """Whether down with USE_TMA is worth trying on GPUs of this kind."""
    return target.backend == "cuda" and int(target.arch) >= FIRST_WITH_DESCRIPTORS


def why_no_descriptors(subject: Subject) -> str | None:
    """Why down doesn't run with USE_TMA, or can't gain by it; None: it is worth trying."""
    target = subject.target
    if Flavour.SGLANG not in subject.placements:
        return "SGLang, whose key it is, doesn't read this name"
    if not loads_by_descriptors(target):
        return f"{subject.workload.device_name} doesn't load by tensor descriptors"
    return next(filter(None, (layer.why_no_descriptor(DOWN) for layer in subject.layers)), None)


def with_descriptors(subject: Subject, block_size_m: int) -> tuple[LaunchConfig, ...]:
    """Kernels for down with USE_TMA of the row's BLOCK_SIZE_M, each standing for all `DESCRIPTOR_GROUP_SIZES`.

    Empty where `why_no_descriptors` has a reason.
    """
    if why_no_descriptors(subject) is not None:
        return ()
    axes = replace(DESCRIPTORS, BLOCK_SIZE_M=(block_size_m,))
    tiles = [kernel for kernel in axes.kernels() if kernel.num_warps == 4 or block_size_m >= 64]
    passing = [kernel for kernel in tiles if all(c.why(kernel, subject) is None for c in CONSTRAINTS)]
    return tuple(replace(kernel, USE_TMA=True) for kernel in passing)


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
        check_launch(subject.quant, config, subject.kernel_arch)
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
