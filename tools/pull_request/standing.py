"""How a measured file stands: what its rows come to by the promotion policy, and whether its claims hold. Pure."""

from __future__ import annotations

import enum
from collections.abc import Callable
from dataclasses import dataclass

from tools.measure.statistics import Verdict
from tools.pull_request.documents import MeasuredFile, Row
from tools.store.record import Decision

CLAIM_TOLERANCE_PCT = 5.0
"""Two machines of one kind differ by up to so much in clock and cooling; beyond it a claimed time doesn't hold."""


class Standing(enum.Enum):
    """A file's headline, the worst first."""

    SLOWER = "slower"
    """A row loses to main's file or to the heuristic, or doesn't run."""
    UNKNOWN = "not measured"
    RETAIN = "no gain"
    """Nothing is slower, and nothing faster by the margin."""
    PROMOTE = "promote"


@dataclass(frozen=True)
class RowGap:
    """The row where one time is farthest above another, and by how many per cent of that other."""

    num_tokens: int
    pct: float


def standing(file: MeasuredFile) -> Standing:
    rows = file.rows.values()
    if any(is_slower(row) for row in rows):
        return Standing.SLOWER
    if not rows or any(row.verdict is None for row in rows):
        return Standing.UNKNOWN
    return Standing.PROMOTE if any(row.decision is Decision.PROMOTE for row in rows) else Standing.RETAIN


def is_slower(row: Row) -> bool:
    """Than main's, or than having no file; where the file is removed, main's was faster.

    The policy may want the heuristic because main's entry loses to it: no fault of a claim that doesn't.
    """
    loses = row.measured_us is not None and row.heuristic_us is not None and row.measured_us > row.heuristic_us
    return row.verdict is Verdict.SLOWER or (row.decision is Decision.BASELINE and loses)


def claim_gap(file: MeasuredFile) -> RowGap | None:
    """Where the measured time is farthest above the claimed one. None: no row has both."""
    return _largest(file, lambda row: (row.measured_us, row.claimed_us))


def retuned_gap(file: MeasuredFile) -> RowGap | None:
    """Where re-tuning gains most over the claimed entry. None: it found no other file."""
    return _largest(file, lambda row: (row.measured_us, row.retuned_us)) if file.retuned_file else None


def why_unverified(file: MeasuredFile) -> str | None:
    """What keeps a file from being called verified: a row that doesn't run, loses, or doesn't hold its claim."""
    if not file.is_measured or not file.rows:
        return f"not measured ({file.reason or 'no rows'})"
    for num_tokens, row in sorted(file.rows.items()):
        if row.measured_us is None or row.verdict is None:
            return f"M={num_tokens}: no time was measured"
        if is_slower(row):
            return f"M={num_tokens}: slower than main's file or the heuristic"
    gap = claim_gap(file)
    if gap and gap.pct > CLAIM_TOLERANCE_PCT:
        return f"M={gap.num_tokens}: {gap.pct:.1f} % above the recorded time"
    return None


def _largest(file: MeasuredFile, pair: Callable[[Row], tuple[float | None, float | None]]) -> RowGap | None:
    gaps = [
        RowGap(num_tokens, 100.0 * (above / below - 1.0))
        for num_tokens, row in file.rows.items()
        for above, below in [pair(row)]
        if above and below
    ]
    return max(gaps, key=lambda gap: gap.pct, default=None)
