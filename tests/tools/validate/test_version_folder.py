"""SGLang puts a folder's name through int(): one odd folder breaks every look-up."""

from __future__ import annotations

import pytest

from tests.builders import Store
from tools.store.workload import Layout
from tools.validate.rules.version_folder import RULE


@pytest.mark.parametrize("folder", ["triton_3_8_0", "triton_0_0_0", "triton_10_11_12"])
def test_folders_of_three_numbers_are_fine(store: Store, folder: str) -> None:
    store.config(folder=folder, record=False)
    assert store.findings(RULE, layout=Layout.SGLANG) == []


@pytest.mark.parametrize(
    "folder", ["triton_3_6_0_rc1", "triton_3_6", "triton_3_6_x", "other", "triton_٣_6_0", "triton_03_06_00"]
)
def test_any_other_folder_of_tuned_files_is_an_error_once(store: Store, folder: str) -> None:
    for N in (1, 2):
        store.config(name=f"E=8,N={N},device_name=NVIDIA_H200.json", folder=folder, record=False)
    (finding,) = store.findings(RULE, layout=Layout.SGLANG)
    assert finding.path.endswith(folder)
    assert f"found {folder!r}" in finding.message


def test_folders_without_tuned_files_do_not_count(store: Store) -> None:
    store.config(folder="triton_3_8_0", record=False)
    store.file(b"", "x.txt", folder="notes")
    assert store.findings(RULE, layout=Layout.SGLANG) == []


@pytest.mark.parametrize("layout", [Layout.REPO, Layout.VLLM])
def test_only_sglang_has_such_folders(store: Store, layout: Layout) -> None:
    store.config(folder="other", record=False)
    assert store.findings(RULE, layout=layout) == []
