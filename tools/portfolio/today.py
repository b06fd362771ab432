"""What engines ship for a GPU, as surveys of it found: docs/measurements/*-survey-*.json."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tools.errors import UserError, reason_of
from tools.measure.panel import Ratio
from tools.portfolio.wanted import Shipped
from tools.registry.devices import Device, normalise_device_name
from tools.registry.sharding import Engine
from tools.text import shown_path

PATTERN = "*-survey-*.json"


def read_shipped(folder: Path, device: Device) -> tuple[Shipped, ...]:
    """The newest survey of each engine on the device; names of files begin with the day. UserError: one is broken."""
    newest: dict[Engine, Shipped] = {}
    for path in sorted(folder.glob(PATTERN)):
        try:
            document = json.loads(path.read_text("utf-8"))
            if normalise_device_name(document["environment"]["device_name"]) in device.names:
                loses = {file["name"]: _loses(file) for file in document["files"]}
                newest[Engine(document["engine"])] = Shipped(Engine(document["engine"]), loses)
        except (OSError, KeyError, TypeError, ValueError) as error:
            raise UserError(
                f"{shown_path(path)}: expected a survey as the portfolio writes it, found something else "
                f"({reason_of(error)}). Fix: run the survey again, or remove the file."
            ) from error
    return tuple(newest[engine] for engine in Engine if engine in newest)


def _loses(file: Mapping[str, Any]) -> bool:
    """To having no file: on the whole, or on a row beyond doubt; or it doesn't run."""
    rows = [row for shape in file["shapes"] for row in shape["rows"]]
    ratios = [Ratio(**row["shipped"]) for row in rows if row["shipped"] is not None]
    if not ratios or any(row["failure"] for row in rows):
        return True
    return sum(math.log(ratio.mean) for ratio in ratios) > 0.0 or any(ratio.is_slower for ratio in ratios)
