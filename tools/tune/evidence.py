"""The record of a tuned file: what was measured, on what, and how each row was decided. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from kernels.launch_config import LaunchConfig
from tools.measure.layer import expected_load, row_bytes, row_operations
from tools.measure.statistics import floor_us, quantile
from tools.store.files import sha256
from tools.store.record import (
    Decision,
    Environment,
    HeuristicVersion,
    Latency,
    Record,
    RecordedRow,
    RowOfShape,
    Source,
    TunerRun,
)
from tools.store.strict_json import Json
from tools.tune.protocol import Subject
from tools.tune.tuner import Counts, RowResult

_DIGITS = 3


@dataclass(frozen=True)
class Rates:
    """What the device can do at most: bytes and operations a second, measured."""

    memory_bytes_per_s: float
    dense_per_s: float


@dataclass(frozen=True)
class Provenance:
    """Where and how the figures came about. rates None: no floors (a replay on other hardware knows none).

    heuristics: by engine, of all rows of the record; None where rows stay of which it isn't known.
    """

    environment: Environment
    settings: Mapping[str, Json]
    seconds: float
    date: str
    kernel_sha256: str
    heuristics: Mapping[str, HeuristicVersion] | None
    rates: Rates | None


def record(
    subject: Subject,
    rows: Sequence[RowResult],
    counts: Counts,
    run: Provenance,
    config: bytes,
    kept: Mapping[int, RecordedRow],
) -> Record:
    """The record beside the file whose bytes are `config`. kept: rows of an earlier record that stay."""
    measured = {row.num_tokens: _row(subject, row, run) for row in rows}
    return _record(subject, counts, run, config, {**kept, **measured})


def down_record(
    subject: Subject,
    rows: Sequence[RowResult],
    counts: Counts,
    run: Provenance,
    config: bytes,
    kept: Mapping[int, RecordedRow],
) -> Record:
    """The record of a `_down` file: the down projection's own figures. kept: as in `record`."""
    measured = {row.num_tokens: _down_row(row) for row in rows}
    down = replace(subject, workload=replace(subject.workload, down=True))
    return _record(down, counts, run, config, {**kept, **measured})


def entries(rows: Iterable[RowResult]) -> dict[int, LaunchConfig]:
    """The tuned file's entries."""
    return {row.num_tokens: row.entry for row in rows}


def down_entries(rows: Iterable[RowResult]) -> dict[int, LaunchConfig] | None:
    """The `_down` file's entries; rows that gain nothing repeat the file's own. None: no row gains."""
    rows = list(rows)
    if not any(row.down for row in rows):
        return None
    return {row.num_tokens: row.down.entry if row.down else row.entry for row in rows}


def floor_of(subject: Subject, row: RowResult, rates: Rates) -> tuple[float, str]:
    """(least µs of the row's worst shape, memory or compute), for the experts that the routings reached.

    Where they weren't counted (older landscapes): for as many as uniform routing reaches on average.
    """
    layer = subject.layers[row.shape]
    load = expected_load(layer, row.num_tokens)
    if row.active_experts:
        load = replace(load, active_experts=row.active_experts)
    num_bytes = row_bytes(layer, row.num_tokens, load)
    return floor_us(num_bytes, row_operations(layer, load), rates.memory_bytes_per_s, rates.dense_per_s)


def _record(
    subject: Subject, counts: Counts, run: Provenance, config: bytes, rows: Mapping[int, RecordedRow]
) -> Record:
    return Record(
        subject.workload,
        subject.shapes,
        Source.MEASURED,
        sha256(config),
        run.date,
        environment=run.environment,
        kernel_sha256=run.kernel_sha256,
        heuristics=run.heuristics,
        tuner=TunerRun(
            run.settings,
            round(run.seconds, 1),
            counts.kernels_compiled,
            counts.measurements,
            {status: count for status, count in counts.outcomes.items() if count},
        ),
        rows=rows,
    )


def _row(subject: Subject, row: RowResult, run: Provenance) -> RecordedRow:
    shape = row.shape
    chosen, baseline = row.chosen[shape], row.baseline[shape]
    floor, bound = floor_of(subject, row, run.rates) if run.rates else (None, None)
    by_shape = [
        RowOfShape(named.shape, _latency(own.total_us), _latency(heuristic.total_us))
        for named, own, heuristic in zip(subject.shapes, row.chosen, row.baseline, strict=True)
    ]
    return RecordedRow(
        _latency(chosen.total_us),
        _latency(baseline.total_us),
        row.decision,
        _median(chosen.up_us),
        _median(chosen.down_us),
        {"sglang": _latency(row.sglang[shape].total_us)} if row.sglang else {},
        _latency(row.incumbent[shape].total_us) if row.incumbent else None,
        None if floor is None else round(floor, _DIGITS),
        bound,
        tuple(by_shape) if len(by_shape) > 1 else (),
    )


def _down_row(row: RowResult) -> RecordedRow:
    samples = row.down.samples if row.down else row.chosen
    decision = Decision.PROMOTE if row.down else row.decision
    return RecordedRow(_latency(samples[row.shape].down_us), _latency(row.baseline[row.shape].down_us), decision)


def _latency(samples: Sequence[float]) -> Latency:
    p10, p90 = (round(quantile(samples, share), _DIGITS) for share in (0.1, 0.9))
    return Latency(_median(samples), p10, p90, len(samples))


def _median(samples: Sequence[float]) -> float:
    return round(quantile(samples, 0.5), _DIGITS)
