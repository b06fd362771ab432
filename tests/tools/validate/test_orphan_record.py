"""A record whose file is gone is evidence of nothing."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest

from tests.builders import Store, as_nobody
from tools.validate.rules.orphan_record import RULE


@pytest.mark.parametrize("folder", ["", "triton_3_6_0", "legacy_configs"])
def test_a_record_with_its_file_is_fine_and_without_it_an_error(store: Store, folder: str) -> None:
    path = store.config(folder=folder)
    assert store.findings(RULE) == []
    path.unlink()
    (finding,) = store.findings(RULE)
    assert finding.path.endswith(store.record_of(path).relative_to(store.root).as_posix())
    assert finding.message == f"expected its tuned file at {path.relative_to(store.root)}, found none"


def test_a_file_in_another_tier_does_not_count(store: Store) -> None:
    path = store.config()
    path.rename(store.file(b"", folder="legacy_configs"))
    assert len(store.findings(RULE)) == 1


def test_a_folder_that_can_not_be_read_is_said_once() -> None:
    with tempfile.TemporaryDirectory() as name:
        store = Store(Path(name))
        store.root.chmod(0o755)
        for E in (8, 16):
            store.config(name=f"E={E},N=1024,device_name=NVIDIA_H200.json", folder="legacy_configs")
        closed = store.root / "legacy_configs"
        closed.chmod(0)
        paths = [store.root / "records"]
        with as_nobody():
            (finding,) = store.findings(RULE, paths=paths)
        closed.chmod(0o755)
    assert finding.path == str(closed)
    assert finding.message.startswith("the folder can't be read")
    assert finding.fix == "make it readable"
