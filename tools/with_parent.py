"""A process that ends with its parent, also where the parent is killed and can't end it. Linux; elsewhere it goes on.

Run as a program it becomes another one: `python with_parent.py PID COMMAND…` ends with the process PID, its parent.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from collections.abc import Sequence

_PR_SET_PDEATHSIG = 1


def end_with(parent_pid: int) -> None:
    """From here on this process is killed when its parent dies, however it hangs; now, where that is dead already."""
    if sys.platform != "linux":
        return
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent_pid:  # it died before the kernel was asked
        os.kill(os.getpid(), signal.SIGKILL)


def bound(command: Sequence[str]) -> list[str]:
    """The command, so that what it starts ends with this process. Its first word is the path of a program."""
    # What the kernel was asked for outlives an exec.
    return [sys.executable, "-I", "-S", __file__, str(os.getpid()), *command]


if __name__ == "__main__":
    end_with(int(sys.argv[1]))
    os.execv(sys.argv[2], sys.argv[2:])
