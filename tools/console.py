"""What every command of tools/ does alike at its edge: its arguments, and how it ends when it can't go on."""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import select
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn, TextIO


def run(main: Callable[[], int], name: str = "") -> NoReturn:
    """Ends the process with the exit code of `main`; a closed pipe, a full disk or Ctrl-C is no traceback.

    0 where the reader of stdout has seen enough, 2 and a line on stderr where the output can't be written, 130 for
    Ctrl-C. What stderr can't take is dropped and changes no exit code. name: the command's, before that line.
    """
    sys.stderr = _never_failing(sys.stderr)
    prefix = f"{name}: " if name else ""
    if sys.stdout is None:  # `>&-`: nobody would learn the result, and a file that is opened would become stdout
        say(f"{prefix}expected a standard output to write to, found it closed")
        sys.exit(2)
    try:
        code = _exit_code(main)
        sys.stdout.flush()
    except OSError as error:
        code = 0 if isinstance(error, BrokenPipeError) and _reader_has_left() else 2  # `| head`: has seen enough
        _drop_output()
        if code:
            say(f"{prefix}can't write {error.filename or 'the output'}: {reason_of(error)}")
    except BaseException as error:  # Ctrl-C; anything else is a fault of ours and keeps its traceback
        try:
            sys.stdout.flush()
        except OSError:
            _drop_output()
        if not isinstance(error, KeyboardInterrupt):
            raise
        code = 130
    sys.exit(code)


def say(line: str) -> None:
    """One line on stderr, at once: stdout belongs to the result."""
    sys.stderr.write(line + "\n")
    sys.stderr.flush()


def reason_of(error: Exception) -> str:
    """What went wrong, without the number and the path that Python writes around an OSError's own words."""
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


def path_argument(text: str) -> Path:
    """A path on the command line, for argparse. An empty one would mean the working directory."""
    if not text:
        raise argparse.ArgumentTypeError("expected a path, found an empty text")
    return Path(text)


def _exit_code(main: Callable[[], int]) -> int:
    try:
        return main()
    except SystemExit as end:  # argparse's --help and bad use
        return end.code if isinstance(end.code, int) else int(end.code is not None)


class _Dropping(io.RawIOBase):
    """Writes to a descriptor; what it can't take is dropped.

    Text that stayed in a buffer would fail once more when Python flushes it at the end, and make the exit code 120.
    """

    def __init__(self, descriptor: int) -> None:
        self._file = io.FileIO(descriptor, "w", closefd=False)

    def write(self, data: Any) -> int:
        with contextlib.suppress(OSError):
            return self._file.write(data) or len(data)  # None: a full pipe that doesn't wait
        return len(data)

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._file.fileno()

    def isatty(self) -> bool:
        return self._file.isatty()


def _never_failing(stream: TextIO | None) -> TextIO:
    """stderr, line by line as Python's own. None: closed (`2>&-`)."""
    if stream is None:
        return Path(os.devnull).open("w")
    try:
        descriptor = stream.fileno()
    except OSError:  # a text in memory, which takes everything
        return stream
    buffer = io.BufferedWriter(_Dropping(descriptor))
    return io.TextIOWrapper(buffer, stream.encoding, "backslashreplace", line_buffering=True)


def _drop_output() -> None:
    """What is still buffered goes nowhere, or Python would try once more at its end and complain itself."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _reader_has_left() -> bool:
    """Of stdout. A pipe to something else that breaks is no reason to end quietly."""
    poll = select.poll()
    poll.register(sys.stdout.fileno(), select.POLLOUT)
    return any(events & (select.POLLERR | select.POLLHUP) for _, events in poll.poll(0))
