"""Nothing but tuned files, records, the registry and README.md lies in configs/."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.builders import NAME, Store
from tools.store.workload import Layout
from tools.validate.rules.foreign_file import RULE


def test_what_belongs_there_is_fine(store: Store) -> None:
    for folder in ("", "triton_3_6_0", "legacy_configs"):
        store.config(folder=folder)
    store.file(b"", "README.md")
    for name in ("devices.json", "models.json"):
        store.file(b"", name, folder="registry")
    assert store.findings(RULE) == []


@pytest.mark.parametrize(
    "place",
    [
        "run.py",
        "notes.md",
        "legacy_configs/README.md",
        ".hidden.json.tmp",
        "registry/other.json",
        "triton_3_8/" + NAME,
        "triton_3_8_0_rc1/" + NAME,
        "other/" + NAME,
        "triton_3_8_0/deeper/" + NAME,
        "records/registry/devices.json",
        "records/notes.txt",
        NAME.replace(".json", ".JSON"),
        NAME + ".bak",
    ],
)
def test_everything_else_is_an_error_at_its_place(store: Store, place: str) -> None:
    store.file(b"{}", place)
    (finding,) = store.findings(RULE)
    assert finding.path.endswith(place)
    assert "found a file of another kind or in another place" in finding.message


@pytest.mark.parametrize(
    ("folder", "found", "fix"),
    [
        ("triton_0_0_0", "found 0.0.0, which `export` gives the legacy tier", "legacy_configs/"),
        ("triton_00_0_0", "found 0.0.0, which `export` gives the legacy tier", "legacy_configs/"),
        ("triton_03_06_00", "expected no leading zeros, found some: nothing reads it", "rename it to triton_3_6_0/"),
        ("records/triton_3_6_00", "expected no leading zeros, found some: nothing reads it", "to triton_3_6_0/"),
    ],
)
def test_a_version_folder_that_no_reader_looks_into_is_an_error(
    store: Store, folder: str, found: str, fix: str
) -> None:
    store.file(b"{}", f"{folder}/{NAME}")
    (finding,) = store.findings(RULE)
    assert finding.path.endswith(f"{folder}/{NAME}")
    assert found in finding.message
    assert fix in finding.fix


@pytest.mark.parametrize("target", ["../secret", "nothing", "."])
def test_a_symbolic_link_is_foreign_and_not_followed(store: Store, target: str) -> None:
    store.config()
    (store.root / "E=8,N=2,device_name=NVIDIA_H200.json").symlink_to(target)
    (finding,) = store.findings(RULE)
    assert "found a symbolic link" in finding.message
    assert finding.fix.startswith("remove the link; where its file belongs here, put a copy of that in its place")


def test_a_device_is_no_file_that_could_be_moved(store: Store) -> None:
    (finding,) = store.findings(RULE, paths=[Path(os.devnull)])
    assert "found a device, a pipe or a socket" in finding.message
    assert finding.fix.startswith("name a tuned file or a folder of them")


def test_engines_folders_may_hold_anything(store: Store) -> None:
    store.file(b"", "run.py")
    store.file(b"", "run.py", folder="triton_3_8_0")
    assert store.findings(RULE, layout=Layout.VLLM) == store.findings(RULE, layout=Layout.SGLANG) == []
