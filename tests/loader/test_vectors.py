"""schema/vectors/, which loaders in other languages are tested on, holds of this one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fused_moe_configs import ConfigError, cache_clear, explain, export, get_config, get_config_file_name
from fused_moe_configs.naming import for_channels, spelled

from .conftest import ENTRY

VECTORS = Path(__file__).parents[2] / "schema" / "vectors"
NAMES, CHAIN = (json.loads((VECTORS / f"{kind}.json").read_text("utf-8"))["cases"] for kind in ("names", "chain"))
REFERENCE = json.loads((VECTORS / "chain.json").read_text("utf-8"))["reference_triton"]
NAMED = [case for case in NAMES if "error" not in case]
FOUND = [case for case in CHAIN if "error" not in case]
NAME_QUERY = {"E", "N", "device_name", "dtype", "block_shape", "per_channel_quant", "down"}


def by_words(cases):
    return pytest.mark.parametrize("case", cases, ids=[case["case"] for case in cases])


@pytest.mark.parametrize("kind", ["names", "chain"])
def test_the_files_are_as_their_readme_says(kind):
    document = json.loads((VECTORS / f"{kind}.json").read_text("utf-8"))
    assert set(document) == {"schema_version", "about", "cases"} | ({"reference_triton"} if kind == "chain" else set())
    assert document["schema_version"] == 1
    words = [case["case"] for case in document["cases"]]
    assert len({*words}) == len(words)
    always = {"case", "query"} | ({"files", "user_folder"} if kind == "chain" else set())
    answer = {"tried", "winner", "entry"} if kind == "chain" else {"file", "vllm", "sglang"}
    query = NAME_QUERY | ({"M", "triton_version", "siblings"} if kind == "chain" else set())
    for case in document["cases"]:
        assert set(case) == always | ({"error"} if "error" in case else answer), case["case"]
        assert set(case["query"]) <= query, case["case"]
        if kind == "chain":
            assert case["user_folder"] in (None, "user")
            assert all(path.split("/")[0] in ("configs", "user") for path in case["files"])


@by_words(NAMED)
def test_a_workload_has_this_name(case):
    assert get_config_file_name(**case["query"]) == case["file"]


@by_words([case for case in NAMES if "error" in case])
def test_what_can_have_no_name_is_refused_by_the_argument(case):
    with pytest.raises(ValueError, match=f"^{case['error']}: expected "):
        get_config_file_name(**case["query"])


@by_words(NAMED)
@pytest.mark.parametrize("engine", ["vllm", "sglang"])
def test_an_engine_asks_for_it_by_this_name(store, tmp_path, case, engine):
    """An export writes what the engine asks for; the registry says nothing of the device."""
    (store.root / "registry/devices.json").unlink()
    store.add(case["file"], 2)
    up = store.root / case["file"].replace("_down.json", ".json")
    if up.name != case["file"]:
        store.add(up.name, 1)
    export(tmp_path / "d", engine, triton_version="3.8.0")
    written = {path.name for path in (tmp_path / "d").rglob("E=*.json")} if (tmp_path / "d").exists() else set()
    asked = {name for name in written if name.endswith("_down.json") == case["file"].endswith("_down.json")}
    # SGLang asks for scales per channel by another name, for which this file stands in.
    channels = {spelled(for_channels(case["file"]), engine)} if engine == "sglang" and case[engine] else set()
    assert asked == ({case[engine], *channels} if case[engine] else set())


def built(case, tmp_path, monkeypatch):
    """The case's files; its question, as keyword arguments."""
    (tmp_path / "configs").mkdir()
    for name, content in case["files"].items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes((content if isinstance(content, str) else json.dumps(content)).encode())
    monkeypatch.setattr("fused_moe_configs.lookup.REFERENCE_TRITON", REFERENCE)
    monkeypatch.setattr("fused_moe_configs.api.CONFIGS", tmp_path / "configs")
    monkeypatch.setattr("fused_moe_configs.machine.version_of", lambda package: None)
    if case["user_folder"]:
        monkeypatch.setenv("VLLM_TUNED_CONFIG_FOLDER", str(tmp_path / case["user_folder"]))
    cache_clear()
    question = dict(case["query"])
    return question.pop("M"), question


@by_words(FOUND)
@pytest.mark.usefixtures("store")
def test_the_chain_leads_there(case, tmp_path, monkeypatch):
    M, question = built(case, tmp_path, monkeypatch)
    lookup = explain(**question)
    tried = [[path.relative_to(tmp_path).as_posix(), found] for path, found in lookup.tried]
    assert tried == case["tried"]
    assert (lookup.winner and lookup.winner.relative_to(tmp_path).as_posix()) == case["winner"]
    assert get_config(M, **question) == case["entry"]


@by_words([case for case in CHAIN if "error" in case])
@pytest.mark.usefixtures("store")
def test_a_broken_file_is_an_error_that_names_it(case, tmp_path, monkeypatch):
    M, question = built(case, tmp_path, monkeypatch)
    with pytest.raises(ConfigError) as raised:
        get_config(M, **question)
    assert raised.value.path == str(tmp_path / case["error"])


def test_every_part_of_the_rules_has_a_case():
    assert {case["query"].get("dtype") for case in NAMED} >= {
        "fp8_w8a8", "fp8_w8a16", "int8_w8a16", "int4_w4a16", "int8_w8a8", "float32", "bf16", "fp16", None,
    }  # fmt: skip
    refused = {case["error"] for case in NAMES if "error" in case}
    assert refused == {"E", "N", "dtype", "block_shape", "device_name"}
    for part in ("user/", "triton_", "legacy_configs/", "_down.json", "per_channel_quant", "block_shape"):
        assert any(part in (case["winner"] or "") for case in FOUND), part
    assert {key for case in FOUND for key in case["entry"] or {}} > {*ENTRY}
    assert any(case["query"].get("siblings") and case["winner"] for case in FOUND)
