"""Plans and results for the tests: one call makes a sound pair of documents, the test breaks one thing in it."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from kernels.launch_config import LaunchConfig
from tests.builders import ENTRY, H100, environment
from tools.pull_request.documents import FileId, PlannedFile, PlannedShape
from tools.store.workload import Shape, Workload

SHA = "0123456789abcdef0123456789abcdef01234567"
OTHER_SHA = "f" * 40
NUMBER = 12
A100 = "NVIDIA_A100-SXM4-80GB"

ENVIRONMENT: Mapping[str, Any] = environment()


def entry(**changes: Any) -> LaunchConfig:
    return LaunchConfig.from_entry({**ENTRY, **changes})


def workload(device_name: str = H100, **changes: Any) -> Workload:
    """Mixtral 8x7B TP2 in bf16."""
    return Workload(**{"E": 8, "N": 7168, "device_name": device_name, **changes})


def planned(
    claimed: Mapping[int, LaunchConfig] | None = None,
    main: Mapping[int, LaunchConfig] | None = None,
    claims_us: Mapping[int, float] | None = None,
    **changes: Any,
) -> PlannedFile:
    """A file of two rows, claimed at 64 and 128 unless said otherwise."""
    if claimed is None:
        claimed = {64: entry(), 128: entry(BLOCK_SIZE_M=32)}
    shapes = (PlannedShape(Shape(4096, 2), registered=True),)
    return PlannedFile(FileId(workload(**changes), "default"), shapes, claimed, main or {}, claims_us or {})


def plan_document() -> dict[str, Any]:
    """One leg, one file of one row that replaces main's."""
    return {
        "schema_version": 1,
        "number": NUMBER,
        "head_sha": SHA,
        "base_sha": OTHER_SHA,
        "legs": [
            {
                "device_name": H100,
                "workloads": [
                    {
                        "workload": {"E": 8, "N": 7168, "device_name": H100, "dtype": None, "block_shape": None},
                        "tier": "default",
                        "down": False,
                        "shapes": [{"K": 4096, "top_k": 2, "registered": True}],
                        "claimed": {"64": dict(ENTRY)},
                        "main": {"64": {**ENTRY, "num_stages": 2}},
                        "record": {"median_us": {"64": 415.0}},
                    }
                ],
            }
        ],
    }


def part(heuristic: float | None = 0.8915, main: float | None = 0.9699, **changes: Any) -> dict[str, Any]:
    """Of a row of results: means of the claimed file's time over these, which no block doubts."""
    ratios = {"over_heuristic": heuristic, "over_main": main}
    sure = {name: mean and {"low": mean, "mean": mean, "high": mean, "blocks": 4} for name, mean in ratios.items()}
    return {"engine": "vllm", "routing": "uniform", "runs": True, **sure, **changes}


def results_document() -> dict[str, Any]:
    """The answer to `plan_document`."""
    return {
        "schema_version": 1,
        "number": NUMBER,
        "head_sha": SHA,
        "device_name": H100,
        "environment": dict(ENVIRONMENT),
        "workloads": [
            {
                "workload": plan_document()["legs"][0]["workloads"][0]["workload"],
                "tier": "default",
                "status": "measured",
                "reason": None,
                "retuned_file": False,
                "rows": {
                    "64": {
                        "claimed_us": 415.0,
                        "measured_us": 419.0,
                        "main_us": 432.0,
                        "heuristic_us": 470.0,
                        "retuned_us": 418.0,
                        "verdict": "faster",
                        "decision": "promote",
                        "parts": [part()],
                    }
                },
            }
        ],
    }


Change = Callable[[Any], None]


def changed(document: Any, change: Change) -> Any:
    """A copy with something done to it."""
    document = copy.deepcopy(document)
    change(document)
    return document


def write_json(path: Path, document: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document), "utf-8")
    return path
