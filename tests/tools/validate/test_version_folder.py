"""Only a release that exists has a folder, and to SGLang an odd name breaks every look-up."""

from __future__ import annotations

import pytest

from tests.builders import NAME, Store
from tools.checkout import reference_triton, triton_releases
from tools.store.files import version_folder
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


def test_vllms_folder_is_flat(store: Store) -> None:
    store.config(folder="other", record=False)
    assert store.findings(RULE, layout=Layout.VLLM) == []


OTHERS = [release for release in triton_releases() if release != reference_triton()]


@pytest.mark.parametrize("release", OTHERS)
def test_every_known_release_but_the_reference_has_a_folder(store: Store, release: str) -> None:
    store.config(folder=version_folder(release))
    assert store.findings(RULE) == []


@pytest.mark.parametrize("folder", ["triton_3_8_9999", "triton_9999_0_0", "triton_3_6_1", "triton_0_0_1"])
def test_a_release_that_does_not_exist_hides_nothing(
    store: Store, folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in (NAME, "E=8,N=1,device_name=NVIDIA_H200.json"):
        store.config(name=name, folder=folder)
    (finding,) = store.findings(RULE)
    release = folder.removeprefix("triton_").replace("_", ".")
    assert finding.path.endswith(f"configs/{folder}")
    assert finding.message.endswith(f"expected the folder of one of Triton's releases 3.0.0 to 3.9.0, found {release}")
    assert "add it to triton-releases in pyproject.toml, in a pull request of its own" in finding.fix
    monkeypatch.setattr("tools.validate.rules.version_folder.triton_releases", lambda: (*OTHERS, release))
    assert store.findings(RULE) == [], "the fix ends it"


def test_the_reference_has_no_folder_beside_the_default_tier(store: Store) -> None:
    path = store.config(folder=version_folder(reference_triton()))
    (finding,) = store.findings(RULE)
    assert "found the reference's, 3.8.0" in finding.message
    assert finding.fix == "move its files up into configs/, and their records up into records/"
    record = store.record_of(path)
    path.rename(store.root / NAME)
    record.rename(store.root / "records" / NAME)
    assert store.findings() == []


def test_one_file_named_by_itself_is_told_the_same(store: Store) -> None:
    path = store.config(folder="triton_3_8_9999")
    assert [finding.rule for finding in store.findings(RULE, paths=[path])] == ["version-folder"]


def test_older_figures_and_the_default_tier_have_no_release(store: Store) -> None:
    store.config()
    store.config(folder="legacy_configs")
    assert store.findings(RULE) == []
