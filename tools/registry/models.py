"""The registry of models, configs/registry/models.json: expert shapes of checkpoints before sharding.

schema/models.schema.json says what each field means.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tools.registry.reading import (
    REGISTRY_FOLDER,
    RegistryEntry,
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
    """Reads the model registry. RegistryError: it is missing, broken, unsorted, or an id stands twice."""
    rows = read_entries(path, "models")
    models = tuple(_model(RegistryEntry(row, path, f"models[{i}]")) for i, row in enumerate(rows))
    check_order(path, [model.id.casefold() for model in models])
    check_unique(path, [name.casefold() for model in models for name in model.ids])
    return ModelRegistry(models)


def _model(row: RegistryEntry) -> Model:
    block_shape = row.counts("block_shape")
    if len(block_shape) not in (0, 2):
        raise row.error("block_shape", "two numbers", list(block_shape))
    return Model(
        id=row.text("id"),
        E=row.count("E"),
        N=row.count("N"),
        K=row.count("K"),
        top_k=row.count("top_k"),
        quantisation=Quantisation(
            row.text("dtype"),
            (block_shape[0], block_shape[1]) if block_shape else None,
            row.flag("per_channel_quant", absent=False),
        ),
        source=row.text("source"),
        also=row.texts("also"),
        fused_shared_experts=row.optional_count("fused_shared_experts") or 0,
        fusable_shared_experts=row.optional_count("fusable_shared_experts") or 0,
        gated=row.flag("gated", absent=True),
    )
