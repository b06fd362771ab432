"""What a test waits for: that its processes have come so far, or are gone."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path


def is_alive(pid: int) -> bool:
    """Zombies don't count: nobody but their parent can remove them."""
    if sys.platform == "linux":  # a slim container has no ps
        try:
            return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text("utf-8")
        except (FileNotFoundError, ProcessLookupError):
            return False
    state = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True, check=False).stdout
    return state.strip() != "" and not state.startswith("Z")


PATIENCE_S = 120.0
"""What is right comes in a moment, on a busy machine in some more; this only ends a test of what never comes."""


def wait_until(is_so: Callable[[], bool], what: str) -> None:
    """AssertionError, with `what`: it isn't so for all our patience."""
    deadline = time.monotonic() + PATIENCE_S
    while not is_so():
        assert time.monotonic() < deadline, f"expected soon: {what}"
        time.sleep(0.02)


def wait_until_dead(pids: Iterable[int]) -> None:
    """AssertionError: one of them lives on."""
    for pid in pids:
        wait_until(lambda pid=pid: not is_alive(pid), f"the end of process {pid}")  # type: ignore[misc]


def pids_in(path: Path, count: int) -> list[int]:
    """The processes' ids, once as many stand in the file."""
    wait_until(lambda: path.exists() and len(path.read_text("utf-8").split()) == count, f"{count} ids in {path}")
    return [int(pid) for pid in path.read_text("utf-8").split()]
