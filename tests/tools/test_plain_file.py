"""What a person names is read only where it is a regular file of bounded size."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tools.plain_file import check, read_text


def test_text_is_read_without_its_byte_order_mark(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes("\ufeffé\n".encode())
    assert read_text(tmp_path / "a") == "é\n"


def test_links_are_followed(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("x")
    (tmp_path / "b").symlink_to(tmp_path / "a")
    assert read_text(tmp_path / "b") == "x"


def test_pipes_devices_and_folders_are_not_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", tmp_path, Path("/dev/zero")):
        with pytest.raises(OSError, match="Not a regular file"):
            read_text(path)


def test_more_than_is_wanted_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(bytes(11))
    check(tmp_path / "a", 11)
    with pytest.raises(OSError, match="File too large, 11 bytes where at most 10 are read"):
        check(tmp_path / "a", 10)


def test_what_is_missing_says_so(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        check(tmp_path / "a")
