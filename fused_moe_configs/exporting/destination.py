"""The folder that exports write to: one at a time, whole files, and never what another hand wrote or changed.

An export that is killed at any moment is finished by the next one. Its lock dies with its process, and the manifest
names every file with the hash of its bytes before the first one is written.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from fused_moe_configs.index import is_store
from fused_moe_configs.lookup import ConfigError, counted, printable, read_json
from fused_moe_configs.naming import MANIFEST

from .notes import Notes

USUAL = ("./moe-configs", "~/moe-configs")
"""Folders to name instead of one that is refused."""
LOCK = ".fused_moe_configs.lock"
LOCK_WAIT_S = 30.0
MANIFEST_MAX_BYTES = 2**26
_TEMPORARY = ".fused_moe_configs-"
_WRITTEN = re.compile(r"(configs/triton_\d+_\d+_\d+/)?[^/\\]+\.json")
_Manifest = dict[str, dict[str, str]]
"""Engine → name → the SHA-256 that a file of ours may have; while an export is at work there are several."""


def check(destination: Path, names: Iterable[str], kept: Mapping[str, Path]) -> None:
    """Refuses what an export must not write into, whichever links lead there, before anything is written.

    names: of the files to come. kept: what each folder is that stays as it is. ValueError: it is one of them or any
    store of tuned files, lies in one, or is the root of the file system.
    """
    if fault := _fault(destination, names, kept):
        wish = f"destination: expected a folder of the export's own, found {printable(destination)}"
        # The usual name is no way out for who stands in a store, say.
        free = [each for each in USUAL if not _fault(Path(os.path.expanduser(each)), names, kept)]  # noqa: PTH111
        fix = f"Fix: name another one{f', such as {free[0]}' if free else ''}"
        raise ValueError(f"{wish}, which writes into {fault}. {fix}")


def _fault(destination: Path, names: Iterable[str], kept: Mapping[str, Path]) -> str:
    """What it would write into and must not; empty: nothing."""
    folders = {os.path.realpath(destination / name.rpartition("/")[0]) for name in ("", *names)}
    if os.path.dirname(real := os.path.realpath(destination)) == real:  # noqa: PTH120 (as realpath)
        return "the root of the file system"
    for what, path in kept.items():
        if _is_within(folders, os.path.realpath(path)):
            return f"{what}, {printable(path)}"
    around = dict.fromkeys(path for folder in sorted(folders) for path in (Path(folder), *Path(folder).parents))
    return next((f"a store of tuned files, {printable(path)}" for path in around if is_store(path)), "")


def _is_within(folders: Iterable[str], kept: str) -> bool:
    return any(Path(folder).is_relative_to(kept) for folder in folders)


class Written(NamedTuple):
    """paths: of the files that this export wrote. alike: of those of another hand that had the very bytes already."""

    paths: list[Path]
    alike: list[Path]


def write(destination: Path, engine: str, files: dict[str, bytes], notes: Notes) -> Written:
    """Replaces and removes only what the manifest says an export wrote, and only while it is unchanged.

    OSError: it can't be written. RuntimeError: it can't be locked. ConfigError: the manifest is broken.
    """
    written, removed = list[Path](), 0
    wanted = {name: hashlib.sha256(data).hexdigest() for name, data in files.items()}
    with _locked(destination):
        manifest = _read_manifest(destination / MANIFEST)
        _remove_leftovers(destination)
        known = manifest.get(engine, {})
        there = {name: _sha256(destination / name) for name in sorted({*known, *wanted})}
        # A file with the very bytes that are to come is another hand's all the same: no export may remove it.
        others = {name: found for name, found in there.items() if found and found not in known.get(name, "").split()}
        ours = {name: f"{known.get(name, '')} {wanted.get(name, '')}".split() for name in there if name not in others}
        _write_manifest(destination, manifest | {engine: {name: " ".join(hashes) for name, hashes in ours.items()}})
        for name in ours:
            path = destination / name
            if name in files:
                _replace(path, files[name])
                written.append(path)
            else:
                path.unlink(missing_ok=True)
                removed += there[name] is not None
        _write_manifest(destination, manifest | {engine: {name: wanted[name] for name in ours if name in wanted}})
    alike = [destination / name for name, found in others.items() if found == wanted.get(name)]
    for name, found in others.items():
        if found != wanted.get(name):
            note = notes.lose if name in wanted else notes.say
            why = "left alone: another hand wrote or changed it"
            note(f"{printable(destination / name)}: {why}. Fix: remove it, or export to another folder")
    if alike:
        notes.say(f"{counted(len(alike), 'file')} there already with the same bytes: left alone, by later exports too")
    if removed:
        notes.say(f"{counted(removed, 'file')} of an earlier export {'is' if removed == 1 else 'are'} removed")
    return Written(written, alike)


@contextmanager
def _locked(destination: Path) -> Iterator[None]:
    """While no other export writes to the folder, which is made where it is missing. The lock's file stays there."""
    try:
        import fcntl
    except ImportError:
        wish = "export: expected a system with file locks (Linux, macOS), found another"
        raise RuntimeError(f"{wish}. Fix: export on one of them, and copy the folder") from None
    destination.mkdir(parents=True, exist_ok=True)
    lock, deadline = destination / LOCK, time.monotonic() + LOCK_WAIT_S
    descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK, 0o666)
    try:
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    wish = f"{printable(lock)}: expected no other export here, found one after {LOCK_WAIT_S:.0f} s"
                    raise RuntimeError(f"{wish}. Fix: try again when it has ended") from None
                time.sleep(0.05)
            except OSError as error:
                wish = f"{printable(lock)}: expected a file system that locks files, found: {error.strerror}"
                raise RuntimeError(f"{wish}. Fix: export to a local folder, and copy it") from error
        try:
            yield
        finally:  # a process forked meanwhile holds the descriptor too, and would hold the lock
            fcntl.flock(descriptor, fcntl.LOCK_UN)
    finally:
        os.close(descriptor)


def _remove_leftovers(destination: Path) -> None:
    """What exports that were killed in mid-write left behind: under the lock no other one writes."""
    for folder in (destination, *destination.glob("configs/triton_*")):
        for path in folder.glob(f"{_TEMPORARY}*"):
            if re.fullmatch(f"{re.escape(_TEMPORARY)}[0-9a-f]{{12}}", path.name):
                path.unlink(missing_ok=True)


def _write_manifest(destination: Path, manifest: _Manifest) -> None:
    _replace(destination / MANIFEST, f"{json.dumps(manifest, indent=4)}\n".encode())


def _read_manifest(path: Path) -> _Manifest:
    try:
        document = read_json(path, MANIFEST_MAX_BYTES)[1] if os.path.lexists(path) else ()
        manifest = {engine: dict(names) for engine, names in document}
        if all(_WRITTEN.fullmatch(name) for names in manifest.values() for name in names):
            return manifest
        reason = "a name that no export writes"
    except (ValueError, TypeError) as error:
        reason = str(getattr(error, "reason", error)).split(". Fix: ")[0]
    raise ConfigError(path, f"expected the list of exported files, found: {reason}. Fix: export to a new folder")


def _sha256(path: Path) -> str | None:
    """None: nothing has this name."""
    if not os.path.lexists(path):
        return None
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "no file"


def _replace(path: Path, data: bytes) -> None:
    """Whole or not at all: readers see the old bytes or the new ones."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{_TEMPORARY}{os.urandom(6).hex()}")
    try:
        temporary.write_bytes(data)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
