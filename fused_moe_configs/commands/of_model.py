"""What `explain` and `doctor` ask by a model's id: their arguments, and what an engine of this machine runs for it."""

from __future__ import annotations

import argparse
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from fused_moe_configs import machine
from fused_moe_configs.api import where
from fused_moe_configs.next_step import model_flags
from fused_moe_configs.registry import ServingError

from .console import size

if TYPE_CHECKING:
    from fused_moe_configs.serving import Serving


@dataclass(frozen=True)
class AskedModel:
    """A model's id, its parallel sizes, and what it is quantised to while loading, where that is asked for."""

    id: str
    tp: int = 1
    ep: int = 1
    dtype: str | None = None
    block_shape: tuple[int, int] | None = None
    per_channel_quant: bool = False

    @property
    def flags(self) -> str:
        """As `tune` takes it."""
        return model_flags(
            self.id, self.tp, self.ep, self.dtype, self.block_shape, per_channel_quant=self.per_channel_quant
        )


def model_arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(add_help=False)
    group = parser.add_argument_group("a model")
    group.add_argument("--model", metavar="M", help="its id as Hugging Face has it")
    group.add_argument("--tp", type=size, metavar="N", help="tensor parallel size (1)")
    group.add_argument("--ep", type=size, metavar="N", help="expert parallel size (1)")
    return parser


def asked_model(
    model: str | None, tp: int | None, ep: int | None, engine: str | None, quantisation: dict[str, Any]
) -> AskedModel | None:
    """None: no model was named. ValueError: what goes with one alone stands without it."""
    if model is not None:
        return AskedModel(model, 1 if tp is None else tp, 1 if ep is None else ep, **quantisation)
    for flag, value in (("--tp", tp), ("--ep", ep), ("--engine", engine)):
        if value is not None:
            raise ValueError(f"{flag}: expected it beside --model, found it alone. Fix: name the model")
    return None


def serving_here(asked: AskedModel, engine: str, device_name: str, arch: str | None = None) -> Serving:
    """What the installed release of the engine runs, or else the newest that is known. ServingError: none does."""
    from fused_moe_configs.serving import find_serving

    version = machine.version_of(engine)
    options: dict[str, Any] = {
        "device_name": device_name, "arch": arch, "tp": asked.tp, "ep": asked.ep, "dtype": asked.dtype,
        "block_shape": asked.block_shape, "per_channel_quant": asked.per_channel_quant,
    }  # fmt: skip
    try:
        return find_serving(asked.id, engine, where(), version=version, **options)
    except ServingError as error:
        if version is None:
            raise
        found = find_serving(asked.id, engine, where(), **options)  # or what is wrong with the model
        return replace(found, notes=(f"{str(error).partition('. Fix: ')[0]}; {found.version} answers.", *found.notes))
