"""A checkout's folders below tmp_path, with files of wanted names as the tuner leaves them, and engines' packages."""

from __future__ import annotations

import functools
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from kernels.problem import Flavour
from tests import builders
from tests.tools.portfolio.unpacked_engine import unpacked
from tools.launch.engine_package import KERNEL_MODULES
from tools.measure.panel import DRAWN_KINDS, RoutingKind
from tools.portfolio.listing import Folders
from tools.portfolio.stock import Method
from tools.portfolio.wanted import Wanted, WantedList, wanted_on
from tools.registry.sharding import Engine
from tools.store.record import CheckedRouting, EngineChecked, Record
from tools.tune.request import DEFAULT_BATCH_SIZES

H100 = builders.H100
TODAY = "2026-03-09"


@functools.cache
def wanted_of_h100() -> WantedList:
    """By the real registries, without surveys."""
    return wanted_on(builders.devices().find(H100), builders.models())


def wanted(name: str) -> Wanted:
    """By the file's name without device: «E=256,N=256»."""
    return next(each for each in wanted_of_h100().names if each.name == full(name))


def full(name: str) -> str:
    """The whole name of an H100's file."""
    head, comma, tail = name.partition(",dtype=")
    return f"{head},device_name={H100}{comma}{tail}.json"


@dataclass(frozen=True)
class Stocked:
    """A checkout."""

    root: Path

    @property
    def folders(self) -> Folders:
        return Folders(self.root / "configs", self.root / "docs" / "measurements", self.root / ".tune" / "portfolio")

    @property
    def store(self) -> builders.Store:
        return builders.Store(self.folders.configs)

    def tune(self, name: str, judged_on: Iterable[Engine] | None = (), **changes: Any) -> Path:
        """A file of today's method. judged_on None: every engine that reads it."""
        each = wanted(name)
        path = self.store.config(builders.table(DEFAULT_BATCH_SIZES), each.name)
        tuner = {
            "settings": {"separate_down": False},
            "seconds": 40.0,
            "kernels_compiled": 1,
            "measurements": 1,
            "outcomes": {"ok": 1},
            "cut_short": False,
            "least_finalists": 4,
        }
        fields = {
            "shapes": [{**shape.to_json(), "models": []} for shape in each.shapes],
            "rule": Method().rule,
            "tuner": {**tuner, **changes.pop("tuner", {})},
            "date": TODAY,
        }
        self.store.measured(path, **{**fields, **changes})
        for engine in each.judges if judged_on is None else judged_on:
            self.judge(name, engine)
        return path

    def judge(
        self,
        name: str,
        engine: Engine,
        geomean: float = 0.9,
        worst: float = 1.0,
        *,
        slower: int = 0,
        triton: str = Method().triton,
        **changes: Any,
    ) -> None:
        """As the bench notes it. slower: cells that lose under the stronger skew."""
        path = self.store.record_of(self.folders.configs / full(name))
        record = Record.read(json.loads(path.read_bytes()))
        by_routing = {kind.value: CheckedRouting(worst, geomean, 0) for kind in DRAWN_KINDS}
        by_routing[RoutingKind.SKEW_03.value] = CheckedRouting(worst, geomean, slower)
        line = EngineChecked(engine.value, "1.0.0", triton, TODAY, worst, geomean, by_routing, rule=Method().rule)
        line = replace(line, **changes)
        path.write_bytes(record.with_engine_checked(line).to_bytes())


KERNEL = """
import triton
import triton.language as tl

@triton.jit
def fused_moe_kernel(a_ptr, N: tl.constexpr):
    tl.load(a_ptr)
"""


def engine_package(
    root: Path, engine: Engine, files: Mapping[str, Mapping[str, Any]] | None = None, *, kernel: str = KERNEL
) -> Path:
    """The folder around a made-up engine's package, whose kernel can be cut out. files: as `unpacked` has them."""
    flavour = Flavour(engine.value)
    unpacked(root, flavour, files or {})
    (root / KERNEL_MODULES[flavour]).write_text(kernel, "utf-8")
    return root


def bench_json(
    files: Mapping[str, Mapping[str, Sequence[float | None]]],
    is_slower: bool = False,
    routing: str = "uniform",
    not_written: Sequence[str] = (),
) -> str:
    """As `bench files --format json` prints it. files: by file and rival each row's ratio; None: the file fails."""

    def part(rivals: Mapping[str, Sequence[float | None]], row: int) -> dict[str, Any]:
        ratios = {name: values[row] for name, values in rivals.items() if row < len(values)}
        duels = {
            name: {"ratio": mean and {"low": mean, "mean": mean, "high": mean, "blocks": 4}, "verdict": "same"}
            for name, mean in ratios.items()
        }
        measured = {"this file": {"us": None if None in ratios.values() else 10.0}, "heuristic": {"us": 10.0}}
        return {"engine": "vllm", "routing": routing, "measured": measured, "duels": duels}

    documents = [
        {"name": name, "rows": [{"parts": [part(rivals, row)]} for row in range(max(map(len, rivals.values())))]}
        for name, rivals in files.items()
    ]
    return json.dumps({"is_slower": is_slower, "not_written": list(not_written), "files": documents})
