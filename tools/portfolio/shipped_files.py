"""The tuned files that an engine ships for a GPU, as that engine finds them under a Triton version."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from fused_moe_configs.serving import driver_name
from kernels.problem import Flavour
from tools.errors import UserError, reason_of
from tools.launch.engine_package import (
    KERNEL_MODULES,
    LOOK_UP_MODULES,
    Package,
    PackageError,
    down_file_of,
    open_package,
    tuned_file_folders,
)
from tools.store.config_file import MAY_BE_SILENT, ConfigFile
from tools.store.files import TUNED_FILE, read_file
from tools.store.other_kernels import other_kernel
from tools.store.tiers import Found, Role
from tools.store.workload import Layout, Workload, parse_file_name
from tools.text import shown_path


@dataclass(frozen=True)
class EnginePackage:
    """An engine as it was installed or unpacked. kernel: the file that has it. configs: the folder of tuned files."""

    flavour: Flavour
    package: Package
    kernel: Path
    configs: Path


def find_kernel(flavour: Flavour, path: Path) -> Path:
    """path: the engine's kernel file, its package, or the folder around that. UserError: it isn't such a place."""
    return _root(flavour, path) / PurePosixPath(KERNEL_MODULES[flavour])


def find_engine(flavour: Flavour, path: Path) -> EnginePackage:
    """path: as `find_kernel` takes it. UserError: the same, or the kernel lies there without the rest of the engine."""
    root = _root(flavour, path)
    folders = [root / PurePosixPath(module).parent / "configs" for module in LOOK_UP_MODULES[flavour]]
    configs = next((folder for folder in folders if os.path.isdir(folder)), None)  # noqa: PTH112 (never raises)
    if configs is None:
        raise UserError(
            f"{shown_path(root)}: expected {flavour}'s tuned files in {shown_path(folders[0])}, found none. "
            f"Fix: the path of an installed or unpacked {flavour}."
        )
    try:
        package = open_package(flavour, root)
    except PackageError as error:
        raise UserError(
            f"{shown_path(root)}: expected {flavour}-….dist-info beside the package, found none. "
            "Fix: unpack the wheel whole: its version stands there."
        ) from error
    return EnginePackage(flavour, package, root / PurePosixPath(KERNEL_MODULES[flavour]), configs)


def _root(flavour: Flavour, path: Path) -> Path:
    """The folder around the package."""
    place = PurePosixPath(KERNEL_MODULES[flavour])
    absolute = Path(os.path.realpath(path))  # Path.resolve raises where links lead in a circle
    # Beside a package lie others, the asked engine's among them, which isn't the one that was named.
    roots = [absolute, *(up for up in absolute.parents if absolute in (up / place.parts[0], up / place))]
    root = next((root for root in roots if os.path.isfile(root / place)), None)  # noqa: PTH113 (never raises)
    if root is None:
        raise UserError(
            f"{shown_path(path)}: expected {flavour}'s package, the folder around it, or its {place.name}, found no "
            f"{place} there. Fix: the path of an installed or unpacked {flavour}."
        )
    return root


@dataclass(frozen=True)
class ShippedFile:
    """A name that the engine has a file for. down: the `_down` file that it reads with it.

    fault: why it never asks for the name; empty: it does.
    """

    workload: Workload
    up: ConfigFile
    down: ConfigFile | None = None
    fault: str = ""

    @property
    def name(self) -> str:
        """Below the engine's folder."""
        return self.up.found.relative.as_posix()


@dataclass(frozen=True)
class NotRead:
    """A file for the GPU that the engine doesn't come to."""

    name: str
    reason: str


def shipped_files(
    engine: EnginePackage, device_name: str, triton_version: str
) -> tuple[tuple[ShippedFile, ...], tuple[NotRead, ...]]:
    """device_name: as the driver reports it. UserError: the folder can't be listed."""
    own_name = driver_name(engine.flavour, device_name)
    try:
        order = tuned_file_folders(engine.flavour, engine.configs, triton_version)
        files = [path for folder in order for path in sorted(folder.glob("*.json"))]
    except OSError as error:
        raise UserError(f"{shown_path(engine.configs)}: can't be listed: {reason_of(error)}.") from error
    of_device = [file for path in files if (file := _file_of(engine, path, own_name)) is not None]
    winners: dict[str, ConfigFile] = {}
    for file in of_device:  # folders in the order in which they are searched
        winners.setdefault(file.found.path.name, file)
    not_read = [
        NotRead(file.found.relative.as_posix(), f"{winners[name].found.relative.as_posix()} goes before it")
        for file in of_device
        if winners[name := file.found.path.name] is not file
    ]
    found = []
    for name, file in winners.items():
        workload = file.workload
        assert workload is not None
        if workload.down:
            if replace(workload, down=False).file_name(Layout(engine.flavour.value)) not in winners:
                not_read.append(NotRead(file.found.relative.as_posix(), "no up file lies there: it is not measured"))
            continue
        down = down_file_of(order, name) if engine.flavour is Flavour.SGLANG else None
        fault = f"{engine.flavour} never asks for it: {file.name.faults[0].message}" if file.name.faults else ""
        found.append(ShippedFile(workload, file, winners[down.name] if down is not None else None, fault))
    return tuple(found), tuple(not_read)


def _file_of(engine: EnginePackage, path: Path, device: str) -> ConfigFile | None:
    """None: another GPU's, or another kernel's."""
    if other_kernel(path.name):
        return None
    name = parse_file_name(path.name, Layout(engine.flavour.value))
    if name.workload is None or name.workload.device_name != device:
        return None
    relative = PurePosixPath(path.relative_to(engine.configs).as_posix())
    found = Found(path, engine.configs, relative, Role.CONFIG)
    return ConfigFile(found, name, read_file(path, TUNED_FILE), MAY_BE_SILENT)
