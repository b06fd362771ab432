"""A record whose file is gone is evidence of nothing."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest

from tests.builders import Store, without_roots_rights
from tools.validate.rules.orphan_record import RULE

NAME = "E=8,N=1024,device_name=NVIDIA_H200.json"


@pytest.mark.parametrize("folder", ["", "triton_3_6_0", "legacy_configs"])
def test_a_record_with_its_file_is_fine_and_without_it_an_error(store: Store, folder: str) -> None:
    path = store.config(folder=folder)
    assert store.findings(RULE) == []
    path.unlink()
    (finding,) = store.findings(RULE)
    assert finding.path.endswith(store.record_of(path).relative_to(store.root).as_posix())
    assert finding.message == f"expected its tuned file at {path.relative_to(store.root)}, found none"


OTHER_N = "E=8,N=512,device_name=NVIDIA_H200.json"


@pytest.mark.parametrize("place", [f"legacy_configs/{NAME}", OTHER_N, f"triton_3.6.0/{NAME}", f"notes/{NAME}"])
def test_a_file_that_was_moved_without_its_record_is_to_be_moved_back(store: Store, place: str) -> None:
    path = store.config(name=NAME)
    (store.root / place).parent.mkdir(exist_ok=True)
    path.rename(store.root / place)
    (finding,) = store.findings(RULE)
    assert (finding.message, finding.fix) == (
        f"expected its tuned file at {NAME}, found it at {place}",
        "move that file back",
    )
    (store.root / place).rename(path)
    assert store.findings(RULE) == []


def test_another_file_of_the_same_bytes_is_not_the_one_that_was_moved(store: Store) -> None:
    """It has a record of its own."""
    store.config(name=NAME).unlink()
    store.config(name=OTHER_N)
    (finding,) = store.findings(RULE)
    assert finding.fix == "remove the record"


def test_a_record_that_can_not_be_read_signs_nothing(store: Store) -> None:
    path = store.config(name=NAME)
    store.record_of(path).write_text("[]")
    path.rename(store.root / OTHER_N)
    (finding,) = store.findings(RULE)
    assert finding.fix == "remove the record"


def test_a_folder_that_can_not_be_read_is_said_once() -> None:
    with tempfile.TemporaryDirectory() as name:
        store = Store(Path(name))
        store.root.chmod(0o755)
        for E in (8, 16):
            store.config(name=f"E={E},N=1024,device_name=NVIDIA_H200.json", folder="legacy_configs")
        closed = store.root / "legacy_configs"
        closed.chmod(0)
        paths = [store.root / "records"]
        with without_roots_rights():
            (finding,) = store.findings(RULE, paths=paths)
        closed.chmod(0o755)
    assert finding.path == str(closed)
    assert finding.message.startswith("the folder can't be read")
    assert finding.fix == "make it readable"
