"""What every command of tools/ does alike at its edge: its arguments, and how it ends when it can't go on."""

from __future__ import annotations

import argparse
import contextlib
import os
import select
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn


def run(main: Callable[[], int], name: str = "") -> NoReturn:
    """Ends the process with the exit code of `main`; a closed pipe, a full disk or Ctrl-C is no traceback.

    0 where the reader of stdout has seen enough, 2 and a line on stderr where the output can't be written, 130 for
    Ctrl-C. name: the command's, before that line.
    """
    if sys.stderr is None:  # `2>&-`
        sys.stderr = Path(os.devnull).open("w")  # noqa: SIM115 (for the process's life)
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
    except KeyboardInterrupt:
        code = 130
    sys.exit(code)


def say(line: str) -> None:
    """One line on stderr, at once: stdout belongs to the result. Where nobody reads it, the work goes on."""
    with contextlib.suppress(OSError):
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


def _drop_output() -> None:
    """What is still buffered goes nowhere, or Python would try once more at its end and complain itself."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _reader_has_left() -> bool:
    """Of stdout. A pipe to something else that breaks is no reason to end quietly."""
    poll = select.poll()
    poll.register(sys.stdout.fileno(), select.POLLOUT)
    return any(events & (select.POLLERR | select.POLLHUP) for _, events in poll.poll(0))
