"""The journal: every event of a run, appended the moment it exists. A recorded landscape is a journal that was kept.

One JSON object a line. The first is the header: what was tuned, with what settings, where. A line that a kill cut
short is the last one, and is dropped. Files that end in .gz are read and written compressed.
"""

from __future__ import annotations

import gzip
import io
import json
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from tools import cli
from tools.errors import reason_of
from tools.tune.journal_lines import (
    Header,
    device_from_json,
    event_from_json,
    event_to_json,
    header_from_json,
    header_to_json,
)
from tools.tune.model import Event, Subject

MOST_CHARACTERS = 1 << 28
"""Of a journal, unpacked: an exhaustive one of the largest space has a tenth."""


_FIX = "Fix: give a file that the tuner wrote (--record-landscape FILE keeps one)"


class JournalError(ValueError):
    """A journal or landscape that can't be used. One line for a person."""


@dataclass(frozen=True)
class Entry:
    """An event and the run's clock when it came."""

    event: Event
    clock_s: float


@dataclass(frozen=True)
class Journal:
    """A journal as it is read. device: what the GPU's process reported, None where the run didn't come so far."""

    header: Header
    entries: tuple[Entry, ...]
    device: Mapping[str, Any] | None = None


class JournalWriter:
    """Appends to a journal. Each line is flushed: a kill loses at most the line being written."""

    def __init__(self, path: Path, header: Header | None, *, is_new: bool = False) -> None:
        """header None: go on with a journal that has one. is_new: the file mustn't be there. OSError: can't write."""
        path.parent.mkdir(parents=True, exist_ok=True)
        if header is None:
            _drop_torn_line(path)
        self._is_compressed = path.suffix == ".gz"
        self._file: IO[str] = _open(path, "at" if header is None else "xt" if is_new else "wt")
        if header is not None:
            self._line(header_to_json(header))
            # Also of a compressed one: whose landscape it is must be told after a kill.
            self._file.flush()

    def append(self, event: Event, clock_s: float) -> None:
        self._line({**event_to_json(event), "clock_s": round(clock_s, 4)})

    def report(self, device: Mapping[str, Any]) -> None:
        """What the GPU's process reported, which is known only once it is up."""
        self._line({"device": dict(device)})

    def close(self) -> None:
        self._file.close()

    def _line(self, document: Mapping[str, Any]) -> None:
        self._file.write(json.dumps(document, separators=(",", ":")) + "\n")
        # A landscape that is being compressed would hardly shrink line by line.
        if not self._is_compressed:
            self._file.flush()


def read_journal(path: Path) -> Journal:
    """JournalError: missing, unreadable, or no journal; names the line."""
    try:
        with _open(path, "rt") as file:
            text = file.read(MOST_CHARACTERS + 1)
    except (OSError, EOFError, UnicodeDecodeError, zlib.error) as error:
        raise JournalError(f"{path}: expected a journal of the tuner, found: {reason_of(error)}. {_FIX}") from error
    if len(text) > MOST_CHARACTERS:
        raise JournalError(f"{path}: expected a journal of at most {MOST_CHARACTERS} characters, found more. {_FIX}")
    lines = text.split("\n")
    # What follows the last newline was being written when the run ended.
    header, *entries = lines[:-1] or [""]
    first = _header(path, header)
    read = [_entry(path, number, line, first.subject) for number, line in enumerate(entries, start=2)]
    devices = [entry for entry in read if isinstance(entry, dict)]
    return Journal(first, tuple(e for e in read if isinstance(e, Entry)), devices[-1] if devices else None)


def read_header(path: Path) -> Header | None:
    """Of a journal that may be cut short anywhere behind it. None: it has none that can be read."""
    try:
        with _open(path, "rt") as file:
            return _header(path, file.readline(MOST_CHARACTERS))
    except (OSError, EOFError, UnicodeDecodeError, zlib.error, JournalError):
        return None


_DAMAGE = (ValueError, KeyError, TypeError, AttributeError, RecursionError)


def _header(path: Path, line: str) -> Header:
    try:
        return header_from_json(json.loads(line))
    except _DAMAGE as error:
        raise JournalError(
            f"{path}, line 1: expected the header of a tuner's journal, found {_told(line, error)}. {_FIX}"
        ) from error


def _entry(path: Path, number: int, line: str, subject: Subject) -> Entry | dict[str, Any]:
    try:
        document = json.loads(line)
        if "device" in document:
            return device_from_json(document["device"])
        return Entry(*event_from_json(document, subject))
    except _DAMAGE as error:
        raise JournalError(f"{path}, line {number}: expected an event, found {_told(line, error)}. {_FIX}") from error


def _told(line: str, error: Exception) -> str:
    reason = f"no {error.args[0]}" if isinstance(error, KeyError) else str(error)
    return f"{line[:80]!r}: {reason}"


def _open(path: Path, mode: str) -> IO[Any]:
    if mode == "rt":
        cli.check_file(path, MOST_CHARACTERS)
    if path.suffix == ".gz":
        return io.TextIOWrapper(gzip.GzipFile(path, mode.replace("t", "")), encoding="utf-8")
    return path.open(mode.replace("t", ""), encoding="utf-8")


def _drop_torn_line(path: Path) -> None:
    if path.suffix == ".gz":
        found = "found a compressed one. Fix: unpack it"
        raise JournalError(f"{path}: expected an uncompressed journal to go on with, {found}")
    data = path.read_bytes()
    end = data.rfind(b"\n") + 1
    if end != len(data):
        with path.open("r+b") as file:
            file.truncate(end)
