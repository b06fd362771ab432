"""The store: where tuned files and records lie, and the only code that reads or writes their bytes.

Repo layout below the configs folder: `NAME.json` (default tier), `triton_X_Y_Z/NAME.json`,
`legacy_configs/NAME.json`, and for each of them `records/` + the same relative path.
vLLM's layout is a flat folder; SGLang's is a tree of `triton_X_Y_Z/` folders.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import re
import stat
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from kernels.launch_config import KEY_VENDOR, LaunchConfig
from tools.errors import UserError
from tools.store.strict_json import Fault, Json, parse
from tools.store.tiers import RECORDS, Found, Role, role_of, root_of
from tools.store.workload import Layout
from tools.text import shown_path

MAX_BYTES = 1024 * 1024
"""The store's files have a few kilobytes; whatever is larger than this is not read."""

MAX_ROWS = 256
"""Batch sizes of one tuned file, as the schema has it; engines ask for some twenty."""


@dataclass(frozen=True)
class Limits:
    """How much of a file is read: more takes seconds in rules and schemas, and stands in no sound file.

    lists: objects and lists in it. keys: at the top level; None: as many as there are.
    """

    num_bytes: int = MAX_BYTES
    lists: int = 10_000
    keys: int | None = None


ANY_FILE = Limits()
"""A record has some hundred lists; a mebibyte of them takes a second a file."""

RECORD = Limits(num_bytes=512 * 1024)
"""Twenty rows are 18 KiB; of twelve shapes, the most that the registry knows behind a name, 190."""

TUNED_FILE = Limits(num_bytes=128 * 1024, lists=2 * MAX_ROWS, keys=MAX_ROWS)
"""Twenty rows are 4 KiB, of 256 with every key there is 90."""


def version_folder(triton_version: str) -> str:
    """`triton_3_8_0` for `3.8.0`, local and pre-release parts cut off. ValueError for what is no version, as 0.0.0."""
    match = re.match(r"(\d{1,4})\.(\d{1,4})\.(\d{1,4})(?!\d)", triton_version, re.ASCII)
    if match is None or not any(map(int, match.groups())):
        raise ValueError(f"Triton version: expected X.Y.Z, found {triton_version!r}")
    return f"triton_{int(match[1])}_{int(match[2])}_{int(match[3])}"


# Finding files


def discover(paths: Iterable[Path], layout: Layout) -> list[Found]:
    """Every file at or below the paths, each once, sorted.

    FileNotFoundError: a path isn't there. PermissionError: a folder on the way to it can't be entered.
    """
    found: dict[Path, Found] = {}
    for named in paths:
        if not os.path.lexists(named):
            if (closed := closed_folder(named.absolute())) is not None:
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(closed))
            raise FileNotFoundError(named)
        path = _plain(named)
        root = root_of(path, layout)  # a link that the user names is followed, one inside the tree is not
        for file in walk(root if path in root.parents else path):
            relative = PurePosixPath(file.relative_to(root).as_posix())
            found[file] = Found(file, root, relative, role_of(file, relative, layout))
    return [found[path] for path in sorted(found)]


def tuned_files_of_records(found: Iterable[Found]) -> list[Found]:
    """The tuned files that the records among `found` speak of, as far as they are there and not among `found`."""
    files = list(found)
    present = {file.path for file in files}
    configs = [(file.root, PurePosixPath(*file.relative.parts[1:])) for file in files if file.role is Role.RECORD]
    return [
        Found(root / relative, root, relative, Role.CONFIG)
        for root, relative in configs
        if root / relative not in present and os.path.lexists(root / relative)
    ]


def closed_folder(path: Path) -> Path | None:
    """The outermost folder on the way to `path` that can't be entered; None where it can be asked for."""
    try:
        path.lstat()
    except PermissionError:
        return closed_folder(path.parent) or path.parent
    except OSError:
        return None
    return None


def walk(path: Path) -> Iterator[Path]:
    """Files below a path. Links, odd file types, folders named like a tuned file or unreadable come as they are."""
    if path.suffix == ".json" or not os.path.isdir(path):  # noqa: PTH112 (never raises)
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


def _plain(path: Path) -> Path:
    """The absolute path without `..`, so that a file has one path; a link that is named itself stays one."""
    if ".." not in path.parts:
        return path.absolute()
    return path.resolve() if path.name == ".." else path.parent.resolve() / path.name


# Reading


@dataclass(frozen=True)
class Content:
    """What reading a file gave: its bytes and document where possible, and every fault on the way."""

    data: bytes | None
    document: Json
    faults: tuple[Fault, ...]


def read_file(path: Path, limits: Limits = ANY_FILE) -> Content:
    """Reads a JSON file of the store. Never raises: whatever goes wrong is a fault."""
    try:
        mode = path.lstat().st_mode
        if stat.S_ISLNK(mode) and os.path.exists(path):  # noqa: PTH110 (never raises)
            mode = path.stat().st_mode
        if stat.S_ISDIR(mode):
            return _unread("a directory named like a file", "remove it")
        if not stat.S_ISREG(mode):
            return _unread("not a regular file (a broken link, a device or a pipe)", "replace it by a file")
        with path.open("rb") as file:
            data = file.read(limits.num_bytes + 1)
            size = os.fstat(file.fileno()).st_size
    except FileNotFoundError:
        return _unread("not found", "restore it")
    except OSError as error:
        return _unread(f"cannot be read: {error.strerror or error}", "make it readable")
    return content_of(data, limits, size)


def content_of(data: bytes, limits: Limits = ANY_FILE, size: int | None = None) -> Content:
    """What the bytes hold, as of a file with these bytes. size: of the file where `data` is only its beginning."""
    if len(data) > limits.num_bytes:
        message = f"expected at most {limits.num_bytes} bytes, found {size or len(data)}"
        return _unread(message, "make it smaller: nothing larger is read")
    document, faults = parse(data, most_lists=limits.lists)
    if limits.keys is not None and isinstance(document, dict) and len(document) > limits.keys:
        fault = Fault(f"expected at most {limits.keys} keys at the top level, found {len(document)}", _FEWER)
        return Content(data, None, (*faults, fault))
    return Content(data, document, faults)


_FEWER = "keep the batch sizes that engines ask for"


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


LOCK_LIMIT_S = 60.0
"""How long a writer waits for another; each holds the lock for milliseconds."""


@contextlib.contextmanager
def lock(root: Path, limit_s: float = LOCK_LIMIT_S) -> Iterator[None]:
    """Whoever reads a file, changes it and writes it again holds the folder of tiers meanwhile, or rows get lost.

    Not to be taken twice by one process. The folder is made where it isn't there; the lock is on the folder itself, so
    nothing is left behind, and ends with its process. Where the file system has no locks (some NFS), or the folder
    can't be read, nobody waits.
    UserError: another process holds it for all that time. OSError: the folder can't be made or opened.
    """
    with _errors_of(root):
        root.mkdir(parents=True, exist_ok=True)
        try:
            descriptor = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except PermissionError:  # files may be put into it all the same
            descriptor = None
    if descriptor is None:
        yield
        return
    try:
        _wait_for(descriptor, root, limit_s)
        yield
    finally:
        os.close(descriptor)


def _wait_for(descriptor: int, root: Path, limit_s: float) -> None:
    deadline = time.monotonic() + limit_s
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError as error:
            if time.monotonic() >= deadline:
                raise UserError(
                    f"{shown_path(root)}: expected no other process that writes there, found one for {limit_s:g} s. "
                    "Fix: end it, or wait for its end."
                ) from error
        except OSError:
            return
        time.sleep(0.01)


def write_file(path: Path, data: bytes) -> None:
    """Writes a whole file or nothing: readers see the old bytes or the new ones, never a part.

    OSError: it can't be written; its `filename` is `path`, whatever step failed.
    """
    with _errors_of(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        _replace(path, data)


@contextlib.contextmanager
def _errors_of(path: Path) -> Iterator[None]:
    """Whatever step fails, the error names the path."""
    try:
        yield
    except (FileExistsError, NotADirectoryError) as error:
        raise NotADirectoryError(errno.ENOTDIR, "a file stands where a folder is needed", str(path)) from error
    except OSError as error:
        raise OSError(error.errno, error.strerror or str(error), str(path)) from error


_UNFINISHED = ".writing-"
"""How the name of a file begins that is being written, or that a killed process was writing."""


def _replace(path: Path, data: bytes) -> None:
    if path.exists() and not path.is_file() and not path.is_dir():  # a folder's own error says what it is
        raise OSError(errno.EINVAL, "a device or pipe stands there, which is no file to replace", str(path))
    mode = path.stat().st_mode & 0o777 if path.exists() else 0o644
    _clear(path.parent)
    descriptor, temporary = _unfinished(path.parent)
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


def _unfinished(folder: Path) -> tuple[int, str]:
    """(descriptor, path) of a new file, locked as long as it is open."""
    while True:
        descriptor, temporary = tempfile.mkstemp(dir=folder, prefix=_UNFINISHED, suffix=".tmp")
        with contextlib.suppress(OSError):  # a file system without locks, where nothing is cleared either
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        # Another writer may have taken it for a killed one's before it was locked.
        if os.fstat(descriptor).st_nlink:
            return descriptor, temporary
        os.close(descriptor)


def _clear(folder: Path) -> None:
    """Removes what killed writers left. A living one holds a lock on its file."""
    with contextlib.suppress(OSError):
        for path in folder.glob(f"{_UNFINISHED}*.tmp"):
            _remove_unless_locked(path)


def _remove_unless_locked(path: Path) -> None:
    with contextlib.suppress(OSError):
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            path.unlink()
        finally:
            os.close(descriptor)
