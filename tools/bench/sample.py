"""What kernels are compared on: a model's workload, and a deterministic sample of the tuner's launch configs.

Standard library only.
"""

from __future__ import annotations

import itertools
import random
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from kernels.launch_config import REQUIRED_KEYS, LaunchConfig
from kernels.problem import QuantMode
from tools.bench.request import KernelsRequest
from tools.errors import UserError
from tools.launch.axes import AMD, NVIDIA, Axes
from tools.launch.shared_memory import loop_bytes
from tools.measure.layer import LayerShape
from tools.registry.devices import Device
from tools.registry.models import Model, ModelRegistry, Quantisation
from tools.registry.sharding import Engine, shard
from tools.store.workload import Workload


@dataclass(frozen=True)
class KernelComparison:
    """A model's workload on one rank, and the launch configs that both kernels run. title: as it was asked for."""

    title: str
    workload: Workload
    shape: LayerShape
    configs: tuple[LaunchConfig, ...]
    batch_sizes: tuple[int, ...]


def comparison_of(
    text: str, request: KernelsRequest, models: ModelRegistry, device_name: str, device: Device
) -> KernelComparison:
    """device_name: the driver's. UserError: no such workload here, or not so many launch configs that fit."""
    assert device.arch is not None
    assert device.smem_bytes_per_block is not None
    workload, shape = read_workload(text, models, device_name, Engine(request.engine.flavour.value))
    configs = sample(
        request.launch_configs,
        AMD if device.vendor == "amd" else NVIDIA,
        arch=device.arch,
        dtype=workload.dtype,
        block_shape=workload.block_shape,
        smem_limit_bytes=device.smem_bytes_per_block,
    )
    return KernelComparison(text, workload, shape, configs, request.batch_sizes)


def read_workload(text: str, models: ModelRegistry, device_name: str, engine: Engine) -> tuple[Workload, LayerShape]:
    """`MODEL tp=N [ep=N] [dtype=D]` as one rank of the engine sees it. UserError: unknown, indivisible, no kernel."""
    name, *parts = text.split() or [""]
    matches = [re.fullmatch(r"(?:(tp|ep)=([1-9][0-9]{0,4}))|(?:(dtype)=([a-z0-9_]{1,20}))", part) for part in parts]
    if not all(matches):
        raise UserError(f'--workload: expected "MODEL tp=N [ep=N] [dtype=D]", found {text!r}.')
    given = {match[1] or match[3]: match[2] or match[4] for match in matches if match}
    tp, ep = (int(given.get(size, 1)) for size in ("tp", "ep"))
    model = models.find(name)
    stored = Quantisation(given["dtype"]) if "dtype" in given else model.quantisation
    found = shard(model, engine, device_name=device_name, tp=tp, ep=ep, quantisation=stored)
    workload, shape = found.workload, found.shape
    quant = _quant_mode(model, stored, workload)
    if not model.gated:
        raise UserError(f"{name}: expected gated experts, found {model.id} without a gate. Fix: another model.")
    return workload, LayerShape.of(workload, shape, quant)


def _quant_mode(model: Model, stored: Quantisation, workload: Workload) -> QuantMode:
    """The kernel's mode. UserError: there is no kernel for the dtype here."""
    compute_type = "fp16" if stored.dtype == "fp16" else "bf16"
    try:
        return QuantMode(workload.dtype, compute_type, stored.per_channel_quant, workload.block_shape)
    except ValueError as error:
        raise UserError(f"{model.id}: {error}") from error


# ---------------------------------------------------------------
# Launch configs

# Of each hundred drawn configs; narrow tiles serve decode, the widest hardly ever wins.
_SHARE_PERCENT = {16: 30, 32: 20, 64: 20, 128: 20, 256: 10}

# Published winners and vLLM's heuristic on an H100: so that a row has several near its best.
_LIKELY = {
    False: (
        (16, 32, 128, 1, 4, 5),
        (16, 64, 128, 1, 4, 4),
        (16, 64, 256, 1, 4, 3),
        (16, 128, 128, 16, 8, 2),
        (32, 64, 128, 1, 4, 3),
        (64, 64, 128, 1, 8, 3),
        (64, 128, 64, 1, 8, 3),
        (64, 128, 128, 1, 8, 2),
        (128, 128, 64, 1, 8, 3),
        (128, 128, 128, 1, 8, 3),
        (128, 256, 64, 1, 8, 4),
        (128, 256, 64, 16, 8, 3),
    ),
    True: (
        (16, 64, 128, 1, 4, 4),
        (16, 64, 128, 16, 4, 3),
        (16, 128, 128, 1, 4, 3),
        (16, 128, 128, 16, 4, 2),
        (16, 256, 128, 64, 4, 2),
        (32, 128, 128, 64, 4, 3),
        (64, 64, 128, 16, 4, 3),
        (64, 128, 128, 16, 4, 3),
        (64, 128, 128, 32, 4, 3),
        (128, 128, 128, 16, 8, 3),
    ),
}


def sample(
    count: int,
    axes: Axes = NVIDIA,
    *,
    arch: str,
    dtype: str | None,
    block_shape: tuple[int, int] | None,
    smem_limit_bytes: int,
    seed: int = 0,
) -> tuple[LaunchConfig, ...]:
    """`count` launch configs that fit: likely winners, then draws from every BLOCK_SIZE_M by a fixed share.

    Draws are uniform within a BLOCK_SIZE_M; those that spill are dropped once compiled. arch as in
    devices.json, dtype as in file names. The same arguments give the same configs. UserError: the space is too small.
    """

    def fits(config: LaunchConfig) -> bool:
        if block_shape is not None and min(block_shape) < config.BLOCK_SIZE_K:
            return False
        smem = loop_bytes(config, arch=arch, dtype=dtype, block_quantised=block_shape is not None)
        return smem is None or smem.total_bytes <= smem_limit_bytes

    space = [config for config in _space(axes) if fits(config)]
    if count > len(space):
        raise UserError(f"launch configs: expected at most {len(space)}, the space that fits, found {count}.")
    known = (LaunchConfig(*values) for values in _LIKELY[dtype is not None]) if axes == NVIDIA else ()
    likely = [config for config in known if fits(config)]
    drawn = _draws(space, axes, random.Random(seed))
    chosen = itertools.islice(dict.fromkeys(itertools.chain(likely, drawn)), count)
    return tuple(sorted(chosen, key=lambda config: tuple(config.to_entry().values())))


def _space(axes: Axes) -> Iterator[LaunchConfig]:
    usual = itertools.product(*(getattr(axes, key) for key in REQUIRED_KEYS))
    extra = [
        dict(zip(dict(axes.extra), values, strict=True)) for values in itertools.product(*dict(axes.extra).values())
    ]
    return (replace(LaunchConfig(*values), **more) for values, more in itertools.product(usual, extra))


def _draws(space: Iterable[LaunchConfig], axes: Axes, chance: random.Random) -> Iterator[LaunchConfig]:
    """The whole space without repetition, each BLOCK_SIZE_M as often as its share until it runs out."""
    strata: dict[int, list[LaunchConfig]] = {size: [] for size in axes.BLOCK_SIZE_M}
    for config in space:
        strata[config.BLOCK_SIZE_M].append(config)
    for stratum in strata.values():
        chance.shuffle(stratum)
    # Largest remainder first: after n draws each stratum has had its share of n, to within one.
    taken = dict.fromkeys(axes.BLOCK_SIZE_M, 0)
    while any(strata.values()):
        size = min(
            (size for size in axes.BLOCK_SIZE_M if strata[size]),
            key=lambda size: ((taken[size] + 1) / _SHARE_PERCENT[size], size),
        )
        taken[size] += 1
        yield strata[size].pop()
