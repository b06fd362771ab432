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

from fused_moe_configs.lookup import ConfigError, printable, read_json
from fused_moe_configs.naming import MANIFEST

from .notes import Notes

LOCK = ".fused_moe_configs.lock"
LOCK_WAIT_S = 30.0
MANIFEST_MAX_BYTES = 2**26
_TEMPORARY = ".fused_moe_configs-"
_WRITTEN = re.compile(r"(configs/triton_\d+_\d+_\d+/)?[^/\\]+\.json")
_Manifest = dict[str, dict[str, str]]
"""Engine → name → the SHA-256 that a file of ours may have; while an export is at work there are several."""


def check(destination: Path, names: Iterable[str], kept: Mapping[str, Path]) -> None:
    """Refuses what an export must not write into, whichever links lead there, before anything is written.

    names: of the files to come. kept: what each folder is that stays as it is. ValueError: it is one of them, lies in
    it, or is the root of the file system.
    """
    folders = {os.path.realpath(destination / name.rpartition("/")[0]) for name in ("", *names)}
    held = {what: path for what, path in kept.items() if _is_within(folders, os.path.realpath(path))}
    faults = [f"{what}, {printable(path)}" for what, path in held.items()]
    if os.path.dirname(real := os.path.realpath(destination)) == real:  # noqa: PTH120 (as realpath)
        faults.insert(0, "the root of the file system")
    if faults:
        wish = f"destination: expected a folder of the export's own, found {printable(destination)}"
        raise ValueError(f"{wish}, which writes into {faults[0]}. Fix: name another one, such as ./moe-configs")


def _is_within(folders: Iterable[str], kept: str) -> bool:
    return any(Path(folder).is_relative_to(kept) for folder in folders)


def write(destination: Path, engine: str, files: dict[str, bytes], notes: Notes) -> list[Path]:
    """Replaces and removes only what the manifest says an export wrote, and only while it is unchanged.

    OSError: it can't be written. RuntimeError: it can't be locked. ConfigError: the manifest is broken.
    """
    written, wanted = [], {name: hashlib.sha256(data).hexdigest() for name, data in files.items()}
    with _locked(destination):
        manifest = _read_manifest(destination / MANIFEST)
        _remove_leftovers(destination)
        known = manifest.get(engine, {})
        # What has our bytes already is ours, whoever wrote it.
        ours = {name: f"{known.get(name, '')} {wanted.get(name, '')}".split() for name in sorted({*known, *wanted})}
        _write_manifest(destination, manifest | {engine: {name: " ".join(hashes) for name, hashes in ours.items()}})
        for name, hashes in ours.items():
            path = destination / name
            if os.path.lexists(path) and _sha256(path) not in hashes:
                note = notes.lose if name in wanted else notes.say
                why = "left alone: another hand wrote or changed it"
                note(f"{printable(path)}: {why}. Fix: remove it, or export to another folder")
                wanted.pop(name, None)
            elif name in files:
                _replace(path, files[name])
                written.append(path)
            else:
                path.unlink(missing_ok=True)
        _write_manifest(destination, manifest | {engine: wanted})
    return written


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


def _sha256(path: Path) -> str:
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
