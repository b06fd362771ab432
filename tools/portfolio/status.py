"""What is wanted against what is there: for people, for programs, and as a page of the documentation. Pure."""

from __future__ import annotations

import urllib.parse
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from fused_moe_configs.naming import ENGINE_NAMES
from fused_moe_configs.serving import parallel_text
from tools.portfolio.stock import Item, Standing, is_faster
from tools.portfolio.wanted import Use
from tools.registry.devices import Device
from tools.registry.sharding import Engine
from tools.store.record import CheckedShipped, EngineChecked
from tools.text import aligned, cell, code, counted, printable, table


@dataclass(frozen=True)
class DeviceStatus:
    """A GPU's wanted names by rank. notes: readers that a name can't serve."""

    device: Device
    items: tuple[Item, ...]
    notes: tuple[str, ...] = ()

    @property
    def counts(self) -> dict[str, int]:
        """Names by standing, those that occur."""
        found = Counter(item.standing for item in self.items)
        return {standing.value: found[standing] for standing in Standing if found[standing]}


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
        "why": list(item.remarks),
        "shapes": [shape.to_json() for shape in wanted.shapes],
        "models": list(wanted.models),
        "engines": {engine.value: today.value for engine, today in wanted.today.items()},
        "judges": [engine.value for engine in wanted.judges],
        "triton": environment.triton if environment is not None else None,
        "kernel_sha256": record.kernel_sha256 if record is not None else None,
        "rule": record.rule if record is not None else None,
        "date": record.date if record is not None else None,
        "has_down": item.has_down,
        "judged": [_judged_json(line) for line in item.judged.values()],
    }


def _judged_json(line: EngineChecked) -> dict[str, Any]:
    shipped = line.shipped and {
        "geomean": line.shipped.geomean_ratio,
        "worst": line.shipped.worst_ratio,
        "best": line.shipped.best_ratio,
    }
    return {
        "engine": line.engine,
        "version": line.version,
        "heuristic": {"geomean": line.geomean_ratio, "worst": line.worst_ratio, "best": line.best_ratio},
        "shipped": shipped,
    }


def to_text(found: Sequence[DeviceStatus]) -> str:
    """A table a GPU: reads the same on a terminal and in a log."""
    return "\n\n".join("\n".join(_device_lines(each)) for each in found)


_HEAD = ("rank", "file", "standing", "Triton", *ENGINE_NAMES.values(), "readers", "reads today", "why")


def _device_lines(found: DeviceStatus) -> Iterator[str]:
    yield counts_line(found)
    rows = [_cells(item, found.device) for item in found.items]
    yield from aligned(_HEAD, rows) if rows else ()
    yield from (f"note: {note}" for note in found.notes)


def counts_line(found: DeviceStatus) -> str:
    """How many names there are, and how far they are."""
    counts = ", ".join(f"{count} {name}" for name, count in found.counts.items())
    return f"{found.device.name}: {counted(len(found.items), 'wanted file')}: {counts or 'no model is placed there'}"


def _cells(item: Item, device: Device) -> tuple[str, ...]:
    record = item.record
    triton = record.environment.triton if record is not None and record.environment is not None else "-"
    today = {f"{engine}: {said}" for engine, said in item.wanted.today.items()}
    return (
        str(item.rank),
        short_name(item, device),
        item.standing.value,
        triton,
        *(_ratio_text(item, engine) for engine in Engine),
        f"{counted(len(item.wanted.models), 'placement')}, {', '.join(item.wanted.engines)}",
        ", ".join(sorted(today)),
        printable("; ".join(item.remarks)) or "-",
    )


def _ratio_text(item: Item, engine: Engine) -> str:
    line = item.judged.get(engine)
    if line is None:
        return "not judged" if engine in item.wanted.judges and item.record is not None else "-"
    return f"{line.geomean_ratio:.3f} (worst {line.worst_ratio:.3f})"


def short_name(item: Item, device: Device) -> str:
    """Of a file, where the GPU is known."""
    return item.name.replace(f",device_name={device.name}", "").removesuffix(".json")


# ---------------------------------------------------------------
# The page: models down, GPUs across

_INTRO = """\
# The portfolio

Which models have tuned files here, on which GPU, and what a file gains; the most wanted models first.

- **−8 %**: with the file the layer's two kernels take 8 % less time than without one, on the engine's own kernel. The
  geometric mean over batch sizes and shapes under uniform routing. SGLang's figure is with the `_down` file where there
  is one.
- **In brackets**: the same against the file that the engine ships, where ours was measured beside one. **Bold**: the
  engine's own file is faster.
- **Links** lead to the record behind the figures.
- **waits**: there is no file yet, or none that was measured for that model's sizes.
- **older method**: there is a file, whose gain the site and `list` show, and it is still to be measured by today's.
- **done**: the search was not cut short, every usual row was decided among enough finalists, and the file is judged on
  the kernel of every engine that reads it. **held**: an older method measured it, and today's finds no row that loses.

The site, `fused-moe-configs list` and `index.json` show the tuner's own figures instead, of this project's kernel and
the shape that gains least, so theirs are others.

`./nox -s portfolio -- status --format markdown --output docs/portfolio.md` wrote this page.
"""


def to_markdown(found: Sequence[DeviceStatus]) -> str:
    """docs/portfolio.md. Links are relative to docs/."""
    standings = [standing.value for standing in Standing if any(standing.value in each.counts for each in found)]
    counts = [
        [
            code(each.device.name),
            str(len(each.items)),
            *(str(each.counts.get(standing, "–")) for standing in standings),
        ]
        for each in found
    ]
    ranks: dict[str, int] = {}
    checkpoints: dict[str, int] = {}
    for item in (item for each in found for item in each.items):
        for use in item.wanted.uses:
            ranks[use.model] = min(item.rank, ranks.get(use.model, item.rank))
            checkpoints[use.model] = use.checkpoints
    models = sorted(ranks, key=lambda model: (ranks[model], -checkpoints[model], model.casefold()))
    rows = [[code(model), *(_model_cell(model, each) for each in found)] for model in models]
    notes = [f"- {cell(note)}" for note in dict.fromkeys(note for each in found for note in each.notes)]
    lines = [
        _INTRO,
        *table(["GPU", "wanted files", *standings], counts),
        "",
        *table(["model", *(each.device.name for each in found)], rows),
        *(["", "Not tuned here:", "", *notes] if notes else []),
    ]
    return "\n".join(lines) + "\n"


def _model_cell(model: str, found: DeviceStatus) -> str:
    """A line for each parallel size with a file, then what waits."""
    uses = [(use, item) for item in found.items for use in item.wanted.uses if use.model == model]
    by_place: dict[tuple[int, int], list[tuple[Use, Item]]] = {}
    for use, item in sorted(uses, key=lambda pair: (pair[0].tp, pair[0].ep, list(Engine).index(pair[0].engine))):
        by_place.setdefault((use.tp, use.ep), []).append((use, item))
    lines, waiting = [], []
    for (tp, ep), read in by_place.items():
        sizes = parallel_text(tp, ep)
        if any(_is_measured(use, item) for use, item in read):
            lines.append(_place(sizes, read))
        else:
            waiting.append(sizes)
    return "<br>".join([*lines, *([f"waits: {', '.join(waiting)}"] if waiting else [])]) or "–"


def _is_measured(use: Use, item: Item) -> bool:
    """Whether there is a file that was measured for this model's sizes, by whatever method."""
    return item.record is not None and use.shape not in item.unserved


def _place(sizes: str, read: Sequence[tuple[Use, Item]]) -> str:
    """An engine each, unless all that can be said of every one is that its file is of an older method.

    The sizes link to the record; where engines read different files, each engine's name does.
    """
    said = [(ENGINE_NAMES[use.engine.value], item, _use_text(use, item)) for use, item in read]
    links = list(dict.fromkeys(_link(item) for use, item in read if _is_measured(use, item)))
    if len(links) > 1:
        return f"{sizes}: " + ", ".join(f"[{engine}]({_link(item)}) {text}" for engine, item, text in said)
    if all(text == Standing.OLDER for *_, text in said):
        return f"[{sizes}]({links[0]}): {Standing.OLDER.value}"
    return f"[{sizes}]({links[0]}): " + ", ".join(f"{engine} {text}" for engine, _, text in said)


def _link(item: Item) -> str:
    return f"../configs/records/{urllib.parse.quote(item.name)}"


def _use_text(use: Use, item: Item) -> str:
    if not _is_measured(use, item):
        return "waits"
    if item.standing is Standing.OLDER:
        return Standing.OLDER.value
    line = item.judged.get(use.engine)
    if line is None:
        return "not judged"
    shipped = f" ({_beside(line.shipped)})" if line.shipped is not None else ""
    return f"{_gain(line.geomean_ratio)}{shipped}"


def _beside(shipped: CheckedShipped) -> str:
    """Over the engine's own file, bold where that is faster."""
    return f"**{_gain(shipped.geomean_ratio)}**" if is_faster(shipped) else _gain(shipped.geomean_ratio)


def _gain(ratio: float) -> str:
    return f"{100.0 * (ratio - 1.0):+.1f} %".replace("-", "−")
