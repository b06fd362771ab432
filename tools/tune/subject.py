"""From what a person names to what is tuned: a registered model, a checkpoint's config.json, or plain sizes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from fused_moe_configs.serving import Serving, parallel_text
from kernels.problem import DTYPES, QuantMode
from tools.errors import UserError
from tools.registry.config_json import read_config_json
from tools.registry.devices import Device, DeviceRegistry, normalise_device_name
from tools.registry.models import (
    AS_STORED,
    OTHER_KERNELS,
    SIXTEEN_BIT,
    Asked,
    Model,
    ModelRegistry,
    Quantisation,
    another_kernel,
)
from tools.registry.reading import RegistryError
from tools.registry.shapes import engines_reading, registered_shapes, why_not_measured, without_gate
from tools.registry.sharding import Engine, Explanation, Shard, ShardError, shard
from tools.store.record import ShapeOfModels
from tools.store.workload import MAX_DIMENSION, Shape, Workload
from tools.text import printable
from tools.tune.protocol import Subject

_SAY_SIZES = "give the sizes themselves: --E --N --K --top-k [--dtype] [--block-shape n,k]"


class SubjectError(UserError):
    """What was named can't be tuned. One line for a person."""


@dataclass(frozen=True)
class Parallel:
    """How a model is split over ranks."""

    tp: int = 1
    ep: int = 1

    def __str__(self) -> str:
        return parallel_text(self.tp, self.ep)


@dataclass(frozen=True)
class ModelSource:
    """A registered model. asked: over the checkpoint's own quantisation. where: the file and line that named it."""

    name: str
    parallel: Parallel = Parallel()
    asked: Asked = AS_STORED
    where: str = field(default="", compare=False)


@dataclass(frozen=True)
class ConfigJsonSource:
    """A Hugging Face config.json on disk. model_id: what the model is called, where the file doesn't say it.

    piped: what came through the pipe at this path, which can be read once; None: it is none.
    """

    path: Path
    parallel: Parallel = Parallel()
    asked: Asked = AS_STORED
    model_id: str | None = None
    piped: bytes | None = None


@dataclass(frozen=True)
class SizesSource:
    """E experts and N per shard as the rank sees them. ep, fused_shared_experts: as `Shape` has them."""

    E: int
    N: int
    K: int
    top_k: int
    asked: Asked = AS_STORED
    ep: int = 1
    fused_shared_experts: int = 0

    @property
    def shape(self) -> Shape:
        return Shape(self.K, self.top_k, self.ep, self.fused_shared_experts)


Source = ModelSource | ConfigJsonSource | SizesSource


def make_subject(
    source: Source,
    device_name: str,
    models: ModelRegistry,
    devices: DeviceRegistry,
    *,
    engine: Engine | None = None,
    all_shapes: bool = False,
) -> Subject:
    """The subject on the device that reports `device_name`.

    engine: whose split and name; None: vLLM's, or SGLang's where it alone runs the model so; of sizes, as they are.
    all_shapes: beside the one asked for every shape behind the same file name that people run on this device.
    SubjectError: unknown, indivisible, or nothing that this kernel and the engines' heuristics cover.
    """
    try:
        device = devices.find_measurable(device_name)
        workload, named, quant = _read(source, device_name, models, engine)
        _check_sizes(workload, named.shape)
    except (RegistryError, ShardError) as error:
        raise SubjectError(f"{printable(str(error)).removesuffix('.')}.") from error
    assert device.target is not None
    assert device.arch is not None
    assert device.smem_bytes_per_block is not None
    shapes = _shapes(workload, named, models, device if all_shapes else None)
    subject = Subject(workload, shapes, quant, device.target, device.arch, device.smem_bytes_per_block)
    return with_shapes(subject, shapes, models)


def with_shapes(subject: Subject, shapes: Sequence[ShapeOfModels], models: Iterable[Model]) -> Subject:
    """The subject under other shapes, with the engines that read the name for each."""
    engines = tuple(engines_reading(subject.workload, named.shape, models) for named in shapes)
    return replace(subject, shapes=tuple(shapes), engines=engines)


def shared_name(subject: Subject, models: ModelRegistry) -> str:
    """A line where the file's name is also that of models without a gate, for which it isn't tuned. Empty: it isn't."""
    ungated = without_gate(subject.workload, models)
    if not ungated:
        return ""
    return (
        f"{subject.workload.file_name()}: tuned for experts with a gate, though models without one have these sizes "
        f"too ({', '.join(ungated)}): it is not theirs"
    )


def serving_of(source: Source, device: Device, models: ModelRegistry, engine: Engine) -> Serving:
    """What the engine runs for what a source names, and the file that it reads. SubjectError: it runs no such thing."""
    match source:
        case SizesSource():
            return _sharded_sizes(source, engine, device.name, device.arch).serving
        case ModelSource(name, parallel, asked, _):
            known = models.find(name)
            model = replace(known, quantisation=asked.of(known.quantisation))
        case ConfigJsonSource(path, parallel, asked, model_id, piped):
            model = read_config_json(path, asked, model_id, piped).model
    return _served(model, parallel, device, engine)


def _sharded_sizes(source: SizesSource, engine: Engine, device_name: str, arch: str | None = None) -> Shard:
    """As the engine names them. Every rank holds its share of the routed experts, and the fused shared ones beside it.

    SubjectError: the engine runs no such thing.
    """
    fused = source.fused_shared_experts
    routed, top_k = (source.E - fused) * source.ep, source.top_k - fused
    kind = source.asked.of(Quantisation("bf16"))
    model = Model(
        "", routed, source.N, source.K, top_k, kind, source="", fused_shared_experts=fused, fused_under_ep=True
    )
    try:
        found = shard(model, engine, device_name=device_name, arch=arch, tp=source.ep, ep=source.ep)
    except ShardError as error:
        raise SubjectError(printable(str(error)).removeprefix(": ")) from error  # of a model without an id
    if found.serving.fused_shared_experts != fused:
        raise SubjectError(
            f"{engine} {found.serving.version} fuses no shared experts: it runs E={found.serving.E}, "
            f"top_k={found.serving.top_k}. Fix: leave --fused-shared-experts out, with those sizes."
        )
    return found


def _served(model: Model, parallel: Parallel, device: Device, engine: Engine) -> Serving:
    tp, ep = parallel.tp, parallel.ep
    try:
        return shard(model, engine, device_name=device.name, arch=device.arch, tp=tp, ep=ep).serving
    except ShardError as error:
        raise SubjectError(printable(str(error))) from error


def _read(
    source: Source, device_name: str, models: ModelRegistry, engine: Engine | None
) -> tuple[Workload, ShapeOfModels, QuantMode]:
    match source:
        case SizesSource():
            return _of_sizes(source, device_name, models, engine)
        case ModelSource(name, parallel, asked, _):
            try:
                model = models.find(name)
            except RegistryError as error:
                raise SubjectError(f"{printable(str(error))} Or {_SAY_SIZES}.") from error
            _check_gate(model, name)
            return _of_model(model, name, parallel, asked.of(model.quantisation), device_name, engine)
        case ConfigJsonSource(path, parallel, asked, model_id, piped):
            checkpoint = read_config_json(path, asked, model_id, piped)
            model = checkpoint.model
            title = f"{model.id} ({checkpoint.dtype_from})"
            _check_gate(model, f"{model.id} ({checkpoint.gate_from})")
            workload, named, quant = _of_model(model, title, parallel, model.quantisation, device_name, engine)
            names = (f"{model.id} {parallel}",) if checkpoint.is_named else ()
            return workload, ShapeOfModels(named.shape, names), quant


def _check_gate(model: Model, title: str) -> None:
    if not model.gated:
        raise SubjectError(
            f"{printable(title)}: expected experts with a gate, found a model without a gate, whose layer is another "
            "problem than this kernel's: there is nothing to tune."
        )


def _of_sizes(
    source: SizesSource, device_name: str, models: ModelRegistry, engine: Engine | None
) -> tuple[Workload, ShapeOfModels, QuantMode]:
    quantisation = source.asked.of(Quantisation("bf16"))
    _check_dtype("--dtype", quantisation.dtype)
    named = Workload(
        source.E,
        source.N,
        normalise_device_name(device_name),
        None if quantisation.dtype in SIXTEEN_BIT else quantisation.dtype,
        quantisation.block_shape,
        quantisation.per_channel_quant,
    )
    _check_sizes(named, source.shape)
    workload = named if engine is None else _sharded_sizes(source, engine, device_name).workload
    if why := why_not_measured(workload, models):
        raise SubjectError(f"{why}.")
    return workload, ShapeOfModels(source.shape), _quant(workload, quantisation)


def _of_model(
    model: Model, title: str, parallel: Parallel, quantisation: Quantisation, device_name: str, engine: Engine | None
) -> tuple[Workload, ShapeOfModels, QuantMode]:
    _check_dtype(title, quantisation.dtype)
    # vLLM has no name for int8_w8a8; SGLang alone splits experts over some of the ranks and each of them over the rest.
    is_sglangs = quantisation.dtype == "int8_w8a8" or 1 < parallel.ep < parallel.tp
    engine = engine or (Engine.SGLANG if is_sglangs else Engine.VLLM)
    found = shard(model, engine, device_name=device_name, tp=parallel.tp, ep=parallel.ep, quantisation=quantisation)
    how = Explanation(parallel.ep, parallel.tp, title, found.serving.fused_shared_experts)
    named = ShapeOfModels(found.shape, (str(how),))
    return found.workload, named, _quant(found.workload, quantisation)


def _check_dtype(title: str, dtype: str) -> None:
    """SubjectError: this kernel doesn't run it."""
    if dtype in OTHER_KERNELS:
        raise SubjectError(f"{another_kernel(printable(title), dtype)}.")
    if dtype in ("fp8_w8a16", "float32"):
        raise SubjectError(
            f"{printable(title)}: {dtype}: no kernel here computes it, and no engine chooses it by itself: there is "
            "nothing to tune."
        )
    known = (*SIXTEEN_BIT, *filter(None, DTYPES))
    if dtype not in known:
        raise SubjectError(
            f"--dtype: expected one of {', '.join(known)}, found {printable(repr(dtype))}. Fix: name one of them."
        )


def _check_sizes(workload: Workload, shape: Shape) -> None:
    """Of one rank, from wherever they come."""
    for name, value in (("E", workload.E), ("N", workload.N), ("K", shape.K), ("top_k", shape.top_k)):
        if not 1 <= value <= MAX_DIMENSION:
            expected = f"expected from 1 to {MAX_DIMENSION}, found {value}"
            raise SubjectError(f"{name}: {expected}. Fix: correct the sizes.")
    if fault := shape.fault(workload.E):
        raise SubjectError(f"{fault}. Fix: correct the sizes.")


def _quant(workload: Workload, quantisation: Quantisation) -> QuantMode:
    # int8 without blocks has channel scales only.
    is_int8 = workload.dtype in ("int8_w8a8", "int8_w8a16") and workload.block_shape is None
    per_channel = quantisation.per_channel_quant or is_int8
    compute_type = "fp16" if quantisation.dtype == "fp16" else "bf16"
    return QuantMode(workload.dtype, compute_type, per_channel, workload.block_shape)


def _shapes(
    workload: Workload, named: ShapeOfModels, models: ModelRegistry, placed_on: Device | None
) -> tuple[ShapeOfModels, ...]:
    """The one asked for first, with every registered model that has it; then those that people run on the device."""
    same = [
        name for known in registered_shapes(workload, models) if known.shape == named.shape for name in known.models
    ]
    first = ShapeOfModels(named.shape, tuple(dict.fromkeys((*named.models, *same))))
    if placed_on is None:
        return (first,)
    others = registered_shapes(workload, models, placed_on=placed_on)
    return (first, *(known for known in others if known.shape != named.shape))
