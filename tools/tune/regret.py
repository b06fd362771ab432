"""What the usual search loses: its choice beside what the rule chooses among all that a landscape holds. Pure."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from kernels.launch_config import LaunchConfig
from tools.measure.panel import Panel, PromotionPolicy, Ratio, choose
from tools.tune.contest import paced, with_event
from tools.tune.journal import Journal
from tools.tune.protocol import Measured
from tools.tune.tuner import RowResult


@dataclass(frozen=True)
class Regret:
    """Of one batch size. ratio: the entry's score over the best's, on the landscape's own blocks.

    None: the exhaustive run dropped the entry early, or measured no blocks, so that parts of it are missing.
    """

    num_tokens: int
    entry: LaunchConfig
    best: LaunchConfig
    ratio: Ratio | None

    @property
    def pct(self) -> float | None:
        """Per cent of the best's score. Below 0: the best was admissible by less, or chance."""
        return None if self.ratio is None else 100.0 * (self.ratio.mean - 1.0)


def regrets(landscape: Journal, rows: Sequence[RowResult]) -> tuple[Regret, ...]:
    """landscape: of an exhaustive run. rows: what the usual search chose on it, without an incumbent."""
    measured: dict[int, list[Measured]] = {}
    for entry in landscape.entries:
        if isinstance(entry.event, Measured) and not entry.event.job.is_apart and entry.event.job.up is None:
            measured.setdefault(entry.event.job.num_tokens, []).append(entry.event)
    return tuple(_regret(row, measured.get(row.num_tokens, ())) for row in rows)


def _regret(row: RowResult, events: Sequence[Measured]) -> Regret:
    panel = Panel(row.panel.heuristics, row.panel.draws)
    for event in (event for event in events if event.job.part in row.panel.times):
        heuristic = panel.heuristics[event.job.part.engine]
        known = panel.times.get(event.job.part, {}).get(heuristic, {})
        is_late = event.job.first in known
        panel = with_event(panel, paced(event, heuristic, known) if is_late else event)
    if not panel.configs:
        return Regret(row.num_tokens, row.entry, row.entry, None)
    best = choose(panel, None, PromotionPolicy()).entry
    # Where down has an entry of its own, up's may have been chosen with it; what is compared runs both projections.
    entry = choose(row.panel, None, PromotionPolicy()).entry if row.down and row.down.gains else row.entry
    ratio = panel.score_between(entry, best) if entry in panel.configs else None
    return Regret(row.num_tokens, entry, best, ratio)


def regret_line(found: Sequence[Regret]) -> str:
    """One line."""
    known = {one.num_tokens: one.pct for one in found if one.pct is not None}
    if not known:
        return "against the exhaustive search that was recorded: no row can be compared"
    worst = max(known, key=known.__getitem__)
    missing = [str(one.num_tokens) for one in found if one.pct is None]
    told = f"median {statistics.median(known.values()):.2f} %, worst {known[worst]:.2f} % (M={worst})"
    beside = f"; not compared: M={', '.join(missing)}" if missing else ""
    return f"slower than the exhaustive search that was recorded: {told}{beside}"
