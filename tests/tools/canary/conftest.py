"""Small engines written for these tests, and stores that the loader reads."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

import fused_moe_configs
from fused_moe_configs import api
from tests.builders import H100, Store, entry
from tools.canary import check, defaults
from tools.launch.heuristic_version import default_function, sha256_of_cut
from tools.store.record import HeuristicVersion

HERE = Path(__file__).parent
SOURCES = {
    "vllm": {
        "vllm/model_executor/layers/fused_moe/fused_moe.py": "vllm_lookup.txt",
        "vllm/utils/platform_utils.py": "vllm_platform.txt",
    },
    "sglang": {"sglang/srt/layers/moe/moe_runner/triton_utils/fused_moe_triton_config.py": "sglang_lookup.txt"},
}
DEVICES = [
    {"name": "AMD_Instinct_MI300X", "vendor": "amd", "family": "MI300", "aliases": ["AMD_Instinct_MI300X_OAM"]},
    {"name": H100, "vendor": "nvidia", "family": "H100", "aliases": []},
    {"name": "NVIDIA_H200", "vendor": "nvidia", "family": "H200", "aliases": ["NVIDIA_H200_NVL"]},
]


@dataclass(frozen=True)
class FakeEngine:
    """Its modules by path; `changed` edits the text of them all."""

    name: str
    modules: Mapping[str, str]
    version: str = "9.8.7"

    def changed(self, old: str, new: str) -> FakeEngine:
        assert any(old in text for text in self.modules.values()), old
        return FakeEngine(self.name, {path: text.replace(old, new) for path, text in self.modules.items()})

    @property
    def files(self) -> dict[str, str]:
        metadata = f"Metadata-Version: 2.4\nName: {self.name}\nVersion: {self.version}\n"
        return {**self.modules, f"{self.name}-{self.version}.dist-info/METADATA": metadata}

    def unpacked(self, folder: Path) -> Path:
        for name, text in self.files.items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, "utf-8")
        return folder

    def wheel(self, folder: Path) -> Path:
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{self.name}-{self.version}-py3-none-any.whl"
        with zipfile.ZipFile(path, "w") as wheel:
            for name, text in self.files.items():
                wheel.writestr(name, text)
        return path


def engine(name: str) -> FakeEngine:
    return FakeEngine(name, {path: (HERE / text).read_text("utf-8") for path, text in SOURCES[name].items()})


def heuristic(of: FakeEngine) -> HeuristicVersion:
    """As our table would name it, if it followed this release."""
    return HeuristicVersion(of.version, sha256_of_cut(default_function(of.modules.get, of.name)))


@pytest.fixture(autouse=True)
def followed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Our table is the one of the engines written for these tests: they answer as it does."""
    monkeypatch.setattr(check, "FOLLOWED", {name: heuristic(engine(name)) for name in SOURCES})


@pytest.fixture
def small_grid(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of what runs without a file: for tests of all else."""
    monkeypatch.setattr(defaults, "EXPERTS", (8,))
    monkeypatch.setattr(defaults, "SHAPES", defaults.SHAPES[:1])


@pytest.fixture
def vllm() -> FakeEngine:
    return engine("vllm")


@pytest.fixture
def sglang() -> FakeEngine:
    return engine("sglang")


def add(store: Store, name: str, folder: str = "", sizes: tuple[int, ...] = (1, 16, 64), **keys: object) -> None:
    """Each batch size gets an entry of its own, told by its group size."""
    entries = {str(size): entry(**{"BLOCK_SIZE_K": 128, "GROUP_SIZE_M": size, **keys}) for size in sizes}
    store.config(entries, name, folder=folder, record=False)


@pytest.fixture
def configs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    store = Store(tmp_path / "configs")
    registry = store.root / "registry" / "devices.json"
    registry.parent.mkdir(parents=True)
    (registry.parents[1] / "records").mkdir()
    registry.write_text(json.dumps({"schema_version": 1, "devices": DEVICES}))
    monkeypatch.setattr(api, "CONFIGS", store.root)
    monkeypatch.delenv("VLLM_TUNED_CONFIG_FOLDER", raising=False)
    fused_moe_configs.cache_clear()
    yield store
    fused_moe_configs.cache_clear()


@pytest.fixture
def varied(configs: Store) -> Store:
    """Every kind of name and tier that the engines read."""
    add(configs, f"E=8,N=64,device_name={H100}.json")
    add(configs, f"E=8,N=64,device_name={H100}.json", "triton_3_6_0", num_stages=2)
    add(configs, f"E=8,N=64,device_name={H100}.json", "legacy_configs", num_stages=4)
    add(configs, f"E=8,N=96,device_name={H100},dtype=int4_w4a16.json", "legacy_configs")
    add(configs, f"E=8,N=64,device_name={H100},dtype=fp8_w8a8,block_shape=[128,128].json", sizes=(1, 4096, 8192))
    add(configs, f"E=8,N=64,device_name={H100},dtype=fp8_w8a16.json")
    add(configs, f"E=8,N=64,device_name={H100},dtype=int8_w8a8,per_channel_quant=True.json")
    add(configs, "E=8,N=64,device_name=NVIDIA_H200.json", USE_TMA=True)
    add(configs, "E=8,N=64,device_name=NVIDIA_H200_down.json", BLOCK_SIZE_M=64, USE_TMA=True)
    add(configs, "E=8,N=128,device_name=NVIDIA_H200_NVL.json")
    add(configs, "E=8,N=64,device_name=AMD_Instinct_MI300X_OAM,dtype=int8_w8a16.json", waves_per_eu=2, kpack=1)
    return configs
