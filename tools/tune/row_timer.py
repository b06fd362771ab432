"""Times launch configs on the GPU of this process, checked against the reference first. Imports torch."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from kernels.launch_config import LaunchConfig
from tools.compile.outcome import Status
from tools.measure.inputs import RowInputs, Weights, make_weights, num_coarse_routings, num_routings
from tools.measure.kernels import OwnKernel
from tools.measure.layer import DOWN, UP, LayerShape
from tools.measure.row import RowBench
from tools.measure.timing import LaunchCall, Policy, Replay, capture, measure_series, sample_once
from tools.tune.model import Confirmed, ConfirmJob, Screened, ScreenJob, Series, Subject, kernel_of

NUM_CHECKED_TOKENS = 16
SCREEN_US = 1500.0
"""Screening replays until about so much time is sampled, at least twice."""
MAX_SCREEN_REPLAYS = 6


class ContextLost(RuntimeError):  # noqa: N818  # a fact, not an error of this program
    """The GPU context of this process is broken: every later launch would fail as well."""


@dataclass(frozen=True)
class Clock:
    """The thin edge to the GPU, replaced in tests."""

    capture: Callable[[Sequence[LaunchCall], int], Replay] = capture
    measure: Callable[[Sequence[Replay], Policy], list[list[float]]] = measure_series
    sample: Callable[[Sequence[Replay], int], list[list[float]]] = sample_once
    synchronize: Callable[[], None] = lambda: torch.cuda.synchronize()


@dataclass(frozen=True)
class _Contest:
    """Graphs of the batch size that is being confirmed, by shape and config."""

    num_tokens: int
    replays: dict[tuple[int, LaunchConfig], list[Replay]]


class RowTimer:
    """Weights are made once, inputs of a batch size when it is first asked for. On a stream that isn't the default."""

    def __init__(
        self,
        subject: Subject,
        device: torch.device,
        l2_bytes: int,
        routing_kind: str = "uniform",
        clock: Clock = Clock(),  # frozen
        contender: Any = OwnKernel(),  # noqa: B008  # frozen
    ) -> None:
        self._subject, self._l2_bytes, self._routing_kind = subject, l2_bytes, routing_kind
        self._clock, self._contender = clock, contender
        self._shapes = layer_shapes(subject)
        # Shapes that differ in top_k alone share their weights.
        by_width = {shape.hidden_size: make_weights(shape, device) for shape in self._shapes}
        self._weights: list[Weights] = [by_width[shape.hidden_size] for shape in self._shapes]
        self._rows: dict[tuple[int, int], RowBench] = {}
        self._checked: set[tuple[LaunchConfig, int, bool]] = set()
        self._contest = _Contest(0, {})

    def screen(self, job: ScreenJob) -> Screened:
        """ContextLost: nothing more can be measured in this process."""
        started = time.monotonic()
        try:
            up_us, down_us = self._screen(job)
        except Exception as error:
            status, message = self._status_of(error)
            return Screened(job, status, time.monotonic() - started, message=message)
        return Screened(job, Status.OK, time.monotonic() - started, round(up_us, 4), round(down_us, 4))

    def confirm(self, job: ConfirmJob) -> Confirmed:
        """ContextLost as `screen`. At the same batch size nothing is checked or captured twice."""
        started = time.monotonic()
        row = self._row(job.num_tokens, job.shape)
        failed: dict[LaunchConfig, Series] = {}
        replays: dict[LaunchConfig, list[Replay]] = {}
        for config in job.configs:
            try:
                replays[config] = self._contestant(job, row, config)
            except Exception as error:
                failed[config] = Series(config, *_without_times(self._status_of(error)))
        policy = Policy(min_rounds=job.rounds, max_rounds=job.rounds)
        flat = [replay for pair in replays.values() for replay in pair]
        times = self._clock.measure(flat, policy) if flat else []
        measured = {
            config: Series(config, Status.OK, _rounded(times[2 * i]), _rounded(times[2 * i + 1]))
            for i, config in enumerate(replays)
        }
        series = tuple(failed.get(config) or measured[config] for config in job.configs)
        return Confirmed(job, series, time.monotonic() - started, row.inputs.active_experts)

    def _contestant(self, job: ConfirmJob, row: RowBench, config: LaunchConfig) -> list[Replay]:
        """Of up and down, correct."""
        if self._contest.num_tokens != job.num_tokens:
            self._contest = _Contest(job.num_tokens, {})
        known = self._contest.replays
        if (job.shape, config) not in known:
            self._check(row, config)
            known[job.shape, config] = [self._capture(row, config, projection) for projection in (UP, DOWN)]
        return known[job.shape, config]

    def _screen(self, job: ScreenJob) -> tuple[float, float]:
        row = self._row(job.num_tokens, job.shape)
        kernel = kernel_of(job.config), job.shape, row.inputs.routing.is_naive
        if kernel not in self._checked:
            self._check(row, job.config)
            self._checked.add(kernel)
        routings = num_coarse_routings(self._shapes[job.shape], job.num_tokens, self._l2_bytes)
        replays = [self._capture(row, job.config, projection, routings) for projection in (UP, DOWN)]
        samples = self._clock.sample(replays, 1)
        total_us = sum(series[0] for series in samples)
        # The first replay uploads the graph: it can only tell that a config is far off.
        if job.give_up_us is None or total_us <= job.give_up_us:
            times = min(MAX_SCREEN_REPLAYS, max(2, math.ceil(SCREEN_US / (total_us * routings))))
            samples = self._clock.sample(replays, times)
        up_us, down_us = (statistics.median(series) for series in samples)
        return up_us, down_us

    def _check(self, row: RowBench, config: LaunchConfig) -> None:
        for projection in (UP, DOWN):
            row.check(self._contender, config, projection)

    def _capture(self, row: RowBench, config: LaunchConfig, projection: int, count: int | None = None) -> Replay:
        return self._clock.capture(row.launches(self._contender, config, projection, count), 1)

    def _row(self, num_tokens: int, shape: int) -> RowBench:
        key = num_tokens, shape
        if key not in self._rows:
            layer = self._shapes[shape]
            count = num_routings(layer, num_tokens, self._l2_bytes)
            inputs = RowInputs(
                layer, self._weights[shape], num_tokens, count, seed=num_tokens, routing_kind=self._routing_kind
            )
            self._rows[key] = RowBench(
                layer, self._weights[shape], inputs, self._subject.kernel_arch, NUM_CHECKED_TOKENS
            )
        return self._rows[key]

    def _status_of(self, error: Exception) -> tuple[Status, str]:
        """ContextLost where the GPU doesn't answer any more."""
        message = f"{type(error).__name__}: {error}".split("\n")[0][:500]
        if isinstance(error, AssertionError):
            return Status.CORRECTNESS, message
        if isinstance(error, torch.OutOfMemoryError):
            torch.cuda.empty_cache()
            return Status.RUNTIME, message
        try:
            self._clock.synchronize()
        except Exception as lost:
            raise ContextLost(message) from lost
        return (Status.CONSTRAINTS if isinstance(error, ValueError) else Status.RUNTIME), message


def layer_shapes(subject: Subject) -> tuple[LayerShape, ...]:
    """One for each shape behind the name."""
    workload = subject.workload
    return tuple(
        LayerShape(workload.E, workload.N, named.shape.K, named.shape.top_k, subject.quant) for named in subject.shapes
    )


def _without_times(status: tuple[Status, str]) -> tuple[Status, tuple[float, ...], tuple[float, ...], str]:
    return status[0], (), (), status[1]


def _rounded(times: Sequence[float]) -> tuple[float, ...]:
    return tuple(round(us, 4) for us in times)
