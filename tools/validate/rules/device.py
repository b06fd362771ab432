"""A device name that no driver reports is as dead as a misspelt file name."""

from __future__ import annotations

from collections.abc import Iterator

from fused_moe_configs.serving import driver_name
from fused_moe_configs.spelling import question
from tools.findings import Severity
from tools.store.config_file import ConfigFile
from tools.store.workload import Layout, is_device_name
from tools.validate.model import Context, FileRule, Issue


def check(file: ConfigFile, context: Context) -> Iterator[Issue]:
    """The device is in configs/registry/devices.json, under the name that the layout's reader asks for."""
    if file.workload is None or not is_device_name(file.workload.device_name):
        return
    name = file.workload.device_name
    device = context.devices.get(name)
    if device is None:
        near = context.devices.near(name)
        hint = f"{question(near)} If not, " if near else ""
        yield Issue(
            f"device_name: expected a name from configs/registry/devices.json, found {name!r}",
            f"{hint}add the device to the registry with the name that its driver reports",
        )
        return
    if context.layout is Layout.VLLM and driver_name("vllm", name) != name:
        yield Issue(
            f"device_name: vLLM looks up every H200 as NVIDIA_H200, found {name!r}",
            "rename it to device_name=NVIDIA_H200",
        )
    elif context.layout is Layout.REPO and name != device.name:
        yield Issue(
            f"device_name: expected the registry's own name {device.name!r}, found its alias {name!r}",
            context.renamed(f"rename it to device_name={device.name}, whose aliases the loader and `export` serve"),
        )
    if device.arch is None:
        yield Issue(
            f"{name}: the registry knows no architecture for it, so shared memory isn't checked",
            "add arch to its entry once you are sure of it",
            Severity.INFO,
        )


RULE = FileRule("device", "The device is known to the registry, under the name its reader asks for.", check)
