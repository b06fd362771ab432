"""What the tuner is allowed to spend, and by which rules it decides. Frozen data and pure functions.

The gate, in this order: (1) an entry that is slower than the heuristic under any shape is out, without margin: a row is
never slower than having no file. Where none is left, the heuristic's own entry is written. (2) A challenger replaces an
incumbent only by a margin that noise can't explain.
"""

from __future__ import annotations

import enum
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field

from tools.measure.statistics import Interval, paired_ratio


@dataclass(frozen=True)
class SearchPolicy:
    """How far the search looks.

    anchor_factor: anchors, where every kernel is screened, lie this factor apart. carried: candidates that a row
    takes over from each neighbouring anchor. survivors: kernels of a row whose other group sizes are tried.
    give_up_ratio: above this multiple of the row's best one sample is enough. promise_limit: a kernel is compiled
    only if one that differs from it in one step came within this ratio of the best at some anchor.
    """

    anchor_factor: float = 4.0
    carried: int = 12
    survivors: int = 6
    give_up_ratio: float = 1.5
    promise_limit: float = 1.15

    @classmethod
    def exhaustive(cls) -> SearchPolicy:
        """Everything everywhere: the oracle."""
        return cls(1.0, 1_000_000, 1_000_000, promise_limit=math.inf)


@dataclass(frozen=True)
class ConfirmPolicy:
    """How a row's best few are measured.

    finalists: how many besides baselines and incumbent. rounds: of a job; jobs are repeated while the best can't be
    told apart. noise_pct: what a finalist may lose and still be measured further.
    """

    finalists: int = 12
    rounds: int = 6
    max_jobs: int = 5
    noise_pct: float = 0.3


@dataclass(frozen=True)
class PromotionPolicy:
    """A challenger must be this much faster than the incumbent."""

    min_improvement_pct: float = 1.0

    def is_won_by(self, ratio: Interval) -> bool:
        """ratio: the challenger's time over the incumbent's, round by round."""
        return ratio.median <= 1.0 - self.min_improvement_pct / 100.0 and ratio.high < 1.0


@dataclass(frozen=True)
class Budget:
    """Wall time to plan with, from the command to the written file: the search ends early enough to confirm every row.

    No promise: each row is measured once, however long that takes.
    """

    total_s: float = 44.0
    confirm_share: float = 0.55

    @property
    def search_s(self) -> float:
        return self.total_s * (1.0 - self.confirm_share)


@dataclass(frozen=True)
class Policies:
    """All of them."""

    search: SearchPolicy = field(default_factory=SearchPolicy)
    confirm: ConfirmPolicy = field(default_factory=ConfirmPolicy)
    promotion: PromotionPolicy = field(default_factory=PromotionPolicy)
    budget: Budget = field(default_factory=Budget)


class Decision(enum.StrEnum):
    """Why a row holds its entry."""

    PROMOTE = "promote"
    """A challenger, faster than what was there."""
    RETAIN = "retain"
    """The incumbent: no challenger was faster by the margin."""
    BASELINE = "baseline"
    """The heuristic's own entry: nothing was faster."""


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

    @property
    def is_slower(self) -> bool:
        """By either measure: what a drifting clock makes of medians is no excuse in a record."""
        return self.ratio.median > 1.0 or self.us > self.other_us


def passes_gate(beside_heuristic: Sequence[PairedComparison]) -> bool:
    """Whether an entry is nowhere slower than having no file. One comparison a shape."""
    return not any(comparison.is_slower for comparison in beside_heuristic)


def decide(
    challenger: Sequence[PairedComparison] | None,
    incumbent: Sequence[PairedComparison] | None,
    duel: Sequence[PairedComparison] | None,
    policy: PromotionPolicy,
) -> Decision:
    """The gate for one row, one comparison a shape. None: there is none, or it failed.

    challenger, incumbent: beside the heuristic. duel: the challenger beside the incumbent.
    """
    may_challenge = challenger is not None and passes_gate(challenger)
    may_stay = incumbent is not None and passes_gate(incumbent)
    is_close = may_stay and duel is not None and not all(policy.is_won_by(one.ratio) for one in duel)
    if may_challenge and not is_close:
        return Decision.PROMOTE
    return Decision.RETAIN if may_stay else Decision.BASELINE
