"""Reads what a compiled kernel takes: shared memory, registers, stack frame. Standard library only.

NVIDIA: the cubin is an ELF file whose section `.nv.info` lists attributes as (format, attribute, size, payload); for
a function's registers and frame the payload is (symbol, value). AMD: comments of the assembly's metadata.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator, Mapping
from typing import Any

from tools.compile.outcome import Resources

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
