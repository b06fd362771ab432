"""What engines ship for a GPU, as surveys of it found: docs/measurements/*survey*.json. Without one it isn't known."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tools.errors import UserError, reason_of
from tools.measure.panel import LARGEST_RATIO
from tools.portfolio.wanted import Shipped
from tools.registry.devices import Device
from tools.registry.sharding import Engine
from tools.text import shown_path

PATTERN = "*survey*.json"


def read_shipped(folder: Path, device: Device) -> tuple[Shipped, ...]:
    """The newest survey of each engine on the device; names of files begin with the day. UserError: one is broken."""
    newest: dict[Engine, Shipped] = {}
    for path in sorted(folder.glob(PATTERN)):
        try:
            document = json.loads(path.read_text("utf-8"))
            if document["device_name"] in device.names:
                newest[Engine(document["engine"])] = _shipped(document)
        except (OSError, KeyError, TypeError, ValueError) as error:
            raise UserError(
                f"{shown_path(path)}: expected a survey as the portfolio writes it, found something else "
                f"({reason_of(error)}). Fix: run the survey again, or remove the file."
            ) from error
    return tuple(newest[engine] for engine in Engine if engine in newest)


def _shipped(document: Mapping[str, Any]) -> Shipped:
    """A file loses that is slower than none on the whole, or in a row by more than a tuned file may be."""
    loses = {
        file["name"]: file["geomean_ratio"] > 1.0 or file["worst_ratio"] > LARGEST_RATIO for file in document["files"]
    }
    return Shipped(Engine(document["engine"]), loses)
