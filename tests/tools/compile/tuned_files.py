"""Tuned files for the tests of the compile check: written below a folder, read back as the check reads them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tools.compile.check import Registries
from tools.registry.devices import load_devices
from tools.registry.models import load_models
from tools.store.config_file import ConfigFile, load
from tools.store.files import discover
from tools.store.workload import Layout

MIXTRAL = "E=8,N=7168,device_name=NVIDIA_H100_80GB_HBM3.json"
DEEPSEEK = "E=256,N=128,device_name=NVIDIA_H100_80GB_HBM3,dtype=fp8_w8a8,block_shape=[128,128].json"
KEYS = ("BLOCK_SIZE_M", "BLOCK_SIZE_N", "BLOCK_SIZE_K", "GROUP_SIZE_M", "num_warps", "num_stages")
SOUND = (64, 64, 64, 1, 4, 3)


def registries() -> Registries:
    return Registries(load_devices(), load_models())


def tuned(root: Path, rows: dict[int, tuple[int, ...]], name: str = MIXTRAL, **keys: Any) -> Path:
    """Writes a tuned file whose rows are given in the order of KEYS; `keys` go into every row."""
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    document = {str(size): dict(zip(KEYS, row, strict=True)) | keys for size, row in rows.items()}
    path.write_text(json.dumps(document), "utf-8")
    return path


def read(root: Path) -> list[ConfigFile]:
    return list(load(discover([root], Layout.REPO), Layout.REPO).configs)
