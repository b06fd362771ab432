"""The registries of a store are proved like its files."""

from __future__ import annotations

import json
import shutil

import pytest

from tests.builders import Store
from tools.checkout import CONFIGS
from tools.findings import Severity
from tools.validate.rules import registry
from tools.validate.rules.registry import RULE

KINDS = ("devices", "engines", "models")


def copied(store: Store) -> None:
    shutil.copytree(CONFIGS / "registry", store.root / "registry")


def test_this_stores_registries_are_fine(store: Store) -> None:
    copied(store)
    assert store.findings(RULE) == []


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("data", [b"", b"{", b"[]", b"\xff", b'{"schema_version": 1, "schema_version": 1}'])
def test_a_broken_one_is_an_error(store: Store, kind: str, data: bytes) -> None:
    store.file(data, f"{kind}.json", folder="registry")
    findings = store.findings(RULE)
    assert findings
    assert all(finding.path.endswith(f"registry/{kind}.json") for finding in findings)
    assert not any("rule itself failed" in finding.message for finding in findings)


@pytest.mark.parametrize("kind", KINDS)
def test_what_a_schema_can_not_say_is_checked_too(store: Store, kind: str) -> None:
    copied(store)
    path = store.root / "registry" / f"{kind}.json"
    document = json.loads(path.read_text("utf-8"))
    document[kind].append(document[kind][0])
    path.write_text(json.dumps(document), "utf-8")
    (finding,) = store.findings(RULE)
    assert finding.message.startswith("expected ")  # without the path, which the finding names itself


@pytest.mark.parametrize(
    ("device", "fix"),
    [
        ("MI35", "did you mean MI350? Else add a device of that family to devices.json"),
        ("NVIDIA_H100_80GB_HBM3", "write that device's family, H100"),
        ("NVIDIA H200", "write that device's family, H200"),
        ("ZZZ", "add a device of that family to devices.json"),
    ],
)
def test_a_placement_on_no_devices_class_is_an_error_of_its_model(store: Store, device: str, fix: str) -> None:
    copied(store)
    path = store.root / "registry" / "models.json"
    document = json.loads(path.read_text("utf-8"))
    document["models"][0]["placements"] = [{"device": device, "tp": 1}]
    path.write_text(json.dumps(document), "utf-8")
    (finding,) = store.findings(RULE)
    assert finding.path.endswith("registry/models.json")
    assert finding.message.startswith(f"{document['models'][0]['id']} / placements: expected a family of devices.json")
    assert finding.fix == fix


def test_placements_that_contradict_each_other_are_an_error_of_their_model(store: Store) -> None:
    copied(store)
    path = store.root / "registry" / "models.json"
    document = json.loads(path.read_text("utf-8"))
    model = next(model for model in document["models"] if model["id"] == "Qwen/Qwen3-30B-A3B")
    sound = model["placements"]
    model["placements"] = [*sound, {**sound[0], "engine": "sglang"}]
    path.write_text(json.dumps(document), "utf-8")
    (finding,) = store.findings(RULE)
    assert finding.path.endswith("registry/models.json")
    assert finding.message == (
        "Qwen/Qwen3-30B-A3B / placements: H100 tp=1: expected once, found for either engine and for sglang alone"
    )
    assert finding.fix == "keep one; without engine where both run it so"
    model["placements"] = sound
    path.write_text(json.dumps(document), "utf-8")
    assert store.findings(RULE) == []


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"gated": False}, "found Qwen/Qwen3-30B-A3B H100 tp=1 (bf16) beside a/Other H100 tp=1 (bf16, no gate)"),
        ({"dtype": "fp8_w8a8", "activation_scales": "dynamic"}, ""),  # of another name
    ],
)
def test_a_name_that_two_kinds_of_layer_ask_for_is_a_warning(
    store: Store, changes: dict[str, object], told: str
) -> None:
    """Only the portfolio said so, when the file of one of them was long tuned."""
    copied(store)
    path = store.root / "registry" / "models.json"
    document = json.loads(path.read_text("utf-8"))
    own = next(model for model in document["models"] if model["id"] == "Qwen/Qwen3-30B-A3B")
    other = {**own, "id": "a/Other", "also": [], "placements": [{"device": "H100", "tp": 1}], **changes}
    other = {key: value for key, value in other.items() if value != []}
    document["models"] = sorted([*document["models"], other], key=lambda model: model["id"].casefold())
    path.write_text(json.dumps(document), "utf-8")
    findings = store.findings(RULE)
    assert [told in finding.message for finding in findings] == [True] * bool(told)
    for finding in findings:
        assert finding.severity is Severity.WARNING
        assert finding.message.startswith("E=128,N=768,device_name=NVIDIA_H100: placements contradict each other: ")
        assert finding.fix.startswith("correct the placement, or the model's gated, dtype or scales")


@pytest.mark.parametrize("kind", KINDS)
def test_a_fault_names_the_device_or_model_and_no_place_in_a_list(store: Store, kind: str) -> None:
    copied(store)
    path = store.root / "registry" / f"{kind}.json"
    document = json.loads(path.read_text("utf-8"))
    for entry in document[kind]:
        entry["memory"] = 0
    path.write_text(json.dumps(document), "utf-8")
    names = {entry["id" if kind == "models" else "name"] for entry in document[kind]}
    messages = [finding.message for finding in store.findings(RULE)]
    told = {message.partition(": unknown key memory")[0] for message in messages if "only the first" not in message}
    assert told <= names
    assert len(told) == len(names) or (len(told) > 50 and any("only the first" in message for message in messages))


def test_files_that_are_no_registry_are_foreign_and_not_read_as_one(store: Store) -> None:
    store.file(b"{", "other.json", folder="registry")
    store.file(b"{", "devices.json", folder="registry/deeper")
    assert store.findings(RULE) == []


@pytest.mark.parametrize("kind", KINDS)
def test_a_checkout_without_one_is_an_error(store: Store, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    copied(store)
    monkeypatch.setattr(registry, "REGISTRY_FOLDER", store.root / "registry")
    assert store.findings(RULE) == []
    (store.root / "registry" / f"{kind}.json").unlink()
    (finding,) = store.findings(RULE)
    assert finding.path.endswith(f"registry/{kind}.json")
    assert finding.message == "expected this registry in the checkout, found none"
