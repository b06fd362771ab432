"""What a file's name says, read back: the inverse of `get_config_file_name`, and of the engines' own spellings."""

from __future__ import annotations

import re
from types import MappingProxyType
from typing import NamedTuple

from .lookup import get_config_file_name, packed_size, unpacked_size, up_of
from .registry import SCALED_DTYPES

ENGINE_NAMES = MappingProxyType({"vllm": "vLLM", "sglang": "SGLang"})
"""Of every engine that reads such files, as people write it."""

ENGINES = tuple(ENGINE_NAMES)
"""In the order in which they are listed and asked."""

MANIFEST = ".fused_moe_configs.json"
"""In a folder that exports write to, their own list of what they wrote."""

_NAME = re.compile(
    r"E=(?P<E>[1-9]\d{0,8}),N=(?P<N>[1-9]\d{0,8}),device_name=(?P<device_name>[^,=/\\]+?)"
    r"(?:,dtype=(?P<dtype>\w+?))?(?:,block_shape=\[(?P<block_n>[1-9]\d{0,8}), ?(?P<block_k>[1-9]\d{0,8})\])?"
    r"(?P<per_channel_quant>,per_channel_quant=True)?(?P<down>_down)?\.json",
    re.ASCII,
)


class ParsedFileName(NamedTuple):
    """E: experts on the rank. N: intermediate size per shard. The fields are the loader's arguments."""

    E: int
    N: int
    device_name: str
    dtype: str | None
    block_shape: tuple[int, int] | None
    per_channel_quant: bool
    down: bool

    @property
    def file_name(self) -> str:
        """This repository's spelling."""
        return get_config_file_name(
            self.E, self.N, self.device_name, self.dtype, self.block_shape,
            per_channel_quant=self.per_channel_quant, down=self.down,
        )  # fmt: skip

    @property
    def quantisation(self) -> str:
        """The name's part behind the device, as in «dtype=fp8_w8a8,block_shape=[128,128]»; empty for bf16 and fp16."""
        return up_of(self.file_name).removesuffix(".json").split("device_name=")[1].partition(",")[2]


def shape_text(K: int, top_k: int, ep: int, fused_shared_experts: int) -> str:
    """For people, what the name doesn't say: hidden size, experts per token, and the placement where there is one."""
    ranks = f", ep={ep}" if ep > 1 else ""
    fused = f", {fused_shared_experts} of them shared" if fused_shared_experts else ""
    return f"K={K}, top_k={top_k}{fused}{ranks}"


def by_number(text: str) -> list[int | str]:
    """What a name or a line is sorted by, so that 8 comes before 16."""
    return [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", text)]


def for_channels(name: str) -> str:
    """The name that SGLang asks for where weights have scales for each channel; of others, the same.

    Where it has no file of its own the chain answers with the one for a scale for each tensor, as `lookup.places` says.
    """
    asked = parse(name)
    has_channels = asked is not None and asked.dtype in SCALED_DTYPES and asked.block_shape is None
    return asked._replace(per_channel_quant=True).file_name if asked and has_channels else name


def spelled(name: str, engine: str) -> str:
    """A name of this repository as the engine spells it. Inverse of `parse`'s reading.

    SGLang writes half of int4's N, since two values share a byte, and a space into block_shape. ValueError: half of an
    odd N.
    """
    if engine != "sglang":
        return name
    if "dtype=int4_w4a16" in name and (match := re.match(r"E=\d+,N=(\d+),", name, re.ASCII)):
        N = int(match[1])
        if N % 2:
            raise ValueError(f"SGLang's names hold half of int4's N, found the odd {N}")
        name = name.replace(f"N={N},", f"N={packed_size(N, 'int4_w4a16')},", 1)
    return re.sub(r"block_shape=\[(\d+),(\d+)\]", r"block_shape=[\1, \2]", name)


def parse(name: str, engine: str = "vllm") -> ParsedFileName | None:
    """What the name says as the engine spells it (this repository: as vLLM); None where it names no tuned file.

    SGLang writes half of the model's N for int4: the packed weight's size.
    """
    if (match := _NAME.fullmatch(name)) is None:
        return None
    N = unpacked_size(int(match["N"]), match["dtype"]) if engine == "sglang" else int(match["N"])
    block_shape = (int(match["block_n"]), int(match["block_k"])) if match["block_n"] else None
    parsed = ParsedFileName(
        int(match["E"]), N, match["device_name"], match["dtype"], block_shape,
        bool(match["per_channel_quant"]), bool(match["down"]),
    )  # fmt: skip
    try:
        return parsed if parsed.file_name else None
    except ValueError:  # a dtype or a device that no file can have
        return None
