"""What a survey asks of the process that measures for it, and what that answers. Needs no GPU."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from tools.errors import UserError
from tools.launch.layer_config import LayerConfig
from tools.measure.layer import LayerShape
from tools.portfolio.survey_plan import RowConfigs, ShippedContest
from tools.store.record import Environment

Say = Callable[[str], None]

Launched = tuple[LayerShape, int, LayerConfig]
"""A layer, a batch size, and what runs there."""


class ShapeNotMeasuredError(UserError):
    """Why a shape can't be measured here. The message goes into the board."""


class GpuLostError(UserError):
    """Nothing more can be measured: in this process, whose context a launch broke, or on this GPU at all."""


@dataclass(frozen=True)
class Ready:
    """A process that can measure. notes: a line each, of what disturbs it."""

    environment: Environment
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Measurement:
    """What is to be timed. rows: by batch size. failures: of what is launched there."""

    layer: LayerShape
    rows: Mapping[int, RowConfigs]
    failures: Mapping[Launched, str]


@dataclass(frozen=True)
class TimedRow:
    """us: by launch configs, a value a block. failures: why others have none."""

    num_tokens: int
    us: Mapping[LayerConfig, Sequence[float]]
    failures: Mapping[LayerConfig, str]


class Timer(Protocol):
    """The GPU half, `survey_process.GpuTimer`."""

    @property
    def environment(self) -> Environment: ...

    @property
    def notes(self) -> Sequence[str]:
        """A line each, of what disturbs it."""

    def compile(self, contests: Sequence[ShippedContest], jobs: int, say: Say) -> Mapping[Launched, str]:
        """What can't be launched, and why. MachineError."""

    def measure(
        self, layer: LayerShape, rows: Mapping[int, RowConfigs], failures: Mapping[Launched, str]
    ) -> Sequence[TimedRow]:
        """rows: by batch size. ShapeNotMeasuredError: this shape isn't. GpuLostError, MachineError: nor any other."""
