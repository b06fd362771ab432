"""Which failures of compiling and launching are the machine's: a full disk, no permission, no memory.

They say nothing of the launch config; a launch's others do. Imports neither torch nor triton.
"""

from __future__ import annotations

import errno
import os
import re
import resource
import tempfile
from dataclasses import dataclass
from pathlib import Path

from tools import child_process
from tools.compile.outcome import Status
from tools.errors import MachineError, first_line, reason_of


@dataclass(frozen=True)
class MachineFault:
    """reason: what the machine failed at. is_memory: else it is a place that can't be written."""

    reason: str
    is_memory: bool = False

    def error(self) -> MachineError:
        """One line with the way out."""
        if self.is_memory:
            fix = "free memory, or compile in fewer processes (--jobs)"
        else:
            cache = os.environ.get("TRITON_CACHE_DIR") or Path.home() / ".triton" / "cache"
            fix = (
                f"make room, or give permission, in Triton's cache {cache} and in {_temporary()}, "
                "or name others with TRITON_CACHE_DIR and TMPDIR"
            )
        expected = "this machine: expected a place where Triton can compile, found"
        return MachineError(f"{expected}: {self.reason}. It says nothing of the launch configs. Fix: {fix}.")


class DamagedError(Exception):
    """A binary that was cut short: the assembler's exit code is 0 on a full disk too, and the cache keeps the rest."""


_KILLED = re.compile(r"ptxas.*error code (?:-9|137)\b")
_MEMORY = (errno.ENOMEM, errno.EAGAIN)
_PROBE_BYTES = 1 << 20
"""More than a kernel's files take."""


def fault_of(error: Exception) -> MachineFault | None:
    """None: it may be the launch config's."""
    if isinstance(error, MemoryError) or _KILLED.search(str(error)):
        return MachineFault(f"no memory left ({str(error).partition(chr(10))[0] or 'MemoryError'})", is_memory=True)
    if isinstance(error, DamagedError):
        return MachineFault(str(error))
    # A file over the limit that `child_process.settle` sets is an endless one.
    if not isinstance(error, OSError) or (error.errno == errno.EFBIG and _is_own_limit()):
        return None
    at = f" at {error.filename}" if error.filename else ""
    return MachineFault(f"{reason_of(error)}{at}", is_memory=error.errno in _MEMORY)


def status_of(error: Exception) -> tuple[Status, str]:
    """Of a launch that failed: (status, its first line). MachineError: it says nothing of the launch config."""
    message = first_line(error)
    if isinstance(error, AssertionError):
        return Status.CORRECTNESS, message
    if fault := fault_of(error):
        raise fault.error() from error
    return (Status.CONSTRAINTS if isinstance(error, ValueError) else Status.RUNTIME), message


def fault_of_places() -> MachineFault | None:
    """Whether the assembler, which fails in its own words, had a place to write to; None: it had."""
    for folder in (_temporary(), os.environ.get("TRITON_CACHE_DIR")):
        if folder is None:
            continue
        try:
            with tempfile.TemporaryFile(dir=folder) as file:
                file.write(bytes(_PROBE_BYTES))
                file.flush()
        except OSError as error:
            return MachineFault(f"{reason_of(error)} at {folder}")
    return None


def _is_own_limit() -> bool:
    return resource.getrlimit(resource.RLIMIT_FSIZE)[0] == child_process.MAX_LOG_BYTES


def _temporary() -> str:
    try:
        return tempfile.gettempdir()
    except OSError:  # none can be written
        return os.environ.get("TMPDIR") or os.sep + "tmp"
