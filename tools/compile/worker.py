"""The child process of the pool: compiles one task after the other until its pipe closes."""

from __future__ import annotations

import os
import time
from multiprocessing.connection import Connection
from typing import Any

from tools import child_process
from tools.compile.outcome import ConstraintError, Outcome, Status


def main(connection: Connection, log_path: str) -> None:
    """Answers each task with its `Outcome`. What the compiler prints goes to `log_path`."""
    # The interpreter compiles nothing; a parent that runs kernels in it must not turn this into a sham.
    os.environ.pop("TRITON_INTERPRET", None)
    child_process.settle(log_path)
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
        message = child_process.tail(f"{type(error).__name__}: {error}") or child_process.read_log(log_path)
        return Outcome(Status.COMPILE, time.monotonic() - started, message=message)
    return Outcome(Status.OK, time.monotonic() - started, compiled)


def _compile(task: Any) -> Any:
    from tools.compile.no_gpu import activate
    from tools.compile.resources import read_resources

    activate(task.target)
    return read_resources(task.compile())
