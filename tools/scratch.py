"""Temporary folders that no kill leaves behind for ever: the next that is made removes those whose owner is dead.

An owner holds a lock on its folder, which ends with its process. Where the file system has no locks, nothing is swept.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import tempfile
import weakref
from pathlib import Path
from types import TracebackType


class Scratch:
    """A folder of its own in the temporary one. OSError: there is no room for it."""

    def __init__(self, prefix: str) -> None:
        """prefix: of its name, and of those that are swept."""
        _sweep(prefix)
        self._folder, descriptor = _locked(prefix)
        self._unlock = weakref.finalize(self, os.close, descriptor)
        # Inside, for the folder itself is locked, and a store locks its own root.
        self.path = Path(self._folder.name) / "held"
        self.path.mkdir()

    def __enter__(self) -> Path:
        return self.path

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.cleanup()

    def cleanup(self) -> None:
        """Removes it with all that it holds. Twice is once."""
        self._folder.cleanup()
        self._unlock()


def _locked(prefix: str) -> tuple[tempfile.TemporaryDirectory[str], int]:
    while True:
        folder = tempfile.TemporaryDirectory(prefix=prefix)
        with contextlib.suppress(FileNotFoundError):
            descriptor = os.open(folder.name, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            # Another process may have taken it for a dead one's before it was locked. It holds it while it removes it.
            with contextlib.suppress(OSError):  # a file system without locks
                fcntl.flock(descriptor, fcntl.LOCK_EX)
            if os.path.exists(folder.name):  # noqa: PTH110 (never raises)
                return folder, descriptor
            os.close(descriptor)
        folder.cleanup()


def _sweep(prefix: str) -> None:
    with contextlib.suppress(OSError):
        for path in Path(tempfile.gettempdir()).glob(f"{prefix}*"):
            _remove_unless_locked(path)


def _remove_unless_locked(path: Path) -> None:
    with contextlib.suppress(OSError):
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            if os.fstat(descriptor).st_uid != os.getuid():
                return
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(path, ignore_errors=True)
        finally:
            os.close(descriptor)
