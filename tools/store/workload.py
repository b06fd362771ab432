"""Workloads and the file names that stand for them.

A tuned file is found by its name alone, so the name's grammar decides whether an engine can ever open it.
`parse_file_name` reads any spelling and reports every fault; `Workload.file_name` writes an engine's own.
Grammar as vLLM 0.33 (`get_config_file_name`) and SGLang 0.5.23 write it; vLLM's spelling is canonical here.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fused_moe_configs.lookup import packed_size, unpacked_size
from fused_moe_configs.naming import ENGINE_NAMES, shape_text

MAX_DIMENSION = 2**31 - 1
"""Largest E or N: Triton passes sizes as 32-bit integers."""

BLOCK_QUANTISED = frozenset({"fp8_w8a8", "int8_w8a8"})
"""Dtypes whose weights can carry one scale for each block of `block_shape`."""

_UNNAMED_DTYPES = {"bf16", "bfloat16", "fp16", "float16", "half", "auto"}


class Layout(enum.StrEnum):
    """How a tree of tuned files is laid out, and whose rules decide which of its names are alive."""

    REPO = "repo"
    VLLM = "vllm"
    SGLANG = "sglang"


LOOKED_UP_DTYPES = {
    Layout.VLLM: frozenset({"fp8_w8a8", "fp8_w8a16", "int8_w8a16", "int4_w4a16", "float32"}),
    Layout.SGLANG: frozenset({"fp8_w8a8", "int8_w8a8", "int8_w8a16", "int4_w4a16", "float32"}),
}
"""The dtype strings that an engine ever puts into a name. bf16 and fp16 put none."""
LOOKED_UP_DTYPES[Layout.REPO] = LOOKED_UP_DTYPES[Layout.VLLM] | LOOKED_UP_DTYPES[Layout.SGLANG]


@dataclass(frozen=True, order=True)
class Workload:
    """What a file's name says: E experts on the rank, intermediate size N per shard, device, quantisation.

    dtype is None for bf16 and fp16, which share a name. block_shape is (block_n, block_k). N is the model's own size
    whatever the dtype; SGLang's name of int4_w4a16 holds half of it (`packed_size`).
    """

    E: int
    N: int
    device_name: str
    dtype: str | None = None
    block_shape: tuple[int, int] | None = None
    per_channel_quant: bool = False
    down: bool = False

    @classmethod
    def read(cls, document: Mapping[str, Any]) -> Workload:
        """A document that is valid by schema/workload.schema.json."""
        block_shape = document["block_shape"]
        return cls(**{**document, "block_shape": block_shape and tuple(block_shape)})

    def to_json(self) -> dict[str, Any]:
        """Inverse of `read`."""
        return {**vars(self), "block_shape": self.block_shape and list(self.block_shape)}

    def file_name(self, layout: Layout = Layout.REPO) -> str:
        """The name under which `layout` files this workload. Inverse of `parse_file_name`."""
        sglang = layout is Layout.SGLANG
        N = packed_size(self.N, self.dtype) if sglang else self.N
        parts = [f"E={self.E},N={N},device_name={self.device_name}"]
        if self.dtype is not None:
            parts.append(f"dtype={self.dtype}")
        if self.block_shape is not None:
            separator = ", " if sglang else ","
            parts.append(f"block_shape=[{self.block_shape[0]}{separator}{self.block_shape[1]}]")
        if self.per_channel_quant:
            parts.append("per_channel_quant=True")
        return ",".join(parts) + ("_down" if self.down else "") + ".json"


@dataclass(frozen=True)
class Shape:
    """The part of the problem that the name does not say: hidden size K, experts per token top_k, and the placement.

    ep: expert parallel size; the name's E is one rank's. fused_shared_experts: those that every token chooses on every
    rank, counted in E and in top_k. str() is for people.
    """

    K: int
    top_k: int
    ep: int = 1
    fused_shared_experts: int = 0

    @classmethod
    def read(cls, document: Mapping[str, Any]) -> Shape:
        """Of a document that may hold more: ep and fused_shared_experts are left out where they are 1 and 0."""
        return cls(document["K"], document["top_k"], document.get("ep", 1), document.get("fused_shared_experts", 0))

    def to_json(self) -> dict[str, Any]:
        """Inverse of `read`."""
        placement = {"ep": self.ep} if self.ep != 1 else {}
        fused = {"fused_shared_experts": self.fused_shared_experts} if self.fused_shared_experts else {}
        return {"K": self.K, "top_k": self.top_k, **placement, **fused}

    def layer_experts(self, E: int) -> int:
        """Of the whole layer, where a rank holds E of them.

        One expert may be counted too many or too few a rank where ep doesn't divide the model's (vLLM allows it, and
        its ranks then hold one more or one less): the name tells no more.
        """
        return (E - self.fused_shared_experts) * self.ep + self.fused_shared_experts

    def fault(self, E: int) -> str:
        """Why no layer has this shape with E experts on a rank; empty: one may. Sizes must be positive."""
        if self.fused_shared_experts >= min(E, self.top_k):
            return (
                f"fused_shared_experts: expected fewer than E={E} and top_k={self.top_k}, which count them, found "
                f"{self.fused_shared_experts}"
            )
        if self.top_k > self.layer_experts(E):
            ranks = f" on each of {self.ep} ranks" if self.ep > 1 else ", the experts of a rank"
            return f"top_k: expected at most E={E}{ranks}, found {self.top_k}"
        return ""

    def __str__(self) -> str:
        return shape_text(self.K, self.top_k, self.ep, self.fused_shared_experts)


@dataclass(frozen=True)
class NameFault:
    """One reason why a name does not stand for a workload, or why no engine would ever ask for it."""

    message: str
    fix: str


@dataclass(frozen=True)
class ParsedName:
    """A read name: the workload as far as it could be read, None where E, N or the device are unusable.

    An empty device name counts as read: drivers without a product table report one, and published files carry it.
    """

    workload: Workload | None
    faults: tuple[NameFault, ...]


_PART = re.compile(r",(?=[A-Za-z_]+=)")
_NUMBER = re.compile(r"[1-9][0-9]{0,9}", re.ASCII)
_BLOCK_SHAPE = re.compile(r"\[([1-9][0-9]{0,5}),( ?)([1-9][0-9]{0,5})\]", re.ASCII)
_DEVICE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._()+-]*", re.ASCII)
_PARTS = ("E", "N", "device_name", "dtype", "block_shape", "per_channel_quant")
_SHAPE_OF_NAME = "E=…,N=…,device_name=…[,dtype=…][,block_shape=[n,k]][,per_channel_quant=True][_down].json"


def parse_file_name(name: str, layout: Layout = Layout.REPO) -> ParsedName:
    """Reads a file name as `layout` spells it and lists every fault. Never raises."""
    faults: list[NameFault] = []
    stem = name.removesuffix(".json")
    if stem == name:
        return ParsedName(None, (NameFault(f"expected a name that ends in .json, found {name!r}", "rename it"),))
    down = stem.endswith("_down")
    fields, order = _split(stem.removesuffix("_down"))
    if order[:3] != _PARTS[:3]:
        fix = "rename the file to the grammar, or remove it: no engine asks for this name"
        return ParsedName(None, (NameFault(f"expected {_SHAPE_OF_NAME}, found {name!r}", fix),))

    E, N = (_dimension(key, fields[key], faults) for key in ("E", "N"))
    device_name = fields["device_name"]
    if not is_device_name(device_name):
        faults.append(
            NameFault(
                f"device_name: expected letters, digits and _ - . + ( ), found {device_name!r}",
                "write the driver's name with every run of white space and every / as _",
            )
        )
    faults += _order_faults(order)
    dtype = fields.get("dtype")
    block_shape, block_faults = _block_shape(fields.get("block_shape"), layout)
    faults += block_faults
    per_channel = fields.get("per_channel_quant")
    if per_channel not in (None, "True"):
        faults.append(
            NameFault(f"per_channel_quant: expected True, found {per_channel!r}", "write True, or leave it out")
        )
    if E is None or N is None or not (is_device_name(device_name) or device_name == ""):
        return ParsedName(None, tuple(faults))
    if layout is Layout.SGLANG:
        N = unpacked_size(N, dtype)
    workload = Workload(E, N, device_name, dtype, block_shape, per_channel == "True", down)
    faults += _liveness_faults(workload, layout)
    if not faults and workload.file_name(layout) != name:
        faults.append(NameFault(f"expected {workload.file_name(layout)!r}, found {name!r}", "rename the file"))
    return ParsedName(workload, tuple(faults))


def is_device_name(name: str) -> bool:
    """Whether a file name can carry this device name."""
    return _DEVICE.fullmatch(name) is not None


def _split(stem: str) -> tuple[dict[str, str], tuple[str, ...]]:
    pairs = [part.partition("=") for part in _PART.split(stem)]
    return {key: value for key, _, value in reversed(pairs)}, tuple(key for key, _, _ in pairs)


def _dimension(key: str, text: str, faults: list[NameFault]) -> int | None:
    if _NUMBER.fullmatch(text) and int(text) <= MAX_DIMENSION:
        return int(text)
    shown = text if len(text) <= 40 else f"{text[:40]}… ({len(text)} characters)"
    faults.append(
        NameFault(
            f"{key}: expected a decimal number from 1 to {MAX_DIMENSION}, found {shown!r}",
            f"write {key} as the engine does, without sign, leading zeros or spaces",
        )
    )
    return None


def _order_faults(order: tuple[str, ...]) -> list[NameFault]:
    faults = []
    for key in dict.fromkeys(order):
        if order.count(key) > 1:
            faults.append(NameFault(f"{key}: expected once, found {order.count(key)} times", "keep one"))
        if key == "backend":
            faults.append(
                NameFault(
                    "backend=: a file of another kernel, not of the Triton fused_moe kernel",
                    "keep it in that engine; this store holds the Triton kernel's files only",
                )
            )
        elif key not in _PARTS:
            faults.append(NameFault(f"{key}=: expected {_SHAPE_OF_NAME}", "remove the part: no engine writes it"))
    known = [key for key in order if key in _PARTS]
    if known != sorted(known, key=_PARTS.index):
        faults.append(NameFault(f"expected the parts in the order {', '.join(_PARTS)}", "reorder the name's parts"))
    return faults


def _block_shape(text: str | None, layout: Layout) -> tuple[tuple[int, int] | None, list[NameFault]]:
    if text is None:
        return None, []
    match = _BLOCK_SHAPE.fullmatch(text)
    if match is None:
        return None, [NameFault(f"block_shape: expected [n,k], found {text!r}", "write two numbers, as in [128,128]")]
    shape = int(match[1]), int(match[3])
    space = " " if layout is Layout.SGLANG else ""
    if match[2] == space:
        return shape, []
    right = f"[{shape[0]},{space}{shape[1]}]"
    whose = "SGLang looks up" if space else "vLLM and this store look up"
    return shape, [NameFault(f"block_shape: {whose} {right}, found {text}", f"write block_shape={right}")]


def _liveness_faults(workload: Workload, layout: Layout) -> list[NameFault]:
    """Faults of a well-formed name for which no engine of the layout ever asks."""
    faults = []
    alive = LOOKED_UP_DTYPES[layout]
    dtype = workload.dtype
    if dtype is not None and dtype not in alive:
        reader = ENGINE_NAMES.get(layout, "an engine")
        unnamed = dtype in _UNNAMED_DTYPES or (dtype == "int8_w8a8" and layout is Layout.VLLM)
        fix = (
            f"leave ,dtype={dtype} out: such workloads have no dtype part"
            if unnamed
            else f"use one of {', '.join(sorted(alive))}, or leave the part out for bf16 and fp16"
        )
        faults.append(NameFault(f"dtype={dtype}: expected a dtype that {reader} looks up", fix))
    if workload.block_shape is not None and dtype not in BLOCK_QUANTISED:
        faults.append(
            NameFault(
                f"block_shape with dtype {dtype or 'absent (bf16, fp16)'}: only "
                f"{' and '.join(sorted(BLOCK_QUANTISED))} have block scales",
                "add the dtype that was tuned, or leave block_shape out",
            )
        )
    if workload.per_channel_quant and dtype not in {"fp8_w8a8", "int8_w8a8"}:
        faults.append(
            NameFault(
                f"per_channel_quant with dtype {dtype or 'absent (bf16, fp16)'}: expected fp8_w8a8 or int8_w8a8",
                "add the dtype that was tuned, or leave per_channel_quant out",
            )
        )
    if layout is Layout.VLLM:
        if workload.per_channel_quant:
            faults.append(NameFault("per_channel_quant=True: vLLM never asks for it", "leave the part out"))
        if workload.down:
            faults.append(NameFault("_down: vLLM has no separate down-projection file", "remove the file"))
    return faults
