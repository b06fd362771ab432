"""fused-moe-configs list: what is here, a line a file."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fused_moe_configs.api import where
from fused_moe_configs.index import IndexedFile, IndexedShape, indexed, to_json
from fused_moe_configs.lookup import device_part, printable, shown
from fused_moe_configs.naming import ENGINES, by_number, parse
from fused_moe_configs.near import likely_devices
from fused_moe_configs.registry import Checkpoint, known_devices, read_registry
from fused_moe_configs.spelling import folded, like, question

from .console import say, show

if TYPE_CHECKING:
    from .console import Commands

HEADINGS = ("GPU", "workload", "Triton", "over no file: vLLM", "SGLang", "since", "evidence", "models")
MOST_MODELS = 3


def add_to(commands: Commands) -> None:
    command = commands.add_parser(
        "list",
        help="what is here, a line a file",
        description="A line a file: GPU and workload, for which Triton, its time over that without a file in either "
        "engine (geometric mean of all batch sizes; with --model at that model's shape, else at the shape where it "
        "gains least), since when, the evidence, and the models that read it. verified: the main branch measured it "
        "again; claimed: its author's word; published: taken over from elsewhere, not measured here.",
    )
    command.set_defaults(run=run)
    command.add_argument("--model", metavar="M", help="only files that it reads: a model's id or a part of one")
    command.add_argument("--device-name", metavar="D", help="only this GPU's, as the driver or a file name spells it")
    command.add_argument("--format", choices=("text", "json"), default="text", dest="output")


def run(model: str | None, device_name: str | None, output: str) -> int:
    asked = None if model is None else _Asked.of(model)
    files = indexed(where())
    found = [entry for entry in files if asked is None or asked.is_among(entry.models)]
    if device_name is not None:
        names = _names_of(device_name)
        found = [entry for entry in found if _device(entry) in names]
    if output == "json":
        show(json.dumps(to_json(found), indent=4, ensure_ascii=False))
    elif found:
        show(*_table(sorted(found, key=_order), asked))
        if asked is not None and (others := asked.under_other_ids(found)):
            say(f"{printable(asked.text)} has the experts of {', '.join(map(printable, others))}")
    if not found:
        say(*_why_none(files, asked, device_name))
    return 0 if found else 1


@dataclass(frozen=True)
class _Asked:
    """A model's id or a part of one. ids: every id, folded, with the same experts as one that it is a part of."""

    text: str
    ids: frozenset[str]

    @classmethod
    def of(cls, text: str) -> _Asked:
        """ValueError: no text. ConfigError: the registry is broken."""
        if not (part := folded(text)):
            wish = f"--model: expected a model's id or a part of one, found no letter or digit in {shown(text)}"
            raise ValueError(f"{wish}. Fix: name it, or leave it out")
        alike = (model.ids for model in _known_models() if any(part in folded(name) for name in model.ids))
        return cls(text, frozenset(folded(name) for ids in alike for name in ids))

    def is_among(self, models: Iterable[str]) -> bool:
        """models: as an index has them, «MODEL tp=N»."""
        return any(map(self.is_meant, models))

    def is_meant(self, name: str) -> bool:
        return self._is_part_of(name) or folded(name.partition(" ")[0]) in self.ids

    def under_other_ids(self, files: Iterable[IndexedFile]) -> list[str]:
        """The ids under which they are its files, where none has its own name."""
        meant = {name.partition(" ")[0] for entry in files for name in entry.models if self.is_meant(name)}
        return [] if any(map(self._is_part_of, meant)) else sorted(meant)

    def _is_part_of(self, name: str) -> bool:
        return folded(self.text) in folded(name)


def _known_models() -> tuple[Checkpoint, ...]:
    return read_registry("models", Checkpoint.read, where())


def _names_of(device_name: str) -> set[str]:
    """The device under all its names. ValueError: no device can have this one."""
    own = device_part(device_name)
    return {own}.union(*(device.names for device in known_devices(where()) if own in device.names))


def _device(entry: IndexedFile) -> str:
    parsed = parse(entry.name)
    return parsed.device_name if parsed else ""


def _order(entry: IndexedFile) -> tuple[object, ...]:
    """By GPU, workload and Triton, numbers as numbers; names that nothing asks for at the end."""
    parsed = parse(entry.name)
    if parsed is None:
        return True, entry.file
    kind = (parsed.dtype or "", parsed.block_shape or (), parsed.per_channel_quant, parsed.down)
    return False, parsed.device_name, parsed.E, parsed.N, *kind, by_number(entry.file)


def _why_none(files: list[IndexedFile], asked: _Asked | None, device_name: str | None) -> list[str]:
    """What of the filter fits no file, and what may be meant."""
    lines = []
    if asked is not None:
        of_model = [entry for entry in files if asked.is_among(entry.models)]
        if not of_model:
            lines += _of_no_file(files, asked.text)
        elif device_name is not None:
            devices = ", ".join(dict.fromkeys(map(_device, of_model)))
            lines.append(f"{printable(asked.text)} has no file for {printable(device_name)}, but for {devices}")
    elif device_name is not None:
        lines.append(f"no file is here for {printable(device_name)}")
    else:
        lines.append(f"no tuned file is in {where()}")
    if device_name is not None and (devices_meant := likely_devices(device_name, where())):
        lines.append(f"{printable(device_name)}: {question(devices_meant)}")
    return lines


def _of_no_file(files: list[IndexedFile], model: str) -> list[str]:
    """Of a model that no file was tuned for: who answers, or what may be meant where no such model is known."""
    asked = printable(model)
    known = [name for checkpoint in _known_models() for name in checkpoint.ids]
    if ids := like(model, (name for name in known if folded(model) in folded(name))):
        questions = " or ".join(f"fused-moe-configs doctor --model {name}" for name in ids)
        return [f"no file here was tuned for {asked}. What it gets is answered by {questions}"]
    of_files = (name.partition(" ")[0] for entry in files for name in entry.models)
    meant = like(model, [*of_files, *known])
    return [f"no model is known here as {asked}", *([f"{asked}: {question(meant)}"] if meant else [])]


def _table(files: list[IndexedFile], asked: _Asked | None) -> list[str]:
    rows = [HEADINGS, *(_row(entry, asked) for entry in files)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def _row(entry: IndexedFile, asked: _Asked | None) -> tuple[str, ...]:
    parsed = parse(entry.name)
    if parsed is None:
        return "?", entry.file, "", "", "", "", "no name that anything asks for", ""
    workload = f"E={parsed.E},N={parsed.N}" + f",{parsed.quantisation}" * bool(parsed.quantisation)

    def is_models(shape: IndexedShape) -> bool:
        return asked is not None and asked.is_among(shape.models)

    # Those that were asked for come first: only some are shown.
    models = sorted(entry.models, key=lambda name: asked is None or not asked.is_meant(name))
    more = f" and {len(models) - MOST_MODELS} more" if len(models) > MOST_MODELS else ""
    return (
        parsed.device_name,
        workload + " (down)" * parsed.down,
        entry.triton or "older",
        *(entry.gain(engine, is_models) for engine in ENGINES),
        entry.date or "unknown",
        entry.evidence or "none",
        ", ".join(models[:MOST_MODELS]) + more or "none known",
    )
