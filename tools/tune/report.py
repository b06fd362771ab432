"""What a run prints: progress while it goes on; at its end a table for people, JSON for programs."""

from __future__ import annotations

import importlib.util
import math
import statistics
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

from kernels.launch_config import LaunchConfig
from tools import cli
from tools.measure.panel import Part, Ratio, RoutingKind
from tools.text import aligned
from tools.tune.evidence import Rates, floor_of
from tools.tune.protocol import Compiled, Event, Measured, Subject
from tools.tune.regret import Regret, regret_line
from tools.tune.tuner import Between, Counts, RowResult

_TIMES = ("M", "heuristic", "incumbent", "new", "of floor")


@dataclass(frozen=True)
class SummaryRow:
    """One batch size. Times in µs, up and down together, uniform routing, of the engine and shape that gain least.

    gain_pct: there, against the engine's heuristic, in per cent of it. gains_pct: by engine and routing, of the shape
    and skew that gain least. unbounded: the parts where it may be more than 2 % slower than the heuristic.
    down_gain_pct: with an entry for down apart, of the time with the best one for both. None: no such.
    """

    num_tokens: int
    heuristic_us: float
    incumbent_us: float | None
    new_us: float
    gain_pct: float
    gains_pct: dict[str, float]
    floor_share: float | None
    decision: str
    unbounded: list[str]
    entry: dict[str, Any]
    down_gain_pct: float | None = None


@dataclass(frozen=True)
class TuneSummary:
    """A tuned workload. files: what was written, in order; empty where nothing was.

    regrets: of a replay of an exhaustive landscape.
    """

    workload: str
    shapes: tuple[str, ...]
    lines: tuple[SummaryRow, ...]
    seconds: float
    counts: Counts
    files: tuple[str, ...]
    notes: tuple[str, ...] = ()
    phases: Mapping[str, float] = field(default_factory=dict)
    between: tuple[SummaryBetween, ...] = ()
    regrets: tuple[Regret, ...] = ()


@dataclass(frozen=True)
class SummaryBetween:
    """A batch size without an entry: whose runs there, and what it gains over the heuristic, in per cent of it."""

    num_tokens: int
    entry_of: int
    gain_pct: float


def betweens(found: Sequence[Between]) -> tuple[SummaryBetween, ...]:
    return tuple(SummaryBetween(one.num_tokens, one.key, _gain_pct(one.ratio)) for one in found)


def lines(subject: Subject, rows: Sequence[RowResult], rates: Rates | None) -> tuple[SummaryRow, ...]:
    return tuple(_line(subject, row, rates) for row in rows)


def to_json(summary: TuneSummary) -> dict[str, Any]:
    return {
        "workload": summary.workload,
        "shapes": list(summary.shapes),
        "seconds": round(summary.seconds, 1),
        "kernels_compiled": summary.counts.kernels_compiled,
        "measurements": summary.counts.measurements,
        "outcomes": dict(summary.counts.outcomes),
        "phases": {name: round(seconds, 1) for name, seconds in summary.phases.items()},
        "between": [vars(one) for one in summary.between],
        "regrets_pct": {str(one.num_tokens): one.pct for one in summary.regrets},
        "files": list(summary.files),
        "notes": list(summary.notes),
        "rows": [vars(line) for line in summary.lines],
    }


def to_text(summary: TuneSummary) -> str:
    """A plain table: reads the same on a terminal, in a log and in a pull request's code block."""
    gains = list(dict.fromkeys(name for line in summary.lines for name in line.gains_pct))
    header = (*_TIMES, *gains, "decision", "M,N,K,group,warps,stages")
    rows = (_cells(line, gains) for line in summary.lines)
    table = aligned(header, rows, right=len(_TIMES) + len(gains))
    counts = summary.counts
    outcomes = ", ".join(f"{count} {status}" for status, count in counts.outcomes.items() if count)
    tail = [
        f"{counts.kernels_compiled} kernels compiled, {counts.measurements} measurements in {summary.seconds:.1f} s; "
        f"launch configs: {outcomes}",
        *([f"seconds: {_phases(summary.phases)}"] if summary.phases else []),
        *([f"between the rows: {_between(summary.between)}"] if summary.between else []),
        *([regret_line(summary.regrets)] if summary.regrets else []),
        *summary.notes,
        *(f"written: {path}" for path in summary.files),
    ]
    title = f"{summary.workload}, {'; '.join(summary.shapes)} (µs, up + down), gain over each engine's heuristic"
    return "\n".join([title, *table, *tail])


def _phases(phases: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {seconds:.1f}" for name, seconds in phases.items())


def _between(found: Sequence[SummaryBetween]) -> str:
    return ", ".join(f"M={one.num_tokens} by {one.entry_of}'s entry {one.gain_pct:.1f}%" for one in found)


def _line(subject: Subject, row: RowResult, rates: Rates | None) -> SummaryRow:
    worst = row.worst
    new_us = _median_us(row, worst, row.entry)
    assert new_us is not None
    heuristic_us = _median_us(row, worst, row.heuristic(worst))
    assert heuristic_us is not None
    return SummaryRow(
        row.num_tokens,
        heuristic_us,
        _median_us(row, worst, row.incumbent) if row.incumbent else None,
        new_us,
        _gain_pct(row.ratio(worst)),
        _gains_pct(row),
        round(floor_of(subject, row, rates)[0] / new_us, 3) if rates else None,
        row.decision.value,
        [str(part) for part in row.choice.unbounded],
        dict(row.entry.to_entry()),
        round(100.0 * (1.0 - row.down.ratio), 2) if row.down and row.down.gains else None,
    )


def _gain_pct(ratio: Ratio) -> float:
    return round(100.0 * (1.0 - ratio.mean), 2)


def _gains_pct(row: RowResult) -> dict[str, float]:
    found: dict[str, float] = {}
    for part in (*row.panel.times, *(row.told.times if row.told else ())):
        kind = {RoutingKind.UNIFORM: "", RoutingKind.RECORDED: " recorded"}.get(part.routing, " skewed")
        name = f"{part.engine}{kind}"
        found[name] = min(found.get(name, math.inf), _gain_pct(row.ratio(part)))
    return found


def _median_us(row: RowResult, part: Part, config: LaunchConfig) -> float | None:
    times_us = row.times_us(part, config)
    return round(statistics.median(times_us), 2) if times_us else None


def _cells(line: SummaryRow, gains: Sequence[str]) -> tuple[str, ...]:
    def time(us: float | None) -> str:
        return "-" if us is None else f"{us:.1f}"

    decision = line.decision + (f", separate down {line.down_gain_pct:.1f}%" if line.down_gain_pct else "")
    unbounded = f", not bounded: {'; '.join(line.unbounded)}" if line.unbounded else ""
    return (
        str(line.num_tokens),
        time(line.heuristic_us),
        time(line.incumbent_us),
        time(line.new_us),
        "-" if line.floor_share is None else f"{line.floor_share:.0%}",
        *(f"{line.gains_pct[name]:.1f}%" if name in line.gains_pct else "-" for name in gains),
        decision + unbounded,
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
        self._panel = bars.add_task("panel", total=num_rows, counts="", start=False)

    def event(self, event: Event) -> None:
        if isinstance(event, Measured):
            self._bars.start_task(self._panel)
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
        self._bars.update(self._panel, completed=self._rows, counts=f"{self._rows} of {self._num_rows} batch sizes")

    def say(self, line: str) -> None:
        self._bars.console.print(f"tune: {line}", markup=False, highlight=False)
