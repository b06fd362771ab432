"""Processes that answer a survey without a GPU: by a layer's hidden size, each behaves as one with a GPU might."""

from __future__ import annotations

import os
import signal
import time
from multiprocessing.connection import Connection
from typing import Any

from tests.builders import environment
from tools.child_process import settle
from tools.errors import MachineError, UserError
from tools.portfolio.survey_protocol import GpuLostError, Measurement, Ready, ShapeNotMeasuredError, TimedRow
from tools.store.record import Environment

GOOD, TOO_LARGE, LOSES_CONTEXT, CRASHES, HANGS, NO_DISK, DIES_AFTERWARDS = 64, 128, 192, 256, 320, 384, 448


def measuring(connection: Connection, log_path: str, kernel: Any) -> None:
    """Says its own process id as the µs of every launch."""
    settle(log_path)
    connection.send(Ready(Environment.read(environment()), ("another process uses the GPU",)))
    while True:
        try:
            asked: Measurement = connection.recv()
        except EOFError:
            return
        connection.send(_answer(asked))
        if asked.layer.hidden_size in (LOSES_CONTEXT, NO_DISK, DIES_AFTERWARDS):
            return


def _answer(asked: Measurement) -> object:
    size = asked.layer.hidden_size
    if size == TOO_LARGE:
        return ShapeNotMeasuredError(f"{asked.layer.shape} takes 99.0 GiB")
    if size == LOSES_CONTEXT:
        return GpuLostError("the GPU doesn't answer any more")
    if size == NO_DISK:
        return MachineError("this machine: no space left")
    if size == CRASHES:
        os.write(2, b"an assertion of the driver\n")
        os.kill(os.getpid(), signal.SIGSEGV)
    if size == HANGS:
        time.sleep(60)
    rows = asked.rows.items()
    return tuple(TimedRow(m, dict.fromkeys(row.distinct, (float(os.getpid()),)), {}) for m, row in rows)


def refusing(connection: Connection, log_path: str, kernel: Any) -> None:
    settle(log_path)
    connection.send(UserError("expected an NVIDIA GPU, found none that torch can use."))


def never_up(connection: Connection, log_path: str, kernel: Any) -> None:
    settle(log_path)
    raise SystemExit(3)


def up_once(connection: Connection, log_path: str, marker: str) -> None:
    """As `measuring`, in the first process that is started. marker: a path, in place of a kernel."""
    with open(marker, "a") as file:  # noqa: PTH123
        is_first = file.tell() == 0
        file.write("started\n")
    (measuring if is_first else refusing)(connection, log_path, None)
