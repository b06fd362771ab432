"""What the tuner's parts hand to each other: the subject, jobs, events, and the runner that turns one into the other.

A strategy sees only these. Whether a GPU or a recorded landscape stands behind a `Runner` it can't tell. Standard
library only; every event is journaled as it is.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Protocol

from kernels.launch_config import LaunchConfig
from kernels.problem import QuantMode, Routing
from tools.compile.outcome import Status
from tools.errors import UserError
from tools.launch.axes import COMMON_GROUP_SIZE
from tools.measure.layer import LayerShape
from tools.measure.panel import RoutingKind
from tools.registry.devices import Target
from tools.store.record import Environment, ShapeOfModels
from tools.store.workload import Workload


@dataclass(frozen=True)
class Subject:
    """What is tuned: the workload that names the file, every shape behind the name, and the GPU it runs on.

    arch as in devices.json (`sm_90`, `gfx942`). smem_bytes: shared memory that one block may have.
    """

    workload: Workload
    shapes: tuple[ShapeOfModels, ...]
    quant: QuantMode
    target: Target
    arch: str
    smem_bytes: int

    @property
    def layers(self) -> tuple[LayerShape, ...]:
        """One for each shape behind the name."""
        return tuple(LayerShape.of(self.workload, named.shape, self.quant) for named in self.shapes)

    def routing(self, num_tokens: int, shape: int = 0) -> Routing:
        """Of a batch size under one of the shapes."""
        return self.layers[shape].routing(num_tokens)

    @property
    def kernel_arch(self) -> str:
        """As `kernels.launch` spells it: sm90, gfx942."""
        return self.target.kernel_arch

    @property
    def is_rocm(self) -> bool:
        return self.target.backend == "hip"


# ---------------------------------------------------------------
# Jobs: what a strategy asks for. shape: index into Subject.shapes.


@dataclass(frozen=True)
class CompileJob:
    """Both projections of one launch config. Group size shapes no code: configs that differ in it share binaries."""

    config: LaunchConfig
    shape: int
    is_naive: bool


@dataclass(frozen=True)
class ScreenJob:
    """A coarse time. Above give_up_us (up and down together) one sample is enough."""

    num_tokens: int
    shape: int
    config: LaunchConfig
    give_up_us: float | None = None


@dataclass(frozen=True)
class ConfirmJob:
    """Exact times of a few configs, interleaved round by round and each checked against the reference."""

    num_tokens: int
    shape: int
    configs: tuple[LaunchConfig, ...]
    rounds: int


Job = CompileJob | ScreenJob | ConfirmJob


# ---------------------------------------------------------------
# Events: what became of a job. seconds: what it cost.


@dataclass(frozen=True)
class Compiled:
    """status OK: both projections compile, fit, and don't spill. kernels: how many were compiled for it just now."""

    job: CompileJob
    status: Status
    seconds: float
    kernels: int = 0
    message: str = ""


@dataclass(frozen=True)
class Screened:
    """Times of one launch in µs; 0 unless status is OK."""

    job: ScreenJob
    status: Status
    seconds: float
    up_us: float = 0.0
    down_us: float = 0.0
    message: str = ""

    @property
    def total_us(self) -> float:
        return self.up_us + self.down_us


@dataclass(frozen=True)
class Series:
    """One config's samples of a confirmation: a pair of times for every round. Empty unless status is OK."""

    config: LaunchConfig
    status: Status
    up_us: tuple[float, ...] = ()
    down_us: tuple[float, ...] = ()
    message: str = ""

    @property
    def total_us(self) -> tuple[float, ...]:
        return tuple(up + down for up, down in zip(self.up_us, self.down_us, strict=True))


@dataclass(frozen=True)
class Confirmed:
    """The series in the job's order. active_experts: that the routings reached, on average; None: not counted."""

    job: ConfirmJob
    series: tuple[Series, ...]
    seconds: float
    active_experts: float | None = None


Event = Compiled | Screened | Confirmed


class Runner(Protocol):
    """Turns jobs into events. Compiling goes on beside measuring; measuring is one job after the other."""

    @property
    def clock_s(self) -> float:
        """Seconds since the run began. A replay's clock runs on recorded seconds."""

    @property
    def compile_slots(self) -> int:
        """How many compile jobs it can work on at once: handing out more only fixes their order too early."""

    def submit(self, job: Job) -> None:
        """Queues a job. Jobs of one kind are done in the order they came."""

    def wait(self) -> Event:
        """The next event. LookupError: nothing is outstanding. RunnerError: the device is lost for good."""


class RunnerError(RuntimeError):
    """Nothing more can be measured: no worker comes up. One line for a person."""


class DeviceRefused(UserError):  # noqa: N818  # says what it is
    """The machine can't do it: wrong GPU, too little memory. One line for a person."""


def kernel_of(config: LaunchConfig) -> LaunchConfig:
    """What stands for every launch config that shares its binaries: the one with the common group size."""
    return replace(config, GROUP_SIZE_M=COMMON_GROUP_SIZE)


# ---------------------------------------------------------------
# What is said between the process that owns the GPU and its parent


@dataclass(frozen=True)
class WorkerSpec:
    """What a worker is to measure. max_num_tokens: the largest batch size, for the memory that it takes."""

    subject: Subject
    max_num_tokens: int
    routing_kind: RoutingKind = RoutingKind.UNIFORM


@dataclass(frozen=True)
class DeviceReport:
    """What a worker found when it came up. Rates are measured.

    environment None: a landscape that doesn't tell all of it.
    """

    environment: Environment | None
    memory_bytes_per_s: float
    dense_per_s: float
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Refusal:
    """Why this machine can't do it. One line for a person."""

    message: str


@dataclass(frozen=True)
class WorkerAnswer:
    """is_last: the context is lost, and the worker ends."""

    event: Screened | Confirmed
    is_last: bool = False


def failed(job: ScreenJob | ConfirmJob, status: Status, message: str, seconds: float = 0.0) -> Screened | Confirmed:
    """The event of a job that gave no time."""
    if isinstance(job, ScreenJob):
        return Screened(job, status, seconds, message=message)
    return Confirmed(job, tuple(Series(config, status, message=message) for config in job.configs), seconds)
