"""What a bench of tuned files found, as markdown for people and JSON for programs. Pure."""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from fused_moe_configs.naming import ENGINE_NAMES
from kernels.problem import Flavour
from tools.bench.candidates import DownFile, Judging, ShippedCandidate
from tools.launch.layer_config import LayerConfig
from tools.measure.environment import as_text
from tools.measure.judgement import Duel, MeasuredCandidate, PartVerdict, RowVerdict, score
from tools.measure.panel import LARGEST_RATIO, MAX_DRAWS, Ratio, RoutingKind
from tools.store.record import Environment
from tools.text import cell, table


@dataclass(frozen=True)
class FileResult:
    """One tuned file and its candidates, in order; the file is the first. name: its path below the tiers' root.

    shipped: the candidate that the judging engine ships. down: as `FileComparison` has it.
    """

    name: str
    shapes: tuple[str, ...]
    candidates: tuple[str, ...]
    rows: tuple[RowVerdict, ...]
    notes: tuple[str, ...] = ()
    shipped: ShippedCandidate | None = None
    down: DownFile | None = None


@dataclass(frozen=True)
class Judge:
    """An engine whose own kernel ran."""

    flavour: Flavour
    version: str

    def __str__(self) -> str:
        return f"{ENGINE_NAMES[self.flavour]} {self.version}"


@dataclass(frozen=True)
class FilesReport:
    """date: YYYY-MM-DD, in UTC. judge None: measured on our own kernel, whose hash is kernel_sha256.

    not_written: a line for each record or report that doesn't hold this; the figures are no worse for it.
    """

    environment: Environment
    date: str
    judging: Judging
    kernel_sha256: str
    judge: Judge | None
    files: tuple[FileResult, ...]
    not_written: tuple[str, ...] = ()

    @property
    def is_slower(self) -> bool:
        """Whether a file loses a cell (batch size, engine, routing) beyond doubt, or can't run one."""
        return any(row.is_slower for file in self.files for row in file.rows)


def to_markdown(report: FilesReport) -> str:
    head = ["# Bench of tuned files", "", *(f"- {name}: {value}" for name, value in _shown(report).items())]
    lines = [line for file in report.files for line in ("", *_file_lines(file, report.judging))]
    return "\n".join([*head, *lines]) + "\n"


def to_json(report: FilesReport) -> str:
    document = {
        "environment": _shown(report),
        "is_slower": report.is_slower,
        "not_written": list(report.not_written),
        "files": [_file_json(file) for file in report.files],
    }
    return json.dumps(document, indent=1, ensure_ascii=False) + "\n"


def _shown(report: FilesReport) -> dict[str, str]:
    """What ran where, by name."""
    judge = report.judge
    return {
        "date": report.date,
        **as_text(report.environment),
        "kernel": f"own, {report.kernel_sha256[:12]}" if judge is None else f"{judge}'s own",
        "routing": report.judging.title,
        "draws": f"{report.judging.purpose.name.lower()}, series {report.judging.series}",
        **({} if judge is None else {"engine": str(judge)}),
    }


def _meaning(judging: Judging) -> str:
    most = f"{MAX_DRAWS} draws" if judging.most_blocks is None else f"{judging.most_blocks} blocks"
    return (
        "Up and down together. Ratio: this file's time over the other's, the mean over blocks of fresh draws and its "
        f"95 % interval. This file is slower: above {LARGEST_RATIO} on average and above 1 beyond doubt; faster: below "
        f"1 beyond doubt; while that is open, blocks go on up to {most}. Times: medians."
    )


def _file_lines(file: FileResult, judging: Judging) -> list[str]:
    rivals = file.candidates[1:]
    lines = [f"## {file.name}", "", f"{'; '.join(file.shapes)}. {_meaning(judging)}", ""]
    if summary := [cells for view in _views(file) for name in rivals for cells in _summary(file, *view, name)]:
        lines += [*table(_SUMMARY, summary), ""]
    titles = (title for name in rivals for title in (f"{cell(name)} µs", "ratio", "this file is", "blocks"))
    header = ("M", "engine", "routing", f"{file.candidates[0]} µs", "of floor", *titles)
    rows = [_cells(rivals, row.num_tokens, part, len(file.shapes)) for row in file.rows for part in row.parts]
    lines += [*table(header, rows), ""]
    return [*lines, *(f"- {note}" for note in file.notes)]


_SUMMARY = ("engine", "routing", "against", "geomean", "worst", "at M", "faster", "same", "slower", "failed")


def _views(file: FileResult) -> list[tuple[Flavour, RoutingKind]]:
    """Each engine under each routing, as they were judged."""
    found = {(part.part.engine, part.part.routing) for row in file.rows for part in row.parts}
    return [view for view in itertools.product(Flavour, RoutingKind) if view in found]


def _summary(file: FileResult, engine: Flavour, kind: RoutingKind, rival: str) -> list[list[str]]:
    """One line; none where there is nothing to compare with."""
    total = score(file.rows, rival, engine=engine, routing=kind)
    if total is None:
        return []
    counts = [str(count) for count in (total.faster, total.same, total.slower, total.failed)]
    ratios = [f"{total.geomean_ratio:.3f}", f"{total.worst_ratio:.3f}", str(total.worst_num_tokens)]
    return [[ENGINE_NAMES[engine], kind.value, cell(rival), *ratios, *counts]]


def _cells(rivals: Sequence[str], num_tokens: int, part: PartVerdict, num_shapes: int) -> list[str]:
    own, of = part.own, part.part
    shape = f", shape {of.placement + 1}" if num_shapes > 1 else ""
    cells = [str(num_tokens), ENGINE_NAMES[of.engine], f"{of.routing}{shape}"]
    cells += [_time(own), f"{part.floor_us / own.us:.0%}" if own.us else "–"]
    for name in rivals:
        cells += [_time(part.measured[name]), *_duel(part.duels[name])]
    return cells


def _time(measured: MeasuredCandidate) -> str:
    return f"failed: {cell(measured.message[:60])}" if measured.us is None else f"{measured.us:.1f}"


def _duel(duel: Duel) -> tuple[str, str, str]:
    ratio = duel.ratio
    if ratio is None:
        return "–", "–", "–"
    return f"{ratio.mean:.3f} ({ratio.low:.3f} to {ratio.high:.3f})", duel.verdict.value, str(ratio.blocks)


def _file_json(file: FileResult) -> dict[str, Any]:
    return {
        "name": file.name,
        "shapes": list(file.shapes),
        "notes": list(file.notes),
        "summary": [
            {"engine": engine.value, "routing": kind.value, "against": name, **vars(total)}
            for engine, kind in _views(file)
            for name in file.candidates[1:]
            if (total := score(file.rows, name, engine=engine, routing=kind))
        ],
        "rows": [
            {"num_tokens": row.num_tokens, "parts": [_part_json(part) for part in row.parts]} for row in file.rows
        ],
    }


def _part_json(part: PartVerdict) -> dict[str, Any]:
    """shape: its place among the file's."""
    return {
        "engine": part.part.engine.value,
        "shape": part.part.placement,
        "routing": part.part.routing.value,
        "floor_us": round(part.floor_us, 4),
        "bound": part.bound,
        "draws_a_block": part.draws,
        "measured": {
            name: {**_config_json(m.config), "us": None if m.us is None else round(m.us, 4), "message": m.message}
            for name, m in part.measured.items()
        },
        "duels": {name: {"ratio": _ratio(d.ratio), "verdict": d.verdict.value} for name, d in part.duels.items()},
    }


def _ratio(ratio: Ratio | None) -> dict[str, float] | None:
    return None if ratio is None else {key: round(value, 4) for key, value in vars(ratio).items()}


def _config_json(config: LayerConfig) -> dict[str, Any]:
    """Up's entry, and down's where it is another."""
    own_down = {} if config.down == config.up else {"down": config.down.to_entry()}
    return {"config": config.up.to_entry(), **own_down}
