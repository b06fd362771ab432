"""Judges a tuned file beside what it is compared with, row by row and part by part. Needs a GPU."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import torch

from kernels.problem import Flavour
from tools.bench.candidates import FileComparison, Judging
from tools.bench.comparison import NotTimed, compile_all, floor_of
from tools.bench.session import Gpu
from tools.compile.machine import status_of
from tools.compile.outcome import Status
from tools.compile.pool import CompilePool
from tools.errors import first_line
from tools.launch.layer_config import LayerConfig
from tools.measure.blocks import BlockPlayer
from tools.measure.gpu import Ceilings
from tools.measure.judgement import PlayedPart, RowVerdict, judge
from tools.measure.kernels import Kernel
from tools.measure.panel import Part
from tools.registry.devices import Device

Failures = Mapping[tuple[Flavour, int], Mapping[LayerConfig, str]]
"""What isn't launched and why, by engine and batch size."""


def compile_file(
    comparison: FileComparison, kernels: Mapping[Flavour, Kernel], device: Device, pool: CompilePool
) -> Failures:
    """Every kernel of the comparison. kernels: each engine's. Returns what doesn't compile."""
    failed: dict[tuple[Flavour, int], dict[LayerConfig, str]] = {}
    for engine, kernel in kernels.items():
        shapes = [s for s, judged in zip(comparison.shapes, comparison.engines, strict=True) if engine in judged]
        configs = {m: list(comparison.entries(m, engine).values()) for m in comparison.batch_sizes}
        compiled = compile_all([kernel], shapes, configs, device, pool)
        for m, row in compiled.failed.items():
            failed[engine, m] = {config: _reason(why) for config, why in row.items()}
    return failed


def _reason(why: NotTimed) -> str:
    return why.message if why.status == Status.CONSTRAINTS else f"{why.status}: {why.message}"


def player_of(
    comparison: FileComparison, judging: Judging, kernels: Mapping[Flavour, Kernel], gpu: Gpu, place: torch.device
) -> BlockPlayer:
    """With the comparison's weights on the GPU. On a stream that isn't the default."""
    assert gpu.device.target is not None  # `find_measurable` hands on none without
    l2_bytes = gpu.torch.cuda.get_device_properties(place).L2_cache_size
    return BlockPlayer(
        comparison.shapes,
        gpu.device.target.kernel_arch,
        place,
        l2_bytes,
        max(comparison.batch_sizes),
        judging.recorded,
        kernel=kernels.__getitem__,
        checks_each_row=False,
    )


def measure(
    comparison: FileComparison, judging: Judging, player: BlockPlayer, ceilings: Ceilings, failures: Failures
) -> Iterator[RowVerdict]:
    """A verdict a batch size, the largest first. On a stream that isn't the default. player: of the file's shapes.

    ContextLost: nothing more can be measured in this process. torch.OutOfMemoryError, MachineError: nor judged.
    """
    for num_tokens in sorted(comparison.batch_sizes, reverse=True):
        parts = [
            judge(
                part,
                comparison.entries(num_tokens, part.engine),
                _PartTable(part, num_tokens, judging, player, ceilings, failures[part.engine, num_tokens]).play,
                judging.first_block,
                judging.most_blocks,
            )
            for part in comparison.parts(num_tokens, judging)
        ]
        yield RowVerdict(num_tokens, tuple(parts))


class _PartTable:
    """Where the blocks of one part are played."""

    def __init__(
        self,
        part: Part,
        num_tokens: int,
        judging: Judging,
        player: BlockPlayer,
        ceilings: Ceilings,
        failures: Mapping[LayerConfig, str],
    ) -> None:
        self._part, self._num_tokens, self._judging = part, num_tokens, judging
        self._player, self._ceilings, self._failures = player, ceilings, failures

    def play(self, configs: Sequence[LayerConfig], blocks: range) -> PlayedPart:
        part, known = self._part, {c: self._failures[c] for c in configs if c in self._failures}
        left = [config for config in configs if config not in known]
        found = self._player.play(self._judging.purpose, self._num_tokens, part, left, blocks)
        layer = self._player.layers[part.placement]
        floor = floor_of(self._ceilings, layer, self._num_tokens, found.load, part.engine)
        us = {config: times[0] for config, times in found.us.items()}
        failed = {config: _message(error) for config, error in found.failures.items()}
        return PlayedPart(us, {**known, **failed}, found.draws, floor.us, floor.bound)


def _message(error: Exception) -> str:
    """Raises what says nothing of the launch config."""
    if isinstance(error, torch.OutOfMemoryError):
        raise error
    status_of(error)
    return first_line(error)
