"""What became of one compilation. Standard library only."""

from __future__ import annotations

import enum
from dataclasses import dataclass


class Status(enum.StrEnum):
    """How a task ended."""

    OK = "ok"
    CONSTRAINTS = "constraints"
    """The launch config breaks a rule that is known before compiling."""
    COMPILE = "compile"
    """The compiler refused it."""
    TIMEOUT = "timeout"
    CRASH = "crash"
    """A process was taken down: the compiler's, or the one with the GPU."""
    RUNTIME = "runtime"
    """The launch failed."""
    CORRECTNESS = "correctness"
    """The launch computed wrong numbers."""


class ConstraintError(ValueError):
    """A task's own reason not to compile. The message becomes the outcome's."""


SPILL_LIMIT_BYTES = 256
"""A thread's stack frame above which a kernel counts as spilling.

Of 180 launch configs timed on an H100 before there was this limit, 13 had a larger frame; none came within 45 % of its
row's best at any batch size.
"""


@dataclass(frozen=True)
class Resources:
    """What a compiled kernel takes. None: the target's binary doesn't say, or not cheaply.

    smem_bytes: of a block. registers: of a thread. frame_bytes: a thread's stack frame, which is where spilled
    registers go (AMD: four times the spilled vector registers).
    """

    smem_bytes: int
    registers: int | None = None
    frame_bytes: int | None = None

    @property
    def spills(self) -> bool:
        """Whether the kernel is too slow to be worth timing, for the registers it keeps in memory."""
        return (self.frame_bytes or 0) > SPILL_LIMIT_BYTES


@dataclass(frozen=True)
class Outcome:
    """status; resources where it is ok, message where it is not; seconds from handing out to the answer."""

    status: Status
    seconds: float
    resources: Resources | None = None
    message: str = ""
