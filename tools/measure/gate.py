"""May a row stand? The one answer, for whoever writes a row and whoever judges one that was written. Pure.

The gate, in this order: (1) an entry that is slower than the heuristic under any shape is out: a row is never slower
than having no file. Where none is left, the heuristic's own entry is written. (2) A challenger replaces an incumbent
only by a margin that noise can't explain.
"""

from __future__ import annotations

import enum
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from tools.measure.statistics import NOISE_PCT, Interval, is_slower, paired_ratio
from tools.store.record import Decision


class Noise(enum.Enum):
    """How much slower than the heuristic an entry may look before it is."""

    NONE = "none"
    """When a row is written: whoever chooses freely has no need of an entry that isn't at least as fast."""
    MEASURED = "as measured"
    """When a written row is judged: another capture of the same two launches may turn out otherwise."""


@dataclass(frozen=True)
class PromotionPolicy:
    """A challenger must be this much faster than the incumbent."""

    min_improvement_pct: float = 1.0

    def is_won_by(self, ratio: Interval) -> bool:
        """ratio: the challenger's time over the incumbent's, round by round."""
        return ratio.median <= 1.0 - self.min_improvement_pct / 100.0 and ratio.high < 1.0


@dataclass(frozen=True)
class PairedComparison:
    """An entry beside another, over the rounds that both took part in, under one shape.

    ratio: its time over the other's, round by round. us, other_us: the medians, as a record shows them.
    """

    ratio: Interval
    us: float
    other_us: float

    @classmethod
    def of(cls, us: Sequence[float], other_us: Sequence[float]) -> PairedComparison:
        """Of as many rounds of each, in µs. ValueError: no rounds, or not as many."""
        return cls(paired_ratio(us, other_us), statistics.median(us), statistics.median(other_us))

    @classmethod
    def of_medians(cls, us: float, other_us: float) -> PairedComparison:
        """Where the rounds are not known, as in a record."""
        return cls.of((us,), (other_us,))

    def is_slower(self, noise: Noise) -> bool:
        """By either measure: what a drifting clock makes of medians is no excuse in a record.

        With measured noise the ratio must be slower as a bench says it, the medians by as much.
        """
        if noise is Noise.NONE:
            return self.ratio.median > 1.0 or self.us > self.other_us
        margin = max(NOISE_PCT / 100.0, self.ratio.median - self.ratio.low)
        return is_slower(self.ratio) or self.us > (1.0 + margin) * self.other_us


def passes_gate(beside_heuristic: Sequence[PairedComparison], noise: Noise) -> bool:
    """Whether an entry is nowhere slower than having no file. One comparison a shape."""
    return not any(comparison.is_slower(noise) for comparison in beside_heuristic)


def decide(
    challenger: Sequence[PairedComparison] | None,
    incumbent: Sequence[PairedComparison] | None,
    duel: Sequence[PairedComparison] | None,
    policy: PromotionPolicy,
    noise: Noise,
) -> Decision:
    """The gate for one row, one comparison a shape. None: there is none, or it failed.

    challenger, incumbent: beside the heuristic. duel: the challenger beside the incumbent.
    """
    may_challenge = challenger is not None and passes_gate(challenger, noise)
    may_stay = incumbent is not None and passes_gate(incumbent, noise)
    is_close = may_stay and duel is not None and not all(policy.is_won_by(one.ratio) for one in duel)
    if may_challenge and not is_close:
        return Decision.PROMOTE
    return Decision.RETAIN if may_stay else Decision.BASELINE
