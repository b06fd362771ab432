"""A configs folder of the tests' own, at a path with spaces and letters outside ASCII."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

import fused_moe_configs
from fused_moe_configs import api
from fused_moe_configs.index import IndexedFile, build, to_bytes

ENTRY = {
    "BLOCK_SIZE_M": 16, "BLOCK_SIZE_N": 64, "BLOCK_SIZE_K": 128, "GROUP_SIZE_M": 1, "num_warps": 4, "num_stages": 3,
}  # fmt: skip
H100 = "NVIDIA_H100_80GB_HBM3"
REGISTRY = Path(__file__).parents[2] / "configs" / "registry"
DEVICES = [
    {"name": "NVIDIA_H200", "aliases": ["NVIDIA_H200_NVL", "NVIDIA_H200_X"]},
    {"name": H100, "aliases": ["NVIDIA_H100_OEM"]},
]


class Store:
    """Writes tuned files below one folder; `mark` tells them apart when they are read again."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def add(self, name: str, mark: int = 1, tier: str = "", **keys: Any) -> Path:
        return self.write(name, {"1": ENTRY | {"num_warps": mark} | keys}, tier)

    def index(self, *entries: IndexedFile) -> Path:
        """As a build writes it: these of their files, which are made where they are missing, and all others."""
        files = dict[str, IndexedFile]()
        for entry in entries:
            path = self.root / entry.file
            if not path.exists():
                self.add(path.name, tier=path.parent.relative_to(self.root).as_posix())
            files[entry.file] = entry._replace(sha256=hashlib.sha256(path.read_bytes()).hexdigest())
        others = [each for each in build(self.root) if each.file not in files]
        return self.write("index.json", to_bytes([*files.values(), *others]))

    def write(self, name: str, document: object, tier: str = "") -> Path:
        path = self.root / tier / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(document if isinstance(document, bytes) else json.dumps(document).encode())
        return path


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The shipped folder as a checkout has it, with a registry and without records; no user's folder."""
    store = Store(tmp_path / "tuned ünd dateien")
    (store.root / "records").mkdir(parents=True)
    store.write("devices.json", {"schema_version": 1, "devices": DEVICES}, "registry")
    for name in ("engines.json", "models.json"):
        store.write(name, (REGISTRY / name).read_bytes(), "registry")
    monkeypatch.setattr(api, "CONFIGS", store.root)
    monkeypatch.delenv("VLLM_TUNED_CONFIG_FOLDER", raising=False)
    monkeypatch.delenv("SGLANG_MOE_CONFIG_DIR", raising=False)
    fused_moe_configs.cache_clear()
    yield store
    fused_moe_configs.cache_clear()


@pytest.fixture
def user(tmp_path: Path, store: Store, monkeypatch: pytest.MonkeyPatch) -> Store:
    """The user's own folder, in front of the shipped one."""
    folder = tmp_path / "méine eigenen"
    folder.mkdir()
    monkeypatch.setenv("VLLM_TUNED_CONFIG_FOLDER", str(folder))
    fused_moe_configs.cache_clear()
    return Store(folder)


@pytest.fixture
def siblings(store: Store) -> None:
    """Devices A, also called A_OEM, and B, also called B_OEM. B's files carry over to A, not A's to B."""
    devices = [{"name": "A", "aliases": ["A_OEM"], "siblings": ["B"]}, {"name": "B", "aliases": ["B_OEM"]}]
    store.write("devices.json", {"schema_version": 1, "devices": devices}, "registry")
