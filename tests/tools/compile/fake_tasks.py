"""Tasks for the pool that compile nothing: each behaves as some compiler did."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
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
    child = subprocess.Popen(["sleep", "600"])
    if path is not None:
        path.write_text(f"{os.getpid()} {child.pid}", "utf-8")
    time.sleep(600)


def _refuse(path: Path | None) -> None:
    raise RuntimeError("PassManager::run failed")


def _print_without_end(path: Path | None) -> None:
    for _ in range(2000):
        sys.stdout.write("error: 'ttg.convert_layout' op \n" * 100)
    sys.stdout.write("the last words")
    sys.stdout.flush()
    os._exit(3)


_KINDS: dict[str, Any] = {
    "ok": lambda path: SimpleNamespace(asm={}, metadata=SimpleNamespace(shared=98304)),
    "refuse": _refuse,
    "hang": _hang,
    "exit": lambda path: os._exit(7),
    "segfault": lambda path: os.kill(os.getpid(), signal.SIGSEGV),
    "print": _print_without_end,
}
