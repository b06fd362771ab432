"""The registries of a store are proved like its files."""

from __future__ import annotations

import json
import shutil

import pytest

from tests.builders import Store
from tools.checkout import CONFIGS
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


def test_a_placement_on_no_devices_class_is_an_error_of_its_model(store: Store) -> None:
    copied(store)
    path = store.root / "registry" / "models.json"
    document = json.loads(path.read_text("utf-8"))
    document["models"][0]["placements"] = [{"device": "H1000", "tp": 1}]
    path.write_text(json.dumps(document), "utf-8")
    (finding,) = store.findings(RULE)
    assert finding.path.endswith("registry/models.json")
    assert finding.message.startswith(f"{document['models'][0]['id']} / placements: expected a family of devices.json")


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
