"""Tasks for the pool that compile nothing: each behaves as some compiler did."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from tools.registry.devices import Target


@dataclass(frozen=True)
class FakeTask:
    """kind: what `compile` does. path: a file that the task writes its process's id to."""

    kind: str
    path: Path | None = None

    @property
    def target(self) -> Target:
        return Target("cuda", 90, 32)

    def compile(self) -> Any:
        if self.path is not None:
            self.path.write_text(str(os.getpid()), "utf-8")
        return _KINDS[self.kind](self.path)


def _hang(path: Path | None) -> None:
    with tempfile.NamedTemporaryFile(suffix=".ptx", delete=False):
        child = subprocess.Popen(["sleep", "600"])
    if path is not None:
        path.write_text(f"{os.getpid()} {child.pid}", "utf-8")
    time.sleep(600)


def _hang_up(path: Path | None) -> None:
    """Behind the end of its pipe."""
    os.closerange(3, 1024)
    time.sleep(600)


def _refuse(path: Path | None) -> None:
    raise RuntimeError("PassManager::run failed")


def _fail(error_number: int) -> None:
    raise OSError(error_number, os.strerror(error_number), "/cache/of/triton")


def _killed_once(path: Path | None) -> Any:
    """By a system that is out of memory; there is enough of it the next time."""
    assert path is not None
    before = path.with_suffix(".before")
    if not before.exists():
        before.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return _COMPILED


def _out_of_memory(path: Path | None) -> None:
    raise MemoryError


def _assembler_killed(path: Path | None) -> None:
    raise RuntimeError("`ptxas` failed with error code -9\n`ptxas` stderr:\n")


def _print_without_end(path: Path | None) -> None:
    for _ in range(2000):
        sys.stdout.write("error: 'ttg.convert_layout' op \n" * 100)
    sys.stdout.write("the last words")
    sys.stdout.flush()
    os._exit(3)


_COMPILED = SimpleNamespace(asm={}, metadata=SimpleNamespace(shared=98304))
_KINDS: dict[str, Any] = {
    "ok": lambda path: _COMPILED,
    "disk full": lambda path: _fail(errno.ENOSPC),
    "read-only": lambda path: _fail(errno.EROFS),
    "no permission": lambda path: _fail(errno.EACCES),
    "over quota": lambda path: _fail(errno.EDQUOT),
    "endless file": lambda path: _fail(errno.EFBIG),
    "out of memory": _out_of_memory,
    "assembler killed": _assembler_killed,
    "killed": lambda path: os.kill(os.getpid(), signal.SIGKILL),
    "killed once": _killed_once,
    "refuse": _refuse,
    "hang": _hang,
    "hang up": _hang_up,
    "exit": lambda path: os._exit(7),
    "segfault": lambda path: os.kill(os.getpid(), signal.SIGSEGV),
    "print": _print_without_end,
}
