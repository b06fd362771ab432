"""Which launch config a row gets, and whether one that was written may stand: parts, blocks, the rule. Pure.

A *part* is an engine, a placement that reads the file's name, and a routing. In each part a config is measured over
*blocks*: draws of routing that nothing else has seen, as many as keep the weights cold. Configs that are compared share
their blocks, so what a draw does to all of them cancels; what is left differs from block to block, and the interval is
a t interval over blocks. Rounds that replay one set of draws measure the clock: between draws times differ by some 2 %,
within one by 0.2 %, and intervals over rounds gave 93 % false verdicts in simulation.

r is a config's time over the same engine's own heuristic in the same part: what a server gains by the file. A config's
score is the geometric mean of r, engines and placements equal, routings 2 : 1 : 1 (`ROUTING_WEIGHTS`).

The rule, in this order: (1) a config is *admissible* if in no part it may be more than 2 % slower than the engine's
heuristic: the upper bound of r is at most 1.02. (2) The admissible one with the least score wins. (3) Where none is
admissible, the one whose worst r is least, the heuristics among them, and the row says that it isn't bounded. (4) An
incumbent that is admissible yields only to a score at least 1 % lower, beyond doubt.
"""

from __future__ import annotations

import enum
import math
import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from kernels.launch_config import LaunchConfig
from kernels.problem import Flavour
from tools.store.record import Decision

MAX_NUM_TOKENS = 65536
"""The largest batch size that is measured, by a record's schema too."""

RULE = "parts-1"
"""The version of this method, for records: blocks of fresh draws in each part, and the rule above."""


class RoutingKind(enum.StrEnum):
    """How tokens choose experts. A skew is named by the Dirichlet's concentration that experts' popularity has."""

    UNIFORM = "uniform"
    SKEW_1 = "skew_1.0"
    SKEW_03 = "skew_0.3"
    RECORDED = "recorded"


ROUTING_WEIGHTS: Mapping[RoutingKind, float] = {
    RoutingKind.UNIFORM: 2.0,
    RoutingKind.SKEW_1: 1.0,
    RoutingKind.SKEW_03: 1.0,
    RoutingKind.RECORDED: 2.0,
}
"""In the score. A recorded routing takes part only where it is asked to decide."""

LEAST_SKEWED_TOKENS = 8
"""Fewer tokens choose too few experts for their popularity to matter."""

LARGEST_RATIO = 1.02
"""Of an admissible config's time to the engine's heuristic, in every part."""

MIN_BLOCKS = 4
MAX_DRAWS = 64


@dataclass(frozen=True, order=True)
class Part:
    """placement: index of the workload's shapes, each a model's K, top_k and parallelism."""

    engine: Flavour
    placement: int
    routing: RoutingKind

    def __str__(self) -> str:
        return f"{self.engine}, {self.routing}" + (f", placement {self.placement + 1}" if self.placement else "")


DRAWN_KINDS = (RoutingKind.UNIFORM, RoutingKind.SKEW_1, RoutingKind.SKEW_03)


def kinds_at(num_tokens: int, kinds: Sequence[RoutingKind] = DRAWN_KINDS) -> tuple[RoutingKind, ...]:
    """Without skews where tokens are few."""
    skews = (RoutingKind.SKEW_1, RoutingKind.SKEW_03) if num_tokens < LEAST_SKEWED_TOKENS else ()
    return tuple(kind for kind in kinds if kind not in skews)


def parts_of(placements: Mapping[Flavour, Sequence[int]], num_tokens: int) -> tuple[Part, ...]:
    """The parts of a batch size. placements: by engine, those of the workload's that run on it."""
    return tuple(
        Part(engine, placement, routing)
        for engine, indices in placements.items()
        for placement in indices
        for routing in kinds_at(num_tokens)
    )


def max_blocks(draws_a_block: int) -> int:
    """After which an undecided config counts as inadmissible; never fewer than are needed for an interval."""
    return max(MIN_BLOCKS, MAX_DRAWS // draws_a_block)


DRAWS_AT_ONCE = 8


def further_blocks(draws_a_block: int, draws: int = DRAWS_AT_ONCE) -> int:
    """How many more are played at once, where something is open."""
    return max(1, draws // draws_a_block)


# ---------------------------------------------------------------
# Ratios and their intervals


@dataclass(frozen=True)
class Ratio:
    """A geometric mean of paired ratios and its 95 % interval. blocks: that it rests on."""

    low: float
    mean: float
    high: float
    blocks: int

    @classmethod
    def of(cls, times_us: Sequence[float], others_us: Sequence[float]) -> Ratio:
        """Block by block, as a t interval of the logarithm. ValueError: not as many of both, or under two blocks."""
        logs = [math.log(a / b) for a, b in zip(times_us, others_us, strict=True)]
        if len(logs) < 2:
            raise ValueError(f"ratio: expected at least two blocks, found {len(logs)}.")
        return _ratio(statistics.fmean(logs), statistics.variance(logs) / len(logs), len(logs) - 1, len(logs))

    @property
    def may_exceed_bound(self) -> bool:
        return self.high > LARGEST_RATIO

    @property
    def is_open(self) -> bool:
        """Whether more blocks may tell on which side of the bound it lies."""
        return self.low <= LARGEST_RATIO < self.high

    @property
    def is_slower(self) -> bool:
        """What a judge calls a loss: beyond the bound on average, and beyond doubt slower at all."""
        return self.mean > LARGEST_RATIO and self.low > 1.0

    @property
    def is_faster(self) -> bool:
        return self.high < 1.0


def _ratio(mean: float, variance: float, degrees: float, blocks: int) -> Ratio:
    """mean and variance: of the logarithm."""
    half = t_975(degrees) * math.sqrt(variance)
    return Ratio(math.exp(mean - half), math.exp(mean), math.exp(mean + half), blocks)


_T_975 = (
    *(12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131),
    *(2.120, 2.110, 2.101, 2.093, 2.086, 2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042),
)
_NORMAL_975 = 1.960


def t_975(degrees: float) -> float:
    """Student's t below which 97.5 % lie, for 1 degree of freedom or more, within 0.5 %.

    A table to 30; between its points, and beyond, linear in 1/degrees.
    """
    if degrees >= len(_T_975):
        return _NORMAL_975 + (_T_975[-1] - _NORMAL_975) * len(_T_975) / degrees
    below = max(1, math.floor(degrees))
    share = (1 / below - 1 / max(degrees, 1.0)) / (1 / below - 1 / (below + 1))
    return _T_975[below - 1] + (_T_975[below] - _T_975[below - 1]) * share


# ---------------------------------------------------------------
# What was measured


Config = TypeVar("Config")
"""What is compared: the tuner's launch configs; a judge's, for up and down; or names of contestants."""

Blocks = Mapping[int, float]
"""µs of one layer's up and down by the block's number, from 0."""


@dataclass(frozen=True)
class Panel(Generic[Config]):
    """Of one batch size. times: by part and config. A config that was dropped lacks the later blocks of a part.

    heuristics: each engine's entry without a file, which is measured in every block of its parts. draws: of one block.
    """

    heuristics: Mapping[Flavour, Config]
    draws: int
    times: Mapping[Part, Mapping[Config, Blocks]] = field(default_factory=dict)

    def with_blocks(self, part: Part, measured: Mapping[Config, Blocks]) -> Panel[Config]:
        """With further blocks of a part."""
        known = self.times.get(part, {})
        more = {config: {**known.get(config, {}), **blocks} for config, blocks in measured.items()}
        return Panel(self.heuristics, self.draws, {**self.times, part: {**known, **more}})

    def without(self, configs: Iterable[Config]) -> Panel[Config]:
        """Without configs that failed somewhere: what doesn't run everywhere is no candidate anywhere."""
        gone = set(configs)
        kept = {
            part: {config: blocks for config, blocks in row.items() if config not in gone}
            for part, row in self.times.items()
        }
        return Panel(self.heuristics, self.draws, kept)

    @property
    def configs(self) -> tuple[Config, ...]:
        """Measured in every part, in the order in which they came."""
        rows = list(self.times.values())
        return tuple(config for config in (rows[0] if rows else ()) if all(config in row for row in rows))

    def next_block(self, part: Part) -> int:
        """The number of the first block that the part doesn't have yet."""
        return max((max(blocks, default=-1) + 1 for blocks in self.times.get(part, {}).values()), default=0)

    def ratio(self, part: Part, config: Config) -> Ratio:
        """r: over the engine's own heuristic."""
        return self.between(part, config, self.heuristics[part.engine])

    def between(self, part: Part, config: Config, other: Config) -> Ratio:
        """One config's time over another's, over the blocks that both have."""
        return Ratio.of(*self._common(part, config, other))

    def _common(self, part: Part, config: Config, other: Config) -> tuple[list[float], list[float]]:
        own_us, other_us = self.times[part][config], self.times[part][other]
        both = sorted(own_us.keys() & other_us.keys())
        return [own_us[block] for block in both], [other_us[block] for block in both]

    def ratios(self, config: Config) -> dict[Part, Ratio]:
        return {part: self.ratio(part, config) for part in self.times}

    def score(self, config: Config) -> float:
        """The geometric mean of r over the parts."""
        return math.exp(sum(share * math.log(self.ratio(part, config).mean) for part, share in self._shares()))

    def score_between(self, config: Config, other: Config) -> Ratio:
        """One config's score over another's, block by block within each part.

        Blocks of different parts are different draws, so the parts' variances add up; degrees of freedom by Welch and
        Satterthwaite.
        """
        mean = variance = spread = 0.0
        blocks: list[int] = []
        for part, share in self._shares():
            logs = [math.log(a / b) for a, b in zip(*self._common(part, config, other), strict=True)]
            of_part = share**2 * statistics.variance(logs) / len(logs)
            mean += share * statistics.fmean(logs)
            variance += of_part
            spread += of_part**2 / (len(logs) - 1)
            blocks.append(len(logs))
        degrees = variance**2 / spread if spread > 0.0 else math.inf
        return _ratio(mean, variance, degrees, min(blocks))

    def _shares(self) -> Iterator[tuple[Part, float]]:
        """What each part counts in the score; they add up to 1."""
        weights = {part: ROUTING_WEIGHTS[part.routing] for part in self.times}
        of_place: dict[tuple[Flavour, int], float] = {}
        for part, weight in weights.items():
            of_place[part.engine, part.placement] = of_place.get((part.engine, part.placement), 0.0) + weight
        places = list(of_place)
        engines = {engine for engine, _ in places}
        for part, weight in weights.items():
            place = part.engine, part.placement
            placements = sum(engine == part.engine for engine, _ in places)
            yield part, weight / of_place[place] / placements / len(engines)


# ---------------------------------------------------------------
# The rule


class Admissibility(enum.Enum):
    """What is known of a config by now."""

    ADMISSIBLE = "admissible"
    UNDECIDED = "undecided"
    INADMISSIBLE = "inadmissible"


def standing(panel: Panel[LaunchConfig], config: LaunchConfig) -> Admissibility:
    """Undecided as long as more blocks could show that the bound holds."""
    found = Admissibility.ADMISSIBLE
    for ratio in panel.ratios(config).values():
        if not ratio.may_exceed_bound:
            continue
        if ratio.low > LARGEST_RATIO or ratio.blocks >= max_blocks(panel.draws):
            return Admissibility.INADMISSIBLE
        found = Admissibility.UNDECIDED
    return found


@dataclass(frozen=True)
class Choice:
    """A row's entry. unbounded: the parts in which it may be more than 2 % slower than the engine's heuristic."""

    entry: LaunchConfig
    decision: Decision
    score: float
    unbounded: tuple[Part, ...] = ()

    @property
    def is_bounded(self) -> bool:
        return not self.unbounded


@dataclass(frozen=True)
class PromotionPolicy:
    """A challenger must be this much faster than the incumbent."""

    min_improvement_pct: float = 1.0

    def is_large_enough(self, ratio: Ratio) -> bool:
        """Whether a gain is, in doubt or not. ratio: the challenger's score over the incumbent's."""
        return ratio.mean <= 1.0 - self.min_improvement_pct / 100.0

    def is_won_by(self, ratio: Ratio) -> bool:
        """And beyond doubt one at all."""
        return self.is_large_enough(ratio) and ratio.is_faster


def choose(panel: Panel[LaunchConfig], incumbent: LaunchConfig | None, policy: PromotionPolicy) -> Choice:
    """The rule. Configs that are still undecided count as inadmissible. incumbent None: there is none, or it failed.

    Baseline where the entry is an engine's heuristic and not the incumbent.
    """
    admissible = [config for config in panel.configs if standing(panel, config) is Admissibility.ADMISSIBLE]
    if admissible:
        best = min(admissible, key=panel.score)
        if incumbent in admissible and not policy.is_won_by(panel.score_between(best, incumbent)):
            best = incumbent
    else:
        best = min(panel.configs, key=lambda config: max(ratio.mean for ratio in panel.ratios(config).values()))
    return choice_of(panel, best, incumbent)


def choice_of(panel: Panel[LaunchConfig], entry: LaunchConfig, incumbent: LaunchConfig | None) -> Choice:
    """What is to be said of an entry, whatever it was chosen by. incumbent: as in `choose`."""
    unbounded = tuple(part for part, ratio in panel.ratios(entry).items() if ratio.may_exceed_bound)
    return Choice(entry, _decision(panel, entry, incumbent), panel.score(entry), unbounded)


def _decision(panel: Panel[LaunchConfig], entry: LaunchConfig, incumbent: LaunchConfig | None) -> Decision:
    if entry == incumbent:
        return Decision.RETAIN
    return Decision.BASELINE if entry in panel.heuristics.values() else Decision.PROMOTE


@dataclass(frozen=True)
class MoreBlocks:
    """What would help to choose: one more block of these configs in this part, beside the engine's heuristic."""

    part: Part
    configs: tuple[LaunchConfig, ...]


def wanted(
    panel: Panel[LaunchConfig], incumbent: LaunchConfig | None, policy: PromotionPolicy
) -> tuple[MoreBlocks, ...]:
    """What more blocks could change the choice; empty: nothing could, or all draws are used.

    Asked for are the undecided configs that would win if they were admissible, in the parts that leave that open; then,
    where it is open whether the incumbent yields, it and its challenger in all parts.
    """
    hopeful, best = _hopeful(panel)
    if best is not None and incumbent is not None and _holds_if_admissible(panel, best, incumbent, policy):
        hopeful.append(incumbent)
    asked = {part: [config for config in hopeful if panel.ratio(part, config).is_open] for part in panel.times}
    if not any(asked.values()) and best is not None and incumbent in panel.configs and best != incumbent:
        asked = _duel_parts(panel, best, incumbent, policy)
    return tuple(MoreBlocks(part, tuple(configs)) for part, configs in asked.items() if configs)


def _hopeful(panel: Panel[LaunchConfig]) -> tuple[list[LaunchConfig], LaunchConfig | None]:
    """The undecided configs of less score than the best admissible one, and that one."""
    hopeful: list[LaunchConfig] = []
    for config in sorted(panel.configs, key=panel.score):
        now = standing(panel, config)
        if now is Admissibility.ADMISSIBLE:
            return hopeful, config
        if now is Admissibility.UNDECIDED:
            hopeful.append(config)
    return hopeful, None


def _holds_if_admissible(
    panel: Panel[LaunchConfig], challenger: LaunchConfig, incumbent: LaunchConfig, policy: PromotionPolicy
) -> bool:
    return (
        incumbent in panel.configs
        and standing(panel, incumbent) is Admissibility.UNDECIDED
        and not policy.is_won_by(panel.score_between(challenger, incumbent))
    )


def _duel_parts(
    panel: Panel[LaunchConfig], challenger: LaunchConfig, incumbent: LaunchConfig, policy: PromotionPolicy
) -> dict[Part, list[LaunchConfig]]:
    """Where the challenger's gain is large enough and in doubt."""
    ratio = panel.score_between(challenger, incumbent)
    is_in_doubt = policy.is_large_enough(ratio) and not ratio.is_faster
    is_open = is_in_doubt and standing(panel, incumbent) is not Admissibility.INADMISSIBLE
    return {
        part: [challenger, incumbent]
        for part in panel.times
        if is_open and panel.between(part, challenger, incumbent).blocks < max_blocks(panel.draws)
    }
