"""A clock for the pool that hangs move on: nobody waits for a limit, and no busy machine's real work meets one."""

from __future__ import annotations

import time
from multiprocessing.connection import wait
from pathlib import Path
from types import SimpleNamespace

import pytest

from tools.compile import pool

LIMIT_S = 600.0


def let_hangs_pass(patch: pytest.MonkeyPatch, folder: Path) -> None:
    """For a pool of one process with this limit: each hang that wrote its ids into the folder takes as long."""

    def clock_s() -> float:
        hangs = sum(len(path.read_text("utf-8").split()) == 2 for path in folder.iterdir())
        return time.monotonic() + LIMIT_S * hangs

    patch.setattr(pool, "time", SimpleNamespace(monotonic=clock_s, monotonic_ns=time.monotonic_ns))
    patch.setattr(pool, "wait", lambda connections, _: wait(connections, 0.02))  # to look at the clock again
