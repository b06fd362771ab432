"""What is wanted against what is there: for people, for programs, and as a page of the documentation. Pure."""

from __future__ import annotations

import urllib.parse
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from tools.launch.heuristic_version import ENGINE_NAMES
from tools.portfolio.progress import Judged, Ratio
from tools.portfolio.stock import GOOD, Item, Standing
from tools.portfolio.wanted import Use
from tools.registry.devices import Device
from tools.registry.sharding import Engine
from tools.text import cell, code, counted, printable, table


@dataclass(frozen=True)
class DeviceStatus:
    """A GPU's wanted names by rank. notes: readers that a name can't serve."""

    device: Device
    items: tuple[Item, ...]
    notes: tuple[str, ...] = ()

    @property
    def is_whole(self) -> bool:
        return all(item.standing in GOOD for item in self.items)

    @property
    def counts(self) -> dict[str, int]:
        """Names by standing, those that occur."""
        found = Counter(item.standing for item in self.items)
        return {standing.value: found[standing] for standing in Standing if found[standing]}


def ratios(item: Item) -> dict[Engine, Judged]:
    """On each engine's kernel: by the record, and by the line of a run what the record has no room for."""
    told = {each.engine: each for each in item.line.judged} if item.line is not None else {}
    is_same = item.line is not None and item.line.config_sha256 == item.config_sha256
    found = {}
    for engine, line in item.judged.items():
        more = told.get(engine.value) if is_same else None
        best = more.heuristic.best if more is not None and more.heuristic is not None else None
        shipped = more.shipped if more is not None else None
        found[engine] = Judged(engine.value, line.version, Ratio(line.geomean_ratio, line.worst_ratio, best), shipped)
    return found


def to_json(found: Sequence[DeviceStatus]) -> dict[str, Any]:
    return {"devices": [_device_json(each) for each in found]}


def _device_json(found: DeviceStatus) -> dict[str, Any]:
    return {
        "device_name": found.device.name,
        "counts": found.counts,
        "names": [item_json(item) for item in found.items],
        "notes": list(found.notes),
    }


def item_json(item: Item) -> dict[str, Any]:
    """A wanted name."""
    wanted, record = item.wanted, item.record
    environment = record.environment if record is not None else None
    return {
        "rank": item.rank,
        "name": item.name,
        "score": round(wanted.score, 3),
        "standing": item.standing.value,
        "why": list(item.why),
        "shapes": [shape.to_json() for shape in wanted.shapes],
        "models": list(wanted.models),
        "engines": {engine.value: today.value for engine, today in wanted.today.items()},
        "judges": [engine.value for engine in wanted.judges],
        "triton": environment.triton if environment is not None else None,
        "kernel_sha256": record.kernel_sha256 if record is not None else None,
        "rule": record.rule if record is not None else None,
        "date": record.date if record is not None else None,
        "has_down": item.has_down,
        "judged": [_judged_json(judged) for judged in ratios(item).values()],
    }


def _judged_json(judged: Judged) -> dict[str, Any]:
    return {
        "engine": judged.engine,
        "version": judged.version,
        "heuristic": judged.heuristic and vars(judged.heuristic),
        "shipped": judged.shipped and vars(judged.shipped),
    }


def to_text(found: Sequence[DeviceStatus]) -> str:
    """A table a GPU: reads the same on a terminal and in a log."""
    return "\n\n".join("\n".join(_device_lines(each)) for each in found)


_HEAD = ("rank", "file", "standing", "Triton", *ENGINE_NAMES.values(), "readers", "reads today", "why")


def _device_lines(found: DeviceStatus) -> Iterator[str]:
    counts = ", ".join(f"{count} {name}" for name, count in found.counts.items())
    yield f"{found.device.name}: {counted(len(found.items), 'wanted file')}: {counts or 'no model is placed there'}"
    rows = [_cells(item, found.device) for item in found.items]
    widths = [max(map(len, column)) for column in zip(_HEAD, *rows, strict=True)]
    for row in (_HEAD, *rows) if rows else ():
        yield "  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip()
    yield from (f"note: {note}" for note in found.notes)


def _cells(item: Item, device: Device) -> tuple[str, ...]:
    record, judged = item.record, ratios(item)
    triton = record.environment.triton if record is not None and record.environment is not None else "-"
    today = {f"{engine}: {said}" for engine, said in item.wanted.today.items()}
    return (
        str(item.rank),
        item.name.replace(f",device_name={device.name}", "").removesuffix(".json"),
        item.standing.value,
        triton,
        *(_ratio_text(item, engine, judged.get(engine)) for engine in Engine),
        f"{counted(len(item.wanted.models), 'placement')}, {', '.join(item.wanted.engines)}",
        ", ".join(sorted(today)),
        printable("; ".join(item.why)) or "-",
    )


def _ratio_text(item: Item, engine: Engine, judged: Judged | None) -> str:
    if judged is None or judged.heuristic is None:
        return "not judged" if engine in item.wanted.judges and item.record is not None else "-"
    return f"{judged.heuristic.geomean:.3f} (worst {judged.heuristic.worst:.3f})"


# ---------------------------------------------------------------
# The page: models down, GPUs across


def to_markdown(found: Sequence[DeviceStatus]) -> str:
    """docs/portfolio.md. Links are relative to docs/."""
    models = sorted({use.model for each in found for item in each.items for use in item.wanted.uses}, key=str.casefold)
    lines = [
        "# The portfolio",
        "",
        "Which models have tuned files here, on which GPU, and what a file gains: the time of the layer's two kernels "
        "with this file against that without one, on the engine's own kernel, as a geometric mean over batch sizes, "
        "routings and shapes; in brackets against the file that the engine ships, where it ships one. Each parallel "
        "size links to the record behind it. Written by `nox -s portfolio -- status --format markdown --output "
        "docs/portfolio.md`.",
        "",
    ]
    for each in found:
        whole = sum(item.standing in GOOD for item in each.items)
        lines.append(f"- {each.device.name}: {whole} of {counted(len(each.items), 'wanted file')}")
    rows = [[code(model), *(_model_cell(model, each) for each in found)] for model in models]
    lines += ["", *table(["model", *(each.device.name for each in found)], rows)]
    notes = [note for each in found for note in each.notes]
    return "\n".join([*lines, *(["", *(f"- {cell(note)}" for note in notes)] if notes else [])]) + "\n"


def _model_cell(model: str, found: DeviceStatus) -> str:
    uses = [(use, item) for item in found.items for use in item.wanted.uses if use.model == model]
    by_place: dict[tuple[int, int], list[str]] = {}
    for use, item in sorted(uses):
        by_place.setdefault((use.tp, use.ep), []).append(_use_text(use, item))
    return (
        "<br>".join(f"{_sizes(tp, ep)}: {'; '.join(dict.fromkeys(texts))}" for (tp, ep), texts in by_place.items())
        or "–"
    )


def _sizes(tp: int, ep: int) -> str:
    return f"tp={tp}" + (f" ep={ep}" if ep > 1 else "")


def _use_text(use: Use, item: Item) -> str:
    name = ENGINE_NAMES[use.engine.value]
    if item.record is None:
        return f"{name} –"
    link = f"[{name}](../configs/records/{urllib.parse.quote(item.name)})"
    judged = ratios(item).get(use.engine)
    if item.standing is Standing.OLDER or judged is None or judged.heuristic is None:
        return f"{link} ({item.standing.value})"
    shipped = f" ({_gain(judged.shipped)})" if judged.shipped is not None else ""
    return f"{link} {_gain(judged.heuristic)}{shipped}"


def _gain(ratio: Ratio) -> str:
    return f"{100.0 * (ratio.geomean - 1.0):+.1f} %".replace("-", "−")
