"""Decided rows, as the tuner hands them to what writes and tells them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from kernels.launch_config import LaunchConfig
from kernels.problem import Flavour
from tools.launch.heuristic_version import measured_heuristics
from tools.measure.panel import Choice, Panel, Part, RoutingKind
from tools.store.files import canonical_entries
from tools.store.record import Decision, Environment, Record
from tools.tune import evidence
from tools.tune.contest import Apart, SeparateDown
from tools.tune.evidence import Provenance, Rates
from tools.tune.protocol import Subject
from tools.tune.tuner import Counts, RowResult

NAME = "E=8,N=7168,device_name=NVIDIA_H100_80GB_HBM3.json"
DOWN = "E=8,N=7168,device_name=NVIDIA_H100_80GB_HBM3_down.json"
ENTRY = LaunchConfig(16, 64, 128, 8, 4, 4)
DOWN_ENTRY = LaunchConfig(16, 128, 128, 1, 4, 3)
COUNTS = Counts(120, 640, {"ok": 100, "constraints": 20, "correctness": 0})
H100_RATES = Rates(2.4e12, 7.0e14)
ENVIRONMENT = Environment(
    device_name="NVIDIA H100 80GB HBM3",
    compute_capability="9.0",
    sm_count=132,
    driver="580.159.04",
    cuda="13.0",
    torch="2.13.0+cu130",
    triton="3.8.0",
    python="3.12.3",
)
HEURISTICS = measured_heuristics(lambda _: None).versions
RUN = Provenance(ENVIRONMENT, {"routing": "panel"}, 28.73, "2026-01-31", "ab" * 32, HEURISTICS, H100_RATES)


PART = Part(Flavour.VLLM, 0, RoutingKind.UNIFORM)
HEURISTIC = LaunchConfig(16, 64, 128, 1, 4, 4)
INCUMBENT = LaunchConfig(16, 64, 128, 16, 4, 4)


def blocks(us: float, count: int = 5) -> dict[int, float]:
    """Around the median by up to 2 %."""
    return {i: us * (0.98 + 0.04 * i / (count - 1)) for i in range(count)}


def panel(**us: float | None) -> Panel:
    """Of one part, by `entry`, `heuristic` and `incumbent`; None: not measured."""
    by_name = {"entry": ENTRY, "heuristic": HEURISTIC, "incumbent": INCUMBENT}
    measured = {by_name[name]: blocks(value) for name, value in us.items() if value is not None}
    return Panel({Flavour.VLLM: HEURISTIC}, 8, {PART: measured})


def row(
    num_tokens: int,
    chosen_us: float,
    baseline_us: float,
    incumbent_us: float | None = None,
    decision: Decision = Decision.PROMOTE,
    **changes: Any,
) -> RowResult:
    """A promoted row of one part; changes as `RowResult` has them."""
    found = panel(entry=chosen_us, heuristic=baseline_us, incumbent=incumbent_us)
    choice = Choice(ENTRY, decision, chosen_us / baseline_us)
    incumbent = INCUMBENT if incumbent_us else None
    return replace(RowResult(num_tokens, choice, found, incumbent), **changes)


def with_down(num_tokens: int, chosen_us: float, baseline_us: float, entry: LaunchConfig = DOWN_ENTRY) -> RowResult:
    """A row where down gains by an entry of its own, or by none: the row's own."""

    def apart(us: float) -> tuple[Apart]:
        times = tuple(blocks(us).values())
        return (Apart(tuple(us * 2 / 3 for us in times), tuple(us / 3 for us in times)),)

    gains = entry != ENTRY
    own = apart((0.9 if gains else 1.0) * chosen_us)
    down = SeparateDown(entry, own, apart(baseline_us), 0.96 if gains else 1.0)
    return row(num_tokens, chosen_us, baseline_us, down=down)


def record_of(subject: Subject, rows: Iterable[int], config: bytes = b"{}\n", **changes: Any) -> Record:
    """The record that a run wrote which measured these batch sizes; changes as `Record` has them."""
    written = evidence.record(subject, [row(m, 10.0, 20.0) for m in rows], COUNTS, RUN, config, None)
    return replace(written, **changes)


def put_file(
    folder: Path, entries: Mapping[int, LaunchConfig], name: str = NAME, with_record: Record | None = None
) -> None:
    """A tuned file and, where one is given, its record, in a folder of tiers."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(canonical_entries(entries))
    if with_record is not None:
        (folder / "records").mkdir(exist_ok=True)
        (folder / "records" / name).write_bytes(with_record.to_bytes())
