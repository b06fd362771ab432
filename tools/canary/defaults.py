"""What runs where no file matches: an engine's default function beside our table of it, on a grid. Pure.

The grid holds both sides of every limit that the engines' functions have, batch sizes that graphs really run, and
others that are on no list, so that a limit that moves is seen. An engine's answers come from the child process.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from fused_moe_configs.naming import ENGINE_NAMES
from kernels.launch_config import TRITON_DEFAULTS, LaunchConfig
from tools.launch.heuristic_version import DEFAULT_FUNCTION
from tools.launch.heuristics import sglang_heuristic, vllm_heuristic
from tools.store.record import HeuristicVersion
from tools.store.workload import Workload
from tools.text import counted

Entry = Mapping[str, Any]


@dataclass(frozen=True)
class Machine:
    """What a default function sees of the GPU. smem_bytes: shared memory of a block; None: the driver doesn't say."""

    is_rocm: bool = False
    smem_bytes: int | None = None

    def __str__(self) -> str:
        smem = "" if self.smem_bytes is None else f", {self.smem_bytes} bytes of shared memory"
        return f"{'ROCm' if self.is_rocm else 'CUDA'}{smem}"


MACHINES: Mapping[str, tuple[Machine, ...]] = MappingProxyType(
    {
        "vllm": (Machine(), Machine(is_rocm=True)),
        "sglang": (
            Machine(),
            *(Machine(smem_bytes=smem) for smem in (99 << 10, (128 << 10) - 1, 128 << 10, 227 << 10)),
            Machine(is_rocm=True, smem_bytes=64 << 10),
        ),
    }
)

KINDS: tuple[tuple[str | None, tuple[int, int] | None], ...] = (
    (None, None),
    ("fp8_w8a8", None),
    *(("fp8_w8a8", block_shape) for block_shape in ((128, 128), (64, 64), (32, 32), (96, 96), (64, 128), (128, 64))),
    ("int8_w8a8", None),
    ("int8_w8a8", (128, 128)),
    ("int8_w8a16", None),
)
"""(dtype, block_shape) that the engines' Triton kernel runs."""

EXPERTS = (1, 8, 9, 60, 64, 128, 129, 257, 289, 512, 513)

SHAPES = ((7168, 4096, 2), (768, 2048, 8), (128, 7168, 9))
"""(N, K, top_k): no engine's function that we know looks at them, and one that does is seen."""

_USUAL = (256, 384, 512, 768, 1024, 1536, 2048, 3072, 4096, 8192, 16384)
_OTHERS = (333, 777, 1300, 2500, 5000, 10007, 30000, 65536, 131072)


def tokens_of(E: int) -> tuple[int, ...]:
    """The batch sizes M asked for with E experts, ascending."""
    around = (*_USUAL, E, 2 * E, 4 * E, 32 * E, 64 * E, 129 * E, 256 * E)
    sizes = {*range(1, 162), *_OTHERS, *(size + off for size in around for off in (-1, 0, 1))}
    return tuple(sorted(size for size in sizes if size >= 1))


@dataclass(frozen=True)
class DefaultQuestion:
    """Which launch config serves each M of `tokens_of(workload.E)` without a file?"""

    workload: Workload
    K: int
    top_k: int


def questions() -> tuple[DefaultQuestion, ...]:
    """The grid, to be asked on each of an engine's machines."""
    return tuple(
        DefaultQuestion(Workload(E, N, "any", dtype, block_shape), K, top_k)
        for dtype, block_shape in KINDS
        for E in EXPERTS
        for N, K, top_k in SHAPES
    )


def to_json(engine: str, question: DefaultQuestion) -> Mapping[str, Any]:
    """As the child process reads it."""
    workload = question.workload
    # vLLM has no word for int8_w8a8: it passes the one of 16 bits.
    dtype = None if engine == "vllm" and workload.dtype == "int8_w8a8" else workload.dtype
    shape = {"E": workload.E, "N": workload.N, "K": question.K, "topk": question.top_k}
    block_shape = workload.block_shape and list(workload.block_shape)
    return {**shape, "dtype": dtype, "block_shape": block_shape, "tokens": tokens_of(workload.E)}


def differences(
    engine: str, machine: Machine, asked: Sequence[DefaultQuestion], answers: Sequence[Any]
) -> Iterator[tuple[str, str]]:
    """(where, what differs) for each kind of weights, its first point in full. answers: as the child wrote them."""
    by_kind: dict[tuple[str | None, tuple[int, int] | None], list[tuple[DefaultQuestion, Any]]] = {}
    for question, answer in zip(asked, answers, strict=True):
        by_kind.setdefault((question.workload.dtype, question.workload.block_shape), []).append((question, answer))
    ours = _OurTable(engine, machine)
    for (dtype, block_shape), pairs in by_kind.items():
        found = [first for question, answer in pairs if (first := ours.first_difference(question, answer))]
        if found:
            blocks = "" if block_shape is None else f", block_shape [{block_shape[0]},{block_shape[1]}]"
            where = f"{DEFAULT_FUNCTION}, {dtype or 'bf16 and fp16'}{blocks}, {machine}"
            yield where, f"{len(found)} of {counted(len(pairs), 'workload')} differ, first {found[0]}"


class _OurTable:
    """Our table on one machine. Its answers depend on E, dtype and blocks alone."""

    def __init__(self, engine: str, machine: Machine) -> None:
        self._engine, self._machine = engine, machine
        self._known: dict[tuple[int, str | None, tuple[int, int] | None], dict[int, LaunchConfig]] = {}

    def first_difference(self, question: DefaultQuestion, answer: Any) -> str | None:
        """The first M at which the engine's answer is another one; None: there is none."""
        workload = question.workload
        at = f"at E={workload.E}, N={workload.N}, K={question.K}, top_k={question.top_k}"
        if isinstance(answer, Mapping):
            return f"{at}: the engine's code fails: {answer.get('error')}"
        starts = _starts(answer)
        ours = self._ours(workload)
        if starts is None or min(ours) not in starts:
            return f"{at}: the engine's code gives no table of entries"
        mine = theirs = ""
        before = None
        for M, config in ours.items():
            if config == before and M not in starts:
                continue
            mine, before = _text(config.to_entry()), config
            theirs = self._text(starts[M], workload) if M in starts else theirs
            if mine != theirs:
                return f"{at}, M={M}: our table answers {mine}, the engine {theirs}"
        return None

    def _ours(self, workload: Workload) -> dict[int, LaunchConfig]:
        key = (workload.E, workload.dtype, workload.block_shape)
        if key not in self._known:
            is_rocm, smem_bytes = self._machine.is_rocm, self._machine.smem_bytes
            heuristic: Callable[[int], LaunchConfig] = (
                (lambda M: vllm_heuristic(workload, M, is_rocm=is_rocm))
                if self._engine == "vllm"
                else (lambda M: sglang_heuristic(workload, M, is_rocm=is_rocm, smem_bytes=smem_bytes))
            )
            self._known[key] = {M: heuristic(M) for M in tokens_of(workload.E)}
        return self._known[key]

    def _text(self, entry: Entry, workload: Workload) -> str:
        """The engine's entry as it is launched: Triton's own warps and stages where it is silent, K as vLLM cuts it."""
        whole = {**{key: TRITON_DEFAULTS[key] for key in ("num_warps", "num_stages")}, **entry}
        if whole.get("SPLIT_K") == 1:
            del whole["SPLIT_K"]
        block_size_k = whole.get("BLOCK_SIZE_K")
        if self._engine == "vllm" and workload.block_shape is not None and type(block_size_k) is int:
            whole["BLOCK_SIZE_K"] = min(block_size_k, *workload.block_shape)
        return _text(whole)


def _starts(answer: Any) -> dict[int, Entry] | None:
    """Entry by the M from which on it serves; None: it is of another form."""
    if not isinstance(answer, list):
        return None
    found: dict[int, Entry] = {}
    for pair in answer:
        match pair:
            case [int(M), dict(entry)]:
                found[M] = entry
            case _:
                return None
    return found


def _text(entry: Entry) -> str:
    """Also distinguishes 1 from true, which compare as equal."""
    return json.dumps(entry, sort_keys=True, default=repr)


def moved(engine: str, version: str, sha256: str, followed: HeuristicVersion, num_different: int | None) -> str | None:
    """The line about a default function that is another one than our table follows; None: it is that very one.

    num_different: in how many kinds of weights and machines its answers differ; None: it gave none.
    """
    if sha256 == followed.sha256:
        return None
    name = ENGINE_NAMES[engine]
    if num_different is None:
        answers = "it gave no answers"
    elif num_different:
        answers = "its answers on the grid differ from our table's"
    else:
        answers = "its answers on the grid are those of our table"
    return (
        f"what {name} {version} runs without a file has moved: {followed.sha256} in {followed.version}, {sha256} now; "
        f"{answers}. Fix: compare it with tools/launch/heuristics.py, and name it in FOLLOWED of heuristic_version.py"
    )
