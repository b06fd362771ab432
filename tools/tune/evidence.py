"""The record of a tuned file: what was measured, on what, and how each row was decided. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from kernels.launch_config import LaunchConfig
from tools.measure.layer import LayerShape, expected_active_experts, row_bytes, row_operations
from tools.measure.statistics import floor_us, quantile
from tools.store.files import sha256
from tools.store.record import Environment
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
    """Where and how the figures came about. rates None: no floors (a replay on other hardware knows none)."""

    environment: Environment
    settings: Mapping[str, Json]
    seconds: float
    date: str
    kernel_sha256: str
    rates: Rates | None


def record(
    subject: Subject,
    rows: Sequence[RowResult],
    counts: Counts,
    run: Provenance,
    config: bytes,
    kept: Mapping[str, Json],
) -> dict[str, Json]:
    """The record beside the file whose bytes are `config`. kept: rows of an earlier record that stay."""
    measured = {str(row.num_tokens): _row(subject, row, run) for row in rows}
    return _document(subject, counts, run, config, {**kept, **measured})


def down_record(
    subject: Subject,
    rows: Sequence[RowResult],
    counts: Counts,
    run: Provenance,
    config: bytes,
    kept: Mapping[str, Json],
) -> dict[str, Json]:
    """The record of a `_down` file: the down projection's own figures. kept: as in `record`."""
    measured = {str(row.num_tokens): _down_row(row) for row in rows}
    down = replace(subject, workload=replace(subject.workload, down=True))
    return _document(down, counts, run, config, {**kept, **measured})


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
    workload, shape = subject.workload, subject.shapes[row.shape].shape
    layer = LayerShape(workload.E, workload.N, shape.K, shape.top_k, subject.quant)
    active = row.active_experts or expected_active_experts(workload.E, shape.top_k, row.num_tokens)
    num_bytes = row_bytes(layer, row.num_tokens, active)
    return floor_us(num_bytes, row_operations(layer, row.num_tokens), rates.memory_bytes_per_s, rates.dense_per_s)


def _document(
    subject: Subject, counts: Counts, run: Provenance, config: bytes, rows: Mapping[str, Json]
) -> dict[str, Json]:
    workload = subject.workload
    return {
        "schema_version": 1,
        "workload": workload.to_json(),
        "shapes": [named.to_json() for named in subject.shapes],
        "source": "measured",
        "environment": run.environment.to_json(),
        "kernel_sha256": run.kernel_sha256,
        "config_sha256": sha256(config),
        "tuner": {
            "settings": dict(run.settings),
            "seconds": round(run.seconds, 1),
            "kernels_compiled": counts.kernels_compiled,
            "measurements": counts.measurements,
            "outcomes": {status: count for status, count in counts.outcomes.items() if count},
        },
        "date": run.date,
        "rows": {key: rows[key] for key in sorted(rows, key=int)},
        "verified": None,
    }


def _row(subject: Subject, row: RowResult, run: Provenance) -> dict[str, Json]:
    shape = row.shape
    document: dict[str, Any] = {
        "latency_us": _latency(row.chosen[shape].total_us),
        "up_us": _median(row.chosen[shape].up_us),
        "down_us": _median(row.chosen[shape].down_us),
        "baseline_us": _latency(row.baseline[shape].total_us),
    }
    if row.sglang:
        document["baselines"] = {"sglang": _latency(row.sglang[shape].total_us)}
    document["incumbent_us"] = _latency(row.incumbent[shape].total_us) if row.incumbent else None
    if run.rates:
        floor, bound = floor_of(subject, row, run.rates)
        document |= {"floor_us": round(floor, _DIGITS), "bound": bound}
    document["decision"] = row.decision.value
    if len(subject.shapes) > 1:
        document["by_shape"] = [
            {
                "K": named.shape.K,
                "top_k": named.shape.top_k,
                "latency_us": _latency(chosen.total_us),
                "baseline_us": _latency(baseline.total_us),
            }
            for named, chosen, baseline in zip(subject.shapes, row.chosen, row.baseline, strict=True)
        ]
    return document


def _down_row(row: RowResult) -> dict[str, Json]:
    shape = row.shape
    samples = row.down.samples if row.down else row.chosen
    latency: dict[str, Json] = {"latency_us": _latency(samples[shape].down_us)}
    decision = "promote" if row.down else row.decision.value
    return {**latency, "baseline_us": _latency(row.baseline[shape].down_us), "incumbent_us": None, "decision": decision}


def _latency(samples: Sequence[float]) -> dict[str, Json]:
    return {
        "median": _median(samples),
        "p10": round(quantile(samples, 0.1), _DIGITS),
        "p90": round(quantile(samples, 0.9), _DIGITS),
        "samples": len(samples),
    }


def _median(samples: Sequence[float]) -> float:
    return round(quantile(samples, 0.5), _DIGITS)
