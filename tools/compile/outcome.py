"""What became of one compilation, and what a compiled kernel takes. Standard library only."""

from __future__ import annotations

import enum
import re
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any


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
class CompileOutcome:
    """status; resources where it is ok, message where it is not; seconds from handing out to the answer."""

    status: Status
    seconds: float
    resources: Resources | None = None
    message: str = ""


# ---------------------------------------------------------------
# What a compiled kernel takes: shared memory, registers, stack frame

_EIFMT_SVAL = 0x04
_EIATTR_FRAME_SIZE = 0x11
_EIATTR_REGCOUNT = 0x2F
_AMD_REGISTERS = re.compile(r"\.vgpr_count:\s+(\d+)")
_AMD_SPILLS = re.compile(r"\.vgpr_spill_count:\s+(\d+)")


def read_resources(compiled: Any) -> Resources:
    """Of Triton's `CompiledKernel`, fresh or from the cache."""
    asm: Mapping[str, Any] = compiled.asm
    smem_bytes = int(compiled.metadata.shared)
    if "cubin" in asm:
        attributes = cubin_attributes(asm["cubin"])
        return Resources(smem_bytes, attributes.get(_EIATTR_REGCOUNT), attributes.get(_EIATTR_FRAME_SIZE))
    if "amdgcn" in asm:
        registers, spills = (pattern.search(asm["amdgcn"]) for pattern in (_AMD_REGISTERS, _AMD_SPILLS))
        return Resources(smem_bytes, registers and int(registers[1]), spills and 4 * int(spills[1]))
    return Resources(smem_bytes)


def cubin_attributes(cubin: bytes) -> dict[int, int]:
    """The largest value of each attribute that `.nv.info` gives per function. ValueError: no 64-bit ELF."""
    if cubin[:5] != b"\x7fELF\x02":
        raise ValueError(f"cubin: expected a 64-bit ELF file, found {cubin[:5]!r}.")
    found: dict[int, int] = {}
    for section in _sections(cubin, ".nv.info"):
        offset = 0
        while offset + 4 <= len(section):
            layout, attribute, size = struct.unpack_from("<BBH", section, offset)
            offset += 4
            # Other formats carry their value in the size field and no payload.
            if layout != _EIFMT_SVAL:
                continue
            if size == 8:
                _, value = struct.unpack_from("<II", section, offset)
                found[attribute] = max(value, found.get(attribute, 0))
            offset += size
    return found


def _sections(elf: bytes, wanted: str) -> Iterator[bytes]:
    (table,) = struct.unpack_from("<Q", elf, 0x28)
    entry_bytes, count, names_index = struct.unpack_from("<HHH", elf, 0x3A)
    headers = [struct.unpack_from("<IIQQQQ", elf, table + i * entry_bytes) for i in range(count)]
    names = headers[names_index][4]
    for name, _, _, _, offset, size in headers:
        start = names + name
        if elf[start : elf.index(b"\0", start)].decode() == wanted:
            yield elf[offset : offset + size]
