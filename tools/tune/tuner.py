"""One workload from start to end: search, confirm row by row, decide. Knows neither files nor GPUs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from kernels.launch_config import LaunchConfig
from tools.launch.heuristics import sglang_heuristic, vllm_heuristic
from tools.measure.gate import Noise, PromotionPolicy, decide, passes_gate
from tools.measure.statistics import paired_ratio
from tools.store.record import Decision
from tools.tune.confirm import Confirmation, RowSamples, common_rounds, confirm
from tools.tune.policy import Policies
from tools.tune.protocol import Compiled, Confirmed, Event, Runner, Subject
from tools.tune.search import JobQueue, Measurements, Strategy, search
from tools.tune.space import Space

DOWN_FINALISTS = 3


@dataclass(frozen=True)
class Task:
    """What to tune and by which rules. incumbent: what an engine would run today, by batch size; empty: no file."""

    subject: Subject
    space: Space
    batch_sizes: tuple[int, ...]
    strategy: Strategy
    incumbent: Mapping[int, LaunchConfig] = field(default_factory=dict)
    separate_down: bool = False
    policies: Policies = field(default_factory=Policies)


@dataclass(frozen=True)
class SeparateDown:
    """Another entry for the down projection alone, and the whole row's time over that with one entry for both."""

    entry: LaunchConfig
    samples: tuple[RowSamples, ...]
    ratio: float


@dataclass(frozen=True)
class RowResult:
    """One batch size, decided. Each tuple of samples has one `RowSamples` a shape.

    shape: index of the shape where the entry loses most; with one shape 0. active_experts: that the routings of that
    shape reached, on average; None: not counted.
    """

    num_tokens: int
    entry: LaunchConfig
    decision: Decision
    shape: int
    chosen: tuple[RowSamples, ...]
    baseline: tuple[RowSamples, ...]
    sglang: tuple[RowSamples, ...] | None = None
    incumbent: tuple[RowSamples, ...] | None = None
    down: SeparateDown | None = None
    active_experts: float | None = None


@dataclass(frozen=True)
class Counts:
    """What a run did. outcomes: launch configs by status, those that the space's constraints reject included."""

    kernels_compiled: int
    measurements: int
    outcomes: Mapping[str, int]


@dataclass(frozen=True)
class TuneResult:
    """A tuned workload. is_cut_short: the search stopped at its time limit with candidates left."""

    rows: tuple[RowResult, ...]
    counts: Counts
    measurements: Measurements
    is_cut_short: bool


class TuneError(RuntimeError):
    """A row can't be decided. One line for a person."""


OnRow = Callable[[RowResult], None]


def tune(task: Task, runner: Runner, observe: Callable[[Event], None], on_row: OnRow) -> TuneResult:
    """Searches, then confirms every row; on_row sees each as it is decided.

    TuneError: a row's heuristic doesn't run, so that nothing can be compared with having no file.
    """
    counter = _Counter(observe)
    queue = JobQueue(task.subject, runner, task.policies.search.give_up_ratio, counter)
    is_cut_short = search(
        task.subject, task.space, task.batch_sizes, wanted_by_row(task), task.strategy, task.policies, queue
    )
    rows: list[RowResult] = []
    for done, num_tokens in enumerate(task.batch_sizes):
        left_s = max(0.0, task.policies.budget.total_s - runner.clock_s)
        deadline_s = runner.clock_s + left_s / (len(task.batch_sizes) - done)
        row = _row(task, runner, queue.measurements, num_tokens, counter, deadline_s)
        rows.append(row)
        on_row(row)
    outcomes = queue.outcomes()
    outcomes["constraints"] += len(task.space.rejected)
    counts = Counts(counter.kernels, counter.measurements, dict(outcomes))
    return TuneResult(tuple(rows), counts, queue.measurements, is_cut_short)


def baselines(subject: Subject, num_tokens: int) -> tuple[LaunchConfig, LaunchConfig]:
    """vLLM's and SGLang's heuristics. UnknownHeuristicError: a dtype that they don't run on this kernel."""
    workload = subject.workload
    return (
        vllm_heuristic(workload, num_tokens, is_rocm=subject.is_rocm),
        sglang_heuristic(workload, num_tokens, is_rocm=subject.is_rocm, smem_bytes=subject.smem_bytes),
    )


def wanted_by_row(task: Task) -> dict[int, tuple[LaunchConfig, ...]]:
    """What is measured in any case: both heuristics and the incumbent."""
    incumbent = {m: (entry,) for m, entry in task.incumbent.items()}
    return {m: (*baselines(task.subject, m), *incumbent.get(m, ())) for m in task.batch_sizes}


def _row(
    task: Task,
    runner: Runner,
    measurements: Measurements,
    num_tokens: int,
    observe: Callable[[Event], None],
    deadline_s: float,
) -> RowResult:
    vllm, sglang = baselines(task.subject, num_tokens)
    incumbent = task.incumbent.get(num_tokens)
    always = [vllm, *([incumbent] if incumbent else [])]
    # SGLang's heuristic is one more candidate: once it is beaten, a few samples are figure enough.
    finalists = [*measurements.ranking(num_tokens)[: task.policies.confirm.finalists], sglang]
    confirmation = confirm(
        task.subject, runner, num_tokens, finalists, always, task.policies.confirm, observe, deadline_s
    )
    if vllm not in confirmation.samples:
        status, message = confirmation.failures[vllm]
        raise TuneError(f"M={num_tokens}: expected vLLM's heuristic to run, found {status.value}: {message}.")
    entry, decision = _decide(confirmation, finalists, incumbent, vllm, task.policies.promotion)
    down = (
        _separate_down(task, runner, measurements, num_tokens, entry, observe, deadline_s)
        if task.separate_down
        else None
    )
    shape = confirmation.worst_shape(entry)
    # What is compared in the record comes from the same rounds.
    compared = [config for config in (entry, vllm, incumbent) if config in confirmation.samples]
    rounds = min(len(samples.up_us) for config in compared for samples in confirmation.samples[config])
    same_rounds = {
        config: tuple(samples.first(rounds) for samples in confirmation.samples[config]) for config in compared
    }
    return RowResult(
        num_tokens,
        entry,
        decision,
        shape,
        same_rounds[entry],
        same_rounds[vllm],
        confirmation.samples.get(sglang),
        same_rounds.get(incumbent) if incumbent else None,
        down,
        confirmation.active_experts[shape],
    )


def _decide(
    confirmation: Confirmation,
    finalists: Sequence[LaunchConfig],
    incumbent: LaunchConfig | None,
    vllm: LaunchConfig,
    policy: PromotionPolicy,
) -> tuple[LaunchConfig, Decision]:
    """The challenger is the finalist with the least worst-case loss of those that pass the gate under every shape."""
    candidates = [config for config in finalists if config in confirmation.samples and config not in (vllm, incumbent)]
    challenger = confirmation.best_of(
        config for config in candidates if passes_gate(confirmation.beside(config, vllm), Noise.NONE)
    )
    standing = incumbent if incumbent in confirmation.samples else None
    decision = decide(
        confirmation.beside(challenger, vllm) if challenger else None,
        confirmation.beside(standing, vllm) if standing else None,
        confirmation.beside(challenger, standing) if challenger and standing else None,
        policy,
        Noise.NONE,
    )
    entry = {Decision.PROMOTE: challenger, Decision.RETAIN: standing}.get(decision) or vllm
    return (vllm, Decision.BASELINE) if entry == vllm else (entry, decision)


def _separate_down(
    task: Task,
    runner: Runner,
    measurements: Measurements,
    num_tokens: int,
    entry: LaunchConfig,
    observe: Callable[[Event], None],
    deadline_s: float,
) -> SeparateDown | None:
    """The best entry of the same BLOCK_SIZE_M for down alone, where the row gains more than the margin by it."""
    shapes = range(len(task.subject.shapes))

    def down_us(config: LaunchConfig) -> float:
        return max(t.down_us if (t := measurements.times(num_tokens, s, config)) else float("inf") for s in shapes)

    same_tile = [c for c in measurements.ranking(num_tokens) if c.BLOCK_SIZE_M == entry.BLOCK_SIZE_M and c != entry]
    rivals = sorted(same_tile, key=down_us)[:DOWN_FINALISTS]
    if not rivals:
        return None
    always, policy = [entry, *rivals], task.policies.confirm
    confirmation = confirm(task.subject, runner, num_tokens, rivals, always, policy, observe, deadline_s)
    found = [
        _with_down(confirmation, entry, rival)
        for rival in rivals
        if rival in confirmation.samples and entry in confirmation.samples
    ]
    best = min(found, key=lambda down: down.ratio, default=None)
    return best if best and best.ratio <= 1.0 - task.policies.promotion.min_improvement_pct / 100.0 else None


def _with_down(confirmation: Confirmation, entry: LaunchConfig, rival: LaunchConfig) -> SeparateDown:
    """The row's time with the rival for down over that with the entry for both, under the shape that gains least."""
    ratios = []
    for own, other in zip(confirmation.samples[entry], confirmation.samples[rival], strict=True):
        up_us, down_us, total_us = common_rounds(own.up_us, other.down_us, own.total_us)
        mixed = [up + down for up, down in zip(up_us, down_us, strict=True)]
        ratio = paired_ratio(mixed, total_us)
        ratios.append(ratio.median if ratio.high < 1.0 else 1.0)
    return SeparateDown(rival, confirmation.samples[rival], max(ratios))


class _Counter:
    """Counts events on their way to the observer."""

    def __init__(self, observe: Callable[[Event], None]) -> None:
        self._observe = observe
        self.kernels = self.measurements = 0

    def __call__(self, event: Event) -> None:
        if isinstance(event, Compiled):
            self.kernels += event.kernels
        elif isinstance(event, Confirmed):
            self.measurements += len(event.series)
        else:
            self.measurements += 1
        self._observe(event)
