"""What a bench of tuned files found, as markdown for people and JSON for programs. Pure."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from kernels.problem import Flavour
from tools.bench.request import ENGINE_NAMES
from tools.measure.statistics import Duel, Interval, Measured, RowVerdict, Verdict, score
from tools.store.record import Environment
from tools.text import cell, table


@dataclass(frozen=True)
class FileResult:
    """One tuned file and its candidates, in order; the file is the first. name: its path below the tiers' root."""

    name: str
    shapes: tuple[str, ...]
    candidates: tuple[str, ...]
    rows: tuple[RowVerdict, ...]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Judge:
    """An engine whose own kernel ran."""

    flavour: Flavour
    version: str

    def __str__(self) -> str:
        return f"{ENGINE_NAMES[self.flavour]} {self.version}"


@dataclass(frozen=True)
class FilesReport:
    """date: YYYY-MM-DD, in UTC. judge None: measured on our own kernel, whose hash is kernel_sha256."""

    environment: Environment
    date: str
    routing: str
    kernel_sha256: str
    judge: Judge | None
    files: tuple[FileResult, ...]

    @property
    def is_slower(self) -> bool:
        """Whether a file loses a row beyond noise, or can't run one."""
        rows = [(file, row) for file in self.files for row in file.rows]
        fails = any(row.measured[file.candidates[0]].us is None for file, row in rows)
        return fails or any(duel.verdict is Verdict.SLOWER for _, row in rows for duel in row.duels.values())


def to_markdown(report: FilesReport) -> str:
    head = ["# Bench of tuned files", "", *(f"- {name}: {value}" for name, value in _shown(report).items())]
    return "\n".join([*head, *(line for file in report.files for line in ("", *_file_lines(file)))]) + "\n"


def to_json(report: FilesReport) -> str:
    document = {
        "environment": _shown(report),
        "is_slower": report.is_slower,
        "files": [_file_json(file) for file in report.files],
    }
    return json.dumps(document, indent=1, ensure_ascii=False) + "\n"


def _shown(report: FilesReport) -> dict[str, str]:
    """What ran where, by name."""
    environment, judge = report.environment, report.judge
    return {
        "date": report.date,
        "device": environment.device_name,
        "compute_capability": environment.compute_capability,
        "sm_count": str(environment.sm_count),
        "driver": environment.driver or "unknown",
        "cuda": environment.cuda or "unknown",
        "torch": environment.torch,
        "triton": environment.triton,
        "python": environment.python,
        "kernel": f"own, {report.kernel_sha256[:12]}" if judge is None else f"{judge}'s own",
        "routing": report.routing,
        **({} if judge is None else {"engine": str(judge)}),
    }


_OF_SHAPES = (
    " Ratios: where the file does worst against that one; times: where it does worst of all (of several shapes)."
)


def _file_lines(file: FileResult) -> list[str]:
    own, *others = file.candidates
    rivals = (title for name in others for title in (f"{cell(name)} µs", "ratio", "verdict"))
    header = ["M", f"{own} µs", "of floor", *rivals]
    lines = [
        f"## {file.name}",
        "",
        f"{'; '.join(file.shapes)}. Up and down together, median and its 95 % interval; ratio: this file's time over "
        f"the other's, round by round.{_OF_SHAPES if len(file.shapes) > 1 else ''}",
        "",
        *table(header, [_cells(own, others, row) for row in file.rows]),
        "",
    ]
    for name in others:
        total = score(file.rows, name)
        if total:
            lines.append(
                f"- Against {name}: geomean ratio {total.geomean_ratio:.3f}, median row {total.median_ratio:.3f}, "
                f"worst row {total.worst_ratio:.3f}; {total.faster} faster, {total.same} same, {total.slower} slower, "
                f"{total.failed} failed."
            )
    return [*lines, *(f"- {note}" for note in file.notes)]


def _cells(own: str, others: Sequence[str], row: RowVerdict) -> list[str]:
    mine = row.measured[own]
    cells = [str(row.num_tokens), _time(mine), f"{row.floor_us / mine.us.median:.0%}" if mine.us else "–"]
    for name in others:
        cells += [_time(row.measured[name]), *_duel(row.duels[name])]
    return cells


def _time(measured: Measured) -> str:
    if measured.us is None:
        return f"failed: {cell(measured.message[:60])}"
    return f"{measured.us.median:.1f} ({measured.us.low:.1f} to {measured.us.high:.1f})"


def _duel(duel: Duel) -> tuple[str, str]:
    return (f"{duel.ratio.median:.3f}" if duel.ratio else "–"), duel.verdict.value


def _file_json(file: FileResult) -> dict[str, Any]:
    scores = {name: score(file.rows, name) for name in file.candidates[1:]}
    return {
        "name": file.name,
        "shapes": list(file.shapes),
        "notes": list(file.notes),
        "against": {name: vars(total) for name, total in scores.items() if total},
        "rows": [_row_json(row) for row in file.rows],
    }


def _row_json(row: RowVerdict) -> dict[str, Any]:
    return {
        "num_tokens": row.num_tokens,
        "floor_us": row.floor_us,
        "bound": row.bound,
        "measured": {
            name: {"config": m.config.to_entry(), "us": _interval(m.us), "message": m.message}
            for name, m in row.measured.items()
        },
        "duels": {name: {"ratio": _interval(d.ratio), "verdict": d.verdict.value} for name, d in row.duels.items()},
    }


def _interval(interval: Interval | None) -> dict[str, float] | None:
    return None if interval is None else {key: round(value, 4) for key, value in vars(interval).items()}
