"""Measures a tuned file beside its contestants, row by row. Needs a GPU."""

from __future__ import annotations

import itertools
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch

from kernels.launch import LaunchConfig as KernelConfig
from kernels.launch import Routing
from tools.bench.ceilings import Ceilings
from tools.bench.contenders import CompileLaunch, Contender, Problem, compile_key
from tools.bench.contestants import Contestant
from tools.bench.figures import Interval, floor_us
from tools.bench.inputs import RowInputs, make_weights, num_routings
from tools.bench.layer import DOWN, UP, LayerShape, row_bytes, row_operations
from tools.bench.row import RowBench
from tools.bench.timing import Policy, capture, measure_series
from tools.bench.verdict import FAILED, SAME_ENTRY, Duel, Measured, RowVerdict, duel
from tools.compile.outcome import ConstraintError, Status
from tools.compile.pool import CompilePool
from tools.heuristics import clamped
from tools.launch_config import LaunchConfig
from tools.registry import Target
from tools.workload import Workload

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

    contender: Contender
    target: Target
    arch: str
    ceilings: Ceilings
    l2_bytes: int
    device: torch.device
    routing_kind: str


Samples = Mapping[LaunchConfig, tuple[float, ...]]
Failures = dict[LaunchConfig, str]


def compile_all(match: Match, arena: Arena, pool: CompilePool) -> Failures:
    """Every kernel of the match, on all cores. What doesn't compile, and why."""
    tasks: dict[Hashable, CompileLaunch] = {}
    sharing: dict[Hashable, set[LaunchConfig]] = {}
    failures: Failures = {}
    for num_tokens in match.batch_sizes:
        for config in dict.fromkeys(_entries(match, num_tokens).values()):
            for shape in match.shapes:
                routing = Routing(num_tokens, shape.top_k, shape.num_experts)
                for projection in shape.projections:
                    try:
                        entry = KernelConfig.of(config.to_entry())  # type: ignore[arg-type]  # checked by `of`
                        problem = Problem(projection, routing, shape.quant, entry, arena.arch)
                        key = compile_key(arena.contender, problem)
                    except (ConstraintError, ValueError) as error:
                        failures[config] = str(error)
                        continue
                    tasks.setdefault(key, CompileLaunch(arena.contender, problem, arena.target))
                    sharing.setdefault(key, set()).add(config)
    keys = list(tasks)
    for index, outcome in pool.run(tasks.values()):
        if outcome.status is not Status.OK:
            # All that run this kernel: one left out would be compiled in this process, which a crash takes down.
            failures |= dict.fromkeys(sharing[keys[index]], f"{outcome.status.value}: {outcome.message}")
    return failures


def measure(match: Match, arena: Arena, failures: Failures) -> Iterator[RowVerdict]:
    """A verdict a batch size. On a stream that isn't the default."""
    weights = [make_weights(shape, arena.device) for shape in match.shapes]
    for num_tokens in match.batch_sizes:
        found: list[RowVerdict] = []
        for shape, weight in zip(match.shapes, weights, strict=True):
            count = num_routings(shape, num_tokens, arena.l2_bytes)
            inputs = RowInputs(shape, weight, num_tokens, count, seed=num_tokens, routing_kind=arena.routing_kind)
            row = RowBench(shape, weight, inputs, arena.arch)
            entries = _entries(match, num_tokens)
            samples, row_failures = time_entries(row, arena, list(dict.fromkeys(entries.values())), failures)
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
    """Of one batch size under several shapes, where the file does worst."""
    return max(rows, key=_loss)


def _loss(row: RowVerdict) -> float:
    """The largest ratio; a file that fails is worse than any. A contestant that fails says nothing of the file."""
    own = next(iter(row.measured.values()))
    if own.us is None:
        return float("inf")
    return max((duel.ratio.median for duel in row.duels.values() if duel.ratio), default=1.0)


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
