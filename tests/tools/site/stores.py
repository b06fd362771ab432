"""Stores for the site: small, empty, large, and one that an attacker wrote."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from tests.builders import BATCH_SIZES, H100, Store, devices, models, table, times
from tools.checkout import CONFIGS
from tools.registry.sharding import Engine, ShardError, shard

MIXTRAL = f"E=8,N=7168,device_name={H100}.json"
ROUTINGS = ("uniform", "skew_1.0", "skew_0.3")


def store_at(root: Path) -> Store:
    """With this repository's registries and no tuned file."""
    shutil.copytree(CONFIGS / "registry", root / "registry")
    return Store(root)


def row(num_tokens: int, ratio: float = 0.93, sglang: float = 0.8, **changes: Any) -> dict[str, Any]:
    """A row of a record as today's tuner writes it: two engines, three routings. ratio: over vLLM's heuristic."""
    base = 100.0 + num_tokens
    pair = {"latency_us": times(base * ratio, 1.0), "baseline_us": times(base, 1.0)}
    others = {"latency_us": times(base * sglang * 1.1, 1.0), "baseline_us": times(base * 1.1, 1.0)}
    parts = [
        {"engine": engine, "shape": 0, "routing": routing, "ratio": round(of * (1 + place / 100), 4),
         "low": round(of * 0.99, 4), "high": round(of * 1.02, 4), "blocks": 6}
        for engine, of in (("vllm", ratio), ("sglang", sglang))
        for place, routing in enumerate(ROUTINGS if num_tokens >= 8 else ROUTINGS[:1])
    ]  # fmt: skip
    return {
        **pair, "up_us": base * ratio * 0.6, "down_us": base * ratio * 0.4, "incumbent_us": None,
        "floor_us": base * 0.7, "bound": "memory", "decision": "promote", "by_engine": {"vllm": pair, "sglang": others},
        "by_routing": {"uniform": pair}, "parts": parts, "score": round(ratio, 4), **changes,
    }  # fmt: skip


def rows(sizes: Iterable[int] = BATCH_SIZES, **changes: Any) -> dict[str, Any]:
    return {str(num_tokens): row(num_tokens, **changes) for num_tokens in sizes}


def add(store: Store, name: str = MIXTRAL, folder: str = "", **changes: Any) -> Path:
    """A tuned file with a record of all that a record may hold."""
    document = table()
    for place, size in enumerate(document):
        document[size] |= {"GROUP_SIZE_M": (1, 16, 32)[place % 3], "num_stages": 3 + place % 2}
    path = store.config(document, name, folder=folder, record=False)
    store.measured(path, **{"rows": rows(), **changes})
    return path


def names(count: int) -> list[str]:
    """So many names that models of the registry ask for, on its devices."""
    found: dict[str, None] = {}
    for device in devices():
        for model in models():
            for tp in (1, 2, 4, 8):
                for engine in Engine:
                    try:
                        asked = shard(model, engine, device_name=device.name, arch=device.arch, tp=tp)
                    except ShardError:
                        continue
                    found[asked.workload.file_name()] = None
                    if len(found) == count:
                        return list(found)
    raise AssertionError(f"the registry has {len(found)} names only")


def survey(folder: Path, files: Iterable[Mapping[str, Any]], **changes: Any) -> Path:
    """A survey's document of files that vLLM ships for the H100."""
    document = {
        "engine": "vllm", "version": "0.33.0", "files": list(files),
        "environment": {"date": "2026-11-26", "device": "NVIDIA H100 80GB HBM3", "triton": "3.8.0"}, **changes,
    }  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"2026-11-26-survey-{document['engine']}.json"
    path.write_text(json.dumps(document), "utf-8")
    return path
