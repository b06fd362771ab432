"""The coverage matrix: models down, GPUs across, what each engine finds there; as a table, as CSV and as JSON."""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from tools.portfolio.wanted import Wanted
from tools.registry.devices import Device, DeviceRegistry
from tools.registry.models import Model, ModelRegistry
from tools.site.files import TunedFile
from tools.site.questions import UNPLACED_SIZES, DeviceAnswer, Row, State

HOLES = (State.NONE, State.SHIPPED)
"""There is no file here."""

MOST_COLUMNS = 8
"""GPUs of the first page; every other one has a page of its own."""

COLUMNS = (
    "model", "tp", "ep", "weights", "gpu", "engine", "version", "state", "file", "time_over_no_file", "triton",
    "reads_tuned_files", "next",
)  # fmt: skip


@dataclass(frozen=True)
class Cell:
    """What an engine finds on a GPU.

    ratio: the file's time over that without it; for State.SHIPPED the engine's own file's. name: the file that is
    asked for. page: of the file that serves. reads None: it isn't known whether the default backend reads files.
    is_behind: the engine's own file is faster than the one that serves.
    """

    engine: str
    version: str
    state: State
    name: str | None
    ratio: float | None
    triton: str | None
    page: str | None
    reads: bool | None
    command: str
    backend: str | None
    is_behind: bool = False

    @property
    def is_hole(self) -> bool:
        """A file that would be read, as far as is known, and isn't here."""
        return self.state in HOLES


@dataclass(frozen=True)
class Line:
    """A model at its parallel sizes.

    is_placed: people run it so on some device, by the registry. cells: by device and engine; none of an engine that
    isn't run so.
    """

    model: str
    slug: str
    tp: int
    ep: int
    weights: str
    is_placed: bool
    cells: Mapping[tuple[str, str], Cell]

    @property
    def sizes(self) -> str:
        return sizes_of(self.tp, self.ep)

    @property
    def anchor(self) -> str:
        return anchor_of(self.tp, self.ep)


def sizes_of(tp: int, ep: int) -> str:
    """As people write them."""
    return f"TP{tp}" + f" EP{ep}" * (ep > 1)


def anchor_of(tp: int, ep: int) -> str:
    """Where they stand on a model's page."""
    return f"tp{tp}-ep{ep}"


class States:
    """What those who ask for a wanted file find, each at its own shape and in its own engine."""

    def __init__(self, lines: Iterable[Line]) -> None:
        self._cells = {
            (device, engine, line.model, line.tp, line.ep): cell
            for line in lines
            for (device, engine), cell in line.cells.items()
        }

    def least(self, wanted: Wanted, device: Device) -> State:
        """Of all who ask: a file that was measured for one of them alone is not measured for the others."""
        asking = ((device.name, use.engine.value, use.model, use.tp, use.ep) for use in wanted.uses)
        states = (self._cells[key].state for key in asking if key in self._cells)
        order = list(State)
        return max((state for state in states if state is not State.NOT_READ), key=order.index, default=State.NONE)


def is_shown(row: Row) -> bool:
    """People run it so; of a model whose placements aren't known, the usual sizes."""
    return row.is_placed or (not row.model.placements and row.ep == 1 and row.tp in UNPLACED_SIZES)


def lines_of(model: Model, slug: str, rows: Iterable[Row]) -> tuple[Line, ...]:
    """A line for each of the model's sizes that are shown, fewest ranks first.

    rows: of an engine's releases the newest first, which the cells are of.
    """
    by_sizes: dict[tuple[int, int], list[Row]] = {}
    for row in filter(is_shown, rows):
        by_sizes.setdefault((row.tp, row.ep), []).append(row)
    return tuple(
        Line(
            model.id, slug, tp, ep, model.checkpoint.kind, any(row.is_placed for row in of_sizes),
            {cell_key: cell for row in reversed(of_sizes) for cell_key, cell in _cells(row)},
        )
        for (tp, ep), of_sizes in sorted(by_sizes.items())
    )  # fmt: skip


def _cells(row: Row) -> Iterator[tuple[tuple[str, str], Cell]]:
    for device, answer in row.answers.items():
        yield (device, row.release.name), _cell(row, answer)


def _cell(row: Row, answer: DeviceAnswer) -> Cell:
    looked, file, state = answer.looked, answer.file, answer.state
    surveyed = looked.surveyed if looked and state is State.SHIPPED else None
    ratio = surveyed.ratio if surveyed else answer.ratio
    return Cell(
        row.release.name, row.release.version, state, looked.name if looked else None, ratio,
        file.known.triton if file else None, file.slug if file else None, answer.of_arch.reads_tuned_files,
        answer.step.command, answer.of_arch.backend, answer.behind is not None,
    )  # fmt: skip


def in_order(lines: Iterable[Line], devices: Sequence[str]) -> list[Line]:
    """Models with a file on one of the devices first, then those that people place somewhere, by name and ranks."""
    lines, shown = tuple(lines), set(devices)
    held = {line.model for line in lines if any(cell.page and d in shown for (d, _), cell in line.cells.items())}
    return sorted(
        lines, key=lambda each: (each.model not in held, not each.is_placed, each.model.casefold(), each.tp, each.ep)
    )


def columns_of(devices: DeviceRegistry, models: ModelRegistry, files: Sequence[TunedFile]) -> tuple[Device, ...]:
    """The GPUs of the first page: those that people place models on, by the registry, then those with most files."""
    placed = Counter(placement.device for model in models for placement in model.placements)
    held = held_by(devices, files)
    chosen = [_usual(devices, family, held) for family, _ in placed.most_common()]
    chosen += [devices.find(name) for name, _ in held.most_common()]
    return tuple(dict.fromkeys(device for device in chosen if device is not None))[:MOST_COLUMNS]


def held_by(devices: DeviceRegistry, files: Iterable[TunedFile]) -> Counter[str]:
    """How many files there are for a device, under any of its names."""
    found = (devices.get(file.device_name) for file in files if file.device_name)
    return Counter(device.name for device in found if device is not None)


def only_on(lines: Iterable[Line], devices: Iterable[str]) -> list[Line]:
    """Without the cells of other GPUs."""
    shown = set(devices)
    return [replace(line, cells={key: cell for key, cell in line.cells.items() if key[0] in shown}) for line in lines]


def _usual(devices: DeviceRegistry, family: str, held: Mapping[str, int]) -> Device | None:
    """The one of a family with most files, else the first whose figures are known."""
    of_family = [device for device in devices if device.family == family]
    known = [device for device in of_family if device.sm_count is not None]
    return max(known or of_family, key=lambda device: held.get(device.name, 0), default=None)


def records(lines: Iterable[Line], devices: Sequence[Device]) -> Iterator[dict[str, Any]]:
    """A mapping a cell, by `COLUMNS`."""
    shown = {device.name for device in devices}
    for line in lines:
        for (device, _), cell in line.cells.items():
            if device in shown:
                values = (
                    line.model, line.tp, line.ep, line.weights, device, cell.engine, cell.version, cell.state.value,
                    cell.name, cell.ratio, cell.triton, cell.reads, cell.command,
                )  # fmt: skip
                yield dict(zip(COLUMNS, values, strict=True))


def to_csv(found: Iterable[Mapping[str, Any]]) -> str:
    """With a head. What a spreadsheet would take for a formula gets an apostrophe before it."""
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    for each in found:
        writer.writerow({key: _plain(value) for key, value in each.items()})
    return text.getvalue()


def _plain(value: Any) -> Any:
    if value is None:
        return ""
    return f"'{value}" if isinstance(value, str) and value.startswith(("=", "+", "-", "@", "\t", "\r")) else value
