"""The registries of devices and models: configs/registry/devices.json and models.json, read and looked up.

`python -m tools.registry` reports which model explains the (E, N) of every file below a folder.
The schemas (schema/devices.schema.json, schema/models.schema.json) say what each field means.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from tools.checkout import CONFIGS
from tools.registry.rows import RegistryError, Row, check_order, check_unique, read_rows

__all__ = [
    "Device",
    "DeviceRegistry",
    "Model",
    "ModelRegistry",
    "Quantisation",
    "RegistryError",
    "Target",
    "load_devices",
    "load_models",
    "normalise_device_name",
]

REGISTRY_FOLDER = CONFIGS / "registry"


class Target(NamedTuple):
    """What Triton compiles for: backend, architecture as Triton spells it, threads in a warp."""

    backend: str
    arch: int | str
    warp_size: int


@dataclass(frozen=True)
class Device:
    """One piece of hardware. Facts that nobody is sure of are None."""

    name: str
    vendor: str
    family: str
    aliases: tuple[str, ...] = ()
    arch: str | None = None
    smem_bytes_per_block: int | None = None
    memory_bandwidth_gb_per_s: int | None = None
    memory_gib: int | None = None
    notes: str | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """Every name of this device, the canonical one first."""
        return (self.name, *self.aliases)

    @property
    def target(self) -> Target | None:
        """The compile target; None: architecture unknown, or not one that builds without its GPU."""
        if self.arch is None:
            return None
        if self.vendor == "nvidia":
            return Target("cuda", int(self.arch.removeprefix("sm_")), 32)
        if self.vendor == "amd":
            # gfx9 (CDNA) runs 64 lanes at once, gfx10 and later (RDNA) 32.
            return Target("hip", self.arch, 64 if self.arch.startswith("gfx9") else 32)
        return None


@dataclass(frozen=True)
class Quantisation:
    """How experts are stored: dtype as file names have it (or bf16, fp16), and what shares a scale."""

    dtype: str
    block_shape: tuple[int, int] | None = None
    per_channel_quant: bool = False


@dataclass(frozen=True)
class Model:
    """Expert shapes of a checkpoint before sharding: E experts, intermediate size N, width K, top_k."""

    id: str
    E: int
    N: int
    K: int
    top_k: int
    quantisation: Quantisation
    source: str
    also: tuple[str, ...] = ()
    fused_shared_experts: int = 0
    fusable_shared_experts: int = 0
    gated: bool = True

    @property
    def ids(self) -> tuple[str, ...]:
        """Every checkpoint with these experts, the one that stands for them first."""
        return (self.id, *self.also)


@dataclass(frozen=True)
class DeviceRegistry:
    """The devices, looked up by any of their names."""

    devices: tuple[Device, ...]

    def __iter__(self) -> Iterator[Device]:
        return iter(self.devices)

    def get(self, name: str) -> Device | None:
        """The device that has `name`, spelt as in file names or as a driver reports it. None: unknown."""
        spelt = normalise_device_name(name)
        return next((device for device in self.devices if spelt in device.names), None)

    def find(self, name: str) -> Device:
        """As `get`; an unknown name is a RegistryError that gives the nearest ones."""
        device = self.get(name)
        if device is None:
            raise RegistryError(_unknown("device", name, self.near(name), "configs/registry/devices.json"))
        return device

    def near(self, name: str) -> list[str]:
        """Up to three known names that look like `name`, the nearest first."""
        known = [known for device in self.devices for known in device.names]
        return _near(normalise_device_name(name), known)


@dataclass(frozen=True)
class ModelRegistry:
    """The models, looked up by Hugging Face id, ignoring case."""

    models: tuple[Model, ...]

    def __iter__(self) -> Iterator[Model]:
        return iter(self.models)

    def get(self, name: str) -> Model | None:
        """The model with the id `name`. None: unknown."""
        wanted = name.casefold()
        return next((model for model in self.models if wanted in map(str.casefold, model.ids)), None)

    def find(self, name: str) -> Model:
        """As `get`; an unknown id is a RegistryError that gives the nearest ones."""
        model = self.get(name)
        if model is None:
            raise RegistryError(_unknown("model", name, self.near(name), "configs/registry/models.json"))
        return model

    def near(self, name: str) -> list[str]:
        """Up to three known ids that look like `name`, with or without its owner, the nearest first."""
        ids = [known for model in self.models for known in model.ids]
        if "/" in name:
            return _near(name, ids)
        by_short_name = {known.partition("/")[2]: known for known in ids}
        return [by_short_name[short] for short in _near(name, by_short_name)]


def normalise_device_name(name: str) -> str:
    """A driver's name as both engines put it into file names: white space runs and `/` become `_`."""
    return re.sub(r"\s+|/", "_", name.strip())


def load_devices(path: Path = REGISTRY_FOLDER / "devices.json") -> DeviceRegistry:
    """Reads the device registry. RegistryError: it is missing, broken, unsorted, or a name stands twice."""
    rows = read_rows(path, "devices")
    devices = tuple(_device(Row(row, path, f"devices[{i}]")) for i, row in enumerate(rows))
    check_order(path, [device.name for device in devices])
    check_unique(path, [name for device in devices for name in device.names])
    return DeviceRegistry(devices)


def load_models(path: Path = REGISTRY_FOLDER / "models.json") -> ModelRegistry:
    """Reads the model registry. RegistryError: it is missing, broken, unsorted, or an id stands twice."""
    rows = read_rows(path, "models")
    models = tuple(_model(Row(row, path, f"models[{i}]")) for i, row in enumerate(rows))
    check_order(path, [model.id.casefold() for model in models])
    check_unique(path, [name.casefold() for model in models for name in model.ids])
    return ModelRegistry(models)


_ARCH_PATTERNS = {"nvidia": r"sm_[0-9]{2,3}", "amd": r"gfx[0-9a-f]{3,4}", "intel": r"[a-z]{3}"}


def _device(row: Row) -> Device:
    device = Device(
        name=row.text("name"),
        vendor=row.text("vendor"),
        family=row.text("family"),
        aliases=row.texts("aliases"),
        arch=row.optional_text("arch"),
        smem_bytes_per_block=row.optional_count("smem_bytes_per_block"),
        memory_bandwidth_gb_per_s=row.optional_count("memory_bandwidth_gb_per_s"),
        memory_gib=row.optional_count("memory_gib"),
        notes=row.optional_text("notes"),
    )
    pattern = _ARCH_PATTERNS.get(device.vendor)
    if pattern is None:
        raise row.error("vendor", "nvidia, amd or intel", device.vendor)
    if device.arch is not None and not re.fullmatch(pattern, device.arch):
        raise row.error("arch", f"{pattern} for {device.vendor}", device.arch)
    return device


def _model(row: Row) -> Model:
    block_shape = row.counts("block_shape")
    if len(block_shape) not in (0, 2):
        raise row.error("block_shape", "two numbers", list(block_shape))
    return Model(
        id=row.text("id"),
        E=row.count("E"),
        N=row.count("N"),
        K=row.count("K"),
        top_k=row.count("top_k"),
        quantisation=Quantisation(
            row.text("dtype"),
            (block_shape[0], block_shape[1]) if block_shape else None,
            row.flag("per_channel_quant", absent=False),
        ),
        source=row.text("source"),
        also=row.texts("also"),
        fused_shared_experts=row.optional_count("fused_shared_experts") or 0,
        fusable_shared_experts=row.optional_count("fusable_shared_experts") or 0,
        gated=row.flag("gated", absent=True),
    )


def _near(name: str, known: Iterable[str]) -> list[str]:
    by_folded = {candidate.casefold(): candidate for candidate in known}
    return [by_folded[hit] for hit in difflib.get_close_matches(name.casefold(), by_folded, n=3, cutoff=0.6)]


def _unknown(kind: str, name: str, near: list[str], where: str) -> str:
    hint = f"Did you mean {' or '.join(near)}? " if near else ""
    return f"{kind}: expected one of {where}, found {name!r}. {hint}Fix: correct the name, or add the {kind} there."
