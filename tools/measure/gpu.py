"""The GPU: which one is here, what it has free, what it reaches at best. Imports torch only where asked to use it."""

from __future__ import annotations

import gc
import itertools
import os
import subprocess
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from tools.errors import UserError
from tools.measure.layer import LayerShape, memory_bytes

# ---------------------------------------------------------------
# Asked without torch in this process: importing it takes seconds, and a context disturbs what is measured

_ASK_TORCH = "import torch; print(torch.cuda.get_device_name() if torch.cuda.is_available() else '')"


def find_gpu() -> str | None:
    """The first visible GPU's name as its driver reports it. None: there is none that torch could use."""
    name = _ask(["nvidia-smi", "--query-gpu=name", "--format=csv,noheader", *_visible()])
    # AMD has no tool that prints the very name torch reports.
    return name or _ask([sys.executable, "-c", _ASK_TORCH])


@dataclass(frozen=True)
class VisibleGpu:
    """id: as CUDA_VISIBLE_DEVICES takes it. name: as its driver reports it."""

    id: str
    name: str


_ALL_BY_TORCH = "import torch; print('\\n'.join(map(torch.cuda.get_device_name, range(torch.cuda.device_count()))))"


def find_gpus() -> tuple[VisibleGpu, ...]:
    """All that this process may use, in their order. Empty: there is none that torch could use."""
    asked = os.environ.get("CUDA_VISIBLE_DEVICES")
    names: list[str | None]
    query = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
    if asked is None:
        ids, names = None, [*_lines(query)]
    else:  # one by one: asked for several, the tool answers in an order of its own
        ids = [part.strip() for part in asked.split(",") if part.strip()]
        answers = (_ask([*query, f"--id={each}"]) for each in ids)
        names = list(itertools.takewhile(lambda name: name is not None, answers))
    if ids == []:
        return ()
    names = names or [*_lines([sys.executable, "-c", _ALL_BY_TORCH])]
    places = ids or map(str, range(len(names)))
    return tuple(VisibleGpu(place, name) for place, name in zip(places, names, strict=False) if name)


def _visible() -> list[str]:
    """nvidia-smi lists hidden GPUs as well."""
    first = os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0]
    return [f"--id={first}"] if first else ["--id=none"]


def _ask(command: list[str]) -> str | None:
    """The first line that the command prints; None: it fails, or prints none."""
    return next(iter(_lines(command)), None)


def _lines(command: list[str]) -> list[str]:
    """What the command prints, without empty lines; nothing where it fails."""
    try:
        answer = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    except (OSError, subprocess.SubprocessError):
        return []
    return [line.strip() for line in answer.stdout.splitlines() if line.strip()]


# ---------------------------------------------------------------
# The GPU of this process

BUSY_BYTES = 2 << 30
"""More memory in use than this, without what torch holds here, is another process's; a bare context takes 0.5 GB."""


def torch_with_gpu() -> Any:
    """The torch module. UserError: there is none, or no GPU that it can use."""
    try:
        import torch
    except ImportError as error:
        if find_gpu() is None:  # nox installs no torch there: to ask for one alone would send people the wrong way
            raise UserError("expected a GPU that torch can use, found neither. Fix: run where there is one.") from error
        raise UserError(
            f"expected torch, found none ({error}). Fix: install PyTorch for this GPU, as `nox -s bench` does."
        ) from error
    if not torch.cuda.is_available():
        raise UserError("expected a GPU that torch can use, found none. Fix: run where there is one.")
    return torch


def release(torch: Any) -> None:
    """Gives back what this process held for work that is over: to the next in it, and to processes beside it."""
    gc.collect()  # what a cycle holds, the cache can't give back
    torch.cuda.empty_cache()


def check_memory(torch: Any, wanted: Iterable[tuple[str, Sequence[LayerShape], int]]) -> tuple[str, ...]:
    """wanted: (title, what is held together, largest batch size). Returns notes. UserError: more than is free.

    After this process gave back what earlier work in it held.
    """
    release(torch)
    free, _ = torch.cuda.mem_get_info()
    for title, layers, num_tokens in wanted:
        need = memory_bytes(layers, num_tokens)
        if need > free:
            raise UserError(
                f"{title}: expected {need / 2**30:.1f} GiB of free GPU memory, found {free / 2**30:.1f}. "
                "Fix: a larger tp or ep, or fewer tokens."
            )
    return busy_notes(torch)


def busy_notes(torch: Any) -> tuple[str, ...]:
    """Of a GPU that no other process uses none. torch's own memory here doesn't count, whatever still holds it."""
    free, total = torch.cuda.mem_get_info()
    busy = total - free - torch.cuda.memory_reserved()
    note = f"another process uses the GPU ({busy / 2**30:.1f} GiB at the start); timings may be noisy"
    return (note,) if busy > BUSY_BYTES else ()


# ---------------------------------------------------------------
# What the card reaches at best, measured in the same run: memory traffic and dense products

_TRAFFIC_BYTES = 2 << 30
_READ_ROW = 4096
_DENSE = 8192


@dataclass(frozen=True)
class Ceilings:
    """memory: the faster of copying (bytes read plus written) and reading, which is what decode does.

    dense: products of 8192x8192x8192 on random data. fp8 may be twice bf16's.
    """

    memory_bytes_per_s: float
    dense_bf16_per_s: float
    dense_8bit_per_s: float
    dense_8bit_measured: bool

    def dense_per_s(self, operand_bits: int) -> float:
        return self.dense_8bit_per_s if operand_bits == 8 else self.dense_bf16_per_s


def measure_ceilings(device: Any) -> Ceilings:
    """device: a `torch.device` with a GPU, on a stream that isn't the default."""
    import torch

    memory_bytes_per_s = max(2 * _TRAFFIC_BYTES / _copy_us(torch, device), _TRAFFIC_BYTES / _read_us(torch, device))
    a, b = (torch.randn((_DENSE, _DENSE), device=device).bfloat16() for _ in range(2))
    out = torch.empty_like(a)
    bf16_us = _time_us(lambda: torch.mm(a, b, out=out))
    operations = 2.0 * _DENSE**3
    bf16_per_s = operations / bf16_us * 1e6
    fp8_us = _fp8_us(torch, a, b)
    fp8_per_s = operations / fp8_us * 1e6 if fp8_us else 2 * bf16_per_s
    return Ceilings(memory_bytes_per_s * 1e6, bf16_per_s, fp8_per_s, fp8_us is not None)


def _copy_us(torch: Any, device: Any) -> float:
    source = torch.randint(0, 255, (_TRAFFIC_BYTES,), dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return _time_us(lambda: target.copy_(source))


def _read_us(torch: Any, device: Any) -> float:
    source = torch.ones((_TRAFFIC_BYTES // 4 // _READ_ROW, _READ_ROW), dtype=torch.float32, device=device)
    sums = torch.empty(source.shape[0], dtype=torch.float32, device=device)
    return _time_us(lambda: torch.sum(source, dim=1, out=sums))


def _fp8_us(torch: Any, a: Any, b: Any) -> float | None:
    """None where this torch or card has no fp8 product."""
    try:
        left, right = a.to(torch.float8_e4m3fn), b.to(torch.float8_e4m3fn).t()
        one = torch.ones((), device=a.device)
        return _time_us(
            lambda: torch._scaled_mm(
                left, right, scale_a=one, scale_b=one, out_dtype=torch.bfloat16, use_fast_accum=True
            )
        )
    except (AttributeError, RuntimeError, TypeError, ValueError):
        return None


def _time_us(launch: Callable[[], Any]) -> float:
    from tools.measure.timing import capture, medians_us

    (time_us,) = medians_us([capture([launch] * 4)])
    return time_us
