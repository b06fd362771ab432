"""The record of a tuned file: what was measured, on what, and how each row was decided. Pure."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from kernels.launch_config import LaunchConfig
from kernels.problem import Flavour
from tools.measure.layer import expected_load, row_bytes, row_operations
from tools.measure.panel import RULE, Part, Ratio, RoutingKind
from tools.measure.seeds import Purpose, seeds_of
from tools.measure.statistics import floor_us, quantile
from tools.store.files import sha256
from tools.store.record import (
    Compared,
    Decision,
    Environment,
    HeuristicVersion,
    Latency,
    PartName,
    Record,
    RecordedBetween,
    RecordedPart,
    RecordedRow,
    RowOfShape,
    Source,
    TunerRun,
)
from tools.store.strict_json import Json
from tools.tune.protocol import Subject
from tools.tune.tuner import Between, Counts, RowResult

_DIGITS = 3
_RATIO_DIGITS = 4


@dataclass(frozen=True)
class Rates:
    """What the device can do at most: bytes and operations a second, measured."""

    memory_bytes_per_s: float
    dense_per_s: float


@dataclass(frozen=True)
class Provenance:
    """Where and how the figures came about. rates None: no floors (a replay on other hardware knows none).

    heuristics: by engine. is_cut_short: the search, by its time limit.
    """

    environment: Environment
    settings: Mapping[str, Json]
    seconds: float
    date: str
    kernel_sha256: str
    heuristics: Mapping[str, HeuristicVersion]
    rates: Rates | None
    is_cut_short: bool = False


def record(
    subject: Subject,
    rows: Sequence[RowResult],
    counts: Counts,
    run: Provenance,
    config: bytes,
    kept: Record | None,
    between: Sequence[Between] = (),
) -> Record:
    """The record beside the file whose bytes are `config`. kept: an earlier one, whose other rows stay."""
    measured = {row.num_tokens: _row(subject, row, run) for row in rows}
    found = {one.num_tokens: RecordedBetween(one.key, *_rounded_ratio(one.ratio)) for one in between}
    return replace(_record(subject, rows, counts, run, config, measured, kept), between=found)


def down_record(
    subject: Subject,
    rows: Sequence[RowResult],
    counts: Counts,
    run: Provenance,
    config: bytes,
    kept: Record | None,
) -> Record:
    """The record of a `_down` file: the down projection's own figures. kept: as in `record`."""
    measured = {row.num_tokens: _down_row(row) for row in rows}
    down = replace(subject, workload=replace(subject.workload, down=True))
    return _record(down, rows, counts, run, config, measured, kept)


def entries(rows: Iterable[RowResult]) -> dict[int, LaunchConfig]:
    """The tuned file's entries."""
    return {row.num_tokens: row.entry for row in rows}


def down_entries(rows: Iterable[RowResult]) -> dict[int, LaunchConfig] | None:
    """The `_down` file's entries; rows that gain nothing repeat the file's own. None: no row gains."""
    rows = list(rows)
    if not any(row.down and row.down.gains for row in rows):
        return None
    return {row.num_tokens: row.down.entry if row.down else row.entry for row in rows}


def floor_of(subject: Subject, row: RowResult, rates: Rates) -> tuple[float, str]:
    """(least µs of the row's worst part, memory or compute), for the experts that the entry's own blocks reached.

    Where they weren't counted (older landscapes): for as many as uniform routing reaches on average.
    """
    part = row.worst
    layer = subject.layers[part.placement]
    load = expected_load(layer, row.num_tokens)
    counted = row.active_experts.get(part, {})
    # Others may have played further blocks, whose draws reached more: the entry's time is none of theirs.
    if reached := [counted[block] for block in row.panel.times[part].get(row.entry, ()) if block in counted]:
        load = replace(load, active_experts=statistics.fmean(reached))
    num_bytes = row_bytes(layer, row.num_tokens, load, part.engine)
    return floor_us(num_bytes, row_operations(layer, load), rates.memory_bytes_per_s, rates.dense_per_s)


def _record(
    subject: Subject,
    decided: Sequence[RowResult],
    counts: Counts,
    run: Provenance,
    config: bytes,
    measured: Mapping[int, RecordedRow],
    kept: Record | None,
) -> Record:
    tuner = TunerRun(
        run.settings,
        round(run.seconds, 1),
        counts.kernels_compiled,
        counts.measurements,
        {status: count for status, count in counts.outcomes.items() if count},
        run.is_cut_short,
        min(row.finalists for row in decided),
    )
    found = Record(
        subject.workload,
        subject.shapes,
        Source.MEASURED,
        sha256(config),
        run.date,
        environment=run.environment,
        kernel_sha256=run.kernel_sha256,
        heuristics=run.heuristics,
        tuner=tuner,
        rows=measured,
        rule=RULE,
        draws={purpose.name.lower(): seeds_of(purpose).start for purpose in (Purpose.SEARCH, Purpose.CHOICE)},
    )
    if kept is None or kept.rows.keys() <= measured.keys():
        return found
    # Of rows that stay no more is known than their own record says.
    return replace(
        found,
        rows={**kept.rows, **measured},
        heuristics=run.heuristics if kept.heuristics is not None else None,
        tuner=_of_both(kept.tuner, tuner),
    )


def _of_both(earlier: TunerRun | None, now: TunerRun) -> TunerRun:
    """This run, with what is known of the search behind all rows: those of an earlier run that stay, and its own."""
    cut_short, least = (earlier.cut_short, earlier.least_finalists) if earlier else (None, None)
    return replace(
        now,
        cut_short=now.cut_short or cut_short,
        least_finalists=None if least is None or now.least_finalists is None else min(least, now.least_finalists),
    )


def _row(subject: Subject, row: RowResult, run: Provenance) -> RecordedRow:
    worst = row.worst
    floor, bound = floor_of(subject, row, run.rates) if run.rates else (None, None)
    headline = _compared(row, worst)
    by_shape = [
        RowOfShape(named.shape, *vars(_compared(row, part)).values())
        for place, named in enumerate(subject.shapes)
        if (part := _worst(row, [part for part in row.uniform_parts if part.placement == place]))
    ]
    engines = dict.fromkeys(part.engine for part in row.uniform_parts)
    by_engine = {e.value: _worst(row, [part for part in row.uniform_parts if part.engine is e]) for e in engines}
    every = _parts(row)
    by_routing = {kind.value: _worst(row, [part for part in every if part.routing is kind]) for kind in RoutingKind}
    sglang = row.panel.heuristics.get(Flavour.SGLANG) if worst.engine is Flavour.VLLM else None
    others = {"sglang": row.times_us(worst, sglang)} if sglang else {}
    incumbent_us = row.times_us(worst, row.incumbent) if row.incumbent else []
    return RecordedRow(
        headline.latency_us,
        headline.baseline_us,
        row.decision,
        None,
        None,
        {engine: _latency(us) for engine, us in others.items() if us},
        _latency(incumbent_us) if incumbent_us else None,
        None if floor is None else round(floor, _DIGITS),
        bound,
        tuple(by_shape) if len(subject.shapes) > 1 else (),
        {name: _compared(row, part) for name, part in by_routing.items() if part},
        {name: _compared(row, part) for name, part in by_engine.items() if part},
        tuple(
            RecordedPart(
                part.engine.value,
                part.placement,
                part.routing.value,
                *_rounded_ratio(row.ratio(part)),
                row.ratio(part).blocks,
            )
            for part in every
        ),
        round(row.choice.score, _RATIO_DIGITS),
        tuple(PartName(p.engine.value, p.placement, p.routing.value) for p in row.choice.unbounded),
    )


def _parts(row: RowResult) -> list[Part]:
    """Those that decide, then the others."""
    return [*row.panel.times, *(row.told.times if row.told else ())]


def _worst(row: RowResult, parts: Sequence[Part]) -> Part | None:
    return max(parts, key=lambda part: row.ratio(part).mean, default=None)


def _compared(row: RowResult, part: Part) -> Compared:
    return Compared(_latency(row.times_us(part, row.entry)), _latency(row.times_us(part, row.heuristic(part))))


def _rounded_ratio(ratio: Ratio) -> tuple[float, float, float]:
    """(mean, low, high)"""
    mean, low, high = (round(value, _RATIO_DIGITS) for value in (ratio.mean, ratio.low, ratio.high))
    return mean, low, high


def _down_row(row: RowResult) -> RecordedRow:
    assert row.down is not None  # a run that writes a `_down` file measures every row for it
    parts = [(own.down_us, theirs.down_us) for own, theirs in zip(row.down.apart, row.down.heuristic, strict=True)]
    own, heuristic = max(parts, key=lambda part: _median(part[0]) / _median(part[1]))
    return RecordedRow(_latency(own), _latency(heuristic), Decision.PROMOTE if row.down.gains else row.decision)


def _latency(samples: Sequence[float]) -> Latency:
    p10, p90 = (round(quantile(samples, share), _DIGITS) for share in (0.1, 0.9))
    return Latency(_median(samples), p10, p90, len(samples))


def _median(samples: Sequence[float]) -> float:
    return round(quantile(samples, 0.5), _DIGITS)
