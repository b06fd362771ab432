"""From a model to the workload that one rank sees under an engine, and back from (E, N) to models.

Rules as read from vLLM 0.33 and SGLang 0.5.23.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from tools.errors import UserError
from tools.registry.devices import fold_h200, normalise_device_name
from tools.registry.models import Model, Quantisation
from tools.store.workload import BLOCK_QUANTISED, LOOKED_UP_DTYPES, Layout, Shape, Workload

PARALLEL_SIZES = (1, 2, 4, 8, 16, 32)
"""The tensor and expert parallel sizes that `explain_pair` tries."""

MIN_REFINED_BLOCK = 32
"""vLLM refuses scale blocks smaller than this."""


class Engine(enum.StrEnum):
    """An engine whose sharding rules apply."""

    VLLM = "vllm"
    SGLANG = "sglang"


class ShardError(UserError):
    """A model that can't be sharded as asked. The message names the numbers that don't fit."""


@dataclass(frozen=True)
class Shard:
    """What one rank runs: the workload that names its file, and the shape that the name doesn't say."""

    workload: Workload
    shape: Shape


@dataclass(frozen=True, order=True)
class Explanation:
    """One way to come by an (E, N): a model, its parallel sizes, and how many shared experts are fused."""

    ep: int
    tp: int
    model_id: str
    fused_shared_experts: int = 0

    def __str__(self) -> str:
        sizes = f"tp={self.tp}" + (f" ep={self.ep}" if self.ep > 1 else "")
        fused = f" +{self.fused_shared_experts} shared" if self.fused_shared_experts else ""
        return f"{self.model_id} {sizes}{fused}"


def shard(
    model: Model,
    engine: Engine,
    *,
    device_name: str,
    tp: int = 1,
    ep: int = 1,
    quantisation: Quantisation | None = None,
) -> Shard:
    """The workload of one rank of `model` under `engine`.

    Experts are split over `ep` ranks and each expert's N over the remaining `tp // ep`, as SGLang's
    moe_tp_size. For vLLM with expert parallelism pass tp = ep = its tensor times data parallel size: then N
    stays whole. `quantisation` replaces the checkpoint's own. Shared experts are fused by SGLang only, and
    only without expert parallelism, where SGLang turns fusion off on NVIDIA.
    Block scales that don't divide the shard are
    refined by vLLM and refused by SGLang.
    ShardError: something doesn't divide, or the engine has no such workload.
    """
    slices = _slices(tp, ep)
    fused = model.fused_shared_experts if engine is Engine.SGLANG and ep == 1 else 0
    E = _divide(model, "E", model.E, "ep", ep) + fused
    N = _divide(model, "N", model.N, "tp // ep" if ep > 1 else "tp", slices)
    stored = quantisation or model.quantisation
    _check_dtype(model, stored, engine)
    if stored.block_shape is not None:
        fit = _refined_block_shape if engine is Engine.VLLM else _checked_block_shape
        stored = replace(stored, block_shape=fit(model, stored.block_shape, N, slices))
    workload = Workload(
        E=E,
        N=N,
        device_name=fold_h200(device_name) if engine is Engine.VLLM else normalise_device_name(device_name),
        dtype=None if stored.dtype in ("bf16", "fp16") else stored.dtype,
        block_shape=stored.block_shape,
        # vLLM's names don't tell channel scales from tensor scales.
        per_channel_quant=stored.per_channel_quant and engine is Engine.SGLANG,
    )
    return Shard(workload, Shape(model.K, model.top_k + fused, ep, fused))


def explain_pair(E: int, N: int, models: Iterable[Model]) -> tuple[Explanation, ...]:
    """Which models, at which sizes of `PARALLEL_SIZES`, have E experts of N on a rank; fewest ranks first.

    N is the model's own, as in `Workload`. Dtypes are left out of account, since any model may be quantised otherwise.
    Shared experts that SGLang fuses, by default or on demand, count; redundant experts of its load
    balancer don't.
    """
    found = (each for model in models for each in _explanations(E, N, model))
    return tuple(sorted(found, key=lambda each: (each.tp, each)))


def _explanations(E: int, N: int, model: Model) -> Iterator[Explanation]:
    shared = model.fused_shared_experts or model.fusable_shared_experts
    for ep in PARALLEL_SIZES:
        if model.E % ep:
            continue
        for fused in {0, shared} if ep == 1 else {0}:
            if model.E // ep + fused != E:
                continue
            for tp in PARALLEL_SIZES:
                if tp % ep == 0 and N * (tp // ep) == model.N:
                    yield Explanation(ep, tp, model.id, fused)


def _slices(tp: int, ep: int) -> int:
    for name, value in (("tp", tp), ("ep", ep)):
        if value < 1:
            raise ShardError(f"{name}: expected at least 1, found {value}.")
    if tp % ep:
        raise ShardError(f"ep: expected a divisor of tp={tp}, found {ep}. Fix: choose tp a multiple of ep.")
    return tp // ep


def _divide(model: Model, name: str, total: int, over: str, parts: int) -> int:
    if total % parts:
        raise ShardError(
            f"{model.id}: {name}: expected a multiple of {over}={parts}, found {total}. "
            f"Fix: choose a divisor of {total}."
        )
    return total // parts


def _check_dtype(model: Model, stored: Quantisation, engine: Engine) -> None:
    known = {"bf16", "fp16"} | LOOKED_UP_DTYPES[Layout(engine.value)]
    if stored.dtype not in known:
        raise ShardError(
            f"{model.id}: expected a dtype that {engine} has tuned files for ({', '.join(sorted(known))}), "
            f"found {stored.dtype}. Fix: name the dtype to shard for."
        )
    scaled = stored.block_shape is not None or stored.per_channel_quant
    if scaled and stored.dtype not in BLOCK_QUANTISED:
        raise ShardError(
            f"{model.id}: block_shape and per_channel_quant: expected with "
            f"{' or '.join(sorted(BLOCK_QUANTISED))}, found with {stored.dtype}. Fix: leave them out."
        )


def _refined_block_shape(model: Model, block_shape: tuple[int, int], N: int, slices: int) -> tuple[int, int]:
    """vLLM's answer where blocks don't divide the shard: squares of the greatest common divisor."""
    block_n, block_k = block_shape
    if N % block_n == 0 and (slices == 1 or N % block_k == 0):
        return block_shape
    side = math.gcd(block_n, block_k, N, model.K)
    if side < MIN_REFINED_BLOCK:
        raise ShardError(
            f"{model.id}: N={N} on a rank isn't a multiple of block_shape [{block_n},{block_k}], and vLLM "
            f"can refine the blocks to {side} only, under its least of {MIN_REFINED_BLOCK}. "
            f"Fix: use a smaller tp."
        )
    return side, side


def _checked_block_shape(model: Model, block_shape: tuple[int, int], N: int, slices: int) -> tuple[int, int]:
    """SGLang keeps the blocks as they are stored, so they must divide the shard."""
    block_n, block_k = block_shape
    for name, side in (("block_n", block_n), *([("block_k", block_k)] if slices > 1 else [])):
        if N % side:
            raise ShardError(
                f"{model.id}: N={N} on a rank isn't a multiple of {name}={side}, which SGLang needs. "
                f"Fix: use a smaller tp, or an ep."
            )
    return block_shape
