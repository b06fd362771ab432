"""What is asked of an engine and of the loader alike. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import PurePosixPath

from tools.registry.devices import DeviceRegistry
from tools.store.tiers import version_of_folder
from tools.store.workload import Layout, Workload, parse_file_name

NO_VERSION_FOLDER = "0.0.0"
"""A Triton for which no version folder counts: what an export holds that was made for none."""


@dataclass(frozen=True)
class Question:
    """Which entries serve the workload (device as the driver's name stands in a file name) under this Triton?"""

    workload: Workload
    triton_version: str

    @property
    def driver_name(self) -> str:
        """As the driver reports it: engines turn its spaces into underscores."""
        return self.workload.device_name.replace("_", " ")


def of_store(
    workloads: Iterable[Workload], layout: Layout, devices: DeviceRegistry, triton_version: str
) -> tuple[Question, ...]:
    """Every workload that the engine ever asks for, under each name of its device.

    The down projection's own files are asked for together with the up file's.
    """
    up = {replace(workload, down=False) for workload in workloads}
    named = {
        replace(workload, device_name=name)
        for workload in up
        if _is_asked_for(workload, layout)
        for name in _names(workload.device_name, devices)
    }
    return tuple(Question(workload, triton_version) for workload in sorted(named, key=Workload.file_name))


def of_sglang_tree(exported: Iterable[PurePosixPath], reference_triton: str) -> tuple[Question, ...]:
    """Of an export with every version's folder, `configs/triton_X_Y_Z/NAME` each: a file is asked for under its
    folder's Triton, one of the legacy folder `triton_0_0_0` under the reference, where no other folder has the name.
    """
    by_name: dict[str, list[str]] = {}
    for path in exported:
        version = version_of_folder(path.parent.name)
        if version is not None:
            by_name.setdefault(path.name.replace("_down.json", ".json"), []).append(".".join(map(str, version)))
    return tuple(
        Question(workload, version)
        for name, versions in sorted(by_name.items())
        if (workload := parse_file_name(name, Layout.SGLANG).workload) is not None
        for version in _askable(sorted(set(versions)), reference_triton)
    )


def _askable(versions: Sequence[str], reference_triton: str) -> Iterator[str]:
    newer = [version for version in versions if version != NO_VERSION_FOLDER]
    yield from newer or [reference_triton]


def _is_asked_for(workload: Workload, layout: Layout) -> bool:
    parsed = parse_file_name(workload.file_name(layout), layout)
    return parsed.workload == workload and not parsed.faults


def _names(device_name: str, devices: DeviceRegistry) -> tuple[str, ...]:
    device = devices.get(device_name)
    return device.names if device else (device_name,)
