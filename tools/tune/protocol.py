"""What the tuner's parts hand to each other: the subject, jobs, events, and the runner that turns one into the other.

A strategy sees only these. Whether a GPU or a recorded landscape stands behind a `Runner` it can't tell. Standard
library only; every event is journaled as it is.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from kernels.launch_config import LaunchConfig
from kernels.problem import GDC_EARLY_ROWS, Flavour, QuantMode, Routing
from tools.compile.outcome import Status
from tools.errors import UserError
from tools.launch.axes import COMMON_GROUP_SIZE
from tools.launch.layer_config import LayerConfig
from tools.measure.layer import LayerShape, memory_bytes
from tools.measure.panel import Part, RoutingKind
from tools.registry.devices import Target
from tools.store.record import Environment, ShapeOfModels
from tools.store.workload import Workload


@dataclass(frozen=True)
class Subject:
    """What is tuned: the workload that names the file, every shape behind the name, and the GPU it runs on.

    arch as in devices.json (`sm_90`, `gfx942`). smem_bytes: shared memory that one block may have. engines: of each
    shape, those that read the name for it, the one that the search runs on first; empty: vLLM alone for all.
    """

    workload: Workload
    shapes: tuple[ShapeOfModels, ...]
    quant: QuantMode
    target: Target
    arch: str
    smem_bytes: int
    engines: tuple[tuple[Flavour, ...], ...] = ()

    @property
    def layers(self) -> tuple[LayerShape, ...]:
        """One for each shape behind the name."""
        return tuple(LayerShape.of(self.workload, named.shape, self.quant) for named in self.shapes)

    def engines_of(self, shape: int) -> tuple[Flavour, ...]:
        """That read the name for this shape."""
        return self.engines[shape] if self.engines else (Flavour.VLLM,)

    def first_engine(self, shape: int) -> Flavour:
        """In whose kernel's flavour the search measures the shape."""
        return self.engines_of(shape)[0]

    @property
    def placements(self) -> dict[Flavour, tuple[int, ...]]:
        """Of each engine the shapes that it reads the name for."""
        shapes = range(len(self.shapes))
        found = {engine: tuple(s for s in shapes if engine in self.engines_of(s)) for engine in Flavour}
        return {engine: places for engine, places in found.items() if places}

    def memory_bytes(self, num_tokens: int) -> int:
        """GPU memory that tuning up to so many tokens takes, beside the context."""
        return memory_bytes(self.layers, num_tokens)

    def routing(self, num_tokens: int, shape: int = 0) -> Routing:
        """Of a batch size under one of the shapes, as its first engine aligns it."""
        return self.layers[shape].routing(num_tokens, self.first_engine(shape))

    def compile_job(
        self, config: LaunchConfig, num_tokens: int, shape: int, engine: Flavour, up: LaunchConfig | None = None
    ) -> CompileJob:
        """What has to be compiled to measure it there. up: as in `CompileJob`."""
        layer = self.layers[shape]
        if up is not None:  # SGLang's own kernel, whose code is shaped by the number of pairs
            return CompileJob(kernel_of(config), shape, False, engine, num_tokens, kernel_of(up))
        is_naive = layer.routing(num_tokens, engine).is_naive
        likened = COMMON_NUM_TOKENS
        if engine is Flavour.SGLANG:
            # Up's rows are tokens, down's are pairs: by them SGLang says when the next launch may start.
            likened = (num_tokens * layer.top_k > GDC_EARLY_ROWS) + (num_tokens > GDC_EARLY_ROWS)
            likened = (1, GDC_EARLY_ROWS, GDC_EARLY_ROWS + 1)[likened]
        return CompileJob(kernel_of(config), shape, is_naive, engine, likened)

    @property
    def kernel_arch(self) -> str:
        """As `kernels.launch` spells it: sm90, gfx942."""
        return self.target.kernel_arch

    @property
    def is_rocm(self) -> bool:
        return self.target.backend == "hip"


# ---------------------------------------------------------------
# Jobs: what a strategy asks for. shape: index into Subject.shapes.


COMMON_NUM_TOKENS = 64
"""Stands for every batch size where its number shapes no code."""


@dataclass(frozen=True)
class CompileJob:
    """Both projections of one launch config. Group size shapes no code: configs that differ in it share binaries.

    num_tokens: a batch size that runs these binaries, as `Subject.compile_job` has it. up: what runs up, where the
    config is for down alone and uses descriptors; None: the config runs both.
    """

    config: LaunchConfig
    shape: int
    is_naive: bool
    engine: Flavour = Flavour.VLLM
    num_tokens: int = COMMON_NUM_TOKENS
    up: LaunchConfig | None = None

    @property
    def layer(self) -> LayerConfig:
        """What it is that compiles."""
        return LayerConfig(self.up or self.config, self.config)


@dataclass(frozen=True)
class ScreenJob:
    """A coarse time. Above give_up_us (up and down together) one sample is enough."""

    num_tokens: int
    shape: int
    config: LaunchConfig
    give_up_us: float | None = None
    engine: Flavour = Flavour.VLLM
    routing: RoutingKind = RoutingKind.UNIFORM

    @property
    def part(self) -> Part:
        return Part(self.engine, self.shape, self.routing)


@dataclass(frozen=True)
class BlockJob:
    """Blocks of fresh draws in one part: every config is played in each of them, and checked before it is first timed.

    first: the number of the first block, count: how many. is_apart: up and down each in a graph of its own, instead of
    one after the other as in the layer. up: what runs up for all of them, of their BLOCK_SIZE_M, while each runs down
    alone; None: each runs both.
    """

    num_tokens: int
    part: Part
    configs: tuple[LaunchConfig, ...]
    first: int
    count: int
    is_apart: bool = False
    up: LaunchConfig | None = None

    def layer(self, config: LaunchConfig) -> LayerConfig:
        """What the layer launches where this config is played."""
        return LayerConfig(self.up or config, config)


Job = CompileJob | ScreenJob | BlockJob


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
    """One config's times of up and down together, a value a block, in µs. Empty unless status is OK.

    up_us, down_us: of each where they were timed apart.
    """

    config: LaunchConfig
    status: Status
    us: tuple[float, ...] = ()
    up_us: tuple[float, ...] = ()
    down_us: tuple[float, ...] = ()
    message: str = ""

    @classmethod
    def apart(cls, config: LaunchConfig, up_us: tuple[float, ...], down_us: tuple[float, ...]) -> Series:
        """Of times of each. ValueError: not as many of both."""
        total_us = tuple(round(up + down, 4) for up, down in zip(up_us, down_us, strict=True))
        return cls(config, Status.OK, total_us, up_us, down_us)


@dataclass(frozen=True)
class Measured:
    """The series in the job's order. draws: of one block.

    active_experts: that the blocks' routings reached, on average; None: not counted.
    """

    job: BlockJob
    series: tuple[Series, ...]
    seconds: float
    active_experts: float | None = None
    draws: int = 1


Event = Compiled | Screened | Measured


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
    """What a worker is to measure. max_num_tokens: the largest batch size, for the memory that it takes.

    recorded: the file of recorded routing. down_kernel: the source of SGLang's kernel, for entries for down with
    USE_TMA; None: there are none.
    """

    subject: Subject
    max_num_tokens: int
    recorded: Path | None = None
    down_kernel: Path | None = None


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

    event: Screened | Measured
    is_last: bool = False


def failed(job: ScreenJob | BlockJob, status: Status, message: str, seconds: float = 0.0) -> Screened | Measured:
    """The event of a job that gave no time."""
    if isinstance(job, ScreenJob):
        return Screened(job, status, seconds, message=message)
    return Measured(job, tuple(Series(config, status, message=message) for config in job.configs), seconds)
