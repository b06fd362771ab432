"""The registries of models and devices, as the loader reads them from a configs folder (`api.where`)."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from .lookup import RESTORE, ConfigError, device_part, devices_path, read_json, shown
from .spelling import did_you_mean

T = TypeVar("T")

NAMED_DTYPES = {
    "vllm": ("fp8_w8a8", "fp8_w8a16", "int8_w8a16", "int4_w4a16", "float32"),
    "sglang": ("fp8_w8a8", "int8_w8a8", "int8_w8a16", "int4_w4a16", "float32"),
}
"""The dtypes that an engine writes into a file's name."""
UNNAMED_DTYPES = {"vllm": ("bf16", "fp16", "int8_w8a8"), "sglang": ("bf16", "fp16")}
"""Those whose files have no dtype in their name."""
DTYPES = tuple(
    dict.fromkeys(
        ["bf16", "fp16", *NAMED_DTYPES["vllm"], *NAMED_DTYPES["sglang"], *("nvfp4", "mxfp4", "mxfp8")],
    )
)
"""Every dtype that experts may be stored in. The last three run other kernels."""
SCALED_DTYPES = ("fp8_w8a8", "int8_w8a8")
"""Those whose weights may have a scale for each block or channel."""


class ServingError(ValueError):
    """What was asked for can't be served, or isn't known here. The message says where, expected, found and the fix."""


@dataclass(frozen=True)
class Checkpoint:
    """A model as models.json has it: E experts of size N and width K, top_k of them a token, before sharding.

    dtype: one of `DTYPES`. block_shape: (block_n, block_k) of the weights' scales. activation_scales: static or
    dynamic, where weights are fp8 with one scale a tensor; None: not known. fused_under_ep: the engine fuses shared
    experts under expert parallelism too. Other fields as in schema/models.schema.json.
    """

    id: str
    E: int
    N: int
    K: int
    top_k: int
    dtype: str = "bf16"
    block_shape: tuple[int, int] | None = None
    per_channel_quant: bool = False
    activation_scales: str | None = None
    gated: bool = True
    fused_shared_experts: int = 0
    fused_under_ep: bool = False
    also: tuple[str, ...] = ()

    @classmethod
    def read(cls, entry: Mapping[str, Any]) -> Checkpoint:
        """An entry of models.json. What doesn't bear on serving, such as its source, is left out."""
        known = {field.name for field in fields(cls)}
        values: dict[str, Any] = {key: value for key, value in with_tuples(entry).items() if key in known}
        return cls(**values)

    @property
    def ids(self) -> tuple[str, ...]:
        """Every id with these experts, the one that stands for them first."""
        return (self.id, *self.also)

    @property
    def kind(self) -> str:
        """The kind of weights, in engines.json's words; fp8_tensor where static or dynamic isn't known."""
        if self.dtype in ("bf16", "fp16"):
            return "bf16"
        if self.dtype not in SCALED_DTYPES:
            return self.dtype
        number = self.dtype.partition("_")[0]
        if self.block_shape is not None:
            return f"{number}_block"
        if self.per_channel_quant or number == "int8":
            return f"{number}_channel"
        return f"{number}_tensor_{self.activation_scales}" if self.activation_scales else f"{number}_tensor"

    def loaded_as(
        self, dtype: str, block_shape: tuple[int, int] | None = None, per_channel_quant: bool = False
    ) -> Checkpoint:
        """The model in another dtype, as an engine quantises it while loading: scales of activations are dynamic.

        ServingError: no such dtype.
        """
        if dtype not in DTYPES:
            hint = did_you_mean(dtype, DTYPES)
            raise ServingError(
                f"dtype: expected one of {', '.join(DTYPES)}, found {shown(dtype)}. {hint}Fix: name one of them."
            )
        asked = (dtype, block_shape, per_channel_quant)
        if asked == (self.dtype, self.block_shape, self.per_channel_quant):
            return self
        return replace(
            self,
            dtype=dtype,
            block_shape=block_shape,
            per_channel_quant=per_channel_quant,
            activation_scales="dynamic" if asked == ("fp8_w8a8", None, False) else None,
        )


def find_model(name: str, configs: Path) -> Checkpoint:
    """The model of models.json that has the id `name`, ignoring case; its id is then that one.

    configs: the configs folder. ServingError: no model has it; near ones are named.
    """
    models = read_registry("models", Checkpoint.read, configs)
    for model in models:
        for known in model.ids:
            if known.casefold() == name.casefold():
                return replace(model, id=known, also=tuple(each for each in model.ids if each != known))
    hint = did_you_mean(name, (known for model in models for known in model.ids))
    raise ServingError(
        f"model: expected one of configs/registry/models.json, found {shown(name)}. {hint}"
        "Fix: write an id as Hugging Face has it; for other models, `fused-moe-configs explain E N` takes the sizes."
    )


class KnownDevice(NamedTuple):
    """A device of devices.json, its names as file names spell them. arch: sm_90, gfx942, …; None: not known."""

    name: str
    aliases: tuple[str, ...]
    arch: str | None

    @classmethod
    def read(cls, entry: Mapping[str, Any]) -> KnownDevice:
        aliases = tuple(map(device_part, entry.get("aliases", ())))
        return cls(device_part(entry["name"]), aliases, entry.get("arch"))

    @property
    def names(self) -> tuple[str, ...]:
        return (self.name, *self.aliases)


def known_devices(configs: Path) -> tuple[KnownDevice, ...]:
    """Of devices.json; none where there is no such file. ConfigError: as `devices_path`, or it is broken."""
    return read_registry("devices", KnownDevice.read, configs) if devices_path(configs) else ()


def arch_of(device_name: str, configs: Path) -> str | None:
    """The architecture that devices.json gives for any name of a device, such as sm_90. None: it knows none."""
    try:
        own = device_part(device_name)
    except ValueError:
        return None
    return next((device.arch for device in known_devices(configs) if own in device.names), None)


def read_registry(kind: str, build: Callable[[Mapping[str, Any]], T], configs: Path) -> tuple[T, ...]:
    """What `build` makes of each entry of registry/KIND.json. ConfigError: it is missing or broken."""
    path = configs / "registry" / f"{kind}.json"
    try:
        text, _ = read_json(path)
    except ConfigError as error:
        raise ConfigError(path, f"{error.said.partition('. Fix: ')[0]}. {RESTORE}") from error
    try:
        return tuple(map(build, json.loads(text)[kind]))
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        wish = f"expected {kind} as schema/{kind}.schema.json has them, found otherwise"
        raise ConfigError(path, f"{wish}. {RESTORE}") from error


def with_tuples(entry: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a JSON object, its lists as tuples."""
    return {key: tuple(value) if isinstance(value, list) else value for key, value in entry.items()}
