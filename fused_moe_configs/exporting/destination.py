"""The folder that exports write to: one at a time, whole files, and never what another hand wrote or changed."""

from __future__ import annotations

import hashlib
import json
import os
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fused_moe_configs.lookup import ConfigError, read_json

MANIFEST = ".fused_moe_configs.json"
LOCK = ".fused_moe_configs.lock"
LOCK_WAIT_S = 30.0
MANIFEST_MAX_BYTES = 2**26
_WRITTEN = re.compile(r"(configs/triton_\d+_\d+_\d+/)?[^/\\]+\.json")


def write(destination: Path, engine: str, files: dict[str, bytes], notes: list[str]) -> list[Path]:
    """Replaces and removes only what the manifest says an export wrote, and only while it is unchanged.

    OSError: it can't be written. TimeoutError: another export holds the lock. ConfigError: the manifest is broken.
    """
    written = []
    with _locked(destination), _owned(destination, engine) as owned:
        for name in sorted({*files, *owned}):
            path, data = destination / name, files.get(name)
            wanted = data is not None and hashlib.sha256(data).hexdigest()
            # What has our bytes already is ours, whoever wrote it.
            if os.path.lexists(path) and _sha256(path) not in (owned.get(name), wanted):
                notes.append(f"{path}: left alone: another hand wrote or changed it")
            elif data is not None:
                _replace(path, data)
                written.append(path)
                owned[name] = str(wanted)
                continue
            else:
                path.unlink(missing_ok=True)
            owned.pop(name, None)
    return written


@contextmanager
def _locked(destination: Path) -> Iterator[None]:
    """While no other export writes to the folder, which is made where it is missing."""
    lock, deadline = destination / LOCK, time.monotonic() + LOCK_WAIT_S
    destination.mkdir(parents=True, exist_ok=True)
    while True:
        try:
            os.close(os.open(lock, os.O_CREAT | os.O_EXCL))
            break
        except FileExistsError:
            if time.monotonic() > deadline:
                fix = "Fix: try again, or remove the file if no export runs"
                raise TimeoutError(f"{lock}: expected no other export here, found one at work. {fix}") from None
            time.sleep(0.05)
    try:
        yield
    finally:
        lock.unlink(missing_ok=True)


@contextmanager
def _owned(destination: Path, engine: str) -> Iterator[dict[str, str]]:
    """Name → SHA-256 of what exports for the engine wrote, from the manifest and back to it."""
    path = destination / MANIFEST
    manifest = _read_manifest(path)
    try:
        yield manifest.setdefault(engine, {})
    finally:
        if any(manifest.values()) or path.exists():
            _replace(path, f"{json.dumps(manifest, indent=4)}\n".encode())


def _read_manifest(path: Path) -> dict[str, dict[str, str]]:
    try:
        document = read_json(path, MANIFEST_MAX_BYTES)[1] if os.path.lexists(path) else ()
        manifest = {engine: dict(names) for engine, names in document}
        if all(_WRITTEN.fullmatch(name) for names in manifest.values() for name in names):
            return manifest
        reason = "a name that no export writes"
    except (ValueError, TypeError) as error:
        reason = str(getattr(error, "reason", error))
    raise ConfigError(path, f"expected the list of exported files, found: {reason}. Fix: export to a new folder")


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "no file"


def _replace(path: Path, data: bytes) -> None:
    """Whole or not at all: readers see the old bytes or the new ones."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".fused_moe_configs-{os.urandom(6).hex()}")
    try:
        temporary.write_bytes(data)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
