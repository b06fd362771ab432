"""The journals of one run: opened all before the one of a killed run makes room, and locked as long as it runs."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from tools.checkout import CHECKOUT
from tools.errors import reason_of
from tools.store.files import write_file
from tools.text import shown_path
from tools.tune.journal import Journal, JournalEntry, JournalError, JournalHeader, JournalWriter, read_header
from tools.tune.protocol import DeviceRefused, Subject

JOURNALS = CHECKOUT / ".tune"
"""Where journals of unfinished runs lie; ignored by git."""

OF_ANOTHER_RUN = "Fix: leave out --resume."
"""What a refusal ends with where the journal is of another workload, other settings or another Triton: by it who
resumes for somebody knows that nothing is lost by starting anew."""


@dataclass(frozen=True)
class RunJournals:
    """earlier: what the run that is resumed had measured. writers: the journal, and the landscape where one is kept."""

    earlier: tuple[JournalEntry, ...]
    writers: tuple[JournalWriter, ...]
    path: Path

    def forget(self) -> None:
        """The run has come to its end: nothing is left to resume."""
        self.path.unlink(missing_ok=True)


@contextlib.contextmanager
def open_journals(header: JournalHeader, landscape_path: Path | None, *, resume: bool) -> Iterator[RunJournals]:
    """JournalError: another run has the journal, what is to be resumed is another run, or a file can't be taken.

    Where the device then refuses, everything is as it was: nothing was measured.
    """
    path = journal_path(header.subject.workload.file_name())
    if landscape_path:
        _check_landscape(landscape_path, path, header, resume=resume)
    if resume and not path.exists():
        raise JournalError(f"--resume: expected a killed run's journal, found no {shown_path(path)}.")
    with _locked(path) as is_ours, contextlib.ExitStack() as undo:
        if is_ours:
            undo.callback(path.unlink, missing_ok=True)
        earlier = _read_earlier(path, header) if resume else None
        writers: list[JournalWriter] = []
        if landscape_path:
            is_new = not landscape_path.exists()
            writers.append(_open_landscape(landscape_path, header, earlier or (), is_new=is_new))
            undo.callback(writers[0].close)
            if is_new:
                undo.callback(landscape_path.unlink, missing_ok=True)
        previous = _previous(path)
        if not resume and path.stat().st_size:
            # A copy, since the lock is on the file itself.
            older = previous.read_bytes() if previous.exists() else None
            write_file(previous, path.read_bytes())
            if older is not None:
                undo.callback(write_file, previous, older)
            undo.callback(previous.replace, path)
        writers.insert(0, JournalWriter(path, None if resume else header))
        undo.callback(writers[0].close)
        try:
            yield RunJournals(earlier or (), tuple(writers), path)
        except DeviceRefused:
            raise
        except BaseException:
            undo.pop_all()  # what was measured is kept
            raise
        undo.pop_all()


def journal_path(name: str) -> Path:
    """One a tuned file's name, whatever the settings: two runs of it would overwrite each other's file too."""
    return JOURNALS / f"{Path(name).stem}.jsonl"


def partial_path(subject: Subject) -> Path:
    """The rows decided so far, as a file that engines can read: its folder can be the loader's user folder."""
    return JOURNALS / "partial" / subject.workload.file_name()


def _previous(path: Path) -> Path:
    """Where the journal of the run before is kept."""
    return path.with_suffix(".previous.jsonl")


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[bool]:
    """Holds the journal for this run; says whether there was nothing in it. JournalError: another run holds it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    while True:
        with path.open("ab") as file:
            _lock(file, path)
            # Who came just before may have ended in between, and taken its journal away.
            if path.exists() and os.path.samestat(os.fstat(file.fileno()), path.stat()):
                yield not os.fstat(file.fileno()).st_size
                return


def _lock(file: IO[bytes], path: Path) -> None:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise JournalError(
            f"{shown_path(path)}: expected no other run of this file, found one at work. Fix: wait until it ends."
        ) from error
    except OSError:
        return  # a file system without locks, as for the store


def _read_earlier(path: Path, header: JournalHeader) -> tuple[JournalEntry, ...]:
    earlier = Journal.read(path)
    for name, expected, found in (
        ("the workload", header.subject, earlier.header.subject),
        ("the settings", header.settings, earlier.header.settings),
        ("Triton and kernel", header.environment, earlier.header.environment),
    ):
        if expected != found:
            difference = f"{name}: expected {expected}, found {found}"
            raise JournalError(f"{shown_path(path)}: {difference}. {OF_ANOTHER_RUN}")
    return earlier.entries


def _check_landscape(landscape: Path, journal: Path, header: JournalHeader, *, resume: bool) -> None:
    """Written over is only the same run's own, whose events all lie in the journal."""
    if landscape.resolve() == journal.resolve():
        raise JournalError(
            f"--record-landscape: expected another file than the journal, found {shown_path(landscape)}."
        )
    if os.path.lexists(landscape) and not (resume and read_header(landscape) == header):
        expected = "a new file, or this very run's own" if resume else "a new file"
        raise JournalError(
            f"--record-landscape: expected {expected}, found {shown_path(landscape)}. Fix: name another, or remove it."
        )


def _open_landscape(
    path: Path, header: JournalHeader, earlier: tuple[JournalEntry, ...], *, is_new: bool
) -> JournalWriter:
    try:
        writer = JournalWriter(path, header, is_new=is_new)
    except OSError as error:
        raise JournalError(
            f"--record-landscape: expected a file that can be written, found {shown_path(path)}: "
            f"{reason_of(error)}. Fix: name another."
        ) from error
    for entry in earlier:
        writer.append(entry.event, entry.clock_s)
    return writer
