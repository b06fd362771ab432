"""The registry of models, configs/registry/models.json: expert shapes of checkpoints before sharding.

schema/models.schema.json says what each field means.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tools.registry.reading import (
    REGISTRY_FOLDER,
    RegistryError,
    check_order,
    check_unique,
    near,
    read_entries,
    unknown,
)


@dataclass(frozen=True)
class Quantisation:
    """How experts are stored: dtype as file names have it (or bf16, fp16), and what shares a scale."""

    dtype: str
    block_shape: tuple[int, int] | None = None
    per_channel_quant: bool = False


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

    @property
    def ids(self) -> tuple[str, ...]:
        """Every checkpoint with these experts, the one that stands for them first."""
        return (self.id, *self.also)


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
            raise RegistryError(unknown("model", name, self.near(name), "configs/registry/models.json"))
        return model

    def near(self, name: str) -> list[str]:
        """Up to three known ids that look like `name`, with or without its owner, the nearest first."""
        ids = [known for model in self.models for known in model.ids]
        if "/" in name:
            return near(name, ids)
        by_short_name = {known.partition("/")[2]: known for known in ids}
        return [by_short_name[short] for short in near(name, by_short_name)]


def load_models(path: Path = REGISTRY_FOLDER / "models.json") -> ModelRegistry:
    """Reads the model registry. RegistryError: it is missing, broken, unsorted, an id stands twice, or top_k > E."""
    models = tuple(map(_model, read_entries(path, "models")))
    for model in models:
        if model.top_k > model.E:
            reason = f"{model.id} / top_k: expected at most its {model.E} experts, found {model.top_k}"
            raise RegistryError(reason, "correct one of them", path)
    check_order(path, [model.id.casefold() for model in models])
    check_unique(path, [name.casefold() for model in models for name in model.ids])
    return ModelRegistry(models)


def _model(entry: Mapping[str, Any]) -> Model:
    fields = dict(entry)
    block_shape = fields.pop("block_shape", None)
    quantisation = Quantisation(
        fields.pop("dtype"), block_shape and tuple(block_shape), fields.pop("per_channel_quant", False)
    )
    return Model(**{**fields, "quantisation": quantisation, "also": tuple(entry.get("also", ()))})
