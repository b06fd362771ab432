"""A runner that answers from a script, one job after the other, and keeps what it was asked."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from kernels.launch_config import LaunchConfig
from tools.compile.outcome import Status
from tools.tune.protocol import BlockJob, Compiled, CompileJob, Event, Job, Measured, Screened, ScreenJob, Series

Times = Callable[[BlockJob, LaunchConfig], tuple[float, ...]]


@dataclass
class ScriptedRunner:
    """times: of a config, a value a block. refused: what doesn't compile. failing: what doesn't run."""

    times: Times = lambda job, config: (10.0,) * job.count
    refused: Mapping[LaunchConfig, Status] = field(default_factory=dict)
    failing: Mapping[LaunchConfig, Status] = field(default_factory=dict)
    compile_slots: int = 2
    asked: list[Job] = field(default_factory=list)
    _events: deque[Event] = field(default_factory=deque)

    @property
    def clock_s(self) -> float:
        """A second a job."""
        return float(len(self.asked))

    def submit(self, job: Job) -> None:
        self.asked.append(job)
        self._events.append(self._answer(job))

    def wait(self) -> Event:
        if not self._events:
            raise LookupError("nothing is outstanding")
        return self._events.popleft()

    def _answer(self, job: Job) -> Event:
        if isinstance(job, CompileJob):
            return Compiled(job, self.refused.get(job.config, Status.OK), 1.0, 2)
        if isinstance(job, ScreenJob):
            status = self.failing.get(job.config, Status.OK)
            us = float(job.config.num_stages) if status is Status.OK else 0.0
            return Screened(job, status, 0.01, us, us)
        return Measured(job, tuple(self._series(job, config) for config in job.configs), 0.1)

    def _series(self, job: BlockJob, config: LaunchConfig) -> Series:
        if config in self.failing:
            return Series(config, self.failing[config], message="no")
        times = self.times(job, config)
        if not job.is_apart:
            return Series(config, Status.OK, times)
        return Series.apart(config, tuple(us * 2 / 3 for us in times), tuple(us / 3 for us in times))
