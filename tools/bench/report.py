"""The report of a comparison: markdown for people, JSON with every pair. Pure functions of the results."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tools.bench.results import TOP, Pair, Row, WorkloadResult, verdict


@dataclass(frozen=True)
class Environment:
    """Where and with what it ran. engine_sha256: of the cut kernel's source; kernel_sha256: as in records."""

    date: str
    device: str
    driver: str
    cuda: str
    torch: str
    triton: str
    python: str
    engine: str
    engine_sha256: str
    kernel_sha256: str


@dataclass(frozen=True)
class CeilingFigures:
    """Measured in the same run; in units of 1e9 bytes and 1e12 operations a second."""

    memory_gb_per_s: float
    dense_bf16_tflop_per_s: float
    dense_8bit_tflop_per_s: float
    dense_8bit_measured: bool


@dataclass(frozen=True)
class Report:
    """Everything a run found so far. command: how to repeat it."""

    environment: Environment
    command: str
    ceilings: CeilingFigures
    workloads: tuple[WorkloadResult, ...]
    notes: tuple[str, ...] = ()
    complete: bool = False

    @property
    def passed(self) -> bool:
        criteria = verdict(self.workloads)
        return self.complete and bool(criteria) and all(criterion.passed for criterion in criteria)


def to_markdown(report: Report) -> str:
    environment, ceilings = report.environment, report.ceilings
    lines = [
        f"# Our kernel beside {environment.engine}'s, {environment.device}",
        "",
        f"Made by `{report.command}` on {environment.date}.",
        "",
        *_table(
            ("what", "version"),
            [
                ("device", environment.device),
                ("driver", environment.driver),
                ("CUDA", environment.cuda),
                ("torch", environment.torch),
                ("Triton", environment.triton),
                ("Python", environment.python),
                ("engine", f"{environment.engine}, kernel {environment.engine_sha256[:16]}"),
                ("our kernel", environment.kernel_sha256[:16]),
            ],
        ),
        "",
        f"Ceilings measured in this run: memory {ceilings.memory_gb_per_s:.0f} GB/s (the faster of copying and "
        f"reading), dense bf16 {ceilings.dense_bf16_tflop_per_s:.0f} TFLOP/s, "
        f"dense fp8 {ceilings.dense_8bit_tflop_per_s:.0f} TFLOP/s"
        f"{'' if ceilings.dense_8bit_measured else ' (twice bf16, not measured)'}. Times are medians in µs of up plus "
        "down, CUDA graph replays, kernels interleaved, weights cold, uniform softmax routing. Each config is checked "
        "against an fp64 reference before it is timed.",
        *(("", *(f"Note: {note}" for note in report.notes)) if report.notes else ()),
        "",
        "## Verdict",
        "",
    ]
    if not report.complete:
        lines += ["**The run was cut off or goes on: what follows is what was finished.**", ""]
    lines += _table(
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
        *_table(
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
            *_table(("M", "ours", "engine"), winners),
        ]
    refused = [pair for row in work.rows for pair in row.pairs if pair.status != "ok"]
    if refused:
        seen = {(_config(pair), pair.status): pair.message.splitlines()[0][:120] for pair in refused if pair.message}
        lines += ["", "Not timed:", ""]
        lines += [f"- {config}: {status}: {message}" for (config, status), message in sorted(seen.items())]
    return lines


def _row(row: Row) -> tuple[str, ...]:
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


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    return [f"| {' | '.join(cells)} |" for cells in (head, ["---"] * len(head), *rows)]


def to_json(report: Report) -> str:
    """The whole report, one pair a line."""
    body: dict[str, Any] = {
        "environment": vars(report.environment),
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
    times = ("own_up_us", "own_down_us", "engine_up_us", "engine_down_us")
    return {**figures, **{name: round(getattr(pair, name), 3) for name in times}}


def _dump(value: Any, indent: str = "") -> str:
    """Indented JSON, in which what holds no object lies on one line, as does each pair."""
    inner = indent + "    "
    if isinstance(value, Mapping) and "config" not in value and value:
        items = [f"{inner}{json.dumps(key)}: {_dump(item, inner)}" for key, item in value.items()]
        return "{\n" + ",\n".join(items) + f"\n{indent}}}"
    if isinstance(value, list) and any(isinstance(item, Mapping) for item in value):
        return "[\n" + ",\n".join(inner + _dump(item, inner) for item in value) + f"\n{indent}]"
    return json.dumps(value, ensure_ascii=False)
