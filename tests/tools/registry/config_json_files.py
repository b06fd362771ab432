"""The config.json files of this project's cases, and how a test lays one on disk."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

H100 = "NVIDIA_H100_80GB_HBM3"

_HERE = Path(__file__).parent

CASES: list[Any] = [
    case
    for name in ("config_json_cases.json", "public_config_json_cases.json")
    for case in json.loads((_HERE / name).read_text("utf-8"))["cases"]
]


def written(folder: Path, document: Any, beside: Any = None) -> Path:
    """The path of a config.json with that content; beside: of hf_quant_config.json."""
    path = folder / "config.json"
    path.write_text(json.dumps(document), "utf-8")
    if beside is not None:
        (folder / "hf_quant_config.json").write_text(json.dumps(beside), "utf-8")
    return path
