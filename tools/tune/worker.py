"""The process that owns the GPU: answers jobs until its pipe closes or its GPU context is lost. Imports torch.

Its parent imports no torch and holds no context, so a crash here costs one job.
"""

from __future__ import annotations

import functools
import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

import torch
import triton

from kernels.launch_config import LaunchConfig
from kernels.problem import Flavour
from tools.compile.machine import fault_of
from tools.compile.outcome import Status
from tools.errors import MachineError
from tools.measure.environment import environment_here
from tools.measure.gpu import busy_notes, measure_ceilings
from tools.measure.inputs import RowInputs, Weights, make_weights, num_coarse_routings, num_routings
from tools.measure.kernels import Kernel, OwnKernel
from tools.measure.layer import DOWN, UP
from tools.measure.panel import RoutingKind
from tools.measure.recorded_routing import RecordedRouting, RoutingSource, read_recorded_routing
from tools.measure.row import RowBench
from tools.measure.seeds import Purpose, seed_of
from tools.measure.timing import LaunchCall, Replay, capture, play_blocks, sample_once
from tools.registry.devices import load_devices
from tools.store.record import Environment
from tools.tune.protocol import (
    BlockJob,
    CompileJob,
    DeviceReport,
    Measured,
    Refusal,
    Screened,
    ScreenJob,
    Series,
    Subject,
    WorkerAnswer,
    WorkerSpec,
    failed,
)


def serve(connection: Connection, spec: WorkerSpec) -> None:
    """Sends a `DeviceReport` or a `Refusal`, then a `WorkerAnswer` for each job, or at its end a MachineError."""
    found = _look_around(torch, spec)
    if isinstance(found, Refusal):
        connection.send(found)
        return
    device = torch.device("cuda", torch.cuda.current_device())
    with torch.cuda.stream(torch.cuda.Stream()), torch.inference_mode():
        ceilings = measure_ceilings(device)
        bits = 8 if spec.subject.quant.quantizes_activations else 16
        environment, notes = found
        l2_bytes = torch.cuda.get_device_properties(device).L2_cache_size
        recorded = read_recorded_routing(spec.recorded) if spec.recorded else None
        timer = RowTimer(spec.subject, device, l2_bytes, recorded)
        connection.send(DeviceReport(environment, ceilings.memory_bytes_per_s, ceilings.dense_per_s(bits), notes))
        _answer_jobs(connection, timer)


def _answer_jobs(connection: Connection, timer: RowTimer) -> None:
    while True:
        try:
            job = connection.recv()
        except EOFError:
            return
        try:
            answer = WorkerAnswer(timer.screen(job) if isinstance(job, ScreenJob) else timer.measure(job))
        except MachineError as error:
            connection.send(error)
            return
        except ContextLost as error:
            answer = WorkerAnswer(failed(job, Status.RUNTIME, str(error)), is_last=True)
        connection.send(answer)
        if answer.is_last:
            return


def _look_around(machine: Any, spec: WorkerSpec) -> Refusal | tuple[Environment, tuple[str, ...]]:
    """Why it can't be measured here, or (the environment, notes). machine: torch, or what a test puts in its place."""
    if not machine.cuda.is_available():
        return Refusal("expected a GPU that torch can use, found none. Fix: run where there is one.")
    name = machine.cuda.get_device_name()
    devices, wanted = load_devices(), spec.subject.workload.device_name
    if devices.get(name) != devices.get(wanted):
        return Refusal(f"GPU: expected {wanted}, found {name}. Fix: CUDA_VISIBLE_DEVICES chooses another.")
    free, total = machine.cuda.mem_get_info()
    need = spec.subject.memory_bytes(spec.max_num_tokens)
    if need > free:
        return Refusal(
            f"{spec.subject.workload.file_name()}: expected {need / 2**30:.1f} GiB of free GPU memory for weights and "
            f"activations, found {free / 2**30:.1f}. Fix: a larger tp or ep, or smaller batch sizes (--num-tokens)."
        )
    return environment_here(machine, triton), busy_notes(free, total)


# ---------------------------------------------------------------
# Times launch configs, checked against the reference first

NUM_CHECKED_TOKENS = 16
SCREEN_US = 1500.0
"""Screening replays until about so much time is sampled, at least twice."""
MAX_SCREEN_REPLAYS = 6


class ContextLost(RuntimeError):  # noqa: N818  # a fact, not an error of this program
    """The GPU context of this process is broken: every later launch would fail as well."""


def _capture_coarse(launches: Sequence[LaunchCall]) -> Replay:
    return capture(launches, 1)


def _capture_deck(launches: Sequence[LaunchCall], a_sample: int) -> Replay:
    return capture(launches, a_sample, a_sample=a_sample, is_played=True)


@dataclass(frozen=True)
class Clock:
    """The thin edge to the GPU, replaced in tests. capture_deck: launches of a whole block, so many to a sample."""

    capture: Callable[[Sequence[LaunchCall]], Replay] = _capture_coarse
    capture_deck: Callable[[Sequence[LaunchCall], int], Replay] = _capture_deck
    play: Callable[[Sequence[Replay], Sequence[Callable[[], object]]], list[list[float]]] = play_blocks
    sample: Callable[[Sequence[Replay], int], list[list[float]]] = sample_once
    synchronize: Callable[[], None] = lambda: torch.cuda.synchronize()


def _own_kernel(engine: Flavour) -> Kernel:
    return OwnKernel(flavour=engine)


@dataclass(frozen=True)
class _GraphKey:
    """Of a config's graphs: a row's buffers stay where they are, so a graph serves all of its blocks."""

    num_tokens: int
    shape: int
    engine: Flavour
    is_apart: bool
    config: LaunchConfig


class RowTimer:
    """Weights are made once, inputs of a batch size when it is first asked for. On a stream that isn't the default."""

    def __init__(
        self,
        subject: Subject,
        device: torch.device,
        l2_bytes: int,
        recorded: RecordedRouting | None = None,
        clock: Clock = Clock(),  # frozen
        kernel: Callable[[Flavour], Any] = _own_kernel,
    ) -> None:
        """recorded: what the kind of that name is dealt from."""
        self._subject, self._l2_bytes, self._recorded = subject, l2_bytes, recorded
        self._clock, self._kernel = clock, kernel
        self._shapes = subject.layers
        # Shapes that differ in top_k alone share their weights.
        by_width = {shape.hidden_size: make_weights(shape, device) for shape in self._shapes}
        self._weights: list[Weights] = [by_width[shape.hidden_size] for shape in self._shapes]
        self._rows: dict[tuple[int, int], RowBench] = {}
        self._checked: set[CompileJob] = set()
        self._graphs: dict[_GraphKey, list[Replay]] = {}

    def screen(self, job: ScreenJob) -> Screened:
        """ContextLost: nothing more can be measured in this process. MachineError: nor in another one."""
        started = time.monotonic()
        try:
            up_us, down_us = self._screen(job)
        except Exception as error:
            status, message = self._status_of(error)
            return Screened(job, status, time.monotonic() - started, message=message)
        return Screened(job, Status.OK, time.monotonic() - started, round(up_us, 4), round(down_us, 4))

    def measure(self, job: BlockJob) -> Measured:
        """Errors as `screen`. Of a batch size nothing is checked or captured twice."""
        started = time.monotonic()
        row, part = self._row(job.num_tokens, job.part.placement), job.part
        failed: dict[LaunchConfig, Series] = {}
        replays: dict[LaunchConfig, list[Replay]] = {}
        for config in job.configs:
            try:
                replays[config] = self._contestant(job, row, config)
            except Exception as error:
                status, message = self._status_of(error)
                failed[config] = Series(config, status, message=message)
        deals = [
            functools.partial(self._deal, row, Purpose.CHOICE, part.placement, part.routing, block)
            for block in range(job.first, job.first + job.count)
        ]
        times = iter(self._clock.play([one for both in replays.values() for one in both], deals) if replays else ())
        found = {config: _series(config, [_rounded(next(times)) for _ in both]) for config, both in replays.items()}
        series = tuple(failed.get(config) or found[config] for config in job.configs)
        load = row.inputs.load
        return Measured(job, series, time.monotonic() - started, load.active_experts, row.inputs.num_routings)

    def _contestant(self, job: BlockJob, row: RowBench, config: LaunchConfig) -> list[Replay]:
        """Of the layer, or of up and down; correct."""
        key = _GraphKey(job.num_tokens, job.part.placement, job.part.engine, job.is_apart, config)
        if key not in self._graphs:
            kernel = self._kernel(key.engine)
            self._check(row, kernel, config, key.shape)
            if key.is_apart:
                decks = [row.launches(kernel, config, projection) for projection in (UP, DOWN)]
                self._graphs[key] = [self._clock.capture_deck(deck, 1) for deck in decks]
            else:
                self._graphs[key] = [self._clock.capture_deck(row.layers(kernel, config), 2)]
        return self._graphs[key]

    def _screen(self, job: ScreenJob) -> tuple[float, float]:
        row = self._row(job.num_tokens, job.shape)
        kernel = self._kernel(job.engine)
        binary = self._subject.compile_job(job.config, job.num_tokens, job.shape, job.engine)
        if binary not in self._checked:
            self._check(row, kernel, job.config, job.shape)
            self._checked.add(binary)
        self._deal(row, Purpose.SEARCH, job.shape, job.routing, 0)
        routings = num_coarse_routings(self._shapes[job.shape], job.num_tokens, self._l2_bytes)
        replays = [
            self._clock.capture(row.launches(kernel, job.config, projection, routings)) for projection in (UP, DOWN)
        ]
        samples = self._clock.sample(replays, 1)
        total_us = sum(series[0] for series in samples)
        # The first replay uploads the graph: it can only tell that a config is far off.
        if job.give_up_us is None or total_us <= job.give_up_us:
            times = min(MAX_SCREEN_REPLAYS, max(2, math.ceil(SCREEN_US / (total_us * routings))))
            samples = self._clock.sample(replays, times)
        up_us, down_us = (statistics.median(series) for series in samples)
        return up_us, down_us

    def _check(self, row: RowBench, kernel: Any, config: LaunchConfig, shape: int) -> None:
        """On one and the same block, whatever was dealt since: the reference takes longer than all the checks of it."""
        self._deal(row, Purpose.SEARCH, shape, RoutingKind.UNIFORM, 0)
        for projection in (UP, DOWN):
            row.check(kernel, config, projection)

    def _deal(self, row: RowBench, purpose: Purpose, shape: int, kind: RoutingKind, block: int) -> None:
        """Unless it lies there already."""
        seed = seed_of(purpose, row.inputs.routing.num_tokens, shape, kind, block)
        if row.inputs.dealt != (kind, seed):
            row.inputs.deal(self._source(kind), seed)

    def _source(self, kind: RoutingKind) -> RoutingSource:
        return RoutingSource(kind, self._recorded if kind is RoutingKind.RECORDED else None)

    def _row(self, num_tokens: int, shape: int) -> RowBench:
        key = num_tokens, shape
        if key not in self._rows:
            layer = self._shapes[shape]
            count = num_routings(layer, num_tokens, self._l2_bytes)
            seed = seed_of(Purpose.SEARCH, num_tokens, shape, RoutingKind.UNIFORM, block=0)
            inputs = RowInputs(layer, self._weights[shape], num_tokens, count, RoutingSource(), seed)
            self._rows[key] = RowBench(
                layer, self._weights[shape], inputs, self._subject.kernel_arch, NUM_CHECKED_TOKENS
            )
        return self._rows[key]

    def _status_of(self, error: Exception) -> tuple[Status, str]:
        """ContextLost where the GPU doesn't answer any more, MachineError where a launch finds no place to write to."""
        message = f"{type(error).__name__}: {error}".split("\n")[0][:500]
        if isinstance(error, AssertionError):
            return Status.CORRECTNESS, message
        if fault := fault_of(error):
            raise fault.error() from error
        if isinstance(error, torch.OutOfMemoryError):
            torch.cuda.empty_cache()
            return Status.RUNTIME, message
        try:
            self._clock.synchronize()
        except Exception as lost:
            raise ContextLost(message) from lost
        return (Status.CONSTRAINTS if isinstance(error, ValueError) else Status.RUNTIME), message


def _series(config: LaunchConfig, times: Sequence[tuple[float, ...]]) -> Series:
    """times: of the layer, or of up and of down."""
    return Series(config, Status.OK, times[0]) if len(times) == 1 else Series.apart(config, times[0], times[1])


def _rounded(times: Sequence[float]) -> tuple[float, ...]:
    return tuple(round(us, 4) for us in times)
