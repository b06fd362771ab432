"""From what a person names to what is tuned: a registered model, a checkpoint's config.json, or plain sizes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from kernels.problem import QuantMode
from tools import cli
from tools.errors import UserError, reason_of
from tools.launch.heuristics import UnknownHeuristicError, vllm_heuristic
from tools.registry.devices import DeviceRegistry, normalise_device_name
from tools.registry.models import Model, ModelRegistry, Quantisation
from tools.registry.reading import RegistryError
from tools.registry.shapes import registered_shapes
from tools.registry.sharding import Engine, ShardError, shard
from tools.store.record import ShapeOfModels
from tools.store.workload import MAX_DIMENSION, Shape, Workload
from tools.text import printable
from tools.tune.protocol import Subject

_FLAGS = "give the sizes themselves: --E --N --K --top-k [--dtype] [--block-shape n,k]"


class SubjectError(UserError):
    """What was named can't be tuned. One line for a person."""


@dataclass(frozen=True)
class Parallel:
    """How a model is split over ranks."""

    tp: int = 1
    ep: int = 1

    def __str__(self) -> str:
        return f"tp={self.tp}" + (f" ep={self.ep}" if self.ep > 1 else "")


@dataclass(frozen=True)
class ModelSource:
    """A registered model. dtype None: the checkpoint's own. where: the file and line that named it, for errors."""

    name: str
    parallel: Parallel = Parallel()
    dtype: str | None = None
    where: str = field(default="", compare=False)


@dataclass(frozen=True)
class ConfigJsonSource:
    """A Hugging Face config.json on disk."""

    path: Path
    parallel: Parallel = Parallel()
    dtype: str | None = None


@dataclass(frozen=True)
class SizesSource:
    """E experts and N per shard as the rank sees them."""

    E: int
    N: int
    K: int
    top_k: int
    dtype: str | None = None
    block_shape: tuple[int, int] | None = None
    per_channel_quant: bool = False


Source = ModelSource | ConfigJsonSource | SizesSource


def make_subject(
    source: Source, device_name: str, models: ModelRegistry, devices: DeviceRegistry, *, all_shapes: bool = False
) -> Subject:
    """The subject on the device that reports `device_name`.

    all_shapes: every shape that registered models have behind the same file name, instead of the one asked for.
    SubjectError: unknown, indivisible, or nothing that this kernel and the engines' heuristics cover.
    """
    device = devices.get(device_name)
    if device is None or device.arch is None or device.target is None or device.smem_bytes_per_block is None:
        found = f"{device_name!r}" + ("" if device is None else " without architecture or shared memory")
        raise SubjectError(
            f"GPU: expected one of configs/registry/devices.json, found {found}. Fix: add "
            f'"{printable(normalise_device_name(device_name))}" there, with arch and smem_bytes_per_block.'
        )
    try:
        workload, named, quant = _read(source, device_name, models)
        _check_sizes(workload, named.shape)
        vllm_heuristic(workload, 1)
    except (RegistryError, ShardError, UnknownHeuristicError) as error:
        hint = f" Or {_FLAGS}." if isinstance(error, RegistryError) else ""
        raise SubjectError(f"{printable(str(error))}{hint}") from error
    shapes = _shapes(workload, named, models, every=all_shapes)
    return Subject(workload, shapes, quant, device.target, device.arch, device.smem_bytes_per_block)


def _read(source: Source, device_name: str, models: ModelRegistry) -> tuple[Workload, ShapeOfModels, QuantMode]:
    match source:
        case SizesSource():
            return _of_sizes(source, device_name)
        case ModelSource(name, parallel, dtype, _):
            return _of_model(models.find(name), name, parallel, dtype, device_name)
        case ConfigJsonSource(path, parallel, dtype):
            model = read_config_json(path, dtype)
            return _of_model(model, path.parent.name or str(path), parallel, dtype, device_name)


def _of_sizes(source: SizesSource, device_name: str) -> tuple[Workload, ShapeOfModels, QuantMode]:
    dtype = None if source.dtype in ("bf16", "fp16") else source.dtype
    device = normalise_device_name(device_name)
    workload = Workload(source.E, source.N, device, dtype, source.block_shape, source.per_channel_quant)
    # int8 without blocks has channel scales only.
    per_channel = source.per_channel_quant or (dtype in ("int8_w8a8", "int8_w8a16") and source.block_shape is None)
    quant = _quant(dtype, source.dtype, source.block_shape, per_channel)
    if dtype == "int8_w8a16":
        workload = replace(workload, per_channel_quant=False)
    return workload, ShapeOfModels(Shape(source.K, source.top_k)), quant


def _of_model(
    model: Model, title: str, parallel: Parallel, dtype: str | None, device_name: str
) -> tuple[Workload, ShapeOfModels, QuantMode]:
    if not model.gated:
        raise SubjectError(
            f"{title}: expected gated experts, found a model without a gate, which needs another kernel."
        )
    stored = model.quantisation if dtype in (None, model.quantisation.dtype) else Quantisation(str(dtype))
    # SGLang alone splits experts over some of the ranks and each of them over the rest.
    engine = Engine.SGLANG if 1 < parallel.ep < parallel.tp else Engine.VLLM
    found = shard(model, engine, device_name=device_name, tp=parallel.tp, ep=parallel.ep, quantisation=stored)
    named = ShapeOfModels(found.shape, (f"{title} {parallel}",))
    workload = found.workload
    per_channel = stored.per_channel_quant or (
        workload.dtype in ("int8_w8a8", "int8_w8a16") and not workload.block_shape
    )
    return workload, named, _quant(workload.dtype, stored.dtype, workload.block_shape, per_channel)


def _check_sizes(workload: Workload, shape: Shape) -> None:
    """Of one rank, from wherever they come."""
    for name, value in (("E", workload.E), ("N", workload.N), ("K", shape.K), ("top_k", shape.top_k)):
        if not 1 <= value <= MAX_DIMENSION:
            raise SubjectError(f"{name}: expected from 1 to {MAX_DIMENSION}, found {value}.")
    if shape.top_k > workload.E:
        raise SubjectError(f"top_k: expected at most E={workload.E}, the experts of a rank, found {shape.top_k}.")


def _quant(dtype: str | None, stored: str | None, block_shape: tuple[int, int] | None, per_channel: bool) -> QuantMode:
    try:
        return QuantMode(dtype, "fp16" if stored == "fp16" else "bf16", per_channel, block_shape)
    except ValueError as error:
        fix = "" if "Fix:" in str(error) else " Fix: tune it with the engine's own tool."
        raise SubjectError(f"dtype: {error}{fix}") from error


def _shapes(
    workload: Workload, named: ShapeOfModels, models: ModelRegistry, *, every: bool
) -> tuple[ShapeOfModels, ...]:
    """The one asked for first, with every registered model that has it; with `every` the others behind the name too."""
    registered = registered_shapes(workload, models)
    same = [name for served in registered if served.shape == named.shape for name in served.models]
    first = ShapeOfModels(named.shape, tuple(dict.fromkeys((*named.models, *same))))
    return (first, *(served for served in registered if every and served.shape != named.shape))


# ---------------------------------------------------------------
# A checkpoint's own config.json

_FIELDS = {
    "E": ("num_local_experts", "n_routed_experts", "num_experts", "moe_num_experts"),
    "N": ("moe_intermediate_size", "expert_ffn_hidden_size", "intermediate_size"),
    "K": ("hidden_size",),
    "top_k": ("num_experts_per_tok", "moe_topk", "moe_k", "num_experts_per_token", "experts_per_token"),
}


def read_config_json(path: Path, dtype: str | None = None) -> Model:
    """Expert sizes and quantisation. dtype: counts where the checkpoint's own quantisation can't be read.

    SubjectError: unreadable, or without what an MoE model has.
    """
    try:
        document = json.loads(cli.read_text(path))
    except (OSError, ValueError, RecursionError) as error:
        reason = f"{reason_of(error)}. Fix: give the checkpoint's own"
        raise SubjectError(f"{printable(str(path))}: expected a model's config.json, found: {reason}") from error
    if not isinstance(document, dict):
        raise SubjectError(f"{printable(str(path))}: expected an object, found {type(document).__name__}.")
    text = document.get("text_config")
    fields = {**document, **text} if isinstance(text, dict) else document
    sizes = {size: _first_number(fields, names) for size, names in _FIELDS.items()}
    missing = [f"{size} ({' or '.join(_FIELDS[size])})" for size, value in sizes.items() if value is None]
    if missing:
        raise SubjectError(
            f"{printable(str(path))}: expected the sizes of an MoE model, found no {', no '.join(missing)}. "
            f"Fix: {_FLAGS}."
        )
    E, N, K, top_k = (int(sizes[size] or 0) for size in ("E", "N", "K", "top_k"))
    quantisation = _quantisation(fields)
    if quantisation is None and dtype is None:
        found = {key: fields["quantization_config"].get(key) for key in ("quant_method", "weight_block_size")}
        raise SubjectError(
            f"{printable(str(path))}: quantization_config: expected fp8 with or without weight_block_size [n,k], found "
            f"{printable(str(found))}. Fix: name the dtype: --dtype, or {_FLAGS}."
        )
    stored = quantisation or Quantisation(str(dtype))
    return Model(path.parent.name or "config.json", E, N, K, top_k, stored, str(path))


def _first_number(fields: Mapping[str, Any], names: tuple[str, ...]) -> int | None:
    return next((number for name in names if _is_size(number := fields.get(name))), None)


def _is_size(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _quantisation(fields: Mapping[str, Any]) -> Quantisation | None:
    """None: something that names alone don't tell how to run."""
    stored = fields.get("quantization_config")
    if not isinstance(stored, dict):
        # Renamed in Transformers 5.
        return Quantisation("fp16" if "float16" in (fields.get("dtype"), fields.get("torch_dtype")) else "bf16")
    block = stored.get("weight_block_size")
    if stored.get("quant_method") != "fp8":
        return None
    if block is None:
        return Quantisation("fp8_w8a8")
    if isinstance(block, list) and len(block) == 2 and all(map(_is_size, block)):
        return Quantisation("fp8_w8a8", (block[0], block[1]))
    return None
