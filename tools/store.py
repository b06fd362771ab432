"""The store: where tuned files and records lie, and the only code that reads or writes their bytes.

Repo layout below the configs folder: `NAME.json` (default tier), `triton_X_Y_Z/NAME.json`,
`legacy_configs/NAME.json`, and for each of them `records/` + the same relative path.
vLLM's layout is a flat folder; SGLang's is a tree of `triton_X_Y_Z/` folders.
"""

from __future__ import annotations

import enum
import functools
import hashlib
import json
import os
import re
import stat
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import tomllib

from tools.launch_config import KEY_VENDOR, LaunchConfig
from tools.strict_json import Fault, Json, parse
from tools.workload import Layout

CHECKOUT = Path(__file__).resolve().parent.parent
CONFIGS = CHECKOUT / "configs"
LEGACY = "legacy_configs"
RECORDS = "records"
REGISTRY = "registry"

MAX_BYTES = 1024 * 1024
"""A tuned file has a few kilobytes; whatever is larger than this is not read."""

_VERSION_FOLDER = re.compile(r"triton_([0-9]{1,4})_([0-9]{1,4})_([0-9]{1,4})", re.ASCII)


class Role(enum.Enum):
    """What a file in the tree is for."""

    CONFIG = "config"
    RECORD = "record"
    KNOWN = "known"
    FOREIGN = "foreign"
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


def shown(path: Path) -> str:
    """The path as findings name it: relative to the working directory where it lies below it, on one line."""
    absolute = str(path.absolute())
    prefix = f"{Path.cwd()}{os.sep}"
    return printable(absolute.removeprefix(prefix))


def printable(text: str) -> str:
    """Text with control characters and undecodable bytes escaped, so that a name cannot forge output lines."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "backslashreplace").decode() for c in text)


def version_of_folder(folder: str) -> tuple[int, int, int] | None:
    """(3, 8, 0) for `triton_3_8_0`, None for every other folder name."""
    match = _VERSION_FOLDER.fullmatch(folder)
    return (int(match[1]), int(match[2]), int(match[3])) if match else None


def version_folder(triton_version: str) -> str:
    """`triton_3_8_0` for `3.8.0`, local and pre-release parts cut off. ValueError for what is no version."""
    match = re.match(r"(\d{1,4})\.(\d{1,4})\.(\d{1,4})(?!\d)", triton_version, re.ASCII)
    if match is None:
        raise ValueError(f"Triton version: expected X.Y.Z, found {triton_version!r}")
    return f"triton_{int(match[1])}_{int(match[2])}_{int(match[3])}"


@functools.cache
def reference_triton() -> str:
    """The Triton that the default tier is tuned with, from pyproject.toml."""
    project = tomllib.loads((CHECKOUT / "pyproject.toml").read_text("utf-8"))
    return str(project["tool"]["fused-moe-configs"]["reference-triton"])


# Finding files


def discover(paths: Iterable[Path], layout: Layout) -> list[Found]:
    """Every file at or below the paths, each once, sorted. Raises FileNotFoundError for a path that isn't there."""
    found: dict[Path, Found] = {}
    for path in paths:
        if not os.path.lexists(path):
            raise FileNotFoundError(path)
        root = _root_of(path.absolute(), layout)  # a link that the user names is followed, one inside the tree is not
        for file in _walk(path.absolute()):
            relative = PurePosixPath(file.relative_to(root).as_posix())
            found[file] = Found(file, root, relative, _role(file, relative, layout))
    return [found[path] for path in sorted(found)]


def _root_of(path: Path, layout: Layout) -> Path:
    """The folder that holds the tiers, seen from any file or folder in it."""
    folder = path if path.is_dir() and path.suffix != ".json" else path.parent
    if layout is Layout.VLLM:
        return folder
    if layout is Layout.SGLANG:
        if folder.name.startswith("triton_"):
            return folder.parent
        # SGLANG_MOE_CONFIG_DIR is the folder above configs/
        return folder / "configs" if (folder / "configs").is_dir() else folder
    while folder.name in (LEGACY, RECORDS, REGISTRY) or version_of_folder(folder.name) is not None:
        folder = folder.parent
    return folder


def _walk(path: Path) -> Iterator[Path]:
    """Files below a path. Links, odd file types, folders named like a tuned file or unreadable come as they are."""
    if not path.is_dir() or path.suffix == ".json":
        yield path
        return
    folders = [path]  # a stack: folders can nest deeper than calls
    while folders:
        folder = folders.pop()
        try:
            with os.scandir(folder) as entries:
                children = list(entries)
        except OSError:
            yield folder
            continue
        for entry in children:
            child = Path(entry.path)
            if entry.is_dir(follow_symlinks=False) and child.suffix != ".json":
                folders.append(child)
            else:
                yield child


def _role(path: Path, relative: PurePosixPath, layout: Layout) -> Role:
    parts = relative.parts
    looks_tuned = path.suffix == ".json"
    if not looks_tuned and (_file_type(path) == stat.S_IFDIR or not parts):
        return Role.UNREADABLE
    if layout is Layout.VLLM:
        return Role.CONFIG if looks_tuned and len(parts) == 1 else Role.KNOWN
    if layout is Layout.SGLANG:
        return Role.CONFIG if looks_tuned and len(parts) == 2 else Role.KNOWN
    kind = _file_type(path)
    if kind != stat.S_IFREG:
        is_folder_like_file = looks_tuned and len(parts) == 1 and kind == stat.S_IFDIR
        return Role.CONFIG if is_folder_like_file else Role.FOREIGN
    if parts in (("README.md",), (REGISTRY, "devices.json"), (REGISTRY, "models.json")):
        return Role.KNOWN
    if parts[0] == RECORDS and _in_tier(parts[1:]) and looks_tuned:
        return Role.RECORD
    if _in_tier(parts) and looks_tuned:
        return Role.CONFIG
    return Role.FOREIGN


def _file_type(path: Path) -> int:
    """The type bits of a path, links not followed. What can't be asked counts as a file: reading it says why."""
    try:
        return stat.S_IFMT(path.lstat().st_mode)
    except OSError:
        return stat.S_IFREG


def _in_tier(parts: tuple[str, ...]) -> bool:
    if len(parts) == 1:
        return True
    return len(parts) == 2 and (parts[0] == LEGACY or version_of_folder(parts[0]) is not None)


# Reading


@dataclass(frozen=True)
class Content:
    """What reading a file gave: its bytes and document where possible, and every fault on the way."""

    data: bytes | None
    document: Json
    faults: tuple[Fault, ...]


def read(path: Path) -> Content:
    """Reads a JSON file of the store. Never raises: whatever goes wrong is a fault."""
    try:
        if path.is_dir():
            return _unread("a directory named like a file", "remove it")
        if not path.is_file():
            return _unread("not a regular file (a broken link, a device or a pipe)", "replace it by a file")
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
            size = os.fstat(file.fileno()).st_size
    except OSError as error:
        return _unread(f"cannot be read: {error.strerror or error}", "make it readable")
    if len(data) > MAX_BYTES:
        return _unread(f"expected at most {MAX_BYTES} bytes, found {size}", "a tuned file has a few kilobytes")
    document, faults = parse(data)
    return Content(data, document, faults)


def _unread(message: str, fix: str) -> Content:
    return Content(None, None, (Fault(message, fix),))


def record_path(root: Path, relative: PurePosixPath) -> Path:
    """Where the record of the tuned file `root/relative` lies."""
    return root / RECORDS / relative


# Writing


def canonical_config(config: Mapping[str, Mapping[str, Json]]) -> bytes:
    """The one way a tuned file is written: batch sizes ascending, keys in order, four spaces, one newline."""
    order = {key: rank for rank, key in enumerate(KEY_VENDOR)}

    def entry(values: Mapping[str, Json]) -> dict[str, Json]:
        return {key: values[key] for key in sorted(values, key=lambda key: order.get(key, len(order)))}

    return _dump({key: entry(config[key]) for key in sorted(config, key=int)})


def canonical_entries(entries: Mapping[int, LaunchConfig]) -> bytes:
    """The bytes of a tuned file that holds these launch configs."""
    return canonical_config({str(num_tokens): config.to_entry() for num_tokens, config in entries.items()})


def canonical_record(record: Mapping[str, Json]) -> bytes:
    """The one way a record is written: keys in the order given, four spaces, one newline."""
    return _dump(record)


def _dump(document: Json) -> bytes:
    return (json.dumps(document, indent=4, ensure_ascii=False, allow_nan=False) + "\n").encode()


def sha256(data: bytes) -> str:
    """Lower-case hexadecimal SHA-256."""
    return hashlib.sha256(data).hexdigest()


def write(path: Path, data: bytes) -> None:
    """Writes a whole file or nothing: readers see the old bytes or the new ones, never a part."""
    path.parent.mkdir(parents=True, exist_ok=True)
    mode = path.stat().st_mode & 0o777 if path.exists() else 0o644
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=".", suffix=".tmp")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).chmod(mode)
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
