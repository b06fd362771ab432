"""Stores for the site: small, empty, large, and one that an attacker wrote."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable
from itertools import zip_longest
from pathlib import Path
from typing import Any

from tests.builders import BATCH_SIZES, H100, Store, devices, models, table, times
from tools.checkout import CHECKOUT, CONFIGS
from tools.registry.sharding import Engine, ShardError, shard

MIXTRAL = f"E=8,N=7168,device_name={H100}.json"
QWEN = f"E=128,N=768,device_name={H100}.json"
QWEN_ID = "Qwen/Qwen3-30B-A3B"
ROUTINGS = ("uniform", "skew_1.0", "skew_0.3")


SOME_MODELS = (
    "ai21labs/AI21-Jamba-Large-1.5",  # without placements
    "deepseek-ai/DeepSeek-V3",
    "deepseek-ai/DeepSeek-V3.2",
    "mistralai/Mixtral-8x7B-v0.1",
    "openai/gpt-oss-120b",  # another kernel's
    "Qwen/Qwen3-30B-A3B",
)


def store_at(root: Path, ids: Iterable[str] = SOME_MODELS) -> Store:
    """With this repository's registries of engines and devices, these models of it, and no tuned file."""
    shutil.copytree(CONFIGS / "registry", root / "registry")
    path, kept = root / "registry" / "models.json", set(ids)
    document = json.loads(path.read_text("utf-8"))
    document["models"] = [model for model in document["models"] if model["id"] in kept]
    path.write_text(json.dumps(document), "utf-8")
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
    between = {"entry_of": 8, "ratio": 0.97, "low": 0.96, "high": 0.98}
    store.measured(path, **{"rows": rows(), "between": {"12": between}, **changes})
    return path


def checked(engine: str = "vllm", date: str = "2026-11-26", over_shipped: float | None = None) -> dict[str, Any]:
    """A record's line of a bench on an engine's own kernel. over_shipped: of our file over the one that it ships."""
    version = {"vllm": "0.33.0", "sglang": "0.5.23"}[engine]
    ratios = {"worst_ratio": 1.0, "geomean_ratio": 0.9, "best_ratio": 0.8}
    beside = {"worst_ratio": 1.5, "geomean_ratio": over_shipped, "best_ratio": 0.4, "sha256": "a" * 64}
    line = {"engine": engine, "version": version, "triton": "3.8.0", "date": date, "rule": "parts-1", **ratios}
    return line if over_shipped is None else {**line, "shipped": beside}


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


SURVEY = CHECKOUT / "tests" / "schema" / "fixtures" / "survey" / "valid" / "all_keys.json"


def surveyed(name: str, ratios: Iterable[float | None], over: Iterable[float] = ()) -> dict[str, Any]:
    """A file of a survey. ratios: the shipped one's over the heuristic, a row each, None: fails; over: ours over it."""
    file = json.loads(SURVEY.read_text("utf-8"))["files"][0]
    ((good, failing, *_), *_) = (shape["rows"] for shape in file["shapes"])
    rows = []
    for place, (shipped, ours) in enumerate(zip_longest(ratios, over)):
        row = {**(failing if shipped is None else good), "num_tokens": 2**place}
        row["shipped"], row["over_shipped"] = (
            mean and {"low": mean, "mean": mean, "high": mean, "blocks": 4} for mean in (shipped, ours)
        )
        rows.append(row)
    return {**file, "name": name, "file": name, "shapes": [{**file["shapes"][0], "rows": rows}]}


def survey(folder: Path, files: Any, **changes: Any) -> Path:
    """A survey's document of files that vLLM ships for the H100."""
    about = {"engine": "vllm", "version": "0.33.0", "date": "2026-11-26"}
    document = {**json.loads(SURVEY.read_text("utf-8")), **about, "files": files, "left_out": [], **changes}
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{document['date']}-survey-{len(list(folder.iterdir()))}.json"
    path.write_text(json.dumps(document), "utf-8")
    return path


BOOM = "<img src=x onerror=boom()>"
QUOTES = "\" onmouseover=boom() ' {{ 7 * 7 }} </script>"


def hostile(root: Path) -> Store:
    """Whatever a pull request may write into the store, as nasty as the schemas and file systems allow, and nastier."""
    store = store_at(root)
    nasty_text = QUOTES.replace("<", "").replace(">", "")
    path = add(
        store,
        attribution=f"Mallory {nasty_text}",
        verified={
            "runner": "gpu", "run_url": "https://example.org/\"onclick=boom()//<b>", "commit": "a" * 40,
            "date": "2026-01-01", "evidence_sha256": "0" * 64,
        },
        verified_with=[{"triton": "3.6.0+x", "date": "2026-01-01", "worst_loss_pct": 1.0}],
    )  # fmt: skip
    # launch keys that the loader lets pass
    document = table()
    document["64"] |= {BOOM: 1, "grf_mode": BOOM, QUOTES: True}
    path.write_text(json.dumps(document), "utf-8")
    store.measured(path, attribution=f"Mallory {nasty_text}", rows=rows())
    # names of files, some of them nothing that any engine asks for
    for name in (f"E={BOOM}.json", f"E=8,N=1,device_name={BOOM}.json", "E=8,N=1,device_name=javascript:boom().json",
                 "E='; boom(); '.json", "E=-.json", "E=...json"):  # fmt: skip
        store.file(json.dumps(table()).encode(), name)
    # records that are none by the schema
    for place, content in enumerate((BOOM, f'{{"attribution": "{BOOM}"}}', "{", "[]", "null", "", '{"rows": []}')):
        path = store.config(name=f"E=8,N={place + 1},device_name={H100}.json", record=False)
        target = store.record_of(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(content, "utf-8")
    store.file(BOOM.encode(), f"E=16,N=1,device_name={H100}.json")  # no JSON
    store.file(json.dumps({BOOM: {}}).encode(), f"E=16,N=2,device_name={H100}.json")
    (store.root / f"E=16,N=3,device_name={H100}.json").mkdir()
    (store.root / f"E=16,N=4,device_name={H100}.json").symlink_to("nowhere")
    # a broken file that a model of the registry asks for
    store.file(BOOM.encode(), f"E=128,N=768,device_name={H100}.json")
    registry = root / "registry"
    models_document = json.loads((registry / "models.json").read_text("utf-8"))
    models_document["models"][0]["source"] = f"shape: {nasty_text}"
    (registry / "models.json").write_text(json.dumps(models_document), "utf-8")
    engines_document = json.loads((registry / "engines.json").read_text("utf-8"))
    for engine in engines_document["engines"]:
        for rule in engine["rules"]:
            rule["reason"] = f"Because {nasty_text}"
    (registry / "engines.json").write_text(json.dumps(engines_document), "utf-8")
    devices_document = json.loads((registry / "devices.json").read_text("utf-8"))
    devices_document["devices"][0]["notes"] = BOOM
    devices_document["devices"][0]["family"] = BOOM
    (registry / "devices.json").write_text(json.dumps(devices_document), "utf-8")
    return store


def hostile_measurements(folder: Path) -> Path:
    survey(folder, [surveyed(MIXTRAL, [1.2, 2.0]), surveyed(QWEN, [None])])
    survey(folder, [surveyed(BOOM, [1.2])], version=BOOM)
    survey(folder, BOOM)
    (folder / "2026-11-26-survey-y.json").write_text("{", "utf-8")
    return folder
