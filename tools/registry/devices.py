"""The registry of devices, configs/registry/devices.json: what hardware is known, under which names.

schema/devices.schema.json says what each field means.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from fused_moe_configs.spelling import did_you_mean, like
from tools.registry.reading import (
    REGISTRY_FOLDER,
    RegistryError,
    check_order,
    check_unique,
    read_entries,
    unknown,
)
from tools.text import printable


class Target(NamedTuple):
    """What Triton compiles for: backend, architecture as Triton spells it, threads in a warp."""

    backend: str
    arch: int | str
    warp_size: int

    @property
    def kernel_arch(self) -> str:
        """As `kernels.problem` spells it: sm90, gfx942."""
        return f"sm{self.arch}" if self.backend == "cuda" else str(self.arch)


@dataclass(frozen=True)
class Device:
    """One piece of hardware. Facts that nobody is sure of are None.

    siblings: names of devices whose files this one may read as a last resort, measured as siblings_source says.
    """

    name: str
    vendor: str
    family: str
    aliases: tuple[str, ...] = ()
    arch: str | None = None
    smem_bytes_per_block: int | None = None
    sm_count: int | None = None
    memory_bandwidth_gb_per_s: int | None = None
    bf16_tflop_per_s: int | None = None
    memory_gib: int | None = None
    notes: str | None = None
    siblings: tuple[str, ...] = ()
    siblings_source: str | None = None

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
            known = (known for device in self.devices for known in device.names)
            raise RegistryError(unknown("device", name, known, "configs/registry/devices.json"))
        return device

    def find_measurable(self, name: str) -> Device:
        """As `find`, with a compile target and shared memory: what tuner and bench ask for.

        RegistryError: unknown, without its facts, or of a vendor whose GPUs nothing here measures on.
        """
        device = self.get(name)
        is_intel = name.casefold().startswith("intel") if device is None else device.vendor == "intel"
        if is_intel:
            raise RegistryError(
                f"GPU: expected one of NVIDIA or AMD, found {name!r}: nothing here measures on Intel's GPUs, so there "
                "is nothing to tune or to bench. Files for it can be validated, converted and exported."
            )
        expected = "GPU: expected one of configs/registry/devices.json"
        if device is None:
            hint = did_you_mean(name, (known for each in self for known in each.names))
            new = printable(normalise_device_name(name))
            fix = f'add "{new}" there, with vendor, family, arch and smem_bytes_per_block'
            raise RegistryError(f"{expected}, found {name!r}. {hint}Fix: {fix}.")
        missing = [fact for fact in ("arch", "smem_bytes_per_block") if getattr(device, fact) is None]
        if missing:
            fix = f"give {' and '.join(missing)} in the entry of {device.name}"
            raise RegistryError(f"{expected} with its architecture, found {name!r} without", fix)
        return device

    def near(self, name: str) -> list[str]:
        """Up to three known names that look like `name`, the nearest first."""
        known = [known for device in self.devices for known in device.names]
        return like(normalise_device_name(name), known)


def normalise_device_name(name: str) -> str:
    """A driver's name as both engines put it into file names: white space runs and `/` become `_`."""
    return re.sub(r"\s+|/", "_", name.strip())


def load_devices(path: Path = REGISTRY_FOLDER / "devices.json") -> DeviceRegistry:
    """Reads the device registry.

    RegistryError: it is missing, broken or unsorted; a name stands twice, ignoring case, or speaks of another device;
    devices of one architecture differ in shared memory; a sibling is no device, or not of the same build.
    """
    devices = tuple(_device(entry, path) for entry in read_entries(path, "devices"))
    check_order(path, [device.name for device in devices])
    names = [name for device in devices for name in device.names]
    # Some file systems hold one file for names that differ in case alone.
    by_folded = {name.casefold(): name for name in reversed(names)}
    check_unique(path, [by_folded[name.casefold()] for name in names])
    _check_names(path, devices)
    _check_shared_memory(path, devices)
    _check_siblings(path, devices)
    return DeviceRegistry(devices)


_ARCH_PATTERNS = {"nvidia": r"sm_[0-9]{2,3}", "amd": r"gfx[0-9a-f]{3,4}", "intel": r"[a-z]{3}"}


def _device(entry: Mapping[str, Any], path: Path) -> Device:
    lists = {key: tuple(entry.get(key, ())) for key in ("aliases", "siblings")}
    device = Device(**{**entry, **lists})
    pattern = _ARCH_PATTERNS[device.vendor]
    if device.arch is not None and not re.fullmatch(pattern, device.arch):
        reason = f"{device.name} / arch: expected {pattern} for {device.vendor}, found {device.arch!r}"
        raise RegistryError(reason, "correct one of them", path)
    return device


_VENDOR_WORDS = {"nvidia": "nvidia", "amd": "amd", "intel": "intel", "intel(r)": "intel"}


def _check_names(path: Path, devices: Sequence[Device]) -> None:
    """No device takes what another one's driver reports: no other vendor's name, and no longer form of another's name.

    vLLM reads every name with the part H200 as NVIDIA_H200's.
    """
    owners = {device.name: device for device in devices}
    for device in devices:
        for name in device.names:
            first, *_ = parts = name.split("_")
            if _VENDOR_WORDS.get(first.casefold(), device.vendor) != device.vendor:
                raise _taken(path, device, name, f"a name that begins like one of {device.vendor}")
            if "H200" in parts and device.family != "H200":
                raise _taken(path, device, name, "a name without the part H200, which vLLM reads as NVIDIA_H200")
        for alias in device.aliases:
            likeness = [other for other in owners if re.match(rf"{re.escape(other)}[^A-Za-z0-9]", alias)]
            nearest = max(likeness, key=len, default=device.name)
            if nearest != device.name and not device.name.startswith(nearest):
                raise _taken(path, device, alias, f"another name of the same hardware, none that begins with {nearest}")


def _taken(path: Path, device: Device, name: str, expected: str) -> RegistryError:
    reason = f"{device.name}: expected {expected}, found {name!r}"
    return RegistryError(reason, "give that hardware an entry of its own", path)


def _check_shared_memory(path: Path, devices: Sequence[Device]) -> None:
    first: dict[str, Device] = {}
    for device in devices:
        if device.arch is None or device.smem_bytes_per_block is None:
            continue
        other = first.setdefault(device.arch, device)
        if device.smem_bytes_per_block != other.smem_bytes_per_block:
            expected = f"expected {other.smem_bytes_per_block} as of {other.name}, which is {device.arch} too"
            reason = f"{device.name} / smem_bytes_per_block: {expected}, found {device.smem_bytes_per_block}"
            raise RegistryError(reason, "correct one of them", path)


def _check_siblings(path: Path, devices: Sequence[Device]) -> None:
    """Files carry over only where they mean the same: one architecture, one shared memory, as many multiprocessors."""
    owners = {name: device for device in devices for name in device.names}
    for device in devices:
        for name in device.siblings:
            sibling = owners.get(name)
            if sibling is None:
                hint = "".join(f". Did you mean {hit}?" for hit in like(name, owners)[:1])
                raise _no_sibling(path, device, f"a device of this registry, found {name!r}{hint}", "correct the name")
            if sibling == device:
                raise _no_sibling(path, device, f"another device, found its own name {name!r}", "leave it out")
            if name != sibling.name:
                raise _no_sibling(path, device, f"{sibling.name!r}, found its alias {name!r}", "write the former")
            for field in ("arch", "smem_bytes_per_block", "sm_count"):
                ours, theirs = getattr(device, field), getattr(sibling, field)
                is_open = None in (ours, theirs)
                if field != "sm_count" if is_open else ours != theirs:
                    reason = f"devices of one {field}, found {ours or 'none'} here and {theirs or 'none'} of {name}"
                    raise _no_sibling(path, device, reason, "leave the sibling out, or correct the figure")


def _no_sibling(path: Path, device: Device, expected: str, fix: str) -> RegistryError:
    return RegistryError(f"{device.name} / siblings: expected {expected}", fix, path)
