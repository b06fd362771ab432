"""What is read of the JSON that `bench files` prints: the ratios of each file, of the cells under uniform routing."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from tools.bench.request import HEURISTIC
from tools.measure.panel import RoutingKind
from tools.measure.statistics import geomean
from tools.portfolio.progress import Ratio


@dataclass(frozen=True)
class BenchedFile:
    """heuristic: over what runs without the file; shipped: over the other files that it met. None: no cell ran both.

    fails: on some row.
    """

    name: str
    heuristic: Ratio | None = None
    shipped: Ratio | None = None
    fails: bool = False


@dataclass(frozen=True)
class BenchReport:
    """is_slower: a file loses a cell, under whatever routing, or fails on it."""

    is_slower: bool
    files: tuple[BenchedFile, ...]

    @classmethod
    def read(cls, text: str) -> BenchReport | None:
        """None: it is something else."""
        try:
            document = json.loads(text)
            return cls(bool(document["is_slower"]), tuple(map(_file, document["files"])))
        except (KeyError, TypeError, ValueError, AttributeError, StopIteration):
            return None


def _file(document: Mapping[str, Any]) -> BenchedFile:
    parts = [part for row in document["rows"] for part in row["parts"]]
    of_heuristic: list[float] = []
    of_others: list[float] = []
    for part in parts:
        for name, duel in part["duels"].items() if part["routing"] == RoutingKind.UNIFORM.value else ():
            if duel["ratio"] is not None:
                (of_heuristic if name == HEURISTIC else of_others).append(float(duel["ratio"]["mean"]))
    fails = any(next(iter(part["measured"].values()))["us"] is None for part in parts)
    return BenchedFile(PurePosixPath(document["name"]).name, _ratio(of_heuristic), _ratio(of_others), fails)


def _ratio(means: list[float]) -> Ratio | None:
    if not means or not all(0.0 < mean < math.inf for mean in means):
        return None
    return Ratio(round(geomean(means), 4), round(max(means), 4), round(min(means), 4))
