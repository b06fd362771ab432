"""The process that measures for a survey: plays what an engine launches for a file in blocks of fresh draws.

Imports torch. Its parent (`tools.portfolio.survey_process`) holds no context of the GPU, so what a launch breaks here
costs one shape of one file.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from multiprocessing.connection import Connection

import torch

from tools.bench.session import Gpu
from tools.compile.machine import status_of
from tools.errors import UserError, first_line
from tools.measure.blocks import BlockPlayer, Clock, ContextLost
from tools.measure.gpu import busy_notes, release
from tools.measure.kernels import Kernel
from tools.measure.layer import LayerShape, memory_bytes
from tools.measure.panel import MIN_BLOCKS, Part, RoutingKind
from tools.measure.seeds import Purpose
from tools.portfolio.survey_plan import RowConfigs
from tools.portfolio.survey_protocol import (
    GpuLostError,
    Launched,
    Measurement,
    Ready,
    ShapeNotMeasuredError,
    TimedRow,
)
from tools.registry.devices import Target

Failures = Mapping[Launched, str]


def serve(connection: Connection, kernel: Kernel) -> None:
    """Sends a `Ready`, then the rows of each `Measurement`; a UserError in place of either, the last where it must end.

    Until its pipe closes.
    """
    try:
        gpu = Gpu.here()
        surveyor = Surveyor.here(gpu, kernel)
        connection.send(Ready(gpu.environment(), busy_notes(torch)))
    except UserError as error:
        connection.send(error)
        return
    with contextlib.suppress(EOFError), torch.cuda.stream(torch.cuda.Stream()):
        while _answer(connection, surveyor):
            pass


def _answer(connection: Connection, surveyor: Surveyor) -> bool:
    """Whether there may be a next one."""
    asked: Measurement = connection.recv()
    try:
        connection.send(surveyor.measure(asked.layer, asked.rows, asked.failures))
    except ShapeNotMeasuredError as error:
        connection.send(error)
    except UserError as error:
        connection.send(error)
        return False
    return True


class Surveyor:
    """Times launches of one kernel, the engine's own. On a stream that isn't the default."""

    def __init__(
        self, kernel: Kernel, target: Target, device: torch.device, l2_bytes: int, clock: Clock | None = None
    ) -> None:
        self._kernel, self._target, self._clock = kernel, target, clock or Clock()
        self._device, self._l2_bytes = device, l2_bytes

    @classmethod
    def here(cls, gpu: Gpu, kernel: Kernel) -> Surveyor:
        """On the current GPU."""
        assert gpu.device.target is not None  # `find_measurable` hands on none without
        device = torch.device("cuda", torch.cuda.current_device())
        l2_bytes = torch.cuda.get_device_properties(device).L2_cache_size
        return cls(kernel, gpu.device.target, device, l2_bytes)

    def measure(self, layer: LayerShape, rows: Mapping[int, RowConfigs], failures: Failures) -> tuple[TimedRow, ...]:
        """rows: by batch size. ShapeNotMeasuredError: too large for this GPU. GpuLostError: a launch broke the context.

        MachineError: a launch failed by what says nothing of it.
        """
        release(torch)  # what the last layer held isn't free until then
        need, (free, _) = memory_bytes([layer], max(rows)), torch.cuda.mem_get_info()
        if need > free:
            raise ShapeNotMeasuredError(f"{layer.shape} takes {_gib(need)} of GPU memory, {_gib(free)} are free")
        try:
            return self._rows(layer, rows, failures)
        except torch.OutOfMemoryError:
            pass  # its traceback holds the layer's memory
        except ContextLost as error:
            raise GpuLostError(f"the GPU doesn't answer any more, after {error}") from error
        raise ShapeNotMeasuredError(f"{layer.shape}: the GPU's memory ran out")

    def _rows(self, layer: LayerShape, rows: Mapping[int, RowConfigs], failures: Failures) -> tuple[TimedRow, ...]:
        """The largest batch size first, where a binary is checked: there indexing breaks."""
        player = BlockPlayer(
            [layer],
            self._target.kernel_arch,
            self._device,
            self._l2_bytes,
            max(rows),
            clock=self._clock,
            kernel=lambda _: self._kernel,
            checks_each_row=False,
        )
        timed = [self._row(player, num_tokens, rows[num_tokens], failures) for num_tokens in sorted(rows, reverse=True)]
        return tuple(reversed(timed))

    def _row(self, player: BlockPlayer, num_tokens: int, configs: RowConfigs, failures: Failures) -> TimedRow:
        part, (layer,) = Part(self._kernel.flavour, 0, RoutingKind.UNIFORM), player.layers
        failed = {config: why for config in configs.distinct if (why := failures.get((layer, num_tokens, config)))}
        left = [config for config in configs.distinct if config not in failed]
        played = player.play(Purpose.JUDGEMENT, num_tokens, part, left, range(MIN_BLOCKS))
        failed |= {config: _message(error) for config, error in played.failures.items()}
        return TimedRow(num_tokens, {config: us for config, (us,) in played.us.items()}, failed)


def _gib(num_bytes: int) -> str:
    return f"{num_bytes / 2**30:.1f} GiB"


def _message(error: Exception) -> str:
    """Raises what says nothing of the launch: MachineError, torch.OutOfMemoryError."""
    if isinstance(error, torch.OutOfMemoryError):
        raise error
    status_of(error)
    return first_line(error)
