"""Faster, slower or the same: what paired samples say of two contestants. Pure."""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tools.measure.statistics import Interval, geomean, paired_ratio
from tools.store.launch_config import LaunchConfig

NOISE_PCT = 0.5
"""Two captures of one launch config differ by up to so much: their tensors lie elsewhere in memory."""


class Verdict(enum.StrEnum):
    """Of a tuned file against another contestant."""

    FASTER = "faster"
    SLOWER = "slower"
    SAME = "same"
    FAILED = "failed"


@dataclass(frozen=True)
class Measured:
    """One contestant at one batch size, under the shape where the file does worst. message: why there is no time."""

    config: LaunchConfig
    us: Interval | None
    message: str = ""


@dataclass(frozen=True)
class Duel:
    """The tuned file's time over a contestant's, round by round. None: one of them failed."""

    ratio: Interval | None
    verdict: Verdict


@dataclass(frozen=True)
class RowVerdict:
    """One batch size. measured and duels by the contestants' names; duels are the file's own, the first one's.

    With several shapes each duel is of the shape where the file does worst against that contestant.
    """

    num_tokens: int
    floor_us: float
    bound: str
    measured: Mapping[str, Measured]
    duels: Mapping[str, Duel]


def duel(own: Sequence[float], other: Sequence[float]) -> Duel:
    """Slower or faster only where the ratio's interval leaves 1 out and its median is beyond the noise."""
    ratio = paired_ratio(own, other)
    if ratio.low > 1.0 and ratio.median > 1.0 + NOISE_PCT / 100.0:
        return Duel(ratio, Verdict.SLOWER)
    if ratio.high < 1.0 and ratio.median < 1.0 - NOISE_PCT / 100.0:
        return Duel(ratio, Verdict.FASTER)
    return Duel(ratio, Verdict.SAME)


SAME_ENTRY = Duel(Interval(1.0, 1.0, 1.0), Verdict.SAME)
"""Both run one launch config: measured once."""

FAILED = Duel(None, Verdict.FAILED)


@dataclass(frozen=True)
class Score:
    """A file against one contestant over all rows that both ran. Ratios: the file's time over the contestant's."""

    geomean_ratio: float
    median_ratio: float
    worst_ratio: float
    faster: int
    slower: int
    same: int
    failed: int


def score(rows: Sequence[RowVerdict], contestant: str) -> Score | None:
    """None: there is no row that both ran."""
    duels = [row.duels[contestant] for row in rows if contestant in row.duels]
    ratios = sorted(duel.ratio.median for duel in duels if duel.ratio)
    if not ratios:
        return None
    count = [sum(duel.verdict is verdict for duel in duels) for verdict in Verdict]
    return Score(geomean(ratios), Interval.of(ratios).median, ratios[-1], *count)
