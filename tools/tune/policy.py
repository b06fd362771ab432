"""What the tuner is allowed to spend, and by which rules it decides. Frozen data."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from tools.measure.gate import PromotionPolicy


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
