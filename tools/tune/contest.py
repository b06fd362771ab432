"""A row's last word: its contestants in blocks of fresh draws, part by part, until `tools.measure.panel` can choose."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from fused_moe_configs.naming import ENGINE_NAMES
from kernels.launch_config import LaunchConfig
from kernels.problem import Flavour
from tools.compile.outcome import Status
from tools.measure.panel import (
    Admissibility,
    Blocks,
    Choice,
    Panel,
    Part,
    PromotionPolicy,
    Ratio,
    choice_of,
    choose,
    further_blocks,
    max_blocks,
    standing,
    wanted,
)
from tools.tune.policy import PanelPolicy
from tools.tune.protocol import BlockJob, Measured, Series


class ContestError(RuntimeError):
    """A row can't be decided. One line for a person."""


Measure = Callable[[BlockJob], Measured]


@dataclass
class Contest:
    """One batch size while it is measured. parts: in the order in which they are; those that decide.

    heuristics: of the engines that read the name. incumbent: what stands there. beside: parts that are measured and
    told, but don't decide. panel, told: what is known of both. active_experts: by part and block, those that its draws
    reached: the average of the blocks that were played together.
    """

    num_tokens: int
    parts: tuple[Part, ...]
    heuristics: Mapping[Flavour, LaunchConfig]
    incumbent: LaunchConfig | None
    policy: PanelPolicy
    promotion: PromotionPolicy
    beside: tuple[Part, ...] = ()
    contestants: list[LaunchConfig] = field(default_factory=list)
    failures: dict[LaunchConfig, tuple[Status, str]] = field(default_factory=dict)
    active_experts: dict[Part, dict[int, float]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._strangers: set[LaunchConfig] = set()
        self.panel = Panel(self.heuristics, 1)
        self.told = Panel(self.heuristics, 1)
        self.enter(self.always)

    @property
    def always(self) -> tuple[LaunchConfig, ...]:
        """What stays in to the end, since its figures are written down."""
        incumbent = (self.incumbent,) if self.incumbent else ()
        return tuple(dict.fromkeys((*self.heuristics.values(), *incumbent)))

    def enter(self, configs: Iterable[LaunchConfig]) -> None:
        """Further contestants. One that failed before stays out."""
        self.contestants = [
            config for config in dict.fromkeys((*self.contestants, *configs)) if config not in self.failures
        ]

    def drop(self, configs: Iterable[LaunchConfig]) -> None:
        """Those that can't win, but for what always stays."""
        gone = set(configs) - set(self.always)
        self.contestants = [config for config in self.contestants if config not in gone]

    def play(self, parts: Container[Part], measure: Measure) -> None:
        """The first blocks of every contestant in these parts; the hopeless drop out.

        ContestError: nothing is left to compare with.
        """
        for part in self.parts:
            if part in parts:
                self._first_blocks(part, measure)
                self._drop_hopeless()

    def settle(self, measure: Measure, is_over: Callable[[], bool]) -> Choice:
        """Blocks until nothing could change the choice, the draws are used or the time is; then the choice."""
        for part in self.parts:
            self._first_blocks(part, measure)
            # Who joined for what it does elsewhere isn't judged before every engine has had its say.
            if {one.engine for one in self.panel.times} >= {one.engine for one in self.parts}:
                self._drop_hopeless()
        while not is_over() and (more := wanted(self.panel, self._incumbent, self.promotion)):
            for asked in more:
                if asked.part not in self.parts:  # its heuristic failed meanwhile
                    continue
                count = further_blocks(self.panel.draws, self.policy.draws)
                self._more(asked.part, asked.configs, count, measure)
        choice = choose(self.panel, self._incumbent, self.promotion)
        self._tell(choice.entry, measure)
        return choice

    def take(self, entry: LaunchConfig, measure: Measure) -> Choice | None:
        """Another entry of the panel, in place of the one that was settled on. None: it fails where that is told."""
        self._tell(entry, measure)
        return None if entry in self.failures else choice_of(self.panel, entry, self._incumbent)

    def _tell(self, entry: LaunchConfig, measure: Measure) -> None:
        """Plays the parts that don't decide."""
        for part in (one for one in self.beside if self.heuristics[one.engine] not in self.failures):
            runs = [config for config in dict.fromkeys((entry, *self.always)) if config not in self.failures]
            self.told = with_event(self.told, self._measured(part, runs, 0, self.policy.blocks, measure))

    @property
    def _incumbent(self) -> LaunchConfig | None:
        return self.incumbent if self.incumbent in self.panel.configs else None

    def _first_blocks(self, part: Part, measure: Measure) -> None:
        """Of the contestants that have none there yet."""
        if part not in self.parts:  # its heuristic failed meanwhile
            return
        known = self.panel.times.get(part, {})
        new = [config for config in self.contestants if config not in known]
        if new and known:
            self._late(part, new, known[self.heuristics[part.engine]], measure)
        elif new:
            self._more(part, new, self.policy.blocks, measure)

    def _more(self, part: Part, configs: Sequence[LaunchConfig], count: int, measure: Measure) -> None:
        """Further blocks of these beside the engine's heuristic."""
        first = self.panel.next_block(part)
        left = max_blocks(self.panel.draws) - first
        together = [config for config in configs if config not in self.failures]
        self._take(self._measured(part, together, first, max(1, min(count, left)) if first else count, measure))

    def _late(self, part: Part, configs: Sequence[LaunchConfig], heuristic_us: Blocks, measure: Measure) -> None:
        """Who comes late plays the draws that the others had, beside the heuristic once more.

        So they are paired draw by draw, at the others' pace.
        """
        event = self._measured(part, configs, 0, self.policy.blocks, measure)
        self._take(paced(event, self.heuristics[part.engine], heuristic_us))

    def _measured(
        self, part: Part, configs: Sequence[LaunchConfig], first: int, count: int, measure: Measure
    ) -> Measured:
        """Beside the engine's heuristic."""
        own = self.heuristics[part.engine]
        together = tuple(dict.fromkeys((own, *configs)))
        event = measure(BlockJob(self.num_tokens, part, together, first, count))
        for series in event.series:
            if series.status is Status.OK:
                continue
            if series.config != own and series.config in self.heuristics.values():
                self._strangers.add(series.config)  # no candidate here; where it is the yardstick it stays
            else:
                self.failures[series.config] = series.status, series.message
        if event.active_experts is not None:
            reached = dict.fromkeys(range(first, first + count), event.active_experts)
            self.active_experts.setdefault(part, {}).update(reached)
        return event

    def _take(self, event: Measured) -> None:
        self.panel = with_event(self.panel, event).without(self.failures)
        out = {*self.failures, *self._strangers}
        self.contestants = [config for config in self.contestants if config not in out]
        if any(self.heuristics[part.engine] in self.failures for part in self.parts):
            self._leave_out_engines()

    def _leave_out_engines(self) -> None:
        """Whose heuristic doesn't run here, nor would their servers without a file: nothing to be slower than."""
        self.parts = tuple(part for part in self.parts if self.heuristics[part.engine] not in self.failures)
        times = {part: row for part, row in self.panel.times.items() if part in self.parts}
        self.panel = Panel(self.heuristics, self.panel.draws, times)
        if not self.parts:
            engine, heuristic = next(iter(self.heuristics.items()))
            status, message = self.failures[heuristic]
            raise ContestError(
                f"M={self.num_tokens}: expected {ENGINE_NAMES[engine]}'s heuristic to run, found {status.value}: "
                f"{message}."
            )

    def _drop_hopeless(self) -> None:
        """Whose score lies beyond the limit above the best one's that may still be admissible."""
        rivals = [config for config in self.panel.configs if config in self.contestants]
        able = [config for config in rivals if standing(self.panel, config) is not Admissibility.INADMISSIBLE]
        best = min(able, key=self.panel.score, default=None)
        if best is not None:
            limit = self.policy.hopeless
            self.drop([c for c in rivals if c != best and self.panel.score_between(c, best).low > limit])


def paced(event: Measured, heuristic: LaunchConfig, earlier_us: Blocks) -> Measured:
    """Of draws that were played before, what joins their times: every series but the heuristic's.

    That the clock was another is taken out: times are multiplied by the heuristic's then, earlier_us, over the
    heuristic's now, block by block.
    """
    now_us = next(series.us for series in event.series if series.config == heuristic)
    paces = [earlier_us[block] / us for block, us in enumerate(now_us, event.job.first)]
    series = [
        replace(one, us=tuple(us * pace for us, pace in zip(one.us, paces, strict=True)))
        for one in event.series
        if one.config != heuristic and one.status is Status.OK and paces
    ]
    return replace(event, series=tuple(series))


def with_event(panel: Panel[LaunchConfig], event: Measured) -> Panel[LaunchConfig]:
    """With the blocks of the configs that ran."""
    blocks = {
        series.config: dict(enumerate(series.us, event.job.first))
        for series in event.series
        if series.status is Status.OK
    }
    draws = event.draws if not panel.times else min(event.draws, panel.draws)
    return Panel(panel.heuristics, draws, panel.times).with_blocks(event.job.part, blocks)


# ---------------------------------------------------------------
# An entry of its own for down


@dataclass(frozen=True)
class Apart:
    """One config's times of up and down, timed apart, a value a block, in µs."""

    up_us: tuple[float, ...]
    down_us: tuple[float, ...]

    @classmethod
    def of(cls, series: Series) -> Apart:
        return cls(series.up_us, series.down_us)


@dataclass(frozen=True)
class SeparateDown:
    """The entry for the down projection alone, and the whole row's time over that with the best one for both.

    Where none gains more than the margin it is the row's own, and the ratio 1. apart, heuristic: of the entry for down
    and of the engine's heuristic, in each part that it was judged in: the figures that a `_down` file's record holds.
    """

    entry: LaunchConfig
    apart: tuple[Apart, ...]
    heuristic: tuple[Apart, ...]
    ratio: float

    @property
    def gains(self) -> bool:
        return self.ratio < 1.0


def separate_down(
    num_tokens: int,
    parts: Sequence[Part],
    entry: LaunchConfig,
    rivals: Sequence[LaunchConfig],
    heuristics: Mapping[Flavour, LaunchConfig],
    blocks: range,
    promotion: PromotionPolicy,
    measure: Measure,
) -> SeparateDown:
    """The best of the rivals for down alone, where the row gains more than the margin by it.

    Judged in the layer's order, behind the row's own up, since SGLang's launches overlap. parts: of whoever reads such
    a file. rivals: of the entry's BLOCK_SIZE_M; one that uses descriptors gains more than `DESCRIPTORS_MARGIN_PCT`.
    blocks: that nothing else was chosen by. ContestError: the entry fails there, or what is written down where up and
    down are timed apart.
    """
    ratios: dict[LaunchConfig, list[float]] = {rival: [] for rival in rivals}
    for part in parts if rivals else ():
        configs = tuple(dict.fromkeys((entry, *rivals)))
        event = measure(BlockJob(num_tokens, part, configs, blocks.start, len(blocks), up=entry))
        us = {series.config: series.us for series in event.series if series.status is Status.OK}
        if entry not in us:
            raise ContestError(f"M={num_tokens}: expected {entry} to run in the layer's order, it failed.")
        for rival in us.keys() & ratios:
            ratios[rival].append(_ratio_with_down(us[rival], us[entry]))
    worst = {rival: max(found) for rival, found in ratios.items() if len(found) == len(parts)}
    gaining = {rival: ratio for rival, ratio in worst.items() if ratio <= 1.0 - _margin_pct(rival, promotion) / 100.0}
    down = min(gaining, key=gaining.__getitem__, default=entry)
    apart = [_apart(num_tokens, part, (down, heuristics[part.engine]), entry, blocks, measure) for part in parts]
    own, theirs = zip(*apart, strict=True)
    return SeparateDown(down, own, theirs, gaining.get(down, 1.0))


DESCRIPTORS_MARGIN_PCT = 3.0
"""What an entry with USE_TMA must gain. The activation and the quantisation between up and down then run over padding
too, which isn't timed here: at 4096 tokens, 8 of 256 experts and N = 256 as many rows again, some 2 % of the layer."""


def _margin_pct(rival: LaunchConfig, promotion: PromotionPolicy) -> float:
    return DESCRIPTORS_MARGIN_PCT if rival.USE_TMA else promotion.min_improvement_pct


def _ratio_with_down(mixed_us: Sequence[float], own_us: Sequence[float]) -> float:
    """The row's time with the rival for down over that with the own entry for both; 1 where that is in doubt."""
    ratio = Ratio.of(mixed_us, own_us)
    return ratio.mean if ratio.is_faster else 1.0


def _apart(
    num_tokens: int, part: Part, configs: Sequence[LaunchConfig], up: LaunchConfig, blocks: range, measure: Measure
) -> list[Apart]:
    """Of each of the configs. up: what runs up before one that uses descriptors. ContestError: one of them fails."""
    groups = {None: [c for c in configs if not c.USE_TMA], up: [c for c in configs if c.USE_TMA]}
    found: dict[LaunchConfig, Apart] = {}
    for behind, together in groups.items():
        if together:
            alike = tuple(dict.fromkeys(together))
            job = BlockJob(num_tokens, part, alike, blocks.start, len(blocks), is_apart=True, up=behind)
            found |= {one.config: Apart.of(one) for one in measure(job).series if one.status is Status.OK}
    if missing := [config for config in configs if config not in found]:
        raise ContestError(f"M={num_tokens}: expected {missing[0]} to run with up and down timed apart, it failed.")
    return [found[config] for config in configs]
