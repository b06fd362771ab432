"""Which devices have a runner, as the variable GPU_DEVICES of the repository says it. Pure."""

from __future__ import annotations

from tools.registry.devices import DeviceRegistry
from tools.text import shown


class RunnersError(ValueError):
    """A device that the registry doesn't know. One line for a person."""


def with_runner(text: str, devices: DeviceRegistry) -> frozenset[str]:
    """The devices' names as the registry writes them, from names or aliases with commas. Empty: every device has one.

    RunnersError: one that isn't in the registry.
    """
    names = [name.strip() for name in text.split(",") if name.strip()]
    if not names:
        return frozenset(device.name for device in devices)
    found = {name: devices.get(name) for name in names}
    unknown = [name for name, device in found.items() if device is None]
    if unknown:
        told = f"expected names of configs/registry/devices.json with commas, found {shown(unknown[0], 60)!r}"
        raise RunnersError(f"--runners: {told}. Fix: correct the repository's variable GPU_DEVICES.")
    return frozenset(device.name for device in found.values() if device is not None)
