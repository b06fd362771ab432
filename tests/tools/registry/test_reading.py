"""A registry that can't be used says where, by the entry's own name, and how to mend it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tools.registry.reading import (
    REGISTRY_FOLDER,
    RegistryError,
    check_order,
    check_unique,
    faults_by_name,
    read_entries,
    unknown,
)

PATH = Path("devices.json")


def devices(*entries: Any) -> dict[str, Any]:
    return {"schema_version": 1, "devices": list(entries)}


def known(**changes: Any) -> dict[str, Any]:
    """A valid entry."""
    document = json.loads((REGISTRY_FOLDER / "devices.json").read_text("utf-8"))
    return {**document["devices"][0], **changes}


class TestReadEntries:
    def read(self, folder: Path, text: str) -> Any:
        path = folder / "devices.json"
        path.write_text(text, "utf-8")
        return read_entries(path, "devices")

    def test_they_are_handed_on_as_they_stand(self, tmp_path: Path) -> None:
        assert self.read(tmp_path, json.dumps(devices(known()))) == [known()]

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("{", r"devices\.json: can't be read: .*not JSON.*\. Fix: "),
            ('{"devices": [], "devices": []}', r"devices\.json: can't be read: .*duplicate keys.*\. Fix: "),
            (json.dumps(devices(known(vendor="toaster"))), r"vendor.*\. Fix: see schema/devices\.schema\.json\.$"),
        ],
    )
    def test_what_cannot_be_used_is_one_line_with_the_file(self, tmp_path: Path, text: str, message: str) -> None:
        with pytest.raises(RegistryError, match=message) as raised:
            self.read(tmp_path, text)
        assert raised.value.path == tmp_path / "devices.json"
        assert "\n" not in str(raised.value)

    def test_a_file_that_is_not_there(self, tmp_path: Path) -> None:
        with pytest.raises(RegistryError, match=r"devices\.json: can't be read: "):
            read_entries(tmp_path / "devices.json", "devices")


class TestFaultsByName:
    def test_an_entry_goes_by_its_name(self) -> None:
        ((where, message),) = faults_by_name("devices", devices(known(), known(name="NVIDIA_X", vendor="toaster")))
        assert where.startswith("NVIDIA_X")
        assert "devices / " not in where
        assert "toaster" in message

    @pytest.mark.parametrize("entry", [{"vendor": "nvidia"}, {**known(), "name": 7}, []])
    def test_one_without_a_name_by_its_place(self, entry: Any) -> None:
        assert next(faults_by_name("devices", devices(known(), entry)))[0].startswith("devices / 1")

    def test_what_holds_no_entries_is_a_fault_itself(self) -> None:
        assert list(faults_by_name("devices", []))
        assert list(faults_by_name("devices", {"schema_version": 1}))

    def test_a_valid_document_has_none(self) -> None:
        assert list(faults_by_name("devices", devices(known()))) == []


def test_names_ascend() -> None:
    check_order(PATH, ["a", "b", "b"])
    with pytest.raises(RegistryError, match=r"devices\.json: expected sorted entries, found 'a' after 'b'\. Fix: sort"):
        check_order(PATH, ["b", "a"])


def test_a_name_stands_once() -> None:
    check_unique(PATH, ["b", "a"])
    with pytest.raises(RegistryError, match=r"devices\.json: expected each name once, found 'a' twice\. Fix: keep one"):
        check_unique(PATH, ["a", "b", "a"])


def test_a_name_that_no_entry_has_is_told_with_what_may_be_meant() -> None:
    told = unknown("GPU", "NVIDIA_H10", ["NVIDIA_H100_PCIe", "AMD_X"], "devices.json")
    assert told == (
        "GPU: expected one of devices.json, found 'NVIDIA_H10'. Did you mean NVIDIA_H100_PCIe? "
        "Fix: correct the name, or add the GPU there."
    )


def test_an_error_without_file_or_fix_is_its_reason() -> None:
    assert str(RegistryError("no such model")) == "no such model"
    assert str(RegistryError("no such model", "add it", PATH)) == "devices.json: no such model. Fix: add it."
