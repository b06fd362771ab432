"""What a comparison found, as frozen records, and whether that is good enough. Standard library only."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from kernels.launch_config import LaunchConfig
from tools.measure.statistics import geomean, share_within

TOP = 10
LEAST_CONFIGS = 60
TOLERANCE = 0.03


@dataclass(frozen=True)
class Pair:
    """One launch config at one batch size on both kernels, median µs. status other than ok: no times, `message` why."""

    config: LaunchConfig
    status: str
    own_up_us: float = 0.0
    own_down_us: float = 0.0
    engine_up_us: float = 0.0
    engine_down_us: float = 0.0
    message: str = ""

    @classmethod
    def of_times(cls, config: LaunchConfig, medians_us: Sequence[float]) -> Pair:
        """medians_us: ours up and down, the engine's up and down."""
        own_up, own_down, engine_up, engine_down = medians_us
        return cls(config, "ok", own_up, own_down, engine_up, engine_down)

    @property
    def own_us(self) -> float:
        return self.own_up_us + self.own_down_us

    @property
    def engine_us(self) -> float:
        return self.engine_up_us + self.engine_down_us

    @property
    def ratio(self) -> float:
        return self.own_us / self.engine_us


@dataclass(frozen=True)
class Row:
    """One batch size. finalists: the best few of either kernel, measured again together; winners are theirs.

    bound: memory or compute, whichever sets floor_us. grouped_mm_us: torch's grouped product, None where there is none.
    """

    num_tokens: int
    is_naive: bool
    num_routings: int
    active_experts: float
    num_bytes: float
    operations: float
    floor_us: float
    bound: str
    grouped_mm_us: float | None
    pairs: tuple[Pair, ...]
    finalists: tuple[Pair, ...]

    @property
    def timed(self) -> list[Pair]:
        return [pair for pair in self.pairs if pair.status == "ok"]

    @property
    def own_winner(self) -> Pair:
        return min(self.finalists, key=lambda pair: pair.own_us)

    @property
    def engine_winner(self) -> Pair:
        return min(self.finalists, key=lambda pair: pair.engine_us)

    @property
    def geomean_ratio(self) -> float:
        return geomean(pair.ratio for pair in self.timed)

    @property
    def median_ratio(self) -> float:
        return statistics.median(pair.ratio for pair in self.timed)

    @property
    def share_near_median(self) -> float:
        return share_within([pair.ratio for pair in self.timed], TOLERANCE)

    @property
    def worst_of_best(self) -> float:
        """Largest ratio among the engine's ten fastest launch configs."""
        return max(pair.ratio for pair in sorted(self.timed, key=lambda pair: pair.engine_us)[:TOP])

    @property
    def winner_loss(self) -> float:
        """How much slower the engine's kernel runs with our winner than with its own (0.01: 1 %)."""
        return self.own_winner.engine_us / self.engine_winner.engine_us - 1


@dataclass(frozen=True)
class LayerFigures:
    """`fused_experts` in a graph at one batch size, and its two launches alone, median µs."""

    num_tokens: int
    layer_us: float
    launches_us: float

    @property
    def overhead_us(self) -> float:
        return self.layer_us - self.launches_us


@dataclass(frozen=True)
class WorkloadResult:
    """One workload. compile_outcomes: number of kernels by status."""

    title: str
    file_name: str
    hidden_size: int
    top_k: int
    compile_outcomes: Mapping[str, int]
    compile_seconds: float
    rows: tuple[Row, ...] = ()
    layer: LayerFigures | None = None
    seconds: float = 0.0

    def with_row(self, row: Row) -> WorkloadResult:
        return replace(self, rows=(*self.rows, row))


@dataclass(frozen=True)
class Criterion:
    """One line of the verdict: the worst place and its figure against the limit."""

    name: str
    limit: str
    found: str
    passed: bool


def verdict(workloads: tuple[WorkloadResult, ...]) -> tuple[Criterion, ...]:
    """Whether our kernel stands for the engine's. Empty without a finished row."""
    rows = [(f"{work.title} M={row.num_tokens}", row) for work in workloads for row in work.rows]
    if not rows:
        return ()
    pairs = [pair for _, row in rows for pair in row.pairs]
    overall = geomean(pair.ratio for _, row in rows for pair in row.timed)
    best_place, best = max(((place, row.worst_of_best) for place, row in rows), key=lambda item: item[1])
    share_place, share = min(((place, row.share_near_median) for place, row in rows), key=lambda item: item[1])
    losses = [row.winner_loss for _, row in rows]
    loss_place = max(rows, key=lambda item: item[1].winner_loss)[0]
    wrong = [pair for pair in pairs if pair.status not in ("ok", "constraints", "compile", "timeout", "spills")]
    timed_place, timed = min(((place, len(row.timed)) for place, row in rows), key=lambda item: item[1])
    lines = [
        Criterion(
            "launch configs timed, fewest of a row",
            f">= {LEAST_CONFIGS}",
            f"{timed} ({timed_place})",
            timed >= LEAST_CONFIGS,
        ),
        Criterion("time ratio ours / engine, geomean of all pairs", "<= 1.01", f"{overall:.4f}", overall <= 1.01),
        Criterion(f"ratio, worst of a row's best {TOP}", "<= 1.05", f"{best:.3f} ({best_place})", best <= 1.05),
        Criterion(
            f"pairs within ±{TOLERANCE:.0%} of their row's median ratio, worst row",
            ">= 95 %",
            f"{share:.1%} ({share_place})",
            share >= 0.95,
        ),
        Criterion(
            "our winner on the engine's kernel, loss, median row",
            "<= 1 %",
            f"{statistics.median(losses):.2%}",
            statistics.median(losses) <= 0.01,
        ),
        Criterion(
            "our winner on the engine's kernel, loss, worst row",
            "<= 3 %",
            f"{max(losses):.2%} ({loss_place})",
            max(losses) <= 0.03,
        ),
        Criterion("pairs that computed wrong numbers or failed to launch", "0", str(len(wrong)), not wrong),
    ]
    layers = [(work.title, work.layer) for work in workloads if work.layer]
    if layers:
        title, layer = max(layers, key=lambda item: item[1].overhead_us)
        found = f"{layer.overhead_us:.1f} µs ({title})"
        name = f"fused_experts over its two launches, M={layer.num_tokens}, in a graph"
        lines.append(Criterion(name, "<= 15 µs", found, layer.overhead_us <= 15))
    return tuple(lines)
