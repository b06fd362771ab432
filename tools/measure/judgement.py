"""What blocks say of a tuned file beside what would run without it: faster, slower or the same, part by part. Pure.

Judged as the tuner chose, by `tools.measure.panel`: all contestants of a part share blocks of draws that nothing else
has seen, each is played twice, and the interval is over blocks. A verdict that more blocks could turn gets them.
"""

from __future__ import annotations

import enum
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from kernels.problem import Flavour
from tools.launch.layer_config import LayerConfig
from tools.measure.panel import MIN_BLOCKS, Blocks, Panel, Part, Ratio, RoutingKind, further_blocks, max_blocks
from tools.measure.seeds import BLOCKS_A_SERIES
from tools.measure.statistics import geomean


class Verdict(enum.StrEnum):
    """Of a tuned file against a rival."""

    FASTER = "faster"
    SLOWER = "slower"
    SAME = "same"
    FAILED = "failed"


@dataclass(frozen=True)
class MeasuredCandidate:
    """One contestant in one part. us: the median over its blocks; None: it failed, and message says why."""

    config: LayerConfig
    us: float | None
    message: str = ""


@dataclass(frozen=True)
class Duel:
    """The tuned file's time over a rival's. ratio None: one of them failed."""

    ratio: Ratio | None
    verdict: Verdict

    @classmethod
    def of(cls, ratio: Ratio) -> Duel:
        """Slower beyond the bound on average and beyond doubt at all; faster beyond doubt."""
        slower_or_same = Verdict.SLOWER if ratio.is_slower else Verdict.SAME
        return cls(ratio, Verdict.FASTER if ratio.is_faster else slower_or_same)


FAILED = Duel(None, Verdict.FAILED)


@dataclass(frozen=True)
class PartVerdict:
    """measured and duels by the contestants' names, the tuned file first; duels are the file's own.

    floor_us: the least time, of the last draws that were played together; bound: what sets it. draws: of a block.
    times_us: by block.
    """

    part: Part
    floor_us: float
    bound: str
    draws: int
    measured: Mapping[str, MeasuredCandidate]
    duels: Mapping[str, Duel]
    times_us: Mapping[LayerConfig, Blocks] = field(default_factory=dict, repr=False)

    @property
    def times_by_name(self) -> dict[str, Blocks]:
        """Of the contestants that ran."""
        ran = {name: each.config for name, each in self.measured.items() if each.config in self.times_us}
        return {name: self.times_us[config] for name, config in ran.items()}

    @property
    def own(self) -> MeasuredCandidate:
        return next(iter(self.measured.values()))

    def ratio_between(self, one: str, other: str) -> Ratio | None:
        """One contestant's time over another's. None: one of them failed, or isn't there."""
        times = self.times_by_name
        if not {one, other} <= times.keys():
            return None
        return Panel({}, self.draws, {self.part: times}).between(self.part, one, other)

    @property
    def is_slower(self) -> bool:
        """Whether the file loses to a rival, or doesn't run."""
        return self.own.us is None or any(duel.verdict is Verdict.SLOWER for duel in self.duels.values())


@dataclass(frozen=True)
class RowVerdict:
    """One batch size, in every part that is judged."""

    num_tokens: int
    parts: tuple[PartVerdict, ...]

    @property
    def is_slower(self) -> bool:
        return any(part.is_slower for part in self.parts)

    @property
    def panel(self) -> Panel[str]:
        """Of all parts, by the contestants' names, for what the tuner's own rule says. Without heuristics."""
        draws = min((part.draws for part in self.parts), default=1)
        return Panel({}, draws, {part.part: part.times_by_name for part in self.parts})


# ---------------------------------------------------------------
# One part


@dataclass(frozen=True)
class PlayedPart:
    """What became of launch configs in some blocks. us: a value a block. failures: why one has no times."""

    us: Mapping[LayerConfig, Sequence[float]]
    failures: Mapping[LayerConfig, str]
    draws: int
    floor_us: float
    bound: str


Play = Callable[[Sequence[LayerConfig], range], PlayedPart]


def judge(
    part: Part,
    entries: Mapping[str, LayerConfig],
    play: Play,
    first_block: int = 0,
    most_blocks: int | None = None,
) -> PartVerdict:
    """The first blocks of all, then more of the file and of those against whom its verdict is open, until none is.

    entries: by contestant, the file's own first. first_block: the number of the first that is played. most_blocks: in
    all, beyond the first ones that all play; None: as many as `panel.max_blocks` allows.
    """
    own, *rivals = dict.fromkeys(entries.values())
    panel: Panel[LayerConfig] = Panel({}, 1, {part: {}})
    failures: dict[LayerConfig, str] = {}
    asked, count = [own, *rivals], MIN_BLOCKS
    while True:
        start = panel.next_block(part)
        played = play(asked, range(first_block + start, first_block + start + count))
        failures.update(played.failures)
        blocks = {config: dict(enumerate(us, start)) for config, us in played.us.items()}
        panel = Panel({}, played.draws, panel.times).with_blocks(part, blocks)
        left = min(max_blocks(played.draws), most_blocks or BLOCKS_A_SERIES) - panel.next_block(part)
        open_ones = [rival for rival in rivals if _is_open(panel, part, own, rival)]
        if not open_ones or left <= 0:
            break
        asked, count = [own, *open_ones], min(left, further_blocks(played.draws))
    times = panel.times[part]
    measured = {
        name: MeasuredCandidate(
            config,
            statistics.median(times[config].values()) if times.get(config) else None,
            failures.get(config, ""),
        )
        for name, config in entries.items()
    }
    names = list(entries)[1:]
    duels = {name: _duel(panel, part, own, entries[name]) for name in names}
    return PartVerdict(part, played.floor_us, played.bound, played.draws, measured, duels, times)


def _is_open(panel: Panel[LayerConfig], part: Part, own: LayerConfig, rival: LayerConfig) -> bool:
    times = panel.times[part]
    return own in times and rival in times and panel.between(part, own, rival).is_open


def _duel(panel: Panel[LayerConfig], part: Part, own: LayerConfig, rival: LayerConfig) -> Duel:
    times = panel.times[part]
    if own not in times or rival not in times:
        return FAILED
    if own == rival:  # measured once
        return Duel(Ratio(1.0, 1.0, 1.0, len(times[own])), Verdict.SAME)
    return Duel.of(panel.between(part, own, rival))


# ---------------------------------------------------------------
# A whole file


@dataclass(frozen=True)
class Score:
    """A file against one rival, over the cells (batch size and part) that both ran. Ratios: the file's time over its.

    worst_num_tokens: the batch size of the worst cell.
    """

    geomean_ratio: float
    best_ratio: float
    worst_ratio: float
    worst_num_tokens: int
    faster: int
    slower: int
    same: int
    failed: int


def score(
    rows: Iterable[RowVerdict], rival: str, *, engine: Flavour | None = None, routing: RoutingKind | None = None
) -> Score | None:
    """Over the parts of that engine and routing; of any where there is none. None: there is no cell that both ran."""
    duels = [
        (row.num_tokens, part.duels[rival])
        for row in rows
        for part in row.parts
        if rival in part.duels and engine in (None, part.part.engine) and routing in (None, part.part.routing)
    ]
    ratios = {index: duel.ratio.mean for index, (_, duel) in enumerate(duels) if duel.ratio}
    if not ratios:
        return None
    worst = max(ratios, key=lambda index: ratios[index])
    count = [sum(duel.verdict is verdict for _, duel in duels) for verdict in Verdict]
    return Score(geomean(ratios.values()), min(ratios.values()), ratios[worst], duels[worst][0], *count)


def worst_of(parts: Iterable[PartVerdict]) -> PartVerdict:
    """Where the file does worst: it fails, or its largest ratio to any rival. ValueError: no parts."""
    return max(parts, key=lambda part: _badness(part, part.duels.values()))


def worst_beside(parts: Iterable[PartVerdict], rival: str) -> PartVerdict:
    """The same, of one rival."""
    return max(parts, key=lambda part: _badness(part, [part.duels[rival]] if rival in part.duels else []))


def _badness(part: PartVerdict, duels: Iterable[Duel]) -> tuple[bool, float]:
    """A rival that fails says nothing of the file."""
    return part.own.us is None, max((duel.ratio.mean for duel in duels if duel.ratio), default=0.0)
