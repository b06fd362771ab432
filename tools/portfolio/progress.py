"""What came of each name, one JSON line a name, for each GPU in a file of its own: docs/portfolio/DEVICE.jsonl.

Appended the moment a name is done, so that a killed run loses at most the name that it was at. The last line of a name
counts. A line that a kill cut short is the last one, and is dropped.
"""

from __future__ import annotations

import dataclasses
import enum
import fcntl
import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tools.errors import UserError, reason_of
from tools.store.record import EngineChecked
from tools.text import shown_path


class Outcome(enum.StrEnum):
    """What became of a name."""

    TUNED = "tuned"
    JUDGED = "judged"
    """The file was tuned before, and is judged now."""
    HELD = "held"
    """A file of an older method: judged by today's it loses nowhere, and stays."""
    SKIPPED = "skipped"
    FAILED = "failed"


@dataclass(frozen=True)
class Ratio:
    """Of the file's time over another's on an engine's own kernel. best: None where the bench doesn't tell."""

    geomean: float
    worst: float
    best: float | None = None


@dataclass(frozen=True)
class Judged:
    """On an engine's own kernel: over its heuristic, and over the file that it ships. None: it ships none."""

    engine: str
    version: str
    heuristic: Ratio | None
    shipped: Ratio | None = None


@dataclass(frozen=True)
class Line:
    """One name, once. reason: why it was skipped or failed, or what is to be known of it. seconds: wall time of it all.

    overhead_s: of the seconds, what passed outside tuner and bench. gpu: which of the machine's. rank: in the run's
    list, from 1. config_sha256: of the file that stood there at the end; None: there is none. triton, kernel_sha256,
    rule: of the method.
    """

    name: str
    outcome: Outcome
    date: str
    triton: str
    kernel_sha256: str
    rule: str
    reason: str = ""
    seconds: float = 0.0
    overhead_s: float = 0.0
    gpu: str = ""
    rank: int = 0
    config_sha256: str | None = None
    judged: tuple[Judged, ...] = ()

    @classmethod
    def read(cls, document: Mapping[str, Any]) -> Line:
        """Inverse of `to_json`. KeyError, TypeError, ValueError: it is something else."""
        if not all(isinstance(document[name], str) for name in _TEXTS & document.keys()):
            raise TypeError("a text")
        if not all(0 <= document[name] < math.inf for name in _NUMBERS & document.keys()):
            raise ValueError("a number")
        judged = tuple(
            Judged(each["engine"], each["version"], _ratio(each["heuristic"]), _ratio(each["shipped"]))
            for each in document["judged"]
        )
        return cls(**{**document, "outcome": Outcome(document["outcome"]), "judged": judged})

    def to_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


_TEXTS = frozenset({"name", "date", "triton", "kernel_sha256", "rule", "reason", "gpu"})
_NUMBERS = frozenset({"seconds", "overhead_s", "rank"})


def _ratio(document: Mapping[str, Any] | None) -> Ratio | None:
    if document is None:
        return None
    found = Ratio(**document)
    numbers = (found.geomean, found.worst, 1.0 if found.best is None else found.best)
    if not all(0 < number < math.inf for number in numbers):
        raise ValueError("a ratio")
    return found


def checked(line: EngineChecked, shipped: Ratio | None = None, best: float | None = None) -> Judged:
    """What a record says of a bench on an engine's kernel."""
    return Judged(line.engine, line.version, Ratio(line.geomean_ratio, line.worst_ratio, best), shipped)


def read_progress(path: Path) -> dict[str, Line]:
    """By name, the last line of each. UserError: unreadable, or a line in it is none."""
    try:
        if path.exists() and not path.is_file() and not path.is_dir():
            raise UserError(f"{shown_path(path)}: expected a file, found a device or a pipe. Fix: remove it.")
        text = path.read_text("utf-8")
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{shown_path(path)}: expected lines of JSON, found: {reason_of(error)}.") from error
    found: dict[str, Line] = {}
    for number, row in enumerate(text.splitlines(keepends=True), start=1):
        if not row.endswith("\n"):
            break  # a kill cut it short
        try:
            line = Line.read(json.loads(row))
        except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
            raise UserError(
                f"{shown_path(path)}, line {number}: expected what the portfolio wrote, found something else. "
                "Fix: remove the line."
            ) from error
        found[line.name] = line
    return found


def append(path: Path, line: Line) -> None:
    """At once, and on its own line whatever a kill left before it. OSError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+b") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        _cut_torn_line(file.fileno())
        file.write((json.dumps(line.to_json(), ensure_ascii=False) + "\n").encode())
        file.flush()
        os.fsync(file.fileno())


def _cut_torn_line(descriptor: int) -> None:
    size = os.fstat(descriptor).st_size
    tail = os.pread(descriptor, min(size, 1 << 20), max(0, size - (1 << 20)))
    if tail and not tail.endswith(b"\n"):
        os.ftruncate(descriptor, size - len(tail) + tail.rfind(b"\n") + 1)
