"""A survey's GPU from outside: compiles for it on all cores, and asks the process that owns it for times.

That process is replaced when a launch breaks its GPU context, and when it crashes or hangs: the shape that it was at
counts as not measured, and the next one meets a fresh process. What measures is `tools.portfolio.survey_gpu`.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tools import child_process
from tools.compile.outcome import Status
from tools.compile.pool import CompilePool
from tools.errors import UserError
from tools.measure.kernels import Kernel, KernelTask, problems_of
from tools.measure.layer import LayerShape
from tools.portfolio.survey_plan import BATCH_SIZES, RowConfigs, ShippedContest
from tools.portfolio.survey_protocol import (
    GpuLostError,
    Launched,
    Measurement,
    Ready,
    Say,
    ShapeNotMeasuredError,
    TimedRow,
)
from tools.registry.devices import Target, load_devices
from tools.scratch import Scratch
from tools.store.record import Environment

MOST_LOST = 3
"""Processes in a row that were lost without a single answer: then the GPU, not the files, is what is wrong."""


@dataclass(frozen=True)
class Patience:
    """Seconds in which a process must be up, and in which it must have measured a shape (2 to 5 are usual)."""

    start_s: float = 180.0
    measure_s: float = 90.0


def gpu_process(connection: Connection, log_path: str, kernel: Kernel) -> None:
    """What runs in the child. Only there is torch imported, once what it prints goes into the log."""
    child_process.settle(log_path)
    from tools.portfolio.survey_gpu import serve

    serve(connection, kernel)


class GpuTimer:
    """As `survey_protocol.Timer`, by a process that measures. main: what runs in it; tests give another."""

    def __init__(self, kernel: Kernel, limits: Patience | None = None, main: Callable[..., None] = gpu_process) -> None:
        self._kernel, self._limits, self._main = kernel, limits or Patience(), main
        self._logs = Scratch("survey-")
        self._log_path = Path()
        self._child: child_process.Child | None = None
        self._lost = 0
        self._ready: Ready | None = None

    def __enter__(self) -> Self:
        self._begin()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._drop()
        self._logs.cleanup()

    @property
    def environment(self) -> Environment:
        """UserError: no GPU that is known here, or none that answers."""
        return self._report().environment

    @property
    def notes(self) -> tuple[str, ...]:
        """Of the first process. Errors as `environment`."""
        return self._report().notes

    def compile(self, contests: Sequence[ShippedContest], jobs: int, say: Say) -> Mapping[Launched, str]:
        """Every binary, each once, before anything is timed. What can't be launched, and why. MachineError."""
        target = load_devices().find(self.environment.device_name).target
        assert target is not None  # the process has one
        return compile_all(self._kernel, target, contests, jobs, say)

    def measure(
        self, layer: LayerShape, rows: Mapping[int, RowConfigs], failures: Mapping[Launched, str]
    ) -> Sequence[TimedRow]:
        """ShapeNotMeasuredError: it is too large, or its process was lost. GpuLostError, MachineError: it ends."""
        of_layer = {launched: why for launched, why in failures.items() if launched[0] == layer}
        child = self._sound_child()
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # shows when its answer is read
            child.connection.send(Measurement(layer, rows, of_layer))
        try:
            found: Sequence[TimedRow] | ShapeNotMeasuredError = self._hear(self._limits.measure_s)
        except ShapeNotMeasuredError as error:
            found = error
        except (GpuLostError, _NoAnswerError) as error:
            self._give_up()
            raise ShapeNotMeasuredError(f"{layer.shape}: {error}") from error
        self._lost = 0
        if isinstance(found, ShapeNotMeasuredError):
            raise found
        return found

    def _sound_child(self) -> child_process.Child:
        """One that is up. GpuLostError: none comes up any more."""
        if self._child is not None and self._child.process.is_alive():
            return self._child
        if self._lost >= MOST_LOST:
            raise GpuLostError(f"{MOST_LOST} processes in a row were lost: nothing more is measured on this GPU")
        self._drop()
        self._begin()
        try:
            self._hear(self._limits.start_s)
        except (UserError, _NoAnswerError) as error:
            self._give_up()
            raise GpuLostError(f"no process that measures comes up any more: {error}") from error
        assert self._child is not None
        return self._child

    def _report(self) -> Ready:
        if self._ready is None:
            try:
                self._ready = self._hear(self._limits.start_s)
            except _NoAnswerError as error:
                raise UserError(f"GPU: expected a process that measures, found none: {error}.") from error
        return self._ready

    def _hear(self, limit_s: float) -> Any:
        """What the child says next; a UserError that it says is raised. _NoAnswerError: it crashed or hangs."""
        assert self._child is not None
        if not self._child.connection.poll(limit_s):
            raise _NoAnswerError(f"no answer within {limit_s:g} s")
        try:
            said = self._child.connection.recv()
        except (EOFError, ConnectionResetError) as error:
            last_line = child_process.read_log(str(self._log_path)).split("\n")[-1]
            how = f"its process ended: {self._child.how_it_ended()}. {last_line}"
            raise _NoAnswerError(how.strip().removesuffix(".")) from error
        if isinstance(said, UserError):
            raise said
        return said

    def _begin(self) -> None:
        self._log_path = self._logs.path / f"{time.monotonic_ns()}.log"
        self._child = child_process.start(self._main, str(self._log_path), self._kernel)

    def _give_up(self) -> None:
        self._lost += 1
        self._drop()

    def _drop(self) -> None:
        if self._child is not None:
            self._child.kill()
        self._child = None


class _NoAnswerError(Exception):
    """A process crashed or hangs. One line."""


# ---------------------------------------------------------------
# Compiling, without the GPU


def compile_all(
    kernel: Kernel, target: Target, contests: Sequence[ShippedContest], jobs: int, say: Say
) -> Mapping[Launched, str]:
    """Every binary of the contests, each once. What can't be launched, and why. MachineError."""
    tasks: dict[Hashable, KernelTask] = {}
    sharing: dict[Hashable, set[Launched]] = {}
    failures: dict[Launched, str] = {}
    for launched in dict.fromkeys(_launched(contests, kernel)):
        layer, num_tokens, config = launched
        try:
            problems = problems_of(kernel, layer, num_tokens, config, target.kernel_arch)
        except ValueError as error:
            failures[launched] = str(error)
            continue
        for task in (KernelTask(problem, target, kernel) for problem in problems):
            tasks.setdefault(task.key, task)
            sharing.setdefault(task.key, set()).add(launched)
    say(f"compiling {len(tasks)} kernels")
    keys = list(tasks)
    with CompilePool(jobs) as pool:
        for number, outcome in pool.run(tasks.values()):
            if outcome.status is not Status.OK:
                why = f"{outcome.status.value}: {outcome.message}"
                failures.update(dict.fromkeys(sharing[keys[number]], why))
    return failures


def _launched(contests: Sequence[ShippedContest], kernel: Kernel) -> Iterator[Launched]:
    for contest in contests:
        rows = [(m, config) for m in BATCH_SIZES for config in contest.configs(m, kernel.flavour).distinct]
        yield from ((layer, m, config) for _, layer in contest.shapes for m, config in rows)
