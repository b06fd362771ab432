"""Progress on stderr: bars with rate and time left on a terminal, a line a row elsewhere."""

from __future__ import annotations

import importlib.util
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol

from tools import cli
from tools.tune.model import Compiled, Confirmed, Event
from tools.tune.tuner import RowResult


class Reporter(Protocol):
    """Sees every event and every decided row."""

    def event(self, event: Event) -> None: ...

    def row(self, row: RowResult) -> None: ...

    def say(self, line: str) -> None: ...


@contextmanager
def reporter(num_rows: int, search_s: float) -> Iterator[Reporter]:
    """search_s: how long the search may take; infinite: as long as it needs."""
    if not (sys.stderr.isatty() and importlib.util.find_spec("rich")):
        yield Lines()
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description:<8}"),
        BarColumn(),
        TextColumn("{task.fields[told]}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bars:
        yield Bars(bars, num_rows, search_s)


class Lines:
    """For logs."""

    def event(self, event: Event) -> None:
        pass

    def row(self, row: RowResult) -> None:
        entry = ",".join(map(str, row.entry.to_entry().values()))
        self.say(f"M={row.num_tokens}: {row.decision.value} {entry}")

    def say(self, line: str) -> None:
        cli.say(f"tune: {line}")


class Bars:
    """The search's bar runs on the clock, since how many kernels it will want is not known before."""

    def __init__(self, bars: Any, num_rows: int, search_s: float) -> None:
        self._bars = bars
        self._started = time.monotonic()
        self._kernels = self._measurements = self._rows = 0
        self._num_rows = num_rows
        self._search = bars.add_task("search", total=search_s if search_s != float("inf") else None, told="")
        self._confirm = bars.add_task("confirm", total=num_rows, told="", start=False)

    def event(self, event: Event) -> None:
        if isinstance(event, Confirmed):
            self._bars.start_task(self._confirm)
            return
        if isinstance(event, Compiled):
            self._kernels += event.kernels
        else:
            self._measurements += 1
        seconds = max(time.monotonic() - self._started, 1e-3)
        told = (
            f"{self._kernels} kernels ({self._kernels / seconds:.0f}/s), "
            f"{self._measurements} measurements ({self._measurements / seconds:.0f}/s)"
        )
        self._bars.update(self._search, completed=seconds, told=told)

    def row(self, row: RowResult) -> None:  # noqa: ARG002  # how many is all that a bar shows
        self._rows += 1
        self._bars.update(self._confirm, completed=self._rows, told=f"{self._rows} of {self._num_rows} batch sizes")

    def say(self, line: str) -> None:
        self._bars.console.print(f"tune: {line}", markup=False, highlight=False)
