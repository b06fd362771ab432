"""In which order kernels are tried, and when to stop. A strategy sees what is pending and what was measured, no more.

A *regime* is the batch sizes that run one mode of the kernel (the naive mode of decode has binaries of its own).
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Protocol

from kernels.launch_config import LaunchConfig
from tools.tune.desk import Landscape

_UNIT_AXES = tuple(field.name for field in fields(LaunchConfig) if field.name != "GROUP_SIZE_M")


@dataclass(frozen=True)
class Regime:
    """Its anchors, and in `pending` the kernels that nobody asked for yet."""

    anchors: tuple[int, ...]
    is_naive: bool
    pending: dict[LaunchConfig, None]


class Strategy(Protocol):
    """Chooses the next kernel to compile and screen."""

    def propose(self, regimes: Sequence[Regime], landscape: Landscape) -> tuple[Regime, LaunchConfig] | None:
        """None: nothing that is pending is worth its compilation, as far as is known now."""


@dataclass(frozen=True)
class NeighboursFirst:
    """Seeds, then whatever is one step away from the best that is known at an anchor; anchors take turns.

    Without turns the anchors whose rows are flat (decode) would have all their near-optimal kernels' neighbours tried
    before a steep one (prefill) has its second step. seeds: launch configs in the order in which they are tried
    without knowledge. neighbours: of each kernel, those that differ in one axis by one step. A kernel promises as much
    as its best measured neighbour; above `promise_limit` (a ratio to the row's best) nothing is compiled.
    """

    seeds: Mapping[bool, Sequence[LaunchConfig]]
    neighbours: Mapping[LaunchConfig, tuple[LaunchConfig, ...]]
    promise_limit: float

    def propose(self, regimes: Sequence[Regime], landscape: Landscape) -> tuple[Regime, LaunchConfig] | None:
        for regime in regimes:
            for kernel in self.seeds[regime.is_naive]:
                if kernel in regime.pending:
                    return regime, kernel
        for regime, anchor in _in_turn(regimes):
            promises = {kernel: self._promise(kernel, anchor, landscape) for kernel in regime.pending}
            kernel = min(promises, key=promises.__getitem__)
            if promises[kernel] <= self.promise_limit:
                return regime, kernel
        return None

    def _promise(self, kernel: LaunchConfig, anchor: int, landscape: Landscape) -> float:
        return min((landscape.ratio(anchor, near) for near in self.neighbours[kernel]), default=math.inf)


def _in_turn(regimes: Sequence[Regime]) -> list[tuple[Regime, int]]:
    """Every anchor that has something pending. With each kernel taken, another one comes first."""
    turns = [(regime, anchor) for regime in regimes if regime.pending for anchor in regime.anchors]
    if not turns:
        return []
    first = -sum(len(regime.pending) for regime in regimes) % len(turns)
    return turns[first:] + turns[:first]


@dataclass(frozen=True)
class InOrder:
    """Everything in the order given: exhaustive search, and random search once shuffled."""

    order: Mapping[LaunchConfig, int]

    @classmethod
    def shuffled(cls, kernels: Iterable[LaunchConfig], seed: int = 0) -> InOrder:
        order = list(kernels)
        random.Random(seed).shuffle(order)
        return cls({kernel: place for place, kernel in enumerate(order)})

    def propose(self, regimes: Sequence[Regime], landscape: Landscape) -> tuple[Regime, LaunchConfig] | None:  # noqa: ARG002
        offers = [(self.order[kernel], i) for i, regime in enumerate(regimes) for kernel in regime.pending]
        if not offers:
            return None
        place, index = min(offers)
        return regimes[index], next(kernel for kernel in regimes[index].pending if self.order[kernel] == place)


def neighbours_in(kernels: Sequence[LaunchConfig]) -> dict[LaunchConfig, tuple[LaunchConfig, ...]]:
    """Of each kernel those that differ in one axis, with no other value of that axis between them."""
    known = set(kernels)
    values = {axis: sorted({getattr(kernel, axis) for kernel in kernels}, key=_rank) for axis in _UNIT_AXES}
    found: dict[LaunchConfig, tuple[LaunchConfig, ...]] = {}
    for kernel in kernels:
        steps = []
        for axis, line in values.items():
            at = line.index(getattr(kernel, axis))
            for side in (line[at + 1 :], line[:at][::-1]):
                # Past a gap that doesn't fit the GPU: the next that does.
                near = next((n for value in side if (n := replace(kernel, **{axis: value})) in known), None)
                steps += [near] if near is not None else []
        found[kernel] = tuple(steps)
    return found


def _rank(value: object) -> tuple[bool, str | int]:
    return (False, 0) if value is None else (True, value if isinstance(value, int) else str(value))


def representatives(kernels: Sequence[LaunchConfig], *, is_naive: bool) -> list[LaunchConfig]:
    """One kernel a tile: the middle of its pipeline depths, warps by the tile's area. Small tiles first.

    In the naive mode a tile has one valid row: only the lowest tiles are worth a try without knowledge.
    """
    least_m = min((kernel.BLOCK_SIZE_M for kernel in kernels), default=0)
    by_tile: dict[tuple[int, int, int], list[LaunchConfig]] = {}
    for kernel in kernels:
        if not is_naive or least_m == kernel.BLOCK_SIZE_M:
            tile = kernel.BLOCK_SIZE_M, kernel.BLOCK_SIZE_N, kernel.BLOCK_SIZE_K
            by_tile.setdefault(tile, []).append(kernel)
    return [min(of_tile, key=_distance_from_middle) for _, of_tile in sorted(by_tile.items())]


def _distance_from_middle(kernel: LaunchConfig) -> tuple[int, int]:
    usual_warps = 4 if kernel.BLOCK_SIZE_M * kernel.BLOCK_SIZE_N < 64 * 128 else 8
    return abs(kernel.num_warps - usual_warps), abs(kernel.num_stages - 3)
