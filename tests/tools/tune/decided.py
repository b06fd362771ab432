"""Decided rows, as the tuner hands them to what writes and tells them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from kernels.launch_config import LaunchConfig
from tools.launch.heuristic_version import measured_heuristics
from tools.store.files import canonical_entries
from tools.store.record import Decision, Environment, Record
from tools.tune import evidence
from tools.tune.confirm import RowSamples
from tools.tune.evidence import Provenance, Rates
from tools.tune.protocol import Subject
from tools.tune.tuner import Counts, RowResult, SeparateDown

NAME = "E=8,N=7168,device_name=NVIDIA_H100_80GB_HBM3.json"
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
RUN = Provenance(ENVIRONMENT, {"routing": "uniform"}, 28.73, "2026-01-31", "ab" * 32, HEURISTICS, H100_RATES)


def samples(total_us: float, count: int = 5) -> RowSamples:
    """Around the median by up to 2 %; two thirds are up's."""
    spread = [0.98 + 0.04 * i / (count - 1) for i in range(count)]
    return RowSamples(tuple(total_us * s * 2 / 3 for s in spread), tuple(total_us * s / 3 for s in spread))


def row(num_tokens: int, chosen_us: float, baseline_us: float, **changes: Any) -> RowResult:
    """A promoted row of one shape; changes as `RowResult` has them."""
    fields: dict[str, Any] = {
        "entry": ENTRY,
        "decision": Decision.PROMOTE,
        "shape": 0,
        "chosen": (samples(chosen_us),),
        "baseline": (samples(baseline_us),),
        **changes,
    }
    return RowResult(num_tokens, **fields)


def with_down(num_tokens: int, chosen_us: float, baseline_us: float) -> RowResult:
    """A row where down gains by an entry of its own."""
    down = SeparateDown(DOWN_ENTRY, (samples(0.9 * chosen_us),), 0.96)
    return row(num_tokens, chosen_us, baseline_us, down=down)


def record_of(subject: Subject, rows: Iterable[int], config: bytes = b"{}\n", **changes: Any) -> Record:
    """The record that a run wrote which measured these batch sizes; changes as `Record` has them."""
    written = evidence.record(subject, [row(m, 10.0, 20.0) for m in rows], COUNTS, RUN, config, {})
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
