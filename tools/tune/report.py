"""What a run prints: progress while it goes on; at its end a table for people, JSON for programs."""

from __future__ import annotations

import importlib.util
import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

from tools import cli
from tools.tune.confirm import RowSamples
from tools.tune.evidence import Rates, floor_of
from tools.tune.protocol import Compiled, Confirmed, Event, Subject
from tools.tune.tuner import Counts, RowResult

_TIMES = ("M", "heuristic", "SGLang's", "incumbent", "new", "gain", "of floor")


@dataclass(frozen=True)
class SummaryRow:
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
class TuneSummary:
    """A tuned workload. files: what was written, in order; empty where nothing was."""

    workload: str
    shapes: tuple[str, ...]
    lines: tuple[SummaryRow, ...]
    seconds: float
    counts: Counts
    files: tuple[str, ...]
    notes: tuple[str, ...] = ()


def lines(subject: Subject, rows: Sequence[RowResult], rates: Rates | None) -> tuple[SummaryRow, ...]:
    """gain_pct: time saved against vLLM's heuristic, in per cent of it."""
    return tuple(_line(subject, row, rates) for row in rows)


def to_json(summary: TuneSummary) -> dict[str, Any]:
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


def to_text(summary: TuneSummary) -> str:
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


def _line(subject: Subject, row: RowResult, rates: Rates | None) -> SummaryRow:
    new, heuristic = _total(row.chosen, row.shape), _total(row.baseline, row.shape)
    assert new is not None
    assert heuristic is not None
    return SummaryRow(
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


def _total(samples: tuple[RowSamples, ...] | None, shape: int) -> float | None:
    return round(statistics.median(samples[shape].total_us), 2) if samples else None


def _cells(line: SummaryRow) -> tuple[str, ...]:
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
        line.decision + (f", separate down {line.down_gain_pct:.1f}%" if line.down_gain_pct else ""),
        ",".join(map(str, line.entry.values())),
    )


# ---------------------------------------------------------------
# Progress on stderr: bars with rate and time left on a terminal, a line a row elsewhere.


class Progress(Protocol):
    """Sees every event and every decided row."""

    def event(self, event: Event) -> None: ...

    def row(self, row: RowResult) -> None: ...

    def say(self, line: str) -> None: ...


@contextmanager
def progress(num_rows: int, search_s: float) -> Iterator[Progress]:
    """search_s: how long the search may take; infinite: as long as it needs."""
    if not (sys.stderr.isatty() and importlib.util.find_spec("rich")):
        yield LogProgress()
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description:<8}"),
        BarColumn(),
        TextColumn("{task.fields[counts]}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bars:
        yield BarProgress(bars, num_rows, search_s)


class LogProgress:
    """For logs."""

    def event(self, event: Event) -> None:
        pass

    def row(self, row: RowResult) -> None:
        entry = ",".join(map(str, row.entry.to_entry().values()))
        self.say(f"M={row.num_tokens}: {row.decision.value} {entry}")

    def say(self, line: str) -> None:
        cli.say(f"tune: {line}")


class BarProgress:
    """The search's bar runs on the clock, since how many kernels it will want is not known before."""

    def __init__(self, bars: Any, num_rows: int, search_s: float) -> None:
        self._bars = bars
        self._started = time.monotonic()
        self._kernels = self._measurements = self._rows = 0
        self._num_rows = num_rows
        self._search = bars.add_task("search", total=search_s if search_s != float("inf") else None, counts="")
        self._confirm = bars.add_task("confirm", total=num_rows, counts="", start=False)

    def event(self, event: Event) -> None:
        if isinstance(event, Confirmed):
            self._bars.start_task(self._confirm)
            return
        if isinstance(event, Compiled):
            self._kernels += event.kernels
        else:
            self._measurements += 1
        seconds = max(time.monotonic() - self._started, 1e-3)
        counts = (
            f"{self._kernels} kernels ({self._kernels / seconds:.0f}/s), "
            f"{self._measurements} measurements ({self._measurements / seconds:.0f}/s)"
        )
        self._bars.update(self._search, completed=seconds, counts=counts)

    def row(self, row: RowResult) -> None:  # noqa: ARG002  # how many is all that a bar shows
        self._rows += 1
        self._bars.update(self._confirm, completed=self._rows, counts=f"{self._rows} of {self._num_rows} batch sizes")

    def say(self, line: str) -> None:
        self._bars.console.print(f"tune: {line}", markup=False, highlight=False)
