"""Files and folders that a person names, asked about before they are used.

Files are regular ones of bounded size: a pipe would be waited for, a device never ends.
"""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

MOST_BYTES = 16 << 20
"""Of a text that a person wrote or a checkpoint brings: both have kilobytes."""


def check(path: Path, most_bytes: int = MOST_BYTES) -> None:
    """OSError: missing, no regular file (links are followed), or larger; its strerror says which."""
    found = path.stat()
    if not stat.S_ISREG(found.st_mode):
        raise OSError(errno.EINVAL, "Not a regular file", str(path))
    if found.st_size > most_bytes:
        told = f"File too large, {found.st_size} bytes where at most {most_bytes} are read"
        raise OSError(errno.EFBIG, told, str(path))


def read_text(path: Path) -> str:
    """UTF-8, a byte order mark dropped. OSError as `check`; ValueError: other bytes than UTF-8."""
    check(path)
    return path.read_text("utf-8-sig")


def check_folder(folder: Path) -> None:
    """Of a folder that need not be there yet. OSError: no file can be put into it; its filename says why not."""
    there = next(path for path in (folder, *folder.parents) if path.exists())
    if not there.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(there))
    if not os.access(there, os.W_OK | os.X_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(there))
