"""The child process of the pool: compiles one task after the other until its pipe closes."""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import sys
import time
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from tools.compile.outcome import ConstraintError, Outcome, Status

MAX_LOG_BYTES = 64 << 20
_PR_SET_PDEATHSIG = 1


def main(connection: Connection, log_path: str) -> None:
    """Answers each task with its `Outcome`. What the compiler prints goes to `log_path`."""
    # The interpreter compiles nothing; a parent that runs kernels in it must not turn this into a sham.
    os.environ.pop("TRITON_INTERPRET", None)
    # A group of its own: the pool kills the compiler's own children (ptxas) with it.
    os.setpgrp()
    _die_with_parent()
    _redirect_output(log_path)
    while True:
        try:
            task = connection.recv()
        except EOFError:
            return
        connection.send(_answer(task, log_path))


def _answer(task: Any, log_path: str) -> Outcome:
    os.ftruncate(1, 0)
    started = time.monotonic()
    try:
        compiled = _compile(task)
    except ConstraintError as error:
        return Outcome(Status.CONSTRAINTS, time.monotonic() - started, message=str(error))
    except Exception as error:
        message = _tail(f"{type(error).__name__}: {error}") or read_log(log_path)
        return Outcome(Status.COMPILE, time.monotonic() - started, message=message)
    return Outcome(Status.OK, time.monotonic() - started, compiled)


def _compile(task: Any) -> Any:
    from tools.compile.no_gpu import activate
    from tools.compile.resources import read_resources

    activate(task.target)
    return read_resources(task.compile())


def _die_with_parent() -> None:
    """Even a hanging compiler ends when the pool's process is killed."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _redirect_output(log_path: str) -> None:
    log = os.open(log_path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    for stream in (1, 2):
        os.dup2(log, stream)
    os.close(log)
    # A compiler that prints without end must not fill the disk; its writes then fail.
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (MAX_LOG_BYTES, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
    # A core file of a process with LLVM in it is hundreds of megabytes.
    resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))


def read_log(log_path: str) -> str:
    """The end of what the compiler printed."""
    path = Path(log_path)
    if not path.exists():
        return ""
    with path.open("rb") as log:
        log.seek(max(0, path.stat().st_size - 4096))
        return _tail(log.read().decode("utf-8", "replace"))


def _tail(text: str, limit: int = 2000) -> str:
    text = text.strip()
    return text if len(text) <= limit else f"… {text[-limit:]}"
