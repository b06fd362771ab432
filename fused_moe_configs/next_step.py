"""What to do next for a model's experts: the line to be typed, or that there is nothing to do. Pure."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from .machine import VARIABLES

if TYPE_CHECKING:
    from .lookup import Lookup
    from .serving import Serving


UNTUNED_DTYPES = ("fp8_w8a16", "float32", "int4_w4a16")
"""With names of their own, though the kernel that is tuned here doesn't run them."""


class NextStep(NamedTuple):
    """command: a line to be typed; empty: there is none. note: where, or why not. str() is both."""

    command: str
    note: str = ""

    def __str__(self) -> str:
        if not self.command:
            return self.note
        return f"{self.command} ({self.note})" if self.note else self.command


def model_flags(
    model: str, tp: int, ep: int, dtype: str | None = None, block_shape: tuple[int, int] | None = None,
    per_channel_quant: bool = False,
) -> str:  # fmt: skip
    """A model, its parallel sizes, and what it is quantised to while loading, as `tune` takes them."""
    return parallel_flags(f"--model {model}", tp, ep) + quantisation_flags(dtype, block_shape, per_channel_quant)


def parallel_flags(model: str, tp: int, ep: int) -> str:
    """model: what names it to `tune`, flag and all."""
    return f"{model} --tp {tp}" + f" --ep {ep}" * (ep > 1)


def quantisation_flags(dtype: str | None, block_shape: tuple[int, int] | None, per_channel_quant: bool) -> str:
    """With a space before each."""
    flags = f" --dtype {dtype}" * bool(dtype)
    flags += " --block-shape {},{}".format(*block_shape) if block_shape else ""
    return flags + " --per-channel-quant" * per_channel_quant


def tune_command(flags: str, engine: str = "vllm") -> str:
    """The line that tunes the file that `engine` asks for. flags: as `model_flags`; or sizes, of whichever engine."""
    return f"./nox -s tune -- {flags}" + f" --engine {engine}" * (engine != "vllm")


def export_command(engine: str, winner: Path | None, *, siblings: bool = False) -> str:
    """The line that has `engine` read what this package has. winner: the file that it is wanted for."""
    command = f"fused-moe-configs export ./moe-configs --engine {engine}"
    folder = winner.parent.name if winner else ""
    if engine == "vllm" and (found := re.fullmatch(r"triton_(\d+)_(\d+)_(\d+)", folder)):
        command += f" --triton-version {'.'.join(found.groups())}"
    if engine == "sglang":  # whose variable replaces its own files
        command += " --overlay auto"
    command += " --siblings" * siblings
    return f'{command} && export {VARIABLES[engine]}="$PWD/moe-configs"'


def next_step(flags: str, serving: Serving, lookup: Lookup, siblings_file: Path | None) -> NextStep:
    """For a model that has the flags. siblings_file: what `Chain.siblings_file` finds."""
    if serving.reads_tuned_files is False:
        return NextStep("", "nothing: tuned files change nothing here")
    if lookup.winner or siblings_file:
        return NextStep(export_command(serving.engine, lookup.winner, siblings=lookup.winner is None))
    if not serving.gated:
        return NextStep("", "nothing: experts without a gate are not tuned here")
    if serving.dtype in UNTUNED_DTYPES:
        return NextStep("", f"nothing: {serving.dtype} experts are not tuned here")
    return NextStep(tune_command(flags, serving.engine), "in a clone of the repository, on this GPU")
