"""A pool of child processes that compile without a GPU. Imports neither torch nor triton, and holds no GPU context.

A task that hangs, crashes its process or fills the screen costs only itself. What compiles lands in Triton's cache
(TRITON_CACHE_DIR), where the process with the GPU finds it. What the machine fails at (a full disk, no permission, no
memory) is no task's fault: it is tried once more in a fresh process, and then a MachineError.

    with CompilePool(jobs=16) as pool:
        for index, outcome in pool.run(tasks):
            ...
"""

from __future__ import annotations

import contextlib
import os
import shutil
import struct
import tempfile
import time
from collections import deque
from collections.abc import Iterable, Iterator
from multiprocessing.connection import Connection, wait
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

from tools import child_process
from tools.compile.machine import DamagedError, MachineFault, fault_of, fault_of_places
from tools.compile.outcome import CompileOutcome, Status, read_resources
from tools.errors import reason_of
from tools.registry.devices import Target
from tools.scratch import Scratch

DEFAULT_TIMEOUT_S = 60.0
MAX_TASKS_PER_WORKER = 250
"""Triton keeps every compiled kernel's intermediate code: about 1 MB each. Then a fresh process takes over."""


class CompileTask(Protocol):
    """Anything that pickles, imports in a fresh process, and compiles there."""

    @property
    def target(self) -> Target:
        """What to compile for: the driver without a GPU is made active before `compile`."""

    def compile(self) -> Any:
        """Triton's `CompiledKernel`."""


class CompilePool:
    """`jobs` children, each with one task at a time. Children start when there is work for them, or when asked to."""

    def __init__(self, jobs: int, *, timeout_s: float = DEFAULT_TIMEOUT_S) -> None:
        """MachineError: there is no place for the children's output."""
        if jobs < 1:
            raise ValueError(f"jobs: expected at least 1, found {jobs}.")
        self._jobs = jobs
        self._timeout_s = timeout_s
        self._workers: list[_Compiler] = []
        self._queue: deque[tuple[int, CompileTask]] = deque()
        self._submitted = 0
        self._again: deque[tuple[int, CompileTask]] = deque()
        self._tried_again: set[int] = set()
        try:
            self._logs = Scratch("compile-pool-")
        except OSError as error:
            raise MachineFault(reason_of(error)).error() from error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Kills every child, busy or not. Finished results stay in the cache."""
        while self._workers:
            self._workers.pop().kill()
        self._logs.cleanup()

    def start(self) -> None:
        """Starts children, one a core at most; they import Triton while the caller imports torch. MachineError."""
        while len(self._workers) < min(self._jobs, child_process.usable_cores()):
            self._start()

    def run(self, tasks: Iterable[CompileTask]) -> Iterator[tuple[int, CompileOutcome]]:
        """(index of the task, its outcome) as they finish. Tasks are drawn as children become free. MachineError."""
        queue = enumerate(tasks)
        try:
            while True:
                self._hand_out(queue)
                busy = [worker for worker in self._workers if worker.index is not None]
                if not busy:
                    return
                yield from self._collect(busy)
        finally:
            # Left in the middle: what is still running would answer to the next run.
            for worker in [worker for worker in self._workers if worker.index is not None]:
                self._remove(worker)
            self._again.clear()
            self._tried_again.clear()

    def submit(self, task: CompileTask) -> int:
        """Queues a task for `collect` and returns its index. Not to be mixed with `run`."""
        self._queue.append((self._submitted, task))
        self._submitted += 1
        return self._submitted - 1

    def collect(self) -> list[tuple[int, CompileOutcome]]:
        """What has finished of what was submitted; hands out what is queued. Doesn't wait. MachineError."""
        done = list(self._collect([worker for worker in self._workers if worker.index is not None], wait_s=0.0))
        self._hand_out(self._queued())
        return done

    @property
    def busy_connections(self) -> list[Connection]:
        """What to wait for before the next `collect`, and no longer than `seconds_left`."""
        return [worker.connection for worker in self._workers if worker.index is not None]

    @property
    def seconds_left(self) -> float:
        """Until the next task runs out of time. Infinite: none is running."""
        deadlines = [worker.deadline for worker in self._workers if worker.index is not None]
        return max(0.0, min(deadlines, default=float("inf")) - time.monotonic())

    def _queued(self) -> Iterator[tuple[int, CompileTask]]:
        while self._queue:
            yield self._queue.popleft()

    def _hand_out(self, queue: Iterator[tuple[int, CompileTask]]) -> None:
        for worker in [worker for worker in self._workers if worker.tasks_done >= MAX_TASKS_PER_WORKER]:
            if worker.index is None:
                self._remove(worker)
        idle = [worker for worker in self._workers if worker.index is None]
        while idle or len(self._workers) < self._jobs:
            item = self._again.popleft() if self._again else next(queue, None)
            if item is None:
                return
            worker = idle.pop() if idle else self._start()
            worker.give(*item, self._timeout_s)

    def _collect(self, busy: list[_Compiler], wait_s: float | None = None) -> Iterator[tuple[int, CompileOutcome]]:
        """wait_s: at most so long for the first answer; None: until one comes or a task runs out of time."""
        ready = set(wait([worker.connection for worker in busy], self.seconds_left if wait_s is None else wait_s))
        for worker in busy:
            index = worker.index
            assert index is not None
            if worker.connection in ready:
                outcome = worker.answer()
                if isinstance(outcome, MachineFault):
                    self._try_again(worker, index, outcome)
                    continue
                if outcome.status is Status.CRASH:
                    self._remove(worker)
                yield index, outcome
            elif time.monotonic() >= worker.deadline:
                self._remove(worker)
                message = f"no answer within {self._timeout_s:g} s. {worker.log()}".strip()
                yield index, CompileOutcome(Status.TIMEOUT, self._timeout_s, message=message)

    def _try_again(self, worker: _Compiler, index: int, fault: MachineFault) -> None:
        task = worker.task
        self._remove(worker)
        if task is None or index in self._tried_again:
            raise fault.error()
        self._tried_again.add(index)
        self._again.append((index, task))

    def _start(self) -> _Compiler:
        try:
            worker = _Compiler(self._logs.path / f"{time.monotonic_ns()}.log")
        except OSError as error:
            fault = MachineFault(f"no process can be started ({reason_of(error)})", is_memory=True)
            raise fault.error() from error
        self._workers.append(worker)
        return worker

    def _remove(self, worker: _Compiler) -> None:
        self._workers.remove(worker)
        worker.kill()


class _Compiler:
    """One child. index: of the task it works on, None while idle."""

    def __init__(self, log_path: Path) -> None:
        self._log_path = log_path
        self._child = child_process.start(main, str(log_path))
        self.connection = self._child.connection
        self.index: int | None = None
        self.task: CompileTask | None = None
        self.tasks_done = 0
        self.deadline = float("inf")
        self._given_at = 0.0

    def give(self, index: int, task: CompileTask, timeout_s: float) -> None:
        self._given_at = time.monotonic()
        self.index, self.task, self.deadline = index, task, self._given_at + timeout_s
        # A child that died while idle shows when its answer is read.
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self.connection.send(task)

    def answer(self) -> CompileOutcome | MachineFault:
        self.index = None
        self.tasks_done += 1
        try:
            outcome: CompileOutcome | MachineFault = self.connection.recv()
        except (EOFError, ConnectionResetError):
            how = self._child.how_it_ended()
            if how.was_killed:
                return MachineFault(f"the compiler's process {how}, as a system without memory does it", is_memory=True)
            message = f"the compiler's process ended: {how}. {self.log()}".strip()
            return CompileOutcome(Status.CRASH, time.monotonic() - self._given_at, message=message)
        return outcome

    def log(self) -> str:
        return child_process.read_log(str(self._log_path))

    def kill(self) -> None:
        self._child.kill()


# ---------------------------------------------------------------
# The child process: compiles one task after the other until its pipe closes


def main(connection: Connection, log_path: str) -> None:
    """Answers each task with its `CompileOutcome`. What the compiler prints goes to `log_path`."""
    # The interpreter compiles nothing; a parent that runs kernels in it must not turn this into a sham.
    os.environ.pop("TRITON_INTERPRET", None)
    # What the compiler leaves when it is killed, or fails, goes with the pool's own folder.
    tempfile.tempdir = os.environ["TMPDIR"] = str(Path(log_path).parent)
    try:
        child_process.settle(log_path)
    except OSError as error:
        connection.recv()
        connection.send(fault_of(error))
        return
    with contextlib.suppress(Exception):  # the first task meets it again, and tells
        import tools.compile.no_gpu  # noqa: F401  # with Triton, before there is a task
    while True:
        try:
            task = connection.recv()
        except EOFError:
            return
        connection.send(_answer(task, log_path))


def _answer(task: Any, log_path: str) -> CompileOutcome | MachineFault:
    started = time.monotonic()
    try:
        os.ftruncate(1, 0)
        compiled = _compile(task)
    except Exception as error:
        if fault := fault_of(error) or fault_of_places():
            return fault
        message = child_process.tail(f"{type(error).__name__}: {error}") or child_process.read_log(log_path)
        return CompileOutcome(Status.COMPILE, time.monotonic() - started, message=message)
    return CompileOutcome(Status.OK, time.monotonic() - started, compiled)


def _compile(task: Any) -> Any:
    # Triton takes half a second, and the parent never needs it.
    from tools.compile.no_gpu import activate

    activate(task.target)
    compiled = task.compile()
    try:
        return read_resources(compiled)
    except (struct.error, ValueError, IndexError) as error:
        _forget(compiled)
        raise DamagedError(f"a compiled kernel that is damaged ({error})") from error


def _forget(compiled: Any) -> None:
    """Out of Triton's cache, where every later run would find it."""
    from triton.runtime.cache import get_cache_manager

    shutil.rmtree(get_cache_manager(compiled.hash).cache_dir, ignore_errors=True)
