"""Times a tuned file beside what it is compared with, row by row. Needs a GPU."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import torch

from kernels.launch_config import LaunchConfig
from tools.bench.candidates import FileComparison
from tools.bench.comparison import NotTimed, Setup, compile_all
from tools.compile.machine import MachineFault, fault_of
from tools.compile.outcome import Status
from tools.compile.pool import CompilePool
from tools.errors import reason_of
from tools.launch.heuristics import clamped
from tools.measure.inputs import make_weights
from tools.measure.kernels import Kernel
from tools.measure.row import RowBench
from tools.measure.statistics import FAILED, SAME_ENTRY, Duel, Interval, Measured, RowVerdict, Verdict, duel
from tools.measure.timing import Policy, Replay, measure_series
from tools.registry.devices import Device

ROUNDS = Policy(min_rounds=16, max_rounds=40, budget_ms=800.0)

TimesUs = Mapping[LaunchConfig, tuple[float, ...]]
Failures = Mapping[LaunchConfig, str]


def compile_file(comparison: FileComparison, kernel: Kernel, device: Device, pool: CompilePool) -> dict[int, Failures]:
    """Every kernel of the comparison. What doesn't compile, and why, by batch size."""
    configs = {m: list(_entries(comparison, m).values()) for m in comparison.batch_sizes}
    compiled = compile_all([kernel], comparison.shapes, configs, device, pool)
    return {m: {config: _reason(why) for config, why in row.items()} for m, row in compiled.failed.items()}


def _reason(why: NotTimed) -> str:
    return why.message if why.status == Status.CONSTRAINTS else f"{why.status}: {why.message}"


def measure(comparison: FileComparison, setup: Setup, failures: Mapping[int, Failures]) -> Iterator[RowVerdict]:
    """A verdict a batch size. On a stream that isn't the default. failures: what isn't launched, by batch size."""
    weights = [make_weights(shape, setup.device) for shape in comparison.shapes]
    for num_tokens in comparison.batch_sizes:
        entries = _entries(comparison, num_tokens)
        configs = list(dict.fromkeys(entries.values()))
        found: list[RowVerdict] = []
        for place, (shape, weight) in enumerate(zip(comparison.shapes, weights, strict=True)):
            row = setup.row(shape, weight, num_tokens, place)
            times, failed = time_entries(row, setup, configs, failures[num_tokens])
            floor = setup.floor(row)
            found.append(verdict(num_tokens, (floor.us, floor.bound), entries, times, failed))
        yield worst(found)


def verdict(
    num_tokens: int,
    floor: tuple[float, str],
    entries: Mapping[str, LaunchConfig],
    samples: TimesUs,
    failures: Failures,
) -> RowVerdict:
    """entries: by candidate, the file's own first."""
    measured = {
        name: Measured(config, Interval.of(samples[config]) if config in samples else None, failures.get(config, ""))
        for name, config in entries.items()
    }
    own = next(iter(entries.values()))
    duels = {name: _duel(own, config, samples) for name, config in itertools.islice(entries.items(), 1, None)}
    return RowVerdict(num_tokens, *floor, measured, duels)


def _duel(own: LaunchConfig, other: LaunchConfig, samples: TimesUs) -> Duel:
    if own not in samples or other not in samples:
        return FAILED
    return SAME_ENTRY if own == other else duel(samples[own], samples[other])


def worst(rows: Sequence[RowVerdict]) -> RowVerdict:
    """Of one batch size under several shapes: against each rival where the file does worst against that one.

    Floor and times are those of the shape where it does worst of all.
    """
    shown = max(rows, key=_badness_of_row)
    if _fails(shown):
        return shown
    duels = {name: max((row.duels[name] for row in rows), key=_badness) for name in shown.duels}
    return replace(shown, duels=duels)


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


def _entries(comparison: FileComparison, num_tokens: int) -> dict[str, LaunchConfig]:
    return {c.name: clamped(c.entry(num_tokens), comparison.workload) for c in comparison.candidates}


def time_entries(
    row: RowBench, setup: Setup, configs: Sequence[LaunchConfig], failures: Failures
) -> tuple[TimesUs, Failures]:
    """Up and down together, in µs, a sample a round; and what failed, with what is known to."""
    replays: dict[LaunchConfig, Replay] = {}
    failed = dict(failures)
    for config in configs:
        if config in failed:
            continue
        try:
            setup.check(row, config)
            (replays[config],) = setup.captured(row, config)
        except torch.OutOfMemoryError:
            raise
        except (OSError, MemoryError) as error:  # launching writes into Triton's cache
            raise (fault_of(error) or MachineFault(reason_of(error))).error() from error
        # Triton raises what it likes at launch; an illegal address makes every later launch fail too, and shows.
        except Exception as error:
            failed[config] = f"{type(error).__name__}: {error}".split("\n")[0]
    times = measure_series(list(replays.values()), ROUNDS) if replays else []
    return {config: tuple(series) for config, series in zip(replays, times, strict=True)}, failed
