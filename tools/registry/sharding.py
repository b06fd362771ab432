"""From a model to the workload that one rank sees under an engine, and back from (E, N) to models.

How an engine splits a model, and what it then runs, `fused_moe_configs.serving` says; here are the tools' own types.
"""

from __future__ import annotations

import enum
import functools
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from fused_moe_configs import serving
from fused_moe_configs.backends import EngineRelease, choose_release
from fused_moe_configs.registry import ServingError
from fused_moe_configs.serving import Serving, parallel_text
from tools.errors import UserError
from tools.registry.engines import load_engines
from tools.registry.models import Model, ModelRegistry, Quantisation
from tools.store.workload import LOOKED_UP_DTYPES, Layout, Shape, Workload

PARALLEL_SIZES = (1, 2, 4, 8, 16, 32)
"""The tensor and expert parallel sizes that `explain_pair` tries."""


class Engine(enum.StrEnum):
    """An engine whose sharding rules apply."""

    VLLM = "vllm"
    SGLANG = "sglang"


class ShardError(UserError):
    """A model that can't be sharded as asked. The message names the numbers that don't fit."""


@dataclass(frozen=True)
class Shard:
    """What one rank runs: the workload that names its file, and the shape that the name doesn't say.

    serving: what the engine does with it.
    """

    workload: Workload
    shape: Shape
    serving: Serving


@dataclass(frozen=True, order=True)
class Explanation:
    """One way to come by an (E, N): a model, its parallel sizes, and how many shared experts are fused."""

    ep: int
    tp: int
    model_id: str
    fused_shared_experts: int = 0

    def __str__(self) -> str:
        fused = f" +{self.fused_shared_experts} shared" if self.fused_shared_experts else ""
        return f"{self.model_id} {parallel_text(self.tp, self.ep)}{fused}"


def shard(
    model: Model,
    engine: Engine,
    *,
    device_name: str,
    arch: str | None = None,
    tp: int = 1,
    ep: int = 1,
    quantisation: Quantisation | None = None,
) -> Shard:
    """The workload of one rank of `model` under the newest release of `engine` that is known.

    tp, ep: as in `serving.split`. quantisation replaces the checkpoint's own. arch: the device's, as devices.json
    spells it; None: what the engine runs there isn't known.
    ShardError: something doesn't divide, or no file of the engine's is named for the dtype.
    """
    stored = quantisation or model.quantisation
    try:
        checkpoint = model.checkpoint.loaded_as(stored.dtype, stored.block_shape, stored.per_channel_quant)
        found = serving.serve(checkpoint, _newest(engine), tp, ep, device_name, arch)
    except ServingError as error:
        raise ShardError(str(error)) from error
    known = {"bf16", "fp16"} | LOOKED_UP_DTYPES[Layout(engine.value)]
    if stored.dtype not in known:
        runs = f" {found.engine} {found.version} runs {found.verdict}. {found.reason}" if found.backend else ""
        raise ShardError(
            f"{model.id}: expected a dtype that {engine} has tuned files for ({', '.join(sorted(known))}), "
            f"found {stored.dtype}.{runs} Fix: name the dtype to shard for."
        )
    workload = Workload(
        E=found.E,
        N=found.N,
        device_name=found.device_name,
        dtype=found.dtype,
        block_shape=found.block_shape,
        per_channel_quant=found.per_channel_quant,
    )
    return Shard(workload, Shape(found.K, found.top_k, found.ep, found.fused_shared_experts), found)


def explain_pair(E: int, N: int, models: Iterable[Model]) -> tuple[Explanation, ...]:
    """Which models, at which sizes of `PARALLEL_SIZES`, have E experts of N on a rank; fewest ranks first.

    N is the model's own, as in `Workload`. Dtypes are left out of account, since any model may be quantised otherwise.
    Shared experts that SGLang fuses, by default or on demand, count; redundant experts of its load
    balancer don't. Of vLLM's data parallel ranks only their number counts.
    """
    found = (each for model in models for each in _by_pair(model).get((E, N), ()))
    return tuple(sorted(found, key=lambda each: (each.tp, each)))


_NAMED_MODEL = re.compile(r"(\S+) tp=([0-9]{1,4})(?: ep=([0-9]{1,4}))?(?: \+([0-9]{1,2}) shared)?", re.ASCII)


def named_model_has(name: str, E: int, N: int, shape: Shape, models: ModelRegistry) -> bool | None:
    """Whether a model has this E, N and shape on a rank, by vLLM's rules or SGLang's. None: the registry knows it not.

    name: as records name it, «deepseek-ai/DeepSeek-V3 tp=16», an id of `also` too. Its dtype is left out of account, as
    in `explain_pair`; shared experts that aren't named may be fused all the same.
    """
    found = _NAMED_MODEL.fullmatch(name)
    model = models.get(found[1]) if found else None
    if found is None or model is None:
        return None
    tp, ep = int(found[2]), int(found[3] or 1)
    fusable = {0, model.fused_shared_experts, model.fusable_shared_experts}
    return model.K == shape.K and any(
        N == rank.N and shape.top_k == rank.top_k and E in (rank.E, rank.E_later)
        for engine in Engine
        for fused in ({int(found[4])} if found[4] else fusable)
        if (rank := _rank(model, engine, tp, ep, fused)) is not None
    )


def _rank(model: Model, engine: Engine, tp: int, ep: int, fused: int) -> serving.Rank | None:
    try:
        return serving.split(model.checkpoint, engine.value, tp, ep, fused)
    except ServingError:
        return None


@functools.lru_cache(maxsize=1024)
def _by_pair(model: Model) -> Mapping[tuple[int, int], frozenset[Explanation]]:
    """(E, N) on a rank → every way in which the model comes by it."""
    found: dict[tuple[int, int], set[Explanation]] = {}
    for E, N, explanation in _explanations(model):
        found.setdefault((E, N), set()).add(explanation)
    return {pair: frozenset(ways) for pair, ways in found.items()}


def _explanations(model: Model) -> Iterator[tuple[int, int, Explanation]]:
    checkpoint = model.checkpoint
    on_demand = model.fused_shared_experts or model.fusable_shared_experts
    under_ep = model.fused_shared_experts if checkpoint.fused_under_ep else 0
    for tp in PARALLEL_SIZES:
        for ep in (size for size in PARALLEL_SIZES if size <= tp):
            for engine in Engine:
                for fused in {0, under_ep if ep > 1 else on_demand} if engine is Engine.SGLANG else {0}:
                    try:
                        rank = serving.split(checkpoint, engine.value, tp, ep, fused)
                    except ServingError:
                        continue
                    for E in (rank.E,) if rank.E_later is None else (rank.E, rank.E_later):
                        yield E, rank.N, Explanation(ep, tp, model.id, fused)


@functools.cache
def _newest(engine: Engine) -> EngineRelease:
    """The newest release of the registry. RegistryError: it is broken."""
    return choose_release(load_engines(), engine.value)[0]
