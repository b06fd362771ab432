"""The store's tuned files, exported and read back."""

from __future__ import annotations

import json

import pytest

from fused_moe_configs.exporting import write_export
from fused_moe_configs.naming import MANIFEST
from tests.loader.conftest import ENTRY

D = "E=8,N=6,device_name=D.json"
SGLANG = "configs/triton_3_8_0"


def name(*parts, device="D", N=6):
    return ",".join([f"E=8,N={N},device_name={device}", *parts]) + ".json"


def row(mark, **keys):
    """A tuned file's text; keys stand before its row."""
    return json.dumps({**keys, "1": ENTRY | {"num_warps": mark}})


@pytest.fixture
def destination(tmp_path):
    return tmp_path / "für die engine"


def tree(destination):
    """Name → mark of every exported file."""
    paths = (path for path in destination.rglob("*.json") if path.name != MANIFEST)
    return {str(p.relative_to(destination)): json.loads(p.read_text())["1"]["num_warps"] for p in paths}


def notes(store, destination, engine, **options):
    return "\n".join(write_export(store.root, destination, engine, **options).notes)
