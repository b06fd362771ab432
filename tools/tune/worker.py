"""The process that owns the GPU: answers jobs until its pipe closes or its GPU context is lost. Imports torch.

Its parent imports no torch and holds no context, so a crash here costs one job.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Sequence
from multiprocessing.connection import Connection
from typing import Any

import torch
import triton

from kernels.launch_config import LaunchConfig
from kernels.problem import Flavour
from tools.compile.machine import status_of
from tools.compile.outcome import Status
from tools.errors import MachineError
from tools.launch.layer_config import LayerConfig
from tools.measure.blocks import BlockPlayer, Clock, ContextLost, Played
from tools.measure.environment import environment_here
from tools.measure.gpu import busy_notes, measure_ceilings
from tools.measure.inputs import num_coarse_routings
from tools.measure.kernels import EngineKernel
from tools.measure.layer import DOWN, UP
from tools.measure.recorded_routing import read_recorded_routing
from tools.measure.seeds import Purpose
from tools.measure.timing import MAX_TRIES, Replay
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
        subject = spec.subject
        player = BlockPlayer(
            subject.layers,
            subject.kernel_arch,
            device,
            l2_bytes,
            spec.max_num_tokens,
            recorded,
            descriptors=EngineKernel(spec.down_kernel, Flavour.SGLANG) if spec.down_kernel else None,
        )
        timer = RowTimer(subject, player)
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
    free, _ = machine.cuda.mem_get_info()
    need = spec.subject.memory_bytes(spec.max_num_tokens)
    if need > free:
        return Refusal(
            f"{spec.subject.workload.file_name()}: expected {need / 2**30:.1f} GiB of free GPU memory for weights and "
            f"activations, found {free / 2**30:.1f}. Fix: a larger tp or ep, or smaller batch sizes (--num-tokens)."
        )
    return environment_here(machine, triton), busy_notes(machine)


# ---------------------------------------------------------------
# Times launch configs, checked against the reference first

SCREEN_US = 1500.0
"""Screening replays until about so much time is sampled, at least twice."""
MAX_SCREEN_REPLAYS = 6


class RowTimer:
    """Answers the jobs that measure. On a stream that isn't the default."""

    def __init__(self, subject: Subject, player: BlockPlayer) -> None:
        """player: of the subject's layers."""
        self._subject, self._player = subject, player
        self._checked: set[CompileJob] = set()

    def screen(self, job: ScreenJob) -> Screened:
        """ContextLost: nothing more can be measured in this process. MachineError: nor in another one."""
        started = time.monotonic()
        try:
            up_us, down_us = self._screen(job)
        except Exception as error:
            self._player.survive(error)
            status, message = status_of(error)
            return Screened(job, status, time.monotonic() - started, message=message)
        return Screened(job, Status.OK, time.monotonic() - started, round(up_us, 4), round(down_us, 4))

    def measure(self, job: BlockJob) -> Measured:
        """Errors as `screen`."""
        started = time.monotonic()
        blocks = range(job.first, job.first + job.count)
        configs = tuple(map(job.layer, job.configs))
        played = self._player.play(Purpose.CHOICE, job.num_tokens, job.part, configs, blocks, is_apart=job.is_apart)
        series = tuple(_series(config, job.layer(config), played) for config in job.configs)
        return Measured(job, series, time.monotonic() - started, played.load.active_experts, played.draws)

    def _screen(self, job: ScreenJob) -> tuple[float, float]:
        player, clock = self._player, self._player.clock
        row = player.row(job.num_tokens, job.shape)
        kernel, config = player.kernel(job.engine), LayerConfig.of(job.config)
        binary = self._subject.compile_job(job.config, job.num_tokens, job.shape, job.engine)
        if binary not in self._checked:
            player.check(row, kernel, config, job.shape)
            self._checked.add(binary)
        player.deal(row, Purpose.SEARCH, job.shape, job.routing, 0)
        routings = num_coarse_routings(player.layers[job.shape], job.num_tokens, player.l2_bytes)
        # SGLang's launches start before the last one has ended, so that up behind up takes another time than up behind
        # down: at one token a third of it, on an H100.
        in_order = job.engine is Flavour.SGLANG
        if in_order:
            first = clock.capture(row.layers(kernel, config, routings), 2)
        else:
            first = clock.capture(row.launches(kernel, config, UP, routings), 1)
        replays = [first, clock.capture(row.launches(kernel, config, DOWN, routings), 1)]
        first_us, down_us = _medians(clock, replays, 1, in_order=in_order)
        total_us = first_us + (0.0 if in_order else down_us)
        # The first replay uploads the graph: it can only tell that a config is far off.
        if job.give_up_us is None or total_us <= job.give_up_us:
            times = min(MAX_SCREEN_REPLAYS, max(2, math.ceil(SCREEN_US / (total_us * routings))))
            first_us, down_us = _medians(clock, replays, times, in_order=in_order)
        return (max(0.0, first_us - down_us), min(down_us, first_us)) if in_order else (first_us, down_us)


def _medians(clock: Clock, replays: Sequence[Replay], times: int, *, in_order: bool) -> tuple[float, float]:
    """µs of a launch of each of two replays; in_order: of the whole layer and of its down.

    Down alone can't take as long as the layer. Where it seems to, the host was held up before a launch (some one
    screening in 10,000 on an H100, all cores compiling), and it is sampled again: up would seem to take no time. Of
    samples that all say so, the one that says the least of it counts.
    """
    tries: list[tuple[float, float]] = []
    while len(tries) < MAX_TRIES:
        first_us, down_us = (statistics.median(series) for series in clock.sample(replays, times))
        if not in_order or down_us < first_us:
            return first_us, down_us
        tries.append((first_us, down_us))
    return max(tries, key=lambda us: us[0] - us[1])


def _series(config: LaunchConfig, layer: LayerConfig, played: Played) -> Series:
    if layer in played.failures:
        status, message = status_of(played.failures[layer])
        return Series(config, status, message=message)
    times = [_rounded(us) for us in played.us[layer]]
    return Series(config, Status.OK, times[0]) if len(times) == 1 else Series.apart(config, times[0], times[1])


def _rounded(times: Sequence[float]) -> tuple[float, ...]:
    return tuple(round(us, 4) for us in times)
