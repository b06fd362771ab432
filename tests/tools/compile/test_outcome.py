"""What a compiled kernel takes, read out of the binaries of NVIDIA's and AMD's compilers."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import pytest

from tools.compile.outcome import SPILL_LIMIT_BYTES, Resources, cubin_attributes, read_resources

VALUE, NO_PAYLOAD = 0x04, 0x03
FRAME_SIZE, REGCOUNT, MAXREG = 0x11, 0x2F, 0x1B


def attribute(name: int, value: int, function: int = 1) -> bytes:
    """As `.nv.info` holds it: the function's place in the symbol table, then the value."""
    return struct.pack("<BBHII", VALUE, name, 8, function, value)


def elf(**sections: bytes) -> bytes:
    """A 64-bit ELF file with these sections; underlines stand for points."""
    names, heads, body = b"\0", [(0, 0, 0, 0, 0, 0)], b"\x7fELF\x02".ljust(64, b"\0")
    contents = {name.replace("_", "."): content for name, content in sections.items()} | {".shstrtab": b""}
    for name in contents:
        contents[name], place = contents[name], len(names)
        names += name.encode() + b"\0"
        heads.append((place, 0, 0, 0, len(body), len(contents[name])))
        body += contents[name]
    heads[-1] = (*heads[-1][:4], len(body), len(names))
    body += names
    table = b"".join(struct.pack("<IIQQQQ", *head).ljust(64, b"\0") for head in heads)
    patched = bytearray(body + table)
    struct.pack_into("<Q", patched, 0x28, len(body))
    struct.pack_into("<HHH", patched, 0x3A, 64, len(heads), len(heads) - 1)
    return bytes(patched)


def compiled(shared: int = 1024, **asm: Any) -> Any:
    return SimpleNamespace(asm=asm, metadata=SimpleNamespace(shared=shared))


class TestCubin:
    def test_the_largest_value_of_any_function_counts(self) -> None:
        info = attribute(REGCOUNT, 64) + attribute(REGCOUNT, 255, 2) + attribute(FRAME_SIZE, 16)
        assert cubin_attributes(elf(_nv_info=info)) == {REGCOUNT: 255, FRAME_SIZE: 16}

    def test_attributes_of_another_format_are_stepped_over(self) -> None:
        other = struct.pack("<BBH", NO_PAYLOAD, MAXREG, 0xFFFF)
        long = struct.pack("<BBHIII", VALUE, MAXREG, 12, 1, 2, 3)
        assert cubin_attributes(elf(_nv_info=other + long + attribute(REGCOUNT, 32))) == {REGCOUNT: 32}

    def test_only_its_own_section_is_read(self) -> None:
        info = attribute(REGCOUNT, 32)
        assert cubin_attributes(elf(_text=attribute(REGCOUNT, 99), _nv_info=info)) == {REGCOUNT: 32}
        assert cubin_attributes(elf(_text=info)) == {}

    @pytest.mark.parametrize("data", [b"", b"ptx", b"\x7fELF\x01"])
    def test_what_is_no_64_bit_elf_is_refused(self, data: bytes) -> None:
        with pytest.raises(ValueError, match="cubin: expected a 64-bit ELF file, found "):
            cubin_attributes(data)


class TestReadResources:
    def test_of_nvidias_binary(self) -> None:
        cubin = elf(_nv_info=attribute(REGCOUNT, 128) + attribute(FRAME_SIZE, 40))
        assert read_resources(compiled(cubin=cubin)) == Resources(1024, 128, 40)

    @pytest.mark.parametrize(
        ("text", "expected"),
        [
            (".vgpr_count:     96\n.vgpr_spill_count: 5\n", Resources(1024, 96, 20)),
            (".vgpr_count: 96\n", Resources(1024, 96, None)),
        ],
        ids=["spilled registers have four bytes each", "not said"],
    )
    def test_of_amds_assembly(self, text: str, expected: Resources) -> None:
        assert read_resources(compiled(amdgcn=text)) == expected

    def test_of_another_target_only_shared_memory_is_known(self) -> None:
        asm: Mapping[str, Any] = {"spv": b""}
        assert read_resources(compiled(**asm)) == Resources(1024)


@pytest.mark.parametrize(
    ("frame_bytes", "spills"), [(None, False), (0, False), (SPILL_LIMIT_BYTES, False), (SPILL_LIMIT_BYTES + 1, True)]
)
def test_a_kernel_spills_above_the_limit(frame_bytes: int | None, spills: bool) -> None:
    assert Resources(0, 255, frame_bytes).spills is spills
