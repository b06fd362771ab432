"""What is read of the JSON that `bench files` prints: each file's worst ratio under uniform routing, what loses, and
which record has no line of it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from tools.bench.request import HEURISTIC
from tools.measure.panel import RoutingKind


@dataclass(frozen=True)
class ReportedFile:
    """worst: ratio of a row over what runs without the file; None: no cell ran both. fails: on some row."""

    name: str
    worst: float | None = None
    fails: bool = False


@dataclass(frozen=True)
class BenchReport:
    """is_slower: a file loses a cell, under whatever routing, or fails on it. not_written: a line for each record that
    says nothing of it."""

    is_slower: bool
    files: tuple[ReportedFile, ...]
    not_written: tuple[str, ...] = ()

    @classmethod
    def read(cls, text: str) -> BenchReport | None:
        """None: it is something else."""
        try:
            document = json.loads(text)
            not_written = tuple(map(str, document["not_written"]))
            return cls(bool(document["is_slower"]), tuple(map(_file, document["files"])), not_written)
        except (KeyError, TypeError, ValueError, AttributeError):
            return None


def _file(document: Mapping[str, Any]) -> ReportedFile:
    parts = [part for row in document["rows"] for part in row["parts"]]
    uniform = [part for part in parts if part["routing"] == RoutingKind.UNIFORM.value]
    duels = [duel for part in uniform for name, duel in part["duels"].items() if name == HEURISTIC]
    ratios = [float(duel["ratio"]["mean"]) for duel in duels if duel["ratio"] is not None]
    fails = any(own["us"] is None for own, *_ in (part["measured"].values() for part in parts))
    return ReportedFile(PurePosixPath(document["name"]).name, max(ratios, default=None), fails)
