"""The desk between a search and its runner: compiles before it measures, keeps every result, knows what is open.

A search only says which launch config it wants to know at which batch size. Several shapes behind one name are
measured apart; a config counts by its worst loss over them.
"""

from __future__ import annotations

import math
from collections import Counter, deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from kernels.launch_config import LaunchConfig
from tools.compile.outcome import Status
from tools.tune.model import Compiled, CompileJob, Event, Runner, Screened, ScreenJob, Subject, kernel_of

QUEUE_DEPTH = 3
"""Measurements handed out at once: enough that the GPU never waits, few enough that each knows the row's best."""

Observer = Callable[[Event], None]


@dataclass(frozen=True)
class Times:
    """Of one launch config at one batch size under one shape, in µs."""

    up_us: float
    down_us: float

    @property
    def total_us(self) -> float:
        return self.up_us + self.down_us


class Landscape:
    """What is known so far, by batch size, shape and launch config."""

    def __init__(self, num_shapes: int) -> None:
        self._num_shapes = num_shapes
        self._times: dict[tuple[int, int], dict[LaunchConfig, Times]] = {}
        self._best_us: dict[tuple[int, int], float] = {}

    def add(self, num_tokens: int, shape: int, config: LaunchConfig, times: Times) -> None:
        row = num_tokens, shape
        self._times.setdefault(row, {})[config] = times
        self._best_us[row] = min(self._best_us.get(row, math.inf), times.total_us)

    def best_us(self, num_tokens: int, shape: int) -> float:
        """Infinite as long as nothing is known."""
        return self._best_us.get((num_tokens, shape), math.inf)

    def times(self, num_tokens: int, shape: int, config: LaunchConfig) -> Times | None:
        return self._times.get((num_tokens, shape), {}).get(config)

    def ratio(self, num_tokens: int, config: LaunchConfig) -> float:
        """Time over the row's best, the worst of all shapes. Infinite: failed, or not measured under all of them."""
        worst = 1.0
        for shape in range(self._num_shapes):
            times = self.times(num_tokens, shape, config)
            if times is None:
                return math.inf
            worst = max(worst, times.total_us / self.best_us(num_tokens, shape))
        return worst

    def ranking(self, num_tokens: int) -> list[LaunchConfig]:
        """Every config that is known under all shapes, the best first."""
        known = [config for config in self._times.get((num_tokens, 0), {}) if self.ratio(num_tokens, config) < math.inf]
        return sorted(known, key=lambda config: self.ratio(num_tokens, config))


class Desk:
    """Turns wishes into jobs, events into a `Landscape`. observe sees every event."""

    def __init__(self, subject: Subject, runner: Runner, give_up_ratio: float, observe: Observer) -> None:
        self._subject, self._runner, self._observe = subject, runner, observe
        self._give_up_ratio = give_up_ratio
        self._compiled: dict[CompileJob, Status] = {}
        self._compiling: set[CompileJob] = set()
        self._waiting: dict[CompileJob, list[tuple[int, int, LaunchConfig]]] = {}
        self._queue: deque[tuple[int, int, LaunchConfig]] = deque()
        self._asked: set[tuple[int, LaunchConfig]] = set()
        self._measuring = 0
        self.landscape = Landscape(len(subject.shapes))
        self.failures: dict[LaunchConfig, Status] = {}

    @property
    def clock_s(self) -> float:
        return self._runner.clock_s

    @property
    def has_free_slot(self) -> bool:
        """Whether another kernel can be compiled at once."""
        return len(self._compiling) < self._runner.compile_slots

    @property
    def is_compiling(self) -> bool:
        return bool(self._compiling)

    @property
    def is_measuring(self) -> bool:
        return bool(self._measuring or self._queue)

    def screen(self, num_tokens: int, configs: Iterable[LaunchConfig]) -> None:
        """Wants their times at a batch size; what was asked before is not asked again."""
        for config in configs:
            if (num_tokens, config) in self._asked:
                continue
            self._asked.add((num_tokens, config))
            for shape in range(len(self._subject.shapes)):
                is_naive = self._subject.routing(num_tokens, shape).is_naive
                self._need(CompileJob(kernel_of(config), shape, is_naive), (num_tokens, shape, config))

    def step(self) -> None:
        """Hands out what it can and takes in one event. LookupError: nothing is outstanding."""
        while self._queue and self._measuring < QUEUE_DEPTH:
            num_tokens, shape, config = self._queue.popleft()
            limit_us = self.landscape.best_us(num_tokens, shape) * self._give_up_ratio
            self._runner.submit(ScreenJob(num_tokens, shape, config, limit_us if limit_us < math.inf else None))
            self._measuring += 1
        event = self._runner.wait()
        if isinstance(event, Compiled):
            self._on_compiled(event)
        elif isinstance(event, Screened):
            self._on_screened(event)
        self._observe(event)

    def finish(self) -> None:
        """Until everything asked for is known."""
        while self.is_measuring or self._compiling:
            self.step()

    def forget_compiling(self) -> None:
        """What isn't compiled by now is no longer waited for; should it still come, it is measured."""
        self._waiting.clear()
        self._compiling.clear()

    def outcomes(self) -> Counter[str]:
        """Launch configs by what became of them."""
        failed = Counter(status.value for status in self.failures.values())
        tried = {config for _, config in self._asked}
        ok = sum(1 for config in tried if config not in self.failures and kernel_of(config) not in self.failures)
        return failed + Counter({Status.OK.value: ok})

    def _need(self, job: CompileJob, wish: tuple[int, int, LaunchConfig]) -> None:
        status = self._compiled.get(job)
        if status is Status.OK:
            self._queue.append(wish)
        elif status is None:
            self._waiting.setdefault(job, []).append(wish)
            if job not in self._compiling:
                self._compiling.add(job)
                self._runner.submit(job)

    def _on_compiled(self, event: Compiled) -> None:
        job = event.job
        self._compiled[job] = event.status
        self._compiling.discard(job)
        wishes = self._waiting.pop(job, [])
        if event.status is Status.OK:
            self._queue.extend(wishes)
        else:
            self.failures[job.config] = event.status

    def _on_screened(self, event: Screened) -> None:
        self._measuring -= 1
        job = event.job
        if event.status is Status.OK:
            self.landscape.add(job.num_tokens, job.shape, job.config, Times(event.up_us, event.down_us))
        else:
            self.failures[job.config] = event.status
