"""What lies where in a tree of tuned files: the root that holds its tiers, and what each file in it is for."""

from __future__ import annotations

import enum
import os
import re
import stat
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from fused_moe_configs.naming import ENGINE_NAMES, MANIFEST
from tools.store.other_kernels import other_kernel
from tools.store.workload import Layout

DEFAULT_TIER = "default"
"""What documents call the tier whose files lie in no folder of their own."""

LEGACY = "legacy_configs"
RECORDS = "records"
REGISTRY = "registry"
REGISTRIES = ("devices.json", "engines.json", "models.json")
"""What lies in the folder `REGISTRY`."""

_NUMBERS = re.compile(r"triton_([0-9]{1,4})_([0-9]{1,4})_([0-9]{1,4})", re.ASCII)

_EXPORTED_LEGACY = (0, 0, 0)
"""As which version `export` gives SGLang the legacy tier. No release has it, so no tier of this store does."""


class Role(enum.Enum):
    """What a file in the tree is for."""

    CONFIG = "config"
    RECORD = "record"
    KNOWN = "known"
    FOREIGN = "foreign"
    SKIPPED = "skipped"  # meant as a tuned file, where the layout's engine doesn't look or under no name of its own
    OTHER_KERNEL = "other kernel"  # in an engine's folder: the file of a kernel that shares it
    UNREADABLE = "unreadable"  # a folder that can't be listed


@dataclass(frozen=True)
class Found:
    """A file of the tree; `relative` is its path below `root`."""

    path: Path
    root: Path
    relative: PurePosixPath
    role: Role

    @property
    def folder(self) -> str:
        """The tier's folder: empty for the default tier and for flat layouts."""
        parent = self.relative.parent.as_posix()
        return "" if parent == "." else parent


def version_of_folder(folder: str) -> tuple[int, int, int] | None:
    """(3, 8, 0) for `triton_3_8_0`; None for every other folder name, `triton_03_08_00` among them."""
    match = _NUMBERS.fullmatch(folder)
    version = (int(match[1]), int(match[2]), int(match[3])) if match else None
    return version if version and folder == "triton_{}_{}_{}".format(*version) else None


def why_no_version_tier(folder: str) -> tuple[str, str] | None:
    """For a folder named by three numbers that is no tier of this store: why not, and the way out. Else None."""
    match = _NUMBERS.fullmatch(folder)
    if match is None or _is_version_tier(folder):
        return None
    version = tuple(map(int, match.groups()))
    if version == _EXPORTED_LEGACY:
        reason = (
            f"{folder}/: expected the folder of a Triton release, found 0.0.0, which `export` gives the legacy tier"
        )
        return reason, f"move its files to {LEGACY}/, or to the folder of the Triton that they were tuned with"
    wanted = "triton_{}_{}_{}".format(*version)
    return f"{folder}/: expected no leading zeros, found some: nothing reads it", f"rename it to {wanted}/"


def root_of(path: Path, layout: Layout) -> Path:
    """The folder that holds the tiers, seen from any file or folder in it."""
    folder = path if path.suffix != ".json" and os.path.isdir(path) else path.parent  # noqa: PTH112 (never raises)
    if layout is Layout.VLLM:
        return folder
    if layout is Layout.SGLANG:
        if folder.name.startswith("triton_"):
            return folder.parent
        # SGLANG_MOE_CONFIG_DIR is the folder above configs/
        inner = folder / "configs"
        return inner if folder == path and os.path.isdir(inner) else folder  # noqa: PTH112
    while folder.name in (LEGACY, RECORDS, REGISTRY) or _NUMBERS.fullmatch(folder.name):
        folder = folder.parent
    return folder


def role_of(path: Path, relative: PurePosixPath, layout: Layout) -> Role:
    """What the file at `root/relative` is for. A folder is only asked about where it can't be listed."""
    parts = relative.parts
    is_json = path.suffix == ".json"
    kind = _file_type(path)
    if not is_json and (kind == stat.S_IFDIR or not parts):
        return Role.UNREADABLE
    if layout is not Layout.REPO:
        if relative.name == MANIFEST or (layout is Layout.VLLM and _is_sglangs(parts)):
            return Role.KNOWN
        if other_kernel(path.name):
            return Role.OTHER_KERNEL
        if is_json and len(parts) == (1 if layout is Layout.VLLM else 2):
            return Role.CONFIG
        return Role.SKIPPED if _is_meant_as_tuned(path, layout) else Role.KNOWN
    if kind != stat.S_IFREG:
        return Role.CONFIG if is_json and len(parts) == 1 and kind == stat.S_IFDIR else Role.FOREIGN
    return role_in_repo(relative)


def role_in_repo(relative: PurePosixPath) -> Role:
    """What a regular file is for in this store, by its place alone: the file need not exist."""
    parts = relative.parts
    if parts in (("README.md",), *((REGISTRY, name) for name in REGISTRIES)):
        return Role.KNOWN
    if not parts or relative.suffix != ".json" or other_kernel(relative.name):
        return Role.FOREIGN
    if parts[0] == RECORDS and _in_tier(parts[1:]):
        return Role.RECORD
    return Role.CONFIG if _in_tier(parts) else Role.FOREIGN


def why_skipped(found: Found, layout: Layout) -> tuple[str, str]:
    """For a file of role SKIPPED: why the layout's engine doesn't read it, and the way out."""
    engine = ENGINE_NAMES[layout]
    place = "the flat folder" if layout is Layout.VLLM else "a folder triton_X_Y_Z/"
    if _is_linked_folder(found.path):
        return "a link to a folder is not followed here: its files are not looked at", "name the folder itself"
    if found.path.suffix == ".json":
        return f"not read by {engine} in this place", f"move it into {place}, or name its own folder or --layout"
    return f"not read by {engine} under this name", "rename it to E=…,N=…,device_name=….json, or remove it"


def _is_meant_as_tuned(path: Path, layout: Layout) -> bool:
    """Engines' folders hold a README and the like; those are none of our business."""
    name = path.name.lower()
    if layout is Layout.SGLANG and (name.endswith(".json") or _is_linked_folder(path)):
        return True
    return name == ".json" or ("e=" in name and ".json" in name)


def _is_sglangs(parts: tuple[str, ...]) -> bool:
    """Where an export for SGLang lies: beside vLLM's flat files, where both variables name one folder."""
    return len(parts) == 3 and parts[0] == "configs" and version_of_folder(parts[1]) is not None


def _is_linked_folder(path: Path) -> bool:
    return path.name.startswith("triton_") and path.is_symlink() and os.path.isdir(path)  # noqa: PTH112


def _file_type(path: Path) -> int:
    """The type bits of a path, links not followed. What can't be asked counts as a file: reading it says why."""
    try:
        return stat.S_IFMT(path.lstat().st_mode)
    except OSError:
        return stat.S_IFREG


def _in_tier(parts: tuple[str, ...]) -> bool:
    if len(parts) == 1:
        return True
    return len(parts) == 2 and (parts[0] == LEGACY or _is_version_tier(parts[0]))


def _is_version_tier(folder: str) -> bool:
    return version_of_folder(folder) not in (None, _EXPORTED_LEGACY)
