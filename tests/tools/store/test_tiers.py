"""What lies where: the root of a tree, the role of each file, and why an engine passes one by."""

from __future__ import annotations

from pathlib import Path, PurePosixPath

import pytest

from tools.store.files import discover
from tools.store.tiers import Role, role_in_repo, role_of, root_of, why_skipped
from tools.store.workload import Layout

NAME = "E=8,N=1,device_name=A.json"


def put(root: Path, name: str) -> Path:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"{}")
    return path


@pytest.mark.parametrize(
    ("layout", "name", "role"),
    [
        (Layout.VLLM, NAME, Role.CONFIG),
        (Layout.VLLM, f"sub/{NAME}", Role.SKIPPED),
        (Layout.VLLM, "sub/package.json", Role.KNOWN),
        (Layout.VLLM, f"{NAME}.bak", Role.SKIPPED),
        (Layout.VLLM, "README", Role.KNOWN),
        (Layout.VLLM, ".fused_moe_configs.json", Role.KNOWN),
        (Layout.VLLM, f"configs/triton_3_8_0/{NAME}", Role.KNOWN),
        (Layout.VLLM, f"configs/{NAME}", Role.SKIPPED),
        (Layout.VLLM, f"triton_3_8_0/{NAME}", Role.SKIPPED),
        (Layout.SGLANG, f"triton_3_8_0/{NAME}", Role.CONFIG),
        (Layout.SGLANG, "x.json", Role.SKIPPED),
        (Layout.SGLANG, f"triton_3_8_0/deeper/{NAME}", Role.SKIPPED),
        (Layout.SGLANG, "README.md", Role.KNOWN),
        (Layout.SGLANG, f"configs/triton_3_8_0/{NAME}", Role.SKIPPED),
        (Layout.REPO, f"triton_3_8_0/{NAME}", Role.CONFIG),
        (Layout.REPO, f"{NAME}.bak", Role.FOREIGN),
    ],
)
def test_a_files_role_follows_from_its_place_and_name(tmp_path: Path, layout: Layout, name: str, role: Role) -> None:
    assert role_of(put(tmp_path, name), PurePosixPath(name), layout) is role


@pytest.mark.parametrize(
    ("place", "role"),
    [
        (NAME, Role.CONFIG),
        (f"legacy_configs/{NAME}", Role.CONFIG),
        (f"records/triton_3_8_0/{NAME}", Role.RECORD),
        ("registry/models.json", Role.KNOWN),
        ("README.md", Role.KNOWN),
        (".", Role.FOREIGN),
        ("registry/others.json", Role.FOREIGN),
        (f"triton_main/{NAME}", Role.FOREIGN),
        (f"triton_0_0_0/{NAME}", Role.FOREIGN),
        (f"records/triton_0_0_0/{NAME}", Role.FOREIGN),
        (f"triton_03_06_00/{NAME}", Role.FOREIGN),
        (f"records/deep/er/{NAME}", Role.FOREIGN),
        ("conftest.py", Role.FOREIGN),
    ],
)
def test_a_place_in_this_store_tells_the_role_of_a_file_that_lies_nowhere_yet(place: str, role: Role) -> None:
    assert role_in_repo(PurePosixPath(place)) is role


def test_sglangs_root_is_below_the_folder_of_its_variable_and_what_lies_beside_it_is_left_out(tmp_path: Path) -> None:
    path = put(tmp_path, f"configs/triton_3_8_0/{NAME}")
    put(tmp_path, "layer.py")
    assert root_of(tmp_path, Layout.SGLANG) == tmp_path / "configs"
    assert [found.path for found in discover([tmp_path], Layout.SGLANG)] == [path]
    (found,) = discover([put(tmp_path, NAME)], Layout.SGLANG)
    assert (found.root, found.role) == (tmp_path, Role.SKIPPED)


@pytest.mark.parametrize("folder", ["triton_0_0_0", "triton_03_06_00"])
def test_a_file_named_by_itself_in_a_folder_that_is_no_tier_is_none_of_the_default_tier(
    tmp_path: Path, folder: str
) -> None:
    path = put(tmp_path, f"{folder}/{NAME}")
    for named in (path, path.parent):
        (found,) = discover([named], Layout.REPO)
        assert (found.root, found.role) == (tmp_path, Role.FOREIGN)


@pytest.mark.parametrize(("name", "reason"), [(f"sub/{NAME}", "in this place"), (f"{NAME}.bak", "under this name")])
def test_the_reason_is_the_place_or_the_name(tmp_path: Path, name: str, reason: str) -> None:
    put(tmp_path, name)
    (found,) = discover([tmp_path], Layout.VLLM)
    assert why_skipped(found, Layout.VLLM)[0] == f"not read by vLLM {reason}"
