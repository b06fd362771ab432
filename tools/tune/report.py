"""What a run tells at its end: a table for people, JSON for programs. Pure."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tools.tune.confirm import Samples
from tools.tune.evidence import Rates, floor_of
from tools.tune.model import Subject
from tools.tune.tuner import Counts, RowResult

_TIMES = ("M", "heuristic", "SGLang's", "incumbent", "new", "gain", "of floor")


@dataclass(frozen=True)
class Line:
    """One batch size. Times in µs, up and down together, under the shape where the entry loses most; None: no such."""

    num_tokens: int
    heuristic_us: float
    sglang_us: float | None
    incumbent_us: float | None
    new_us: float
    gain_pct: float
    floor_share: float | None
    decision: str
    entry: dict[str, Any]
    down_gain_pct: float | None = None


@dataclass(frozen=True)
class Summary:
    """A tuned workload. files: what was written, in order; empty where nothing was."""

    workload: str
    shapes: tuple[str, ...]
    lines: tuple[Line, ...]
    seconds: float
    counts: Counts
    files: tuple[str, ...]
    notes: tuple[str, ...] = ()


def lines(subject: Subject, rows: Sequence[RowResult], rates: Rates | None) -> tuple[Line, ...]:
    """gain_pct: time saved against vLLM's heuristic, in per cent of it."""
    return tuple(_line(subject, row, rates) for row in rows)


def to_json(summary: Summary) -> dict[str, Any]:
    return {
        "workload": summary.workload,
        "shapes": list(summary.shapes),
        "seconds": round(summary.seconds, 1),
        "kernels_compiled": summary.counts.kernels_compiled,
        "measurements": summary.counts.measurements,
        "outcomes": dict(summary.counts.outcomes),
        "files": list(summary.files),
        "notes": list(summary.notes),
        "rows": [vars(line) for line in summary.lines],
    }


def to_text(summary: Summary) -> str:
    """A plain table: reads the same on a terminal, in a log and in a pull request's code block."""
    header = (*_TIMES, "decision", "M,N,K,group,warps,stages")
    body = [_cells(line) for line in summary.lines]
    widths = [max(map(len, column)) for column in zip(header, *body, strict=True)]
    table = "\n".join(_aligned(row, widths) for row in (header, *body))
    counts = summary.counts
    outcomes = ", ".join(f"{count} {status}" for status, count in counts.outcomes.items() if count)
    tail = [
        f"{counts.kernels_compiled} kernels compiled, {counts.measurements} measurements in {summary.seconds:.1f} s; "
        f"launch configs: {outcomes}",
        *summary.notes,
        *(f"written: {path}" for path in summary.files),
    ]
    return "\n".join([f"{summary.workload}, {'; '.join(summary.shapes)} (µs, up + down)", table, *tail])


def _aligned(cells: Sequence[str], widths: Sequence[int]) -> str:
    """Numbers to the right, words to the left."""
    places = enumerate(zip(cells, widths, strict=True))
    return "  ".join(c.rjust(w) if i < len(_TIMES) else c.ljust(w) for i, (c, w) in places).rstrip()


def _line(subject: Subject, row: RowResult, rates: Rates | None) -> Line:
    new, heuristic = _total(row.chosen, row.shape), _total(row.baseline, row.shape)
    assert new is not None
    assert heuristic is not None
    return Line(
        row.num_tokens,
        round(heuristic, 2),
        _total(row.sglang, row.shape),
        _total(row.incumbent, row.shape),
        round(new, 2),
        round(100.0 * (1.0 - new / heuristic), 2),
        round(floor_of(subject, row, rates)[0] / new, 3) if rates else None,
        row.decision.value,
        dict(row.entry.to_entry()),
        round(100.0 * (1.0 - row.down.ratio), 2) if row.down else None,
    )


def _total(samples: tuple[Samples, ...] | None, shape: int) -> float | None:
    return round(statistics.median(samples[shape].total_us), 2) if samples else None


def _cells(line: Line) -> tuple[str, ...]:
    def time(us: float | None) -> str:
        return "-" if us is None else f"{us:.1f}"

    return (
        str(line.num_tokens),
        time(line.heuristic_us),
        time(line.sglang_us),
        time(line.incumbent_us),
        time(line.new_us),
        f"{line.gain_pct:.1f}%",
        "-" if line.floor_share is None else f"{line.floor_share:.0%}",
        line.decision + (f", down apart {line.down_gain_pct:.1f}%" if line.down_gain_pct else ""),
        ",".join(map(str, line.entry.values())),
    )
