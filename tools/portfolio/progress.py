"""What runs on this machine did, one JSON line a name, for each GPU in a file of its own: .tune/portfolio/DEVICE.jsonl.

Local, and needed for nothing but to tell people: what is done, judged or held follows from records alone, and a killed
run goes on by them and by the tuner's own journals. Here is why names were skipped or failed, and where seconds went.
Appended the moment a name is done. The last line of a name counts. A line that a kill cut short is the last one, and is
dropped.
"""

from __future__ import annotations

import contextlib
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
class Step:
    """One run of tuner or bench. engine: whose kernel judged; None: it tuned. code: its exit code. said: its last line
    to people."""

    engine: str | None
    code: int
    seconds: float
    said: str = ""


@dataclass(frozen=True)
class ProgressLine:
    """One name, once. reason: why it was skipped or failed, or what is to be known of it. seconds: wall time of it all.

    overhead_s: of the seconds, what passed outside tuner and bench. gpu: which of the machine's. rank: in the run's
    list, from 1.
    """

    name: str
    outcome: Outcome
    date: str
    reason: str = ""
    seconds: float = 0.0
    overhead_s: float = 0.0
    steps: tuple[Step, ...] = ()
    gpu: str = ""
    rank: int = 0

    @classmethod
    def read(cls, document: Mapping[str, Any]) -> ProgressLine:
        """Inverse of `to_json`. KeyError, TypeError, ValueError: it is something else."""
        if not all(isinstance(document[name], str) for name in _TEXTS & document.keys()):
            raise TypeError("a text")
        if not all(0 <= document[name] < math.inf for name in _NUMBERS & document.keys()):
            raise ValueError("a number")
        steps = tuple(_step(step) for step in document["steps"])
        return cls(**{**document, "outcome": Outcome(document["outcome"]), "steps": steps})

    def to_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    def seconds_of(self, engine: str | None) -> float | None:
        """Of judging on the engine's kernel; None: of tuning. None where no step did that."""
        found = [step.seconds for step in self.steps if step.engine == engine]
        return sum(found) if found else None


_TEXTS = frozenset({"name", "date", "reason", "gpu"})
_NUMBERS = frozenset({"seconds", "overhead_s", "rank"})


def _step(document: Mapping[str, Any]) -> Step:
    step = Step(**document)
    if not isinstance(step.engine, str | None) or not isinstance(step.said, str):
        raise TypeError("a text")
    if not 0 <= step.seconds < math.inf:
        raise ValueError("a number")
    return step


def read_progress(path: Path) -> dict[str, ProgressLine]:
    """By name, the last line of each. UserError: unreadable, or a line in it is none."""
    try:
        if path.exists() and not path.is_file() and not path.is_dir():
            raise UserError(f"{shown_path(path)}: expected a file, found a device or a pipe. Fix: remove it.")
        data = path.read_bytes()
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise UserError(f"{shown_path(path)}: expected lines of JSON, found: {reason_of(error)}.") from error
    found: dict[str, ProgressLine] = {}
    *rows, _ = data.split(b"\n")  # what stands behind the last one was cut short by a kill, amid a character perhaps
    for number, row in enumerate(rows, start=1):
        try:
            line = ProgressLine.read(json.loads(row.decode()))
        except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
            raise UserError(
                f"{shown_path(path)}, line {number}: expected what the portfolio wrote, found something else. "
                "Fix: remove the line."
            ) from error
        found[line.name] = line
    return found


def append(path: Path, line: ProgressLine) -> None:
    """At once, and on its own line whatever a kill left before it. OSError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+b") as file:
        with contextlib.suppress(OSError):  # a file system without locks, as for the store
            fcntl.flock(file, fcntl.LOCK_EX)
        _cut_torn_line(file.fileno())
        file.write((json.dumps(line.to_json()) + "\n").encode())
        file.flush()
        os.fsync(file.fileno())


def _cut_torn_line(descriptor: int) -> None:
    size = os.fstat(descriptor).st_size
    tail = os.pread(descriptor, min(size, 1 << 20), max(0, size - (1 << 20)))
    if tail and not tail.endswith(b"\n"):
        os.ftruncate(descriptor, size - len(tail) + tail.rfind(b"\n") + 1)
