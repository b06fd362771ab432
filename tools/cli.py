"""What every command does alike at its edge: its arguments, the files they name, its output, and how it ends."""

from __future__ import annotations

import argparse
import contextlib
import datetime
import enum
import errno
import functools
import importlib.util
import io
import math
import os
import re
import select
import shlex
import signal
import stat
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn, Protocol, TextIO, TypeVar

from tools.errors import UserError, reason_of
from tools.text import printable, shown_path

Choice = TypeVar("Choice", bound=enum.StrEnum)


class Main(Protocol):
    """A tool's `main`. arguments None: those of the process."""

    def __call__(self, arguments: Sequence[str] | None = None) -> int: ...


def run(main: Callable[[], int], name: str, end: Callable[[int], NoReturn] = sys.exit) -> NoReturn:
    """Ends the process with the exit code of `main`; a closed pipe, a full disk, Ctrl-C or SIGTERM is no traceback.

    0 where the reader of stdout has seen enough, 2 and a line on stderr where the output can't be written, 130 for
    Ctrl-C, 143 for SIGTERM and 129 where the terminal is gone; files and children of `main` go first. A package that
    this Python lacks is one line and 2. What stderr can't take is dropped and changes no exit code. name: the
    command's, before that line. end: how the process ends then.
    """
    sys.stderr = _never_failing(sys.stderr)
    if sys.stdout is None:  # `>&-`: nobody would learn the result, and a file that is opened would become stdout
        say(f"{name}: expected a standard output to write to, found it closed")
        sys.exit(2)
    with _signals_as_exceptions():
        code = _run(main, name)
    end(code)


def _run(main: Callable[[], int], name: str) -> int:
    try:
        code = _exit_code(main, name)
        sys.stdout.flush()
    except OSError as error:
        code = 0 if isinstance(error, BrokenPipeError) and _reader_has_left() else 2  # `| head`: has seen enough
        _drop_output()
        if code:
            # Of a path it isn't known whether it was read or written; of what is missing without one (a place for
            # temporary files) writing the output would never tell.
            is_output = not error.filename and error.errno != errno.ENOENT
            what = f"{error.filename}: " if error.filename else "can't write the output: " * is_output
            say(f"{name}: {printable(what)}{reason_of(error)}")
    except BaseException as error:  # Ctrl-C; anything else is a fault of ours and keeps its traceback
        try:
            sys.stdout.flush()
        except OSError:
            _drop_output()
        if not isinstance(error, KeyboardInterrupt):
            raise
        code = 128 + signal.SIGINT
    return code


@contextlib.contextmanager
def _signals_as_exceptions() -> Iterator[None]:
    """SIGTERM and SIGHUP unwind as Ctrl-C does, so that folders and child processes are cleared away.

    A second signal doesn't break off the clearing, unless it takes more than `_CLEARING_S`.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    asked_at = -math.inf

    def stop(number: int, _frame: FrameType | None) -> None:
        nonlocal asked_at
        if time.monotonic() - asked_at < _CLEARING_S:
            return
        asked_at = time.monotonic()
        raise KeyboardInterrupt if number == signal.SIGINT else SystemExit(128 + number)

    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    try:
        for number, handler in before.items():
            # What the caller has switched off (nohup, a shell's background job) stays so.
            if handler is not signal.SIG_IGN:
                signal.signal(number, stop)
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


_CLEARING_S = 5.0


def command(name: str) -> Callable[[Main], Main]:
    """For a tool's `main`: a UserError ends it with exit code 2 and its line on stderr, `name` before it."""

    def decorate(main: Main) -> Main:
        @functools.wraps(main)
        def ended(arguments: Sequence[str] | None = None) -> int:
            try:
                return main(arguments)
            except UserError as error:
                say(f"{name}: {printable(str(error))}")
                return 2

        return ended

    return decorate


def say(line: str) -> None:
    """One line on stderr, at once: stdout belongs to the result."""
    sys.stderr.write(line + "\n")
    sys.stderr.flush()


def day_argument(text: str) -> datetime.date:
    """A day on the command line, for argparse."""
    try:
        return datetime.date.fromisoformat(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"expected a day as YYYY-MM-DD, found {text[:40]!r}") from error


def path_argument(text: str) -> Path:
    """A path on the command line, for argparse. An empty one would mean the working directory."""
    if not text:
        raise argparse.ArgumentTypeError("expected a path, found an empty text")
    return Path(text)


def one_of(choices: Iterable[Choice]) -> Callable[[str], Choice]:
    """For argparse, in place of its own `choices`, whose message shows the members as Python writes them."""
    known = {choice.value: choice for choice in choices}
    *others, last = known

    def read(text: str) -> Choice:
        if text not in known:
            raise argparse.ArgumentTypeError(f"expected {', '.join(others)} or {last}, found {text!r}")
        return known[text]

    return read


def check_within(name: str, values: Iterable[float], most: int, least: int = 1) -> None:
    """UserError: one of an option's numbers is not from `least` to `most`."""
    if wrong := [value for value in values if not least <= value <= most]:
        raise UserError(f"{name}: expected from {least} to {most}, found {wrong[0]}.")


def block_shape_argument(text: str) -> tuple[int, int]:
    """The block of weights that shares a scale, for argparse: «128,128», or as file names have it, «[128,128]»."""
    match = re.fullmatch(r"(\[)?([1-9][0-9]{0,4}), ?([1-9][0-9]{0,4})(?(1)\])", text, re.ASCII)
    if match is None:
        raise argparse.ArgumentTypeError(f"expected two numbers above 0 as in 128,128, found {printable(repr(text))}")
    return int(match[2]), int(match[3])


def engine_path(option: str, text: str, ends: Mapping[str, str], others: str = "") -> tuple[str, Path]:
    """(engine, path) of «vllm=PATH» on a command line.

    ends: by the name of each engine that may be given what its path ends with, for the message; others: what may be
    given besides, before them. UserError.
    """
    name, _, path = text.partition("=")
    if name not in ends or not path:
        expected = " or ".join(f"{engine}=PATH{end}" for engine, end in ends.items())
        raise UserError(f"{option}: expected {others}{expected}, found {printable(repr(text))}.")
    return name, Path(path)


def engine_paths(option: str, texts: Iterable[str], names: Iterable[str]) -> dict[str, Path]:
    """Of several. UserError: one isn't «vllm=PATH», or an engine is given twice."""
    ends, found = dict.fromkeys(names, ""), dict[str, Path]()
    for text in texts:
        name, path = engine_path(option, text, ends)
        if name in found:
            raise UserError(f"{option}: expected {name} at most once, found it again. Fix: leave one of its paths out.")
        found[name] = path
    return found


def _exit_code(main: Callable[[], int], name: str) -> int:
    try:
        return main()
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package in ("", *sys.stdlib_module_names) or importlib.util.find_spec(package) is not None:
            raise  # nothing that could be installed: a fault of ours, or of a package's release
        say(
            f"{name}: expected the package {package}, which this Python doesn't have. "
            f"Fix: run it through nox, or {shlex.quote(sys.executable)} -m pip install {package}"
        )
        return 2
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


# Files and folders that a person names, asked about before they are used.

MOST_BYTES = 16 << 20
"""Of a text that a person wrote or a checkpoint brings: both have kilobytes."""


def check_file(path: Path, most_bytes: int = MOST_BYTES) -> None:
    """OSError: missing, no regular file (links are followed), or larger; its strerror says which."""
    found = path.stat()
    if not stat.S_ISREG(found.st_mode):
        raise OSError(errno.EINVAL, "Not a regular file", str(path))
    if found.st_size > most_bytes:
        told = f"File too large, {found.st_size} bytes where at most {most_bytes} are read"
        raise OSError(errno.EFBIG, told, str(path))


def read_text(path: Path) -> str:
    """UTF-8, a byte order mark dropped. OSError as `check_file`; ValueError: other bytes than UTF-8."""
    check_file(path)
    return path.read_text("utf-8-sig")


def read_pipe(path: Path) -> bytes | None:
    """All that comes through a pipe, which can be read once; None: there is none at this path. OSError: too much."""
    try:
        if not stat.S_ISFIFO(path.stat().st_mode):
            return None
    except OSError:
        return None
    with path.open("rb") as pipe:
        data = pipe.read(MOST_BYTES + 1)
    if len(data) > MOST_BYTES:
        raise OSError(errno.EFBIG, f"More than {MOST_BYTES} bytes, the most that are read", str(path))
    return data


PROBE_BYTES = 1 << 20
"""More than tuned files, records and reports have."""


def check_folder(folder: Path, flag: str) -> None:
    """Of a folder that need not be there yet, before the work whose result goes there. UserError: nothing can.

    A file is put there and taken away again: neither a full nor a read-only file system shows in permissions.
    """
    try:
        _try_to_write_into(folder)
    except OSError as error:
        found = f"{shown_path(Path(error.filename or folder))}: {reason_of(error)}"
        fix = "make it writable, or name another"
        raise UserError(f"{flag}: expected a folder that can be written, found {found}. Fix: {fix}.") from error


def _try_to_write_into(folder: Path) -> None:
    """OSError: of which path, its filename says."""
    there = next(path for path in (folder, *folder.parents) if path.exists())
    if not there.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(there))
    try:
        with tempfile.TemporaryFile(dir=there) as probe:  # nameless: a kill leaves nothing
            probe.write(bytes(PROBE_BYTES))
            probe.flush()
            os.fsync(probe.fileno())
    except OSError as error:
        raise OSError(error.errno, error.strerror or str(error), str(there)) from error
    if not os.access(there, os.W_OK | os.X_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(there))


# What a command hands to the steps and jobs that follow it in a workflow: lines in the file of `$GITHUB_OUTPUT`.


def hand_on(values: Mapping[str, str | bool]) -> None:
    """Appends `name=value`, booleans as true and false. Outside a workflow it does nothing.

    ValueError: a value of several lines, which would forge another output.
    """
    lines = [f"{name}={_text(value)}\n" for name, value in values.items()]
    if any(len(line.splitlines()) != 1 for line in lines):
        raise ValueError(f"expected values of one line, found {dict(values)!r}")
    if output := os.environ.get("GITHUB_OUTPUT"):
        append(Path(output), "".join(lines))


def append(path: Path, text: str) -> None:
    """To a file that a workflow's steps share. OSError: its filename is the path, whatever step failed."""
    try:
        with path.open("a", encoding="utf-8") as file:
            file.write(text)
    except OSError as error:
        raise OSError(error.errno, error.strerror or str(error), str(path)) from error


def _text(value: str | bool) -> str:
    return str(value).lower() if isinstance(value, bool) else value
