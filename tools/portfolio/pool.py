"""GPUs that work a list off: a thread a GPU takes the next task for its device, and runs child processes on it."""

from __future__ import annotations

import contextlib
import io
import os
import signal
import subprocess
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from tools.checkout import CHECKOUT
from tools.child_process import ended
from tools.registry.devices import Device
from tools.with_parent import bound

Say = Callable[[str], None]

MOST_FAILURES = 3
"""In a row, of one GPU: then it, not the tasks, is what is wrong."""

GRACE_S = 15.0
"""For a child to clear away what it wrote, once it is told to end."""


@dataclass(frozen=True)
class PoolGpu:
    """id: as CUDA_VISIBLE_DEVICES takes it. jobs: compiling processes, its share of the cores."""

    id: str
    device: Device
    jobs: int

    def __str__(self) -> str:
        return f"GPU {self.id}"


T = TypeVar("T")


class Pool(Generic[T]):
    """Tasks of each device in their order, on all of its GPUs."""

    def __init__(self, gpus: Sequence[PoolGpu], say: Say) -> None:
        self.gpus = tuple(gpus)
        self._say = say
        self._lock = threading.Lock()
        self._error: BaseException | None = None
        self.is_stopped = False

    def run(
        self,
        queues: Mapping[str, Sequence[T]],
        work: Callable[[T, PoolGpu, Say], bool],
        has_time: Callable[[T], bool] = lambda _: True,
    ) -> list[T]:
        """Works on everything, and returns what was left. queues: by the device's name.

        work: says whether it went well; after `MOST_FAILURES` that didn't, in a row, a GPU is left alone. has_time:
        whether a task may still be begun; the first that may not ends its queue. What work raises is raised here.
        """
        waiting = {gpu.device.name: list(queues.get(gpu.device.name, ())) for gpu in self.gpus}
        threads = [
            threading.Thread(target=self._serve, args=(gpu, waiting[gpu.device.name], work, has_time), daemon=True)
            for gpu in self.gpus
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            while thread.is_alive():
                thread.join(0.2)  # so that Ctrl-C is heard
        if self._error is not None:
            raise self._error
        return [task for tasks in waiting.values() for task in tasks]

    def stop(self) -> None:
        """Nothing further is begun."""
        self.is_stopped = True

    def _serve(
        self, gpu: PoolGpu, waiting: list[T], work: Callable[[T, PoolGpu, Say], bool], has_time: Callable[[T], bool]
    ) -> None:
        prefix = f"{gpu}: " if len(self.gpus) > 1 else ""

        def say(line: str) -> None:
            self._say(f"{prefix}{line}")

        failures = 0
        try:
            while failures < MOST_FAILURES and (task := self._next(waiting, has_time)) is not None:
                failures = 0 if work(task, gpu, say) else failures + 1
        except BaseException as error:  # what can't be written down, or a fault of ours: it ends the whole run
            self._error = error
            self.stop()
        if failures == MOST_FAILURES:
            self._say(f"{gpu} is left alone: {MOST_FAILURES} in a row failed on it")

    def _next(self, waiting: list[T], has_time: Callable[[T], bool]) -> T | None:
        with self._lock:
            return waiting.pop(0) if waiting and not self.is_stopped and has_time(waiting[0]) else None


# ---------------------------------------------------------------
# Child processes


@dataclass(frozen=True)
class Ended:
    """How a child ended: its exit code (negative: the signal), what it printed, its last line to people."""

    code: int
    printed: str
    said: str

    @property
    def how(self) -> str:
        return ended(self.code)


class Children:
    """Runs child processes on GPUs, and ends those that still run."""

    def __init__(self) -> None:
        self._running: set[subprocess.Popen[str]] = set()
        self._lock = threading.Lock()

    def run(self, command: Sequence[str], gpu: PoolGpu, say: Say) -> Ended:
        """Waits for its end. say: hears what it says to people, line by line."""
        process = subprocess.Popen(
            bound(command),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="backslashreplace",
            cwd=CHECKOUT,
            env={**os.environ, "CUDA_VISIBLE_DEVICES": gpu.id},
            start_new_session=True,  # Ctrl-C is the parent's to answer
        )
        with self._lock:
            self._running.add(process)
        try:
            assert process.stdout is not None
            assert process.stderr is not None
            heard = LastLine(lambda line: say(line.strip()) if line.strip() else None)
            listener = threading.Thread(target=heard.writelines, args=(process.stderr,), daemon=True)
            listener.start()
            printed = process.stdout.read()
            code = process.wait()
            listener.join()
        finally:
            with self._lock:
                self._running.discard(process)
        return Ended(code, printed, heard.last)

    def stop(self, grace_s: float = GRACE_S) -> None:
        """Ends all that run, with what they started; tuners keep their journals."""
        with self._lock:
            running = list(self._running)
        for number in (signal.SIGTERM, signal.SIGKILL):
            for process in running:
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.killpg(process.pid, number)
            for process in running:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(grace_s)


class LastLine(io.TextIOBase):
    """A stream that hands on what is said to people, and remembers the last line that says something."""

    def __init__(self, hand_on: Callable[[str], object]) -> None:
        self._hand_on, self._line, self._whole = hand_on, "", ""

    @property
    def last(self) -> str:
        """Also one that nothing ended."""
        return self._line.strip() or self._whole

    def write(self, text: str) -> int:
        *whole, self._line = (self._line + text).split("\n")
        self._whole = next((line.strip() for line in reversed(whole) if line.strip()), self._whole)
        self._hand_on(text)
        return len(text)
