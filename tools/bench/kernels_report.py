"""What a comparison found, as frozen records, and whether that is good enough."""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from kernels.launch_config import LaunchConfig
from tools.measure.environment import as_text
from tools.measure.statistics import geomean, share_within
from tools.store.record import Environment
from tools.text import table

TOP = 10
LEAST_CONFIGS = 60
TOLERANCE = 0.03


@dataclass(frozen=True)
class Pair:
    """One launch config at one batch size on both kernels: median µs of up, then down.

    status other than ok: no times, `message` why.
    """

    config: LaunchConfig
    status: str
    own_us: float = 0.0
    engine_us: float = 0.0
    message: str = ""

    @property
    def ratio(self) -> float:
        return self.own_us / self.engine_us


@dataclass(frozen=True)
class KernelsRow:
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
    rows: tuple[KernelsRow, ...] = ()
    layer: LayerFigures | None = None
    seconds: float = 0.0

    def with_row(self, row: KernelsRow) -> WorkloadResult:
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


# The report of a comparison: markdown for people, JSON with every pair. Pure functions of the results.


@dataclass(frozen=True)
class ComparedKernels:
    """engine: name and version. engine_sha256: of the cut kernel's source; own_sha256: as in records."""

    engine: str
    engine_sha256: str
    own_sha256: str


@dataclass(frozen=True)
class CeilingFigures:
    """Measured in the same run; in units of 1e9 bytes and 1e12 operations a second."""

    memory_gb_per_s: float
    dense_bf16_tflop_per_s: float
    dense_8bit_tflop_per_s: float
    dense_8bit_measured: bool


@dataclass(frozen=True)
class KernelsReport:
    """Everything a run found so far. date: YYYY-MM-DD, in UTC. command: how to repeat it."""

    environment: Environment
    kernels: ComparedKernels
    date: str
    command: str
    ceilings: CeilingFigures
    workloads: tuple[WorkloadResult, ...]
    notes: tuple[str, ...] = ()
    complete: bool = False

    @property
    def passed(self) -> bool:
        criteria = verdict(self.workloads)
        return self.complete and bool(criteria) and all(criterion.passed for criterion in criteria)


def to_markdown(report: KernelsReport) -> str:
    kernels, ceilings = report.kernels, report.ceilings
    lines = [
        f"# Our kernel beside {kernels.engine}'s, {report.environment.device_name}",
        "",
        f"Made by `{report.command}` on {report.date}.",
        "",
        *table(
            ("what", "version"),
            [
                *as_text(report.environment).items(),
                ("engine", f"{kernels.engine}, kernel {kernels.engine_sha256[:16]}"),
                ("our kernel", kernels.own_sha256[:16]),
            ],
        ),
        "",
        f"Ceilings measured in this run: memory {ceilings.memory_gb_per_s:.0f} GB/s (the faster of copying and "
        f"reading), dense bf16 {ceilings.dense_bf16_tflop_per_s:.0f} TFLOP/s, "
        f"dense fp8 {ceilings.dense_8bit_tflop_per_s:.0f} TFLOP/s"
        f"{'' if ceilings.dense_8bit_measured else ' (twice bf16, not measured)'}. Times are medians in µs of up, then "
        "down, CUDA graph replays, kernels interleaved, weights cold, uniform softmax routing. Each config is checked "
        "against an fp64 reference before it is timed.",
        *(("", *(f"Note: {note}" for note in report.notes)) if report.notes else ()),
        "",
        "## Verdict",
        "",
    ]
    if not report.complete:
        lines += ["**The run was cut off or goes on: what follows is what was finished.**", ""]
    lines += table(
        ("criterion", "limit", "found", ""),
        [(line.name, line.limit, line.found, "PASS" if line.passed else "FAIL") for line in verdict(report.workloads)],
    )
    for work in report.workloads:
        lines += ["", *_workload(work)]
    return "\n".join(lines) + "\n"


def _workload(work: WorkloadResult) -> list[str]:
    compiled = ", ".join(f"{count} {status}" for status, count in sorted(work.compile_outcomes.items()))
    lines = [
        f"## {work.title}",
        "",
        f"`{work.file_name}`, K={work.hidden_size}, top_k={work.top_k}. {sum(work.compile_outcomes.values())} kernels "
        f"compiled ({compiled}) in {work.compile_seconds:.0f} s; {work.seconds:.0f} s in all.",
        "",
        *table(
            (
                *("M", "mode", "configs", "ratio geomean", "median", "±3 %", f"worst of best {TOP}"),
                *("ours best", "engine best", "winner loss", "grouped_mm", "floor", "of floor", "reached"),
            ),
            [_row(row) for row in work.rows],
        ),
    ]
    if work.layer:
        layer = work.layer
        lines += [
            "",
            f"`fused_experts` at M={layer.num_tokens} in a graph: {layer.layer_us:.1f} µs, its two launches alone "
            f"{layer.launches_us:.1f} µs, so {layer.overhead_us:+.1f} µs.",
        ]
    winners = [(str(row.num_tokens), _config(row.own_winner), _config(row.engine_winner)) for row in work.rows]
    if winners:
        lines += [
            "",
            "Winners as (BLOCK_SIZE_M, BLOCK_SIZE_N, BLOCK_SIZE_K, GROUP_SIZE_M, num_warps, num_stages):",
            "",
            *table(("M", "ours", "engine"), winners),
        ]
    refused = [pair for row in work.rows for pair in row.pairs if pair.status != "ok"]
    if refused:
        seen = {(_config(pair), pair.status): pair.message.splitlines()[0][:120] for pair in refused if pair.message}
        lines += ["", "Not timed:", ""]
        lines += [f"- {config}: {status}: {message}" for (config, status), message in sorted(seen.items())]
    return lines


def _row(row: KernelsRow) -> tuple[str, ...]:
    best = row.own_winner.own_us
    reached = (
        f"{row.num_bytes / best / 1e3:.0f} GB/s"
        if row.bound == "memory"
        else f"{row.operations / best / 1e6:.0f} TFLOP/s"
    )
    return (
        str(row.num_tokens),
        "naive" if row.is_naive else "aligned",
        str(len(row.timed)),
        f"{row.geomean_ratio:.3f}",
        f"{row.median_ratio:.3f}",
        f"{row.share_near_median:.0%}",
        f"{row.worst_of_best:.3f}",
        f"{best:.1f}",
        f"{row.engine_winner.engine_us:.1f}",
        f"{row.winner_loss:.2%}",
        "–" if row.grouped_mm_us is None else f"{row.grouped_mm_us:.1f}",
        f"{row.floor_us:.1f} {row.bound}",
        f"{row.floor_us / best:.0%}",
        reached,
    )


def _config(pair: Pair) -> str:
    return ",".join(map(str, list(pair.config.to_entry().values())[:6]))


def to_json(report: KernelsReport) -> str:
    """The whole report, one pair a line."""
    body: dict[str, Any] = {
        "environment": {
            "date": report.date,
            **as_text(report.environment),
            "engine": report.kernels.engine,
            "engine_sha256": report.kernels.engine_sha256,
            "kernel_sha256": report.kernels.own_sha256,
        },
        "command": report.command,
        "complete": report.complete,
        "passed": report.passed,
        "notes": list(report.notes),
        "ceilings": vars(report.ceilings),
        "criteria": [vars(line) for line in verdict(report.workloads)],
        "workloads": [_workload_json(work) for work in report.workloads],
    }
    return _dump(body) + "\n"


def _workload_json(work: WorkloadResult) -> dict[str, Any]:
    plain = {key: value for key, value in vars(work).items() if key not in ("rows", "layer", "compile_outcomes")}
    return {
        **plain,
        "compile_outcomes": dict(work.compile_outcomes),
        "layer": vars(work.layer) if work.layer else None,
        "rows": [
            {
                **{key: value for key, value in vars(row).items() if key not in ("pairs", "finalists")},
                "geomean_ratio": row.geomean_ratio,
                "median_ratio": row.median_ratio,
                "share_near_median": row.share_near_median,
                "worst_of_best": row.worst_of_best,
                "winner_loss": row.winner_loss,
                "own_winner": _pair_json(row.own_winner),
                "engine_winner": _pair_json(row.engine_winner),
                "finalists": [_pair_json(pair) for pair in row.finalists],
                "pairs": [_pair_json(pair) for pair in row.pairs],
            }
            for row in work.rows
        ],
    }


def _pair_json(pair: Pair) -> dict[str, Any]:
    figures: dict[str, Any] = {"config": list(pair.config.to_entry().values())[:6], "status": pair.status}
    if pair.status != "ok":
        return {**figures, "message": pair.message[:500]}
    return {**figures, "own_us": round(pair.own_us, 3), "engine_us": round(pair.engine_us, 3)}


def _dump(value: Any, indent: str = "") -> str:
    """Indented JSON, in which what holds no object lies on one line, as does each pair."""
    inner = indent + "    "
    if isinstance(value, Mapping) and "config" not in value and value:
        items = [f"{inner}{json.dumps(key)}: {_dump(item, inner)}" for key, item in value.items()]
        return "{\n" + ",\n".join(items) + f"\n{indent}}}"
    if isinstance(value, list) and any(isinstance(item, Mapping) for item in value):
        return "[\n" + ",\n".join(inner + _dump(item, inner) for item in value) + f"\n{indent}]"
    return json.dumps(value, ensure_ascii=False)
