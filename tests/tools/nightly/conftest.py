"""A store with measured files, and what a runner would leave for a plan of them."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from tools.checkout import CONFIGS
from tools.store.files import canonical_config, canonical_record, record_path, sha256
from tools.store.workload import Workload, parse_file_name

H100 = "NVIDIA_H100_80GB_HBM3"
ENTRY = {
    "BLOCK_SIZE_M": 16, "BLOCK_SIZE_N": 64, "BLOCK_SIZE_K": 64, "GROUP_SIZE_M": 1, "num_warps": 4, "num_stages": 3,
}  # fmt: skip
ENVIRONMENT = {
    "device_name": "NVIDIA H100 80GB HBM3", "compute_capability": "9.0", "sm_count": 132, "driver": "570.1",
    "cuda": "13.0", "torch": "2.13.0", "triton": "3.8.0", "python": "3.12.1",
}  # fmt: skip
MEDIANS = {1: 100.0, 64: 200.0, 4096: 1000.0}


def times(median: float, spread_pct: float = 0.0) -> dict[str, Any]:
    half = median * spread_pct / 100.0
    return {"median": median, "p10": median - half, "p90": median + half, "samples": 9}


class Store:
    """Measured files below one configs folder."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def add(
        self, name: str, tier: str = "", medians: Mapping[int, float] = MEDIANS, spread_pct: float = 0.0, **record: Any
    ) -> Path:
        """The heuristic takes twice as long as every entry."""
        path = self.root / tier / name
        data = canonical_config({str(size): ENTRY for size in medians})
        workload = parse_file_name(name).workload
        assert workload is not None
        rows = {
            str(size): {
                "latency_us": times(median, spread_pct), "baseline_us": times(2 * median), "decision": "promote",
            }
            for size, median in medians.items()
        }  # fmt: skip
        document = {
            "schema_version": 1,
            "workload": _spelled(workload),
            "shapes": [{"K": 4096, "top_k": 2, "models": ["mistralai/Mixtral-8x7B-v0.1 tp=2"]}],
            "source": "measured",
            "environment": ENVIRONMENT,
            "kernel_sha256": "0" * 64,
            "config_sha256": sha256(data),
            "tuner": {"settings": {}, "seconds": 1.0, "kernels_compiled": 1, "measurements": 1, "outcomes": {"ok": 1}},
            "date": "2026-11-20",
            "rows": rows,
            **record,
        }
        for file, content in ((path, data), (self.record(path), canonical_record(document))):
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(content)
        return path

    def record(self, path: Path) -> Path:
        return record_path(self.root, path.relative_to(self.root))  # type: ignore[arg-type]


def _spelled(workload: Workload) -> dict[str, Any]:
    return {**vars(workload), "block_shape": workload.block_shape and list(workload.block_shape)}


@pytest.fixture
def configs(tmp_path: Path) -> Store:
    """With the registries of this repository."""
    root = tmp_path / "configs"
    root.mkdir()
    (root / "registry").symlink_to(CONFIGS / "registry")
    return Store(root)


@pytest.fixture(autouse=True)
def no_github(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GITHUB_OUTPUT", raising=False)


def row(measured: float | None, heuristic: float | None = None, **changes: Any) -> dict[str, Any]:
    """A row of results: nothing re-tuned, nothing on main beside it."""
    figures = {"claimed_us": 1.0, "measured_us": measured, "main_us": None, "heuristic_us": heuristic}
    return {**figures, "retuned_us": None, "verdict": "faster", "decision": "promote", **changes}


Rows = Callable[[int, float], dict[str, Any]]


def results(plan: Mapping[str, Any], rows: Rows, **changes: Any) -> list[dict[str, Any]]:
    """One document a leg; `rows` gives that of a batch size and its recorded median."""
    return [
        {
            "schema_version": 1,
            "number": plan["number"],
            "head_sha": plan["head_sha"],
            "device_name": leg["device_name"],
            "environment": ENVIRONMENT | {"device_name": leg["device_name"]},
            "workloads": [
                {
                    "workload": file["workload"],
                    "tier": file["tier"],
                    "status": "measured",
                    "reason": None,
                    "retuned_file": False,
                    "rows": {
                        size: {**rows(int(size), us), "claimed_us": us}
                        for size, us in file["record"]["median_us"].items()
                    },
                }
                for file in leg["workloads"]
            ],
            **changes,
        }
        for leg in plan["legs"]
    ]


def leave(folder: Path, documents: list[dict[str, Any]]) -> Path:
    """As the artifacts of a night lie when they are downloaded."""
    for document in documents:
        path = folder / f"results-{document['device_name']}" / "results.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(document))
    return folder


def head() -> str:
    done = subprocess.run(["git", "rev-parse", "HEAD"], cwd=CONFIGS, capture_output=True, text=True, check=True)
    return done.stdout.strip()
