"""What a tuned file's name doesn't say and its kernel needs: hidden size, experts per token, how it is quantised.

The one answer to «which shapes does this file serve?», asked by compile, bench, tuner, pull requests and nightly.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from kernels.problem import Flavour, QuantMode
from tools.registry.devices import Device
from tools.registry.models import SIXTEEN_BIT, Model, ModelRegistry, Placement, Quantisation
from tools.registry.sharding import Engine, Explanation, Shard, ShardError, explain_pair, shard
from tools.store.config_file import ConfigFile
from tools.store.record import RecordError, ShapeOfModels, as_record
from tools.store.workload import Shape, Workload

ASSUMED_SHAPE = Shape(K=4096, top_k=2)
"""Mixtral 8x7B's."""

HIDDEN_SIZES = range(256, 16384 + 1, 64)
"""The hidden sizes that are measured though no registered model has them; those of the registry lie inside."""

MOST_EXPERTS_PER_TOKEN = 64

MOST_RANKS = 1024
"""Over which experts are spread."""

MOST_SHAPES = 32
"""Shapes of one workload. Of the registry's (E, N) none stands for more than 20."""


@dataclass(frozen=True)
class ShapeFault:
    """What is wrong with the shapes that a record says it measured, and how to end it."""

    message: str
    fix: str


def shapes_of(file: ConfigFile, models: ModelRegistry) -> tuple[Shape, ...]:
    """From the file's record, else of every registered model that reads it; empty: neither tells."""
    if file.workload is None:
        return ()
    if recorded := _recorded(file):
        return recorded
    return tuple(served.shape for served in registered_shapes(file.workload, models))


def registered_shapes(
    workload: Workload, models: ModelRegistry, *, placed_on: Device | None = None
) -> tuple[ShapeOfModels, ...]:
    """Each shape behind the name, with the models that have it; that of the model on the fewest ranks first.

    placed_on: None for what a file of this name may hold; a device for what one is tuned for, as in `readers`.
    """
    by_shape: dict[Shape, list[str]] = {}
    for reader in readers(workload, models, placed_on=placed_on):
        by_shape.setdefault(reader.shape, []).append(str(reader.found))
    return tuple(ShapeOfModels(shape, tuple(names)) for shape, names in by_shape.items())


def shapes_fault(workload: Workload, recorded: Sequence[Shape], models: ModelRegistry) -> ShapeFault | None:
    """Why these shapes can't be the ones behind the name; None: they can.

    A record that chose its own shapes would choose its own floor, and what main measures. So they are the registry's
    where it knows any for the name, and otherwise within the bounds of what a plan measures.
    """
    if len(recorded) > MOST_SHAPES:
        return ShapeFault(
            f"shapes: expected at most {MOST_SHAPES}, found {len(recorded)}", "name those that were measured"
        )
    if repeated := [shape for place, shape in enumerate(recorded) if shape in recorded[:place]]:
        return ShapeFault(f"shapes: expected each once, found {repeated[0]} twice", "leave one of them out")
    known = registered_shapes(workload, models)
    served = [each.shape for each in known]
    strange = [shape for shape in recorded if shape not in served and (known or not _is_measurable(shape, workload))]
    if not strange:
        return None
    found = strange[0]
    add = "add the model to configs/registry/models.json in a change of its own, which goes first"
    if known:
        nearest = sorted(known, key=lambda each: _distance(each.shape, strange[0]))[:3]
        names = ", ".join(f"{each.shape} ({each.models[0]})" for each in nearest)
        expected = f"expected those of the registry's models for E={workload.E}, N={workload.N}, the nearest {names}"
        return ShapeFault(f"shapes: {expected}; found {found}", f"tune it again, or {add}")
    most = min(strange[0].layer_experts(workload.E), MOST_EXPERTS_PER_TOKEN)
    bounds = (
        f"K from {HIDDEN_SIZES[0]} to {HIDDEN_SIZES[-1]} in steps of {HIDDEN_SIZES.step}, top_k up to {most} and ep up "
        f"to {MOST_RANKS}, as no registered model has this name"
    )
    return ShapeFault(f"shapes: expected {bounds}; found {found}", f"correct the record, or {add}")


def _is_measurable(shape: Shape, workload: Workload) -> bool:
    is_within = shape.K in HIDDEN_SIZES and 1 <= shape.ep <= MOST_RANKS and shape.fused_shared_experts >= 0
    return is_within and 1 <= shape.top_k <= MOST_EXPERTS_PER_TOKEN and not shape.fault(workload.E)


def _distance(a: Shape, b: Shape) -> tuple[float, int, int]:
    return abs(math.log(a.K / b.K)), abs(a.top_k - b.top_k), abs(a.ep - b.ep)


@dataclass(frozen=True)
class Reader:
    """A registered model that asks for a file's name, the parallel sizes at which it does, and its shape there."""

    model: Model
    found: Explanation
    shape: Shape


def readers(workload: Workload, models: ModelRegistry, *, placed_on: Device | None = None) -> tuple[Reader, ...]:
    """The models that a file of this name serves, that on the fewest ranks first; on any device.

    placed_on: only those that people run there: models whose placements on the device's family give this name, as
    their checkpoints are stored, in an engine that isn't known to pass tuned files by. Where there is none, arithmetic
    is all that is known, and the answer is the one without a device.

    A model counts at the parallel sizes at which vLLM or SGLang asks for exactly this E, N, dtype and scales, from its
    checkpoint as it is stored. One that is stored in 16 bits may also be quantised, while loading or before: per
    tensor, per channel, or in blocks of 128. A model without a gate is another problem than one with a gate, so it
    counts only where no model with a gate reads the name.
    """
    asked = replace(workload, device_name=_ANY_DEVICE, down=False)
    placed = [] if placed_on is None else _placed(asked, models, placed_on)
    found = placed or _by_arithmetic(asked, models)
    gated = tuple(reader for reader in found if reader.model.gated)
    return gated or tuple(found)


def _by_arithmetic(asked: Workload, models: ModelRegistry) -> list[Reader]:
    by_id = {model.id: model for model in models}
    found = []
    for explanation in explain_pair(asked.E, asked.N, models):
        model = by_id[explanation.model_id]
        quantisation = _quantisation_for(asked, model)
        shapes = (_shape_if_asked(model, engine, explanation, quantisation, asked) for engine in Engine)
        shape = next((shape for shape in shapes if shape is not None), None)
        if shape is not None:
            found.append(Reader(model, explanation, shape))
    return found


@dataclass(frozen=True)
class Placed:
    """A registered model as people run it on a device, in an engine that isn't known to pass tuned files by."""

    model: Model
    engine: Engine
    placement: Placement
    shard: Shard


def placed_on(models: Iterable[Model], device: Device) -> Iterator[Placed]:
    """By the models' placements on the device's family, as their checkpoints are stored.

    Left out is what an engine doesn't run, and what has no name of a tuned file (mxfp4, nvfp4, …).
    """
    for model in models:
        for placement in model.placements:
            engines = tuple(Engine) if placement.engine is None else (Engine(placement.engine),)
            for engine in engines if placement.device == device.family else ():
                tp, ep = placement.tp, placement.ep
                try:
                    own = shard(model, engine, device_name=device.name, arch=device.arch, tp=tp, ep=ep)
                except ShardError:
                    continue
                if own.serving.reads_tuned_files is not False:
                    yield Placed(model, engine, placement, own)


def readers_served(group: Sequence[Placed]) -> list[Placed]:
    """Of those that ask for one name, the ones that a file can be tuned for: with a gate first, then the kind that most
    are of.
    """
    problems: dict[tuple[bool, str], list[Placed]] = {}
    for placed in group:
        problems.setdefault((placed.model.gated, placed.model.checkpoint.kind), []).append(placed)
    return problems[max(problems, key=lambda problem: (problem[0], len(problems[problem]), problem[1]))]


def contradiction_of(group: Sequence[Placed]) -> str:
    """What those who ask for one name disagree about, and who; empty: nothing."""
    served = readers_served(group)
    others = [placed for placed in group if placed not in served]
    if not others:
        return ""
    told, left_out = (", ".join(dict.fromkeys(map(_layer_words, some))) for some in (served, others))
    return f"placements contradict each other: expected readers of one kind of layer, found {told} beside {left_out}"


def contradictions(models: Iterable[Model], devices: Iterable[Device]) -> Iterator[tuple[Workload, str]]:
    """Each name, on a device of each family, whose readers disagree, with what `contradiction_of` says."""
    models, of_families = tuple(models), dict[tuple[str, str | None], Device]()
    for device in devices:
        of_families.setdefault((device.family, device.arch), device)
    for device in of_families.values():
        by_workload: dict[Workload, list[Placed]] = {}
        for placed in placed_on(models, device):
            by_workload.setdefault(placed.shard.workload, []).append(placed)
        for workload, group in by_workload.items():
            if said := contradiction_of(group):
                yield workload, said


def _layer_words(placed: Placed) -> str:
    gate = "" if placed.model.gated else ", no gate"
    return f"{placed.model.id} {placed.placement} ({placed.model.checkpoint.kind}{gate})"


def _placed(asked: Workload, models: ModelRegistry, device: Device) -> list[Reader]:
    found: dict[tuple[Explanation, Shape], Reader] = {}
    for each in placed_on(models, device):
        if replace(each.shard.workload, device_name=_ANY_DEVICE) == asked:
            fused = each.shard.serving.fused_shared_experts
            how = Explanation(each.placement.ep, each.placement.tp, each.model.id, fused)
            found[how, each.shard.shape] = Reader(each.model, how, each.shard.shape)
    return sorted(found.values(), key=lambda reader: (reader.found.tp, reader.found))


def engines_reading(workload: Workload, shape: Shape, models: Iterable[Model]) -> tuple[Flavour, ...]:
    """The engines that read the name for a layer of this shape: those in which a model here asks for it; else by rule.

    The rule, where no model tells: a block narrower than a checkpoint's usual one is vLLM's, which refines it where
    shards don't divide; names with per_channel_quant=True, names of int8_w8a8 and layers with a fused shared expert
    are SGLang's; all others are both's. Not asked is which backend an engine chooses on a device: what is tuned for the
    kernel is for whoever runs it.
    """
    asked = replace(workload, device_name=_ANY_DEVICE, down=False)
    by_id = {model.id: model for model in models}
    asking: set[Engine] = set()
    for explanation in explain_pair(workload.E, workload.N, by_id.values()):
        model = by_id[explanation.model_id]
        quantisation = _quantisation_for(asked, model)
        asking |= {
            engine for engine in Engine if _shape_if_asked(model, engine, explanation, quantisation, asked) == shape
        }
    if asking:
        return tuple(flavour for flavour in Flavour if Engine(flavour.value) in asking)
    if workload.per_channel_quant or workload.dtype == "int8_w8a8" or shape.fused_shared_experts:
        return (Flavour.SGLANG,)
    if workload.block_shape is not None and min(workload.block_shape) < min(USUAL_BLOCK):
        return (Flavour.VLLM,)
    return tuple(Flavour)


def without_gate(workload: Workload, models: ModelRegistry) -> tuple[str, ...]:
    """The models without a gate that have this E and N. Their files are none of this kernel's, whatever their dtype."""
    return _withstr(workload, models, gated=False)


def why_not_measured(workload: Workload, models: ModelRegistry) -> str:
    """Why a file of this name can't be measured: only models without a gate have its E and N. Empty: it can be."""
    ungated = without_gate(workload, models)
    if not ungated or _withstr(workload, models, gated=True):
        return ""
    return (
        f"E={workload.E}, N={workload.N}: expected experts with a gate, found sizes that only models without one have "
        f"({', '.join(ungated)}). Their layer is another problem than this kernel's: there is nothing to tune"
    )


def _withstr(workload: Workload, models: ModelRegistry, *, gated: bool) -> tuple[str, ...]:
    of_kind = [model for model in models if model.gated is gated]
    return tuple(dict.fromkeys(found.model_id for found in explain_pair(workload.E, workload.N, of_kind)))


USUAL_BLOCK = (128, 128)
"""Of the scales where an engine quantises a 16-bit checkpoint in blocks while loading."""


_ANY_DEVICE = "any"
"""Stands for the device where the question is the same on all of them."""


def _quantisation_for(asked: Workload, model: Model) -> Quantisation:
    """What the checkpoint would be run in under this name: as it is stored, or as the name says from 16 bits."""
    stored = model.quantisation
    if stored.dtype not in SIXTEEN_BIT or asked.dtype is None:
        return stored
    return Quantisation(asked.dtype, asked.block_shape and USUAL_BLOCK, asked.per_channel_quant)


def _shape_if_asked(
    model: Model, engine: Engine, found: Explanation, quantisation: Quantisation, asked: Workload
) -> Shape | None:
    """The model's shape on a rank; None: the engine asks for another name, or for none."""
    fused = replace(model, fused_shared_experts=found.fused_shared_experts)
    try:
        own = shard(fused, engine, device_name=_ANY_DEVICE, tp=found.tp, ep=found.ep, quantisation=quantisation)
    except ShardError:
        return None
    return own.shape if own.workload == asked else None


def assumed_shape(E: int) -> Shape:
    """Where neither a record nor a model tells: Mixtral 8x7B's, as far as there are experts to choose."""
    return Shape(ASSUMED_SHAPE.K, min(ASSUMED_SHAPE.top_k, E))


def quant_mode_of(workload: Workload) -> QuantMode | None:
    """How the kernel runs it; None: this project has no kernel for it.

    A plain fp8 name serves per-tensor and per-channel scales; int8 without blocks is per channel in both engines.
    """
    per_channel = workload.block_shape is None and (
        workload.per_channel_quant or workload.dtype in ("int8_w8a8", "int8_w8a16")
    )
    try:
        return QuantMode(workload.dtype, per_channel=per_channel, block_shape=workload.block_shape)
    except ValueError:
        return None


def _recorded(file: ConfigFile) -> tuple[Shape, ...]:
    try:
        record = as_record(file.record)
    except RecordError:
        return ()  # the validator says what is wrong with it
    return tuple(served.shape for served in record.shapes)
