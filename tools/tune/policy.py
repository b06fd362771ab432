"""What the tuner is allowed to spend, and by which rules it decides. Frozen data."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import ClassVar

from tools.measure.panel import DRAWS_AT_ONCE, MIN_BLOCKS, PromotionPolicy

_ALL = 1_000_000
"""More launch configs than a row has."""


@dataclass(frozen=True)
class SearchPolicy:
    """How far the search looks.

    anchor_factor: anchors, where every kernel is screened, lie this factor apart. carried: candidates that a row
    takes over from each neighbouring anchor. survivors: kernels of a row whose other group sizes are tried.
    give_up_ratio: above this multiple of the row's best one sample is enough. promise_limit: a kernel is compiled
    only if one that differs from it in one step is, at some anchor, within this ratio of the best and one of the best
    `beam`. cheap_tokens: at anchors of more only those kernels are screened that came within climbing_limit of the best
    at the anchor below. shape_limit: a kernel is tried under a further (K, top_k) only if it came within this ratio of
    the best under the one before.
    """

    anchor_factor: float = 4.0
    carried: int = 12
    survivors: int = 6
    give_up_ratio: float = 1.5
    promise_limit: float = 1.15
    beam: int = 8
    cheap_tokens: int = 2048
    climbing_limit: float = 1.25
    shape_limit: float = 1.5

    @classmethod
    def exhaustive(cls) -> SearchPolicy:
        """Everything everywhere: the oracle."""
        return cls(1.0, _ALL, _ALL, promise_limit=math.inf, climbing_limit=math.inf, shape_limit=math.inf)


@dataclass(frozen=True)
class PanelPolicy:
    """How a row's contestants are measured.

    finalists: of the search, besides heuristics and incumbent. blocks: that each contestant gets in each part.
    screened: at anchors, the best so many are screened under skew and on the other engine's kernel too. joining: the
    best so many of each join the finalists of the anchor's rows. hopeless: a contestant whose score lies above so many
    times the best one's, beyond doubt, isn't measured in further parts; what loses by less under uniform routing may be
    the one that skew leaves. draws: of further blocks asked for at once, where it is open who wins.
    """

    finalists: int = 4
    blocks: int = MIN_BLOCKS
    screened: int = 12
    joining: int = 2
    hopeless: float = 1.05
    draws: int = DRAWS_AT_ONCE

    @classmethod
    def exhaustive(cls) -> PanelPolicy:
        """So many that the usual search's choice is among them: what it is held against.

        All are screened in every view. Where hundreds do alike, a usual search that knows a part of them asks for
        others than the best 32 of all (E=512, N=80 at 4096 tokens on an H200), and its replay would lack them.
        """
        return cls(finalists=16, screened=_ALL, joining=8)


@dataclass(frozen=True)
class Budget:
    """Wall time to plan with, from the command to the written file: the search ends early enough to measure every row.

    No promise: each row gets its first blocks in every part, however long that takes. panel_share: what the panel
    takes: six parts of which the search saw one.
    """

    total_s: float = 72.0
    panel_share: float = 0.45

    FURTHER_SHAPE: ClassVar[float] = 0.4
    """What each further (K, top_k) adds: only kernels that do well under the first one are compiled for it."""

    @property
    def search_s(self) -> float:
        return self.total_s * (1.0 - self.panel_share)

    @classmethod
    def weight_of(cls, shapes: int) -> float:
        """What so many (K, top_k) cost, as a multiple of one."""
        return 1.0 + cls.FURTHER_SHAPE * (shapes - 1)

    def of_shapes(self, count: int) -> Budget:
        """For so many (K, top_k), of the budget of one."""
        return replace(self, total_s=self.total_s * self.weight_of(count))


@dataclass(frozen=True)
class Policies:
    """All of them."""

    search: SearchPolicy = field(default_factory=SearchPolicy)
    panel: PanelPolicy = field(default_factory=PanelPolicy)
    promotion: PromotionPolicy = field(default_factory=PromotionPolicy)
    budget: Budget = field(default_factory=Budget)
