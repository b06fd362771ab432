"""Measures a tuned file beside its contestants, row by row. Needs a GPU."""

from __future__ import annotations

import itertools
import math
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import torch

from kernels.launch_config import LaunchConfig
from kernels.problem import Problem, Routing
from tools.bench.contestants import Contestant
from tools.compile.outcome import Status
from tools.compile.pool import CompilePool
from tools.launch.heuristics import clamped
from tools.measure.gpu import Ceilings
from tools.measure.inputs import RowInputs, make_weights, num_routings
from tools.measure.kernels import Kernel, KernelTask
from tools.measure.layer import DOWN, UP, LayerShape, row_bytes, row_operations
from tools.measure.row import RowBench
from tools.measure.statistics import FAILED, SAME_ENTRY, Duel, Interval, Measured, RowVerdict, Verdict, duel, floor_us
from tools.measure.timing import Policy, capture, measure_series
from tools.registry.devices import Target
from tools.store.workload import Workload

ROUNDS = Policy(min_rounds=16, max_rounds=40, budget_ms=800.0)


@dataclass(frozen=True)
class Match:
    """A tuned file (the first contestant) and whom it meets."""

    workload: Workload
    shapes: tuple[LayerShape, ...]
    contestants: tuple[Contestant, ...]
    batch_sizes: tuple[int, ...]


@dataclass(frozen=True)
class Arena:
    """What stays the same for all matches of a run. arch as `kernels.launch` spells it."""

    contender: Kernel
    target: Target
    arch: str
    ceilings: Ceilings
    l2_bytes: int
    device: torch.device
    routing_kind: str


Samples = Mapping[LaunchConfig, tuple[float, ...]]
Failures = dict[LaunchConfig, str]
FailuresByRow = dict[int, Failures]
"""By batch size: small ones run another mode of the kernel, and one mode may compile where the other doesn't."""


def compile_all(match: Match, arena: Arena, pool: CompilePool) -> FailuresByRow:
    """Every kernel of the match, on all cores. What doesn't compile, and why."""
    tasks: dict[Hashable, KernelTask] = {}
    sharing: dict[Hashable, set[tuple[int, LaunchConfig]]] = {}
    failures: FailuresByRow = {num_tokens: {} for num_tokens in match.batch_sizes}
    for num_tokens in match.batch_sizes:
        for config in dict.fromkeys(_entries(match, num_tokens).values()):
            for shape in match.shapes:
                routing = Routing(num_tokens, shape.top_k, shape.num_experts)
                for projection in shape.projections:
                    try:
                        problem = Problem(projection, routing, shape.quant, config, arena.arch)
                    except ValueError as error:
                        failures[num_tokens][config] = str(error)
                        continue
                    task = KernelTask(problem, arena.target, arena.contender)
                    tasks.setdefault(task.key, task)
                    sharing.setdefault(task.key, set()).add((num_tokens, config))
    keys = list(tasks)
    for index, outcome in pool.run(tasks.values()):
        if outcome.status is not Status.OK:
            # All that run this kernel: one left out would be compiled in this process, which a crash takes down.
            for num_tokens, config in sharing[keys[index]]:
                failures[num_tokens][config] = f"{outcome.status.value}: {outcome.message}"
    return failures


def measure(match: Match, arena: Arena, failures: FailuresByRow) -> Iterator[RowVerdict]:
    """A verdict a batch size. On a stream that isn't the default."""
    weights = [make_weights(shape, arena.device) for shape in match.shapes]
    for num_tokens in match.batch_sizes:
        found: list[RowVerdict] = []
        for shape, weight in zip(match.shapes, weights, strict=True):
            count = num_routings(shape, num_tokens, arena.l2_bytes)
            inputs = RowInputs(shape, weight, num_tokens, count, seed=num_tokens, routing_kind=arena.routing_kind)
            row = RowBench(shape, weight, inputs, arena.arch)
            entries = _entries(match, num_tokens)
            configs = list(dict.fromkeys(entries.values()))
            samples, row_failures = time_entries(row, arena, configs, failures[num_tokens])
            num_bytes = row_bytes(shape, num_tokens, inputs.active_experts)
            dense_per_s = arena.ceilings.dense_per_s(8 if shape.quant.quantizes_activations else 16)
            floor = floor_us(
                num_bytes, row_operations(shape, num_tokens), arena.ceilings.memory_bytes_per_s, dense_per_s
            )
            found.append(verdict(num_tokens, floor, entries, samples, row_failures))
        yield worst(found)


def verdict(
    num_tokens: int,
    floor: tuple[float, str],
    entries: Mapping[str, LaunchConfig],
    samples: Samples,
    failures: Failures,
) -> RowVerdict:
    """entries: by contestant, the file's own first."""
    measured = {
        name: Measured(config, Interval.of(samples[config]) if config in samples else None, failures.get(config, ""))
        for name, config in entries.items()
    }
    own = next(iter(entries.values()))
    duels = {name: _duel(own, config, samples) for name, config in itertools.islice(entries.items(), 1, None)}
    return RowVerdict(num_tokens, *floor, measured, duels)


def _duel(own: LaunchConfig, other: LaunchConfig, samples: Samples) -> Duel:
    if own not in samples or other not in samples:
        return FAILED
    return SAME_ENTRY if own == other else duel(samples[own], samples[other])


def worst(rows: Sequence[RowVerdict]) -> RowVerdict:
    """Of one batch size under several shapes: against each rival where the file does worst against that one.

    Floor and times are those of the shape where it does worst of all.
    """
    told = max(rows, key=_badness_of_row)
    if _fails(told):
        return told
    duels = {name: max((row.duels[name] for row in rows), key=_badness) for name in told.duels}
    return replace(told, duels=duels)


def _badness_of_row(row: RowVerdict) -> tuple[float, float]:
    """A file that fails is worse than any that loses."""
    if _fails(row):
        return math.inf, 0.0
    return max(map(_badness, row.duels.values()), default=_NOTHING_SAID)


def _badness(duel: Duel) -> tuple[float, float]:
    """The verdict first, then the ratio. A rival that fails says nothing of the file."""
    if duel.ratio is None:
        return _NOTHING_SAID
    return float(_FROM_BEST_TO_WORST.index(duel.verdict)), duel.ratio.median


_FROM_BEST_TO_WORST = (Verdict.FASTER, Verdict.SAME, Verdict.SLOWER)
_NOTHING_SAID = (-1.0, 0.0)


def _fails(row: RowVerdict) -> bool:
    own = next(iter(row.measured.values()))
    return own.us is None


def _entries(match: Match, num_tokens: int) -> dict[str, LaunchConfig]:
    return {c.name: clamped(c.entry(num_tokens), match.workload) for c in match.contestants}


def time_entries(
    row: RowBench, arena: Arena, configs: Sequence[LaunchConfig], failures: Failures
) -> tuple[dict[LaunchConfig, tuple[float, ...]], Failures]:
    """Up and down together, in µs, a sample a round; and what failed."""
    replays = {}
    failed = dict(failures)
    for config in configs:
        if config in failed:
            continue
        try:
            for projection in (UP, DOWN):
                row.check(arena.contender, config, projection)
            replays[config] = [capture(row.launches(arena.contender, config, p)) for p in (UP, DOWN)]
        except torch.OutOfMemoryError:
            raise
        # Triton raises what it likes at launch; an illegal address makes every later launch fail too, and shows.
        except Exception as error:
            failed[config] = f"{type(error).__name__}: {error}".split("\n")[0]
    times = measure_series([replay for pair in replays.values() for replay in pair], ROUNDS) if replays else []
    totals = {
        config: tuple(up + down for up, down in zip(times[2 * i], times[2 * i + 1], strict=True))
        for i, config in enumerate(replays)
    }
    return totals, failed
