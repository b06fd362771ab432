"""Recorded landscapes stand in for a GPU: what an entry took then is what it takes now. For tests and dry runs."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from kernels.launch_config import LaunchConfig
from tools.bench.candidates import Candidate
from tools.compile.outcome import Status
from tools.launch.heuristics import clamped
from tools.measure.statistics import SAME_ENTRY, Duel, duel
from tools.pull_request.documents import PlannedFile
from tools.pull_request.judgement import Benched
from tools.pull_request.site import Bench, NotMeasuredError
from tools.tune.journal import Journal, JournalError
from tools.tune.protocol import Confirmed, Screened
from tools.tune.tuner import baselines

Times = Mapping[tuple[int, int, LaunchConfig], float]
"""µs by batch size, shape and entry."""


@dataclass(frozen=True)
class ReplaySite:
    """folder: holds `NAME.jsonl.gz` for a tuned file `NAME.json`."""

    folder: Path

    def bench(self, file: PlannedFile, limit_s: float) -> Bench:  # noqa: ARG002 (a landscape answers at once)
        """What the landscape holds of claimed, main's and the heuristic's entries; the rest is not known."""
        try:
            journal = Journal.read(self._landscape(file))
        except JournalError as error:
            raise NotMeasuredError("crashed") from error
        if journal.device is None or journal.device.environment is None:
            raise NotMeasuredError("crashed")
        times = times_of(journal)
        rows = {m: _row(file, journal, times, m) for m in file.batch_sizes}
        return Bench(rows, journal.device.environment.to_json())

    def tune_arguments(self, file: PlannedFile) -> tuple[str, ...]:
        """The landscape says the workload and its shapes."""
        return ("--replay", str(self._landscape(file).absolute()))

    def _landscape(self, file: PlannedFile) -> Path:
        path = self.folder / f"{file.id.relative.stem}.jsonl.gz"
        if not path.is_file():
            raise NotMeasuredError("unsupported")
        return path


def times_of(journal: Journal) -> Times:
    """Up and down together: the median of a confirmation's samples, else what screening saw."""
    screened: dict[tuple[int, int, LaunchConfig], float] = {}
    confirmed: dict[tuple[int, int, LaunchConfig], float] = {}
    for entry in journal.entries:
        match entry.event:
            case Screened(job, Status.OK) as event:
                screened[job.num_tokens, job.shape, job.config] = event.total_us
            case Confirmed(job, all_series):
                for series in all_series:
                    if series.total_us:
                        key = job.num_tokens, job.shape, series.config
                        confirmed.setdefault(key, statistics.median(series.total_us))
    return {**screened, **confirmed}


def _row(file: PlannedFile, journal: Journal, times: Times, num_tokens: int) -> Benched:
    """Under the shape where the file does worst."""
    heuristic, _ = baselines(journal.header.subject, num_tokens)
    own = _entry(file, file.claimed or file.main, num_tokens)
    main = _entry(file, file.main, num_tokens) if file.claimed else None
    found = []
    for shape in range(len(journal.header.subject.shapes)):
        own_us, main_us, heuristic_us = (
            times.get((num_tokens, shape, config)) if config else None for config in (own, main, heuristic)
        )
        against_main = SAME_ENTRY if own == main else _duel(own_us, main_us)
        against_heuristic = SAME_ENTRY if own == heuristic else _duel(own_us, heuristic_us)
        found.append(Benched(own_us, main_us, heuristic_us, against_main, against_heuristic))
    return max(found, key=_worst)


def _entry(file: PlannedFile, entries: Mapping[int, LaunchConfig], num_tokens: int) -> LaunchConfig | None:
    return clamped(Candidate("", entries).entry(num_tokens), file.id.workload) if entries else None


def _duel(own_us: float | None, other_us: float | None) -> Duel | None:
    return None if own_us is None or other_us is None else duel((own_us,), (other_us,))


def _worst(row: Benched) -> float:
    ratios = [duel.ratio.median for duel in (row.against_main, row.against_heuristic) if duel and duel.ratio]
    return max(ratios, default=0.0)
