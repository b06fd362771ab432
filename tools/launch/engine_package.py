"""An engine's package as it was published: its sources, which of them look tuned files up and where, its kernel's."""

from __future__ import annotations

import importlib.util
import re
import zipfile
import zlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path, PurePosixPath
from types import MappingProxyType

from fused_moe_configs.lookup import down_of
from tools.errors import UserError, reason_of
from tools.store.tiers import version_of_folder
from tools.text import shown_path

_VERSION = re.compile(r"[0-9A-Za-z][0-9A-Za-z.+!_-]{0,59}", re.ASCII)
UNKNOWN_VERSION = "of unknown version"
"""Also where the package says something else: it stands in an issue's heading."""


LOOK_UP_MODULES: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "vllm": ("vllm/model_executor/layers/fused_moe/fused_moe.py",),
        "sglang": (
            "sglang/srt/layers/moe/moe_runner/triton_utils/fused_moe_triton_config.py",
            "sglang/srt/layers/moe/fused_moe_triton/fused_moe_triton_config.py",
        ),
    }
)
"""The module of each engine that finds a tuned file and says what runs without one; places of several releases, the
newest first."""

KERNEL_MODULES: Mapping[str, str] = MappingProxyType(
    {
        "vllm": "vllm/model_executor/layers/fused_moe/fused_moe.py",
        "sglang": "sglang/kernels/ops/moe/fused_moe_triton_kernels.py",
    }
)
"""The module of each engine that has its kernel, in the releases whose interface `tools.measure.kernels` knows."""
KERNEL_FILES: Mapping[str, str] = MappingProxyType(
    {engine: PurePosixPath(module).name for engine, module in KERNEL_MODULES.items()}
)


# Its tuned files


def tuned_file_folders(engine: str, configs: Path, triton_version: str) -> list[Path]:
    """In the order in which the engine searches them for a name; the first that has it wins. OSError.

    configs: the engine's folder of tuned files. vLLM 0.33 has a flat one. SGLang 0.5.23 has a folder for each Triton:
    first that of the Triton that runs, then the newest, also of a newer Triton. (fused_moe_triton_config.py,
    `get_moe_configs`)
    """
    if engine == "vllm":
        return [configs]
    versions = {path: version for path in configs.iterdir() if (version := version_of_folder(path.name))}
    own = configs / f"triton_{triton_version.replace('.', '_')}"
    return sorted(versions, key=lambda path: (path == own, versions[path]), reverse=True)


def down_file_of(folders: Iterable[Path], name: str) -> Path | None:
    """The `_down` file that SGLang reads with its own up file of a name. None: there is none. OSError.

    Each name is searched for alone, so it may lie in another folder than the up file. folders: `tuned_file_folders`.
    """
    paths = (folder / down_of(name) for folder in folders)
    return next((path for path in paths if path.exists()), None)


# A package: a wheel, or the folder that one was unpacked or installed into.

MAX_SOURCE_BYTES = 4 << 20
"""The look-up code has some ten kilobytes; a module larger than this is not read."""


class PackageError(UserError):
    """The path holds no such package."""


@dataclass(frozen=True)
class Package:
    """read: the source of a file of the package by its path (`vllm/envs.py`), None where there is none."""

    name: str
    version: str
    read: Callable[[str], str | None]


def open_package(name: str, path: Path) -> Package:
    """The package `name` in a wheel, in a folder, or in a folder's one wheel of it. PackageError: it isn't there."""
    path = _wheel_in(name, path)
    read = _folder(path) if path.is_dir() else _wheel(path)
    described = _metadata(name, path)
    if described is None:
        raise PackageError(
            f"{shown_path(path)}: expected {name} with its {name}-….dist-info, found none. "
            f"Fix: give the wheel, or the folder that it was unpacked or installed into."
        )
    text = read(described) or ""
    return Package(name, version_in(text) or UNKNOWN_VERSION, read)


def version_in(metadata_text: str) -> str | None:
    """The version that a package's METADATA states. None: none that a report may repeat."""
    lines = (line for line in metadata_text.splitlines() if line.startswith("Version:"))
    version = next(lines, "").partition(":")[2].strip()
    return version if _VERSION.fullmatch(version) else None


def installed_package(name: str) -> Package | None:
    """The package that this Python would import, found without importing it. None: there is none, or not whole.

    An editable installation counts. A folder of that name in the working directory doesn't: it has no metadata.
    """
    try:
        spec = importlib.util.find_spec(name)
        version = metadata.version(name)
    except (ImportError, ValueError, AttributeError):
        return None
    if spec is None or not spec.submodule_search_locations:
        return None
    folder = Path(next(iter(spec.submodule_search_locations))).parent
    return Package(name, version if _VERSION.fullmatch(version) else UNKNOWN_VERSION, _folder(folder))


def _wheel_in(name: str, path: Path) -> Path:
    """The wheel in a folder that `pip download` filled; `path` itself where it isn't such a folder.

    Nor is one in which a wheel was unpacked where it lay.
    """
    wheels = sorted(path.glob(f"{name}-*.whl")) if path.is_dir() and _metadata(name, path) is None else []
    if len(wheels) > 1:
        raise PackageError(
            f"{shown_path(path)}: expected one wheel of {name}, found {len(wheels)}. Fix: give one of them."
        )
    return wheels[0] if wheels else path


def _metadata(name: str, path: Path) -> str | None:
    if path.is_dir():
        names = [found.relative_to(path).as_posix() for found in path.glob(f"{name}-*.dist-info/METADATA")]
    else:
        with zipfile.ZipFile(path) as wheel:
            names = [each for each in wheel.namelist() if PurePosixPath(each).match(f"{name}-*.dist-info/METADATA")]
    return min(names, default=None)


def _folder(path: Path) -> Callable[[str], str | None]:
    def read(inner: str) -> str | None:
        try:
            with (path / inner).open("rb") as file:
                return _text(inner, file.read(MAX_SOURCE_BYTES + 1))
        except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
            return None

    return read


def _wheel(path: Path) -> Callable[[str], str | None]:
    try:
        zipfile.ZipFile(path).close()  # opening reads the index
    except FileNotFoundError as error:
        raise PackageError(
            f"{shown_path(path)}: expected a wheel or a folder, found nothing. Fix: its path."
        ) from error
    except (OSError, zipfile.BadZipFile) as error:
        raise PackageError(
            f"{shown_path(path)}: expected a wheel, found {reason_of(error)}. Fix: download it again."
        ) from error

    def read(inner: str) -> str | None:
        try:
            with zipfile.ZipFile(path) as wheel, wheel.open(inner) as file:
                return _text(inner, file.read(MAX_SOURCE_BYTES + 1))
        except KeyError:
            return None
        except (OSError, zipfile.BadZipFile, zlib.error, EOFError, RuntimeError) as error:
            raise PackageError(
                f"{shown_path(path)}: {inner} cannot be read: {reason_of(error)}. Fix: download it again."
            ) from error

    return read


def _text(inner: str, data: bytes) -> str:
    if len(data) > MAX_SOURCE_BYTES:
        raise PackageError(f"{inner}: expected at most {MAX_SOURCE_BYTES} bytes, found more.")
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise PackageError(f"{inner}: expected UTF-8, found {error.reason} at byte {error.start}.") from error
