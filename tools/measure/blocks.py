"""Launch configs in blocks of fresh draws on the GPU, part by part: what tuner and bench decide by. Needs a GPU.

Weights are made once, inputs of a batch size when it is first asked for, and a launch config's graphs once for each
engine: a row's buffers stay where they are, so a graph serves all of its routings and blocks.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from kernels.problem import Flavour
from tools.errors import first_line
from tools.launch.layer_config import LayerConfig
from tools.measure.inputs import Operands, RowInputs, Weights, make_weights, num_routings
from tools.measure.kernels import Kernel, OwnKernel
from tools.measure.layer import DOWN, UP, LayerShape, Load, mean_load
from tools.measure.panel import Part, RoutingKind
from tools.measure.recorded_routing import RecordedRouting, RoutingSource
from tools.measure.routing import Draws
from tools.measure.row import RowBench
from tools.measure.seeds import Purpose, seed_of
from tools.measure.timing import LaunchCall, Replay, capture, play_blocks, sample_once

NUM_CHECKED_TOKENS = 16


class ContextLost(RuntimeError):  # noqa: N818  # a fact, not an error of this program
    """The GPU context of this process is broken: every later launch would fail as well."""


def _capture_coarse(launches: Sequence[LaunchCall], a_sample: int) -> Replay:
    return capture(launches, a_sample, a_sample=a_sample)


def _capture_deck(launches: Sequence[LaunchCall], a_sample: int) -> Replay:
    return capture(launches, a_sample, a_sample=a_sample, is_played=True)


@dataclass(frozen=True)
class Clock:
    """The thin edge to the GPU, replaced in tests.

    capture: so many launches to a sample. capture_deck: of a whole block, which is played in a row.
    """

    capture: Callable[[Sequence[LaunchCall], int], Replay] = _capture_coarse
    capture_deck: Callable[[Sequence[LaunchCall], int], Replay] = _capture_deck
    play: Callable[[Sequence[Replay], Sequence[Callable[[], object]]], list[list[float]]] = play_blocks
    sample: Callable[[Sequence[Replay], int], list[list[float]]] = sample_once
    synchronize: Callable[[], None] = lambda: torch.cuda.synchronize()


def own_kernel(engine: Flavour) -> Kernel:
    """Ours, in the engine's flavour."""
    return OwnKernel(flavour=engine)


@dataclass(frozen=True)
class Played:
    """What became of launch configs in some blocks of a part.

    us: a value a block, of the layer, or of up and of down where they are timed apart. failures: why one has no times.
    load: of all these blocks, on average. draws: of one block.
    """

    us: Mapping[LayerConfig, tuple[tuple[float, ...], ...]]
    failures: Mapping[LayerConfig, Exception]
    load: Load
    draws: int


@dataclass(frozen=True)
class _GraphKey:
    num_tokens: int
    placement: int
    engine: Flavour
    is_apart: bool
    config: LayerConfig


class BlockPlayer:
    """On a stream that isn't the default."""

    def __init__(
        self,
        layers: Sequence[LayerShape],
        arch: str,
        device: torch.device,
        l2_bytes: int,
        max_num_tokens: int,
        recorded: RecordedRouting | None = None,
        clock: Clock = Clock(),  # frozen
        kernel: Callable[[Flavour], Any] = own_kernel,
        *,
        descriptors: Kernel | None = None,
        checks_each_row: bool = True,
    ) -> None:
        """layers: by placement. arch: as `kernels.problem` spells it. max_num_tokens: the largest batch size.

        recorded: what the kind of that name is of.
        kernel: each engine's, of which one and the same is had whenever it is asked for. descriptors: the one that
        plays what uses descriptors; None: nobody's does. checks_each_row: else each binary only where it is met first,
        which should be the largest batch size: there indexing breaks.
        """
        self.layers, self.l2_bytes = tuple(layers), l2_bytes
        self.clock, self.kernel, self._descriptors = clock, kernel, descriptors
        self._arch, self._recorded = arch, recorded
        self._held = _held(self.layers, max_num_tokens, device)
        self._rows: dict[tuple[int, int], RowBench] = {}
        self._graphs: dict[_GraphKey, list[Replay]] = {}
        self._checks_each_row = checks_each_row
        self._checked: set[Hashable] = set()

    def play(
        self,
        purpose: Purpose,
        num_tokens: int,
        part: Part,
        configs: Sequence[LayerConfig],
        blocks: range,
        *,
        is_apart: bool = False,
    ) -> Played:
        """Every config in each of the blocks. Of a batch size nothing is checked or captured twice.

        is_apart: up and down each in a graph of its own. ContextLost: nothing more can be measured in this process.
        """
        row = self.row(num_tokens, part.placement)
        failures: dict[LayerConfig, Exception] = {}
        replays: dict[LayerConfig, list[Replay]] = {}
        for config in configs:
            key = _GraphKey(num_tokens, part.placement, part.engine, is_apart, config)
            try:
                replays[config] = self._contestant(key, row)
            except Exception as error:  # Triton raises what it likes at launch
                self.survive(error)
                failures[config] = error
        dealt: dict[int, Draws] = {}  # by block: one that is played again is dealt again, and counts once

        def deal(block: int) -> None:
            self.deal(row, purpose, part.placement, part.routing, block)
            dealt[block] = row.inputs.draws

        deals = [functools.partial(deal, block) for block in blocks]
        played = [one for both in replays.values() for one in both]
        times = iter(self._played(played, deals) if played else ())
        us = {config: tuple(tuple(next(times)) for _ in both) for config, both in replays.items()}
        load = mean_load([draws.load(row.shape) for draws in dealt.values()] or [row.inputs.load])
        return Played(us, failures, load, row.inputs.num_routings)

    def _played(self, replays: Sequence[Replay], deals: Sequence[Callable[[], object]]) -> list[list[float]]:
        """ContextLost: a launch that ran well on the block that it was checked on broke the context on another."""
        try:
            return self.clock.play(replays, deals)
        except Exception as error:
            self.survive(error)
            raise

    def row(self, num_tokens: int, placement: int) -> RowBench:
        """Made when it is first asked for."""
        key = num_tokens, placement
        if key not in self._rows:
            layer = self.layers[placement]
            weights, operands = self._held[layer.hidden_size]
            count = num_routings(layer, num_tokens, self.l2_bytes)
            seed = seed_of(Purpose.SEARCH, num_tokens, placement, RoutingKind.UNIFORM, block=0)
            inputs = RowInputs(layer, weights, num_tokens, count, RoutingSource(), seed, operands)
            self._rows[key] = RowBench(layer, weights, inputs, self._arch, NUM_CHECKED_TOKENS)
        return self._rows[key]

    def check(self, row: RowBench, kernel: Any, config: LayerConfig, placement: int) -> None:
        """AssertionError: wrong numbers.

        Always on the search's first block, whatever was dealt since: the reference takes longer than all checks of it,
        and nothing is timed on it here.
        """
        self.deal(row, Purpose.SEARCH, placement, RoutingKind.UNIFORM, 0)
        for projection in (UP, DOWN):
            row.check(kernel, config, projection)

    def deal(self, row: RowBench, purpose: Purpose, placement: int, kind: RoutingKind, block: int) -> None:
        """Unless it lies there already."""
        seed = seed_of(purpose, row.inputs.routing.num_tokens, placement, kind, block)
        if row.inputs.dealt != (kind, seed):
            row.inputs.deal(self._source(kind), seed)

    def survive(self, error: Exception) -> None:
        """After a launch that failed. ContextLost: the GPU doesn't answer any more."""
        if isinstance(error, AssertionError):
            return
        if isinstance(error, torch.OutOfMemoryError):
            torch.cuda.empty_cache()
            return
        try:
            self.clock.synchronize()
        except Exception as lost:
            raise ContextLost(first_line(error)) from lost

    def _contestant(self, key: _GraphKey, row: RowBench) -> list[Replay]:
        """Of the layer, or of up and down; correct."""
        if key not in self._graphs:
            kernel = self._kernel_of(key.engine, key.config)
            what = key if self._checks_each_row else (key.placement, row.binaries(kernel, key.config))
            if what not in self._checked:
                self.check(row, kernel, key.config, key.placement)
                self._checked.add(what)
            if key.is_apart:
                decks = [row.launches(kernel, key.config, projection) for projection in (UP, DOWN)]
                self._graphs[key] = [self.clock.capture_deck(deck, 1) for deck in decks]
            else:
                self._graphs[key] = [self.clock.capture_deck(row.layers(kernel, key.config), 2)]
        return self._graphs[key]

    def _kernel_of(self, engine: Flavour, config: LayerConfig) -> Any:
        if self._descriptors is not None and config.uses_descriptors:
            return self._descriptors
        return self.kernel(engine)

    def _source(self, kind: RoutingKind) -> RoutingSource:
        return RoutingSource(kind, self._recorded if kind is RoutingKind.RECORDED else None)


def _held(
    layers: Sequence[LayerShape], max_num_tokens: int, device: torch.device
) -> dict[int, tuple[Weights, Operands]]:
    """By hidden size: layers that differ in top_k and placement alone share their weights and activations."""
    return {
        width: (make_weights(alike[0], device), Operands(alike, max_num_tokens, device))
        for width in dict.fromkeys(layer.hidden_size for layer in layers)
        if (alike := [layer for layer in layers if layer.hidden_size == width])
    }
