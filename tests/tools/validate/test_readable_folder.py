"""A folder that can't be listed is a finding, not silence."""

from __future__ import annotations

import os

import pytest

from tests.builders import Store
from tools.store.workload import Layout
from tools.validate.rules.readable_folder import RULE


def test_folders_that_can_be_listed_are_fine(store: Store) -> None:
    store.config(folder="triton_3_6_0")
    (store.root / "triton_3_8_0").mkdir()
    assert store.findings(RULE) == []


@pytest.mark.parametrize("layout", list(Layout))
@pytest.mark.parametrize("folder", ["", "triton_3_6_0"])
def test_one_that_can_not_is_an_error_in_every_layout(
    store: Store, layout: Layout, folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.config(folder="triton_3_6_0")
    closed = store.root / folder
    scandir = os.scandir

    def refuse(path: os.PathLike[str]) -> object:  # root may list everything, so chmod can't show it
        if os.fspath(path) == os.fspath(closed):
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    (finding,) = store.findings(RULE, layout=layout)
    assert finding.path.endswith(closed.name)
