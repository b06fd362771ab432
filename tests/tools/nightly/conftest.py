"""A store with measured files, and what a runner would leave for a plan of them."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.builders import Store, environment, table, times
from tools.checkout import CONFIGS

MEDIANS = {1: 100.0, 64: 200.0, 4096: 1000.0}


def add(store: Store, name: str, folder: str = "") -> Path:
    """A measured file whose heuristic takes twice as long as every entry."""
    path = store.config(table(MEDIANS), name, folder=folder, record=False)
    rows = {
        str(size): {"latency_us": times(us), "baseline_us": times(2 * us), "incumbent_us": None, "decision": "promote"}
        for size, us in MEDIANS.items()
    }
    return store.measured(path, rows=rows, shapes=[{"K": 2048, "top_k": 2, "models": []}])


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
    return {**figures, "retuned_us": None, "verdict": "faster", "decision": "promote", "parts": [], **changes}


Rows = Callable[[int, float], dict[str, Any]]


def results(plan: Mapping[str, Any], rows: Rows, **changes: Any) -> list[dict[str, Any]]:
    """One document a leg; `rows` gives that of a batch size and its recorded median."""
    return [
        {
            "schema_version": 1,
            "number": plan["number"],
            "head_sha": plan["head_sha"],
            "device_name": leg["device_name"],
            "environment": environment(device_name=leg["device_name"]),
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
