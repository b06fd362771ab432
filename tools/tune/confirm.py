"""The last word on a row: its best few, the incumbent and the heuristics, interleaved until their intervals part."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from kernels.launch_config import LaunchConfig
from tools.compile.outcome import Status
from tools.measure.gate import PairedComparison
from tools.tune.policy import ConfirmPolicy
from tools.tune.protocol import Confirmed, ConfirmJob, Event, Runner, Subject


@dataclass(frozen=True)
class RowSamples:
    """One config's times at one row under one shape, a sample a round, in µs."""

    up_us: tuple[float, ...]
    down_us: tuple[float, ...]

    @property
    def total_us(self) -> tuple[float, ...]:
        return tuple(up + down for up, down in zip(self.up_us, self.down_us, strict=True))

    def first(self, rounds: int) -> RowSamples:
        """Those of the first rounds."""
        return RowSamples(self.up_us[:rounds], self.down_us[:rounds])

    def __add__(self, other: RowSamples) -> RowSamples:
        return RowSamples(self.up_us + other.up_us, self.down_us + other.down_us)


@dataclass(frozen=True)
class Confirmation:
    """What confirming a row gave. samples: by config, one `RowSamples` a shape; only configs that passed under all.

    active_experts: by shape, as the last job counted them.
    """

    num_tokens: int
    samples: dict[LaunchConfig, tuple[RowSamples, ...]]
    failures: dict[LaunchConfig, tuple[Status, str]]
    active_experts: tuple[float | None, ...] = ()

    def loss(self, config: LaunchConfig) -> float:
        """Time over the fastest other's, round by round, the worst of all shapes. Infinite where it failed.

        Only rounds that both took part in count: a clock that was high when the other was dropped mustn't make it win.
        """
        if config not in self.samples:
            return math.inf
        return max(self._loss_under(config, shape) for shape in range(len(self.samples[config])))

    def best_of(self, configs: Iterable[LaunchConfig]) -> LaunchConfig | None:
        """The one with the least worst-case loss. None: all of them failed."""
        passed = [config for config in configs if config in self.samples]
        return min(passed, key=self.loss, default=None)

    def worst_shape(self, config: LaunchConfig) -> int:
        """The shape where it loses most."""
        return max(range(len(self.samples[config])), key=lambda shape: self._loss_under(config, shape))

    def beside(self, config: LaunchConfig, other: LaunchConfig) -> tuple[PairedComparison, ...]:
        """One a shape, over the rounds that both took part in: all jobs start with all configs."""
        return tuple(self._beside(config, other, shape) for shape in range(len(self.samples[config])))

    def _beside(self, config: LaunchConfig, other: LaunchConfig, shape: int) -> PairedComparison:
        return PairedComparison.of(
            *common_rounds(self.samples[config][shape].total_us, self.samples[other][shape].total_us)
        )

    def _loss_under(self, config: LaunchConfig, shape: int) -> float:
        return max(self._beside(config, other, shape).ratio.median for other in self.samples)


def common_rounds(*series: Sequence[float]) -> list[Sequence[float]]:
    """Each cut to the shortest."""
    rounds = min(map(len, series))
    return [one[:rounds] for one in series]


def confirm(
    subject: Subject,
    runner: Runner,
    num_tokens: int,
    finalists: Sequence[LaunchConfig],
    always: Sequence[LaunchConfig],
    policy: ConfirmPolicy,
    observe: Callable[[Event], None],
    deadline_s: float = math.inf,
) -> Confirmation:
    """Measures until the best finalist stands out from the others, or the policy's jobs or the clock are used up.

    always: what stays in to the end, since its figures are written down. A finalist that is slower than the best one
    beyond doubt is not measured further.
    """
    configs = list(dict.fromkeys([*finalists, *always]))
    confirmation = Confirmation(num_tokens, {}, {})
    for job in range(policy.max_jobs):
        confirmation = _measure(subject, runner, confirmation, configs, policy.rounds, observe)
        left = [config for config in configs if config in confirmation.samples]
        best = confirmation.best_of(left)
        rivals = [
            config for config in left if config in finalists and not _is_beaten(confirmation, config, best, policy)
        ]
        configs = list(dict.fromkeys([*rivals, *(config for config in always if config in confirmation.samples)]))
        if (job > 0 and len(rivals) < 2) or runner.clock_s >= deadline_s:
            break
    return confirmation


def _measure(
    subject: Subject,
    runner: Runner,
    confirmation: Confirmation,
    configs: Sequence[LaunchConfig],
    rounds: int,
    observe: Callable[[Event], None],
) -> Confirmation:
    """With another job's samples added. A config that this job leaves out keeps what it has."""
    found: dict[LaunchConfig, tuple[RowSamples, ...]] = {}
    failures = dict(confirmation.failures)
    active_experts: list[float | None] = []
    for shape in range(len(subject.shapes)):
        runner.submit(ConfirmJob(confirmation.num_tokens, shape, tuple(configs), rounds))
        event = _next_confirmed(runner, observe)
        active_experts.append(event.active_experts)
        for series in event.series:
            if series.status is Status.OK:
                found[series.config] = (*found.get(series.config, ()), RowSamples(series.up_us, series.down_us))
            else:
                failures[series.config] = series.status, series.message
    samples = {config: old for config, old in confirmation.samples.items() if config not in failures}
    for config, new in found.items():
        if config in samples:
            samples[config] = tuple(old + more for old, more in zip(samples[config], new, strict=True))
        elif config not in failures:
            samples[config] = new
    return Confirmation(confirmation.num_tokens, samples, failures, tuple(active_experts))


def _next_confirmed(runner: Runner, observe: Callable[[Event], None]) -> Confirmed:
    """Compilations that the search no longer waited for may still come in between."""
    while True:
        event = runner.wait()
        observe(event)
        if isinstance(event, Confirmed):
            return event


def _is_beaten(
    confirmation: Confirmation, config: LaunchConfig, best: LaunchConfig | None, policy: ConfirmPolicy
) -> bool:
    """Whether the best is faster under this one's worst shape by more than noise."""
    if best is None or config == best:
        return False
    worst = confirmation.beside(config, best)[confirmation.worst_shape(config)]
    return worst.ratio.low > 1.0 + policy.noise_pct / 100.0
