"""The registry of models, configs/registry/models.json: expert shapes of checkpoints before sharding.

schema/models.schema.json says what each field means.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator, Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from fused_moe_configs.registry import Checkpoint, ServingError
from fused_moe_configs.serving import parallel_text, split
from tools.registry.reading import (
    REGISTRY_FOLDER,
    RegistryError,
    check_order,
    check_unique,
    read_entries,
    unknown,
)
from tools.store.workload import BLOCK_QUANTISED

SIXTEEN_BIT = ("bf16", "fp16")
"""Dtypes that a file's name has no part for."""

OTHER_KERNELS: Mapping[str, str] = {
    "int4_w4a16": "Humming in vLLM, Marlin or Humming in SGLang",
    "mxfp4": "OpenAI's triton_kernels for gpt-oss; for other models Humming in vLLM, FlashInfer in SGLang",
    "mxfp8": "DeepGEMM or Humming in vLLM, DeepGEMM in SGLang",
    "nvfp4": "Humming in vLLM, Marlin or FlashInfer in SGLang",
}
"""What runs experts that the fused MoE Triton kernel doesn't, on Hopper by default (vLLM 0.33, SGLang 0.5.23)."""


def another_kernel(what: str, dtype: str) -> str:
    """Why experts of a dtype of `OTHER_KERNELS` have no file of this kernel. what: the model, or the flag."""
    return (
        f"{what}: {dtype} experts run another kernel than the fused MoE Triton kernel ({OTHER_KERNELS[dtype]}): "
        "there is nothing to tune"
    )


@dataclass(frozen=True)
class Quantisation:
    """How experts are stored: dtype as file names have it (or bf16, fp16, mxfp4, …), and what shares a scale.

    activation_scales: of fp8_w8a8 with a scale for each tensor, "static" (stored) or "dynamic"; None: not known.
    """

    dtype: str
    block_shape: tuple[int, int] | None = None
    per_channel_quant: bool = False
    activation_scales: str | None = None


@dataclass(frozen=True)
class Asked:
    """What a person says of the experts' quantisation beside a model's name. None and False: nothing."""

    dtype: str | None = None
    block_shape: tuple[int, int] | None = None
    per_channel_quant: bool = False

    def of(self, stored: Quantisation) -> Quantisation:
        """The checkpoint's own, as far as nothing else is asked for. Another dtype has only the scales asked for.

        RegistryError: scales that the dtype has none of.
        """
        if self in (Asked(), Asked(stored.dtype)):
            return stored
        dtype = self.dtype or stored.dtype
        if self == Asked("int8_w8a16", None, True):  # it has channel scales only, and no name of its own for them
            return Quantisation(dtype)
        flag = "--block-shape" if self.block_shape else "--per-channel-quant"
        if self.block_shape and self.per_channel_quant:
            raise RegistryError("--block-shape: expected without --per-channel-quant, found both", "leave one out")
        if (self.block_shape or self.per_channel_quant) and dtype not in BLOCK_QUANTISED:
            reason = f"{flag}: expected with {' or '.join(sorted(BLOCK_QUANTISED))}, found with {dtype}"
            fix = "name" if self.dtype else "add"
            raise RegistryError(reason, f"{fix} --dtype fp8_w8a8, or leave {flag} out")
        # What is quantised while loading has no stored scale of an activation.
        is_plain = dtype == "fp8_w8a8" and not self.block_shape and not self.per_channel_quant
        return Quantisation(dtype, self.block_shape, self.per_channel_quant, "dynamic" if is_plain else None)


AS_STORED = Asked()


@dataclass(frozen=True)
class Placement:
    """How a model is served: device class (a family of devices.json), ranks, and how many of them split the experts.

    ep is 1 where experts aren't split. engine: the only one that is run so; None: either.
    """

    device: str
    tp: int
    ep: int = 1
    engine: str | None = None

    def __str__(self) -> str:
        sizes = f"{self.device} {parallel_text(self.tp, self.ep)}"
        return sizes if self.engine is None else f"{sizes} {self.engine}"


@dataclass(frozen=True)
class Model:
    """Expert shapes of a checkpoint before sharding: E experts, intermediate size N, width K, top_k."""

    id: str
    E: int
    N: int
    K: int
    top_k: int
    quantisation: Quantisation
    source: str
    also: tuple[str, ...] = ()
    fused_shared_experts: int = 0
    fusable_shared_experts: int = 0
    gated: bool = True
    fused_under_ep: bool = False
    placements: tuple[Placement, ...] = ()

    @property
    def ids(self) -> tuple[str, ...]:
        """Every checkpoint with these experts, the one that stands for them first."""
        return (self.id, *self.also)

    @property
    def checkpoint(self) -> Checkpoint:
        """As `fused_moe_configs.serving` takes it."""
        known = {field.name for field in fields(Checkpoint)}
        facts = vars(self) | vars(self.quantisation)
        return Checkpoint(**{name: value for name, value in facts.items() if name in known})


@dataclass(frozen=True)
class ModelRegistry:
    """The models, looked up by Hugging Face id, ignoring case."""

    models: tuple[Model, ...]

    def __iter__(self) -> Iterator[Model]:
        return iter(self.models)

    def get(self, name: str) -> Model | None:
        """The model with the id `name`. None: unknown."""
        wanted = name.casefold()
        return next((model for model in self.models if wanted in map(str.casefold, model.ids)), None)

    def find(self, name: str) -> Model:
        """As `get`; an unknown id is a RegistryError that gives the nearest ones."""
        model = self.get(name)
        if model is None:
            ids = (known for model in self.models for known in model.ids)
            raise RegistryError(unknown("model", name, ids, "configs/registry/models.json"))
        return model


def load_models(path: Path = REGISTRY_FOLDER / "models.json") -> ModelRegistry:
    """Reads the model registry.

    RegistryError: it is missing, broken or unsorted; an id stands twice; top_k > E; a placement that doesn't divide, or
    that another one of the model contradicts.
    """
    models = tuple(map(_model, read_entries(path, "models")))
    for model in models:
        if model.top_k > model.E:
            reason = f"{model.id} / top_k: expected at most its {model.E} experts, found {model.top_k}"
            raise RegistryError(reason, "correct one of them", path)
        for placement in model.placements:
            if fault := _misplaced(model, placement):
                raise RegistryError(f"{model.id} / placements: {placement}: {fault}", "correct the placement", path)
        if twice := _contradiction(model.placements):
            reason, fix = twice
            raise RegistryError(f"{model.id} / placements: {reason}", fix, path)
    check_order(path, [model.id.casefold() for model in models])
    check_unique(path, [name.casefold() for model in models for name in model.ids])
    return ModelRegistry(models)


def unknown_device_classes(models: Iterable[Model], families: Container[str]) -> Iterator[tuple[str, str]]:
    """(model's id, what its placement says) for each placement on a device class that no device belongs to.

    families: those of devices.json, which this registry can't know of.
    """
    for model in models:
        for name in sorted({placement.device for placement in model.placements if placement.device not in families}):
            yield model.id, name


def _misplaced(model: Model, placement: Placement) -> str | None:
    """What a placement's sizes should be and aren't, for the engine that is run so; for either, by SGLang's rules."""
    try:
        split(model.checkpoint, placement.engine or "sglang", placement.tp, placement.ep)
    except ServingError as error:
        return str(error).partition(". Fix: ")[0].removeprefix(f"{model.id}: ")
    return None


def _contradiction(placements: Iterable[Placement]) -> tuple[str, str] | None:
    """(what is wrong, how to end it) where one says «this engine alone» and another of these sizes says otherwise."""
    engines: dict[Placement, list[str | None]] = {}
    for placement in placements:
        engines.setdefault(replace(placement, engine=None), []).append(placement.engine)
    for sizes, found in engines.items():
        if len(found) > 1:
            said = " and ".join(f"for {engine} alone" if engine else "for either engine" for engine in found)
            return f"{sizes}: expected once, found {said}", "keep one; without engine where both run it so"
    return None


def _model(entry: Mapping[str, Any]) -> Model:
    fields = dict(entry)
    block_shape = fields.pop("block_shape", None)
    quantisation = Quantisation(
        fields.pop("dtype"),
        block_shape and tuple(block_shape),
        fields.pop("per_channel_quant", False),
        fields.pop("activation_scales", None),
    )
    fields["placements"] = tuple(Placement(**placement) for placement in entry.get("placements", ()))
    return Model(**{**fields, "quantisation": quantisation, "also": tuple(entry.get("also", ()))})
