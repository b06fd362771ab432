"""Child processes that may hang, crash or be killed without harm to their parent, and never outlive it.

Ctrl-C reaches the terminal's whole group: children ignore it, the parent alone answers it.
"""

from __future__ import annotations

import atexit
import contextlib
import multiprocessing
import os
import resource
import signal
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from collections.abc import Set as AbstractSet
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import Any, NoReturn, Protocol, TypeVar

from tools.with_parent import end_with

S = TypeVar("S")
T = TypeVar("T")

MAX_LOG_BYTES = 64 << 20

MAX_JOBS = 1024
"""Processes that a command takes for --jobs."""


def ended(exit_code: int) -> str:
    """«killed by signal 9», «exit code 1». exit_code: minus a signal's number where one killed the process."""
    return f"killed by signal {-exit_code}" if exit_code < 0 else f"exit code {exit_code}"


END_LIMIT_S = 10.0
"""How long a child may take from the end of its pipe to its own: with a GPU's context, a second or two."""


@dataclass(frozen=True)
class End:
    """How a child ended. exit_code: as `ended` has it; None: it hung, and we killed it."""

    exit_code: int | None

    def __str__(self) -> str:
        if self.exit_code is None:
            return f"killed, since it hung for {END_LIMIT_S:g} s behind the end of its pipe"
        return ended(self.exit_code)

    @property
    def was_killed(self) -> bool:
        """By a SIGKILL that isn't ours: it comes from a person or from a system that is out of memory."""
        return self.exit_code == -signal.SIGKILL


@dataclass(frozen=True)
class Child:
    """A running child and the parent's end of its pipe."""

    process: SpawnProcess
    connection: Connection

    def how_it_ended(self) -> End:
        """Waits for the end of a child whose pipe has ended. One that hangs there is killed, as by `kill`."""
        deadline = time.monotonic() + END_LIMIT_S
        # Not join: it takes the end of another pipe for the child's, then waits for that without limit.
        while (code := self.process.exitcode) is None and time.monotonic() < deadline:
            time.sleep(0.001)
        if code is None:
            self.kill()
        return End(code)

    def kill(self) -> None:
        """With every process that it started itself."""
        pid = self.process.pid
        if pid is not None:
            # The group exists once the child has made it; the child itself is killed either way.
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(pid, signal.SIGKILL)
            self.process.kill()
            self.process.join()
        self.connection.close()


def usable_cores() -> int:
    """Cores that this process may use: a scheduler's share of the machine (taskset, Slurm), where there is one."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def start(main: Callable[..., None], *arguments: Any) -> Child:
    """Runs `main(connection, *arguments)` in a fresh process; `main` calls `settle` first."""
    # spawn: a fork of a process with threads or a GPU context is not safe.
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=main, args=(theirs, *arguments), daemon=True)
    with _held_back({signal.SIGINT}):
        process.start()
    theirs.close()
    return Child(process, ours)


class SharedMap(Protocol):
    """As `map`, which is one of them: in this process, or in several at once, for which function and items pickle."""

    def __call__(self, function: Callable[[S], T], items: Iterable[S], /) -> Iterator[T]: ...


@contextlib.contextmanager
def workers(jobs: int) -> Iterator[SharedMap]:
    """Processes that share work out. What ends the block, Ctrl-C too, drops the work that none of them has begun.

    What they have begun they finish: a pool whose process dies while work is on its way to it may wait for it forever.
    """
    with _held_back(_THE_PARENTS):
        pool = ProcessPoolExecutor(jobs, initializer=_leave_signals_to, initargs=(os.getpid(),))
        pool.submit(os.getpid)  # starts them, and what is held back here they never hear

    def share(function: Callable[[S], T], items: Iterable[S], /) -> Iterator[T]:
        # An exception amid handing out may leave a lock of the pool's taken, for which its end then waits forever.
        with _held_back(_THE_PARENTS):
            return pool.map(function, items)

    try:
        yield share
    except BaseException:
        pool.shutdown(cancel_futures=True)
        raise
    pool.shutdown()


_THE_PARENTS = frozenset({signal.SIGINT, signal.SIGTERM, signal.SIGHUP})
"""Signals that reach a whole group, and that the parent alone answers."""


def _leave_signals_to(parent_pid: int) -> None:
    """In a worker. One that was started by another than the parent, as a server of forks is, may outlive that."""
    for number in _THE_PARENTS:
        signal.signal(number, signal.SIG_IGN)
    if os.getppid() == parent_pid:
        end_with(parent_pid)


@contextlib.contextmanager
def _held_back(signals: AbstractSet[signal.Signals]) -> Iterator[None]:
    """They come when the block ends; to what is started in it, never."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def settle(log_path: str) -> None:
    """In the child: a group of its own, an end with the parent's, and all output into `log_path`."""
    # The parent kills what the child starts (ptxas) with it.
    os.setpgrp()
    if (parent := multiprocessing.parent_process()) is not None and parent.pid is not None:
        end_with(parent.pid)  # even a hanging child ends when the parent is killed
    log = os.open(log_path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    for stream in (1, 2):
        os.dup2(log, stream)
    os.close(log)
    # Output without end must not fill the disk; its writes then fail.
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    least = min(limit for limit in (soft, hard, MAX_LOG_BYTES) if limit != resource.RLIM_INFINITY)
    resource.setrlimit(resource.RLIMIT_FSIZE, (least, hard))
    # A core file of a process with LLVM in it is hundreds of megabytes.
    resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))


def leave(code: int) -> NoReturn:
    """Ends this process with the exit code, once what is registered for its end has run: temporary files go, say.

    Its memory is left to the system. Python would take it apart piece by piece first, with torch for a quarter of a
    second.
    """
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    atexit._run_exitfuncs()
    os._exit(code)


def read_log(log_path: str) -> str:
    """The end of what the child printed."""
    path = Path(log_path)
    if not path.exists():
        return ""
    with path.open("rb") as log:
        log.seek(max(0, path.stat().st_size - 4096))
        return tail(log.read().decode("utf-8", "replace"))


def tail(text: str, limit: int = 2000) -> str:
    """The end of a text that may be long."""
    text = text.strip()
    return text if len(text) <= limit else f"… {text[-limit:]}"
