"""What to do next for a model's experts: the line to be typed, or that there is nothing to do. Pure."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from .lookup import version_in
from .machine import VARIABLES

if TYPE_CHECKING:
    from .lookup import Lookup
    from .serving import Serving


MOE_CONFIGS = "./moe-configs"
"""The folder that a line to be typed exports to."""

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
    overlay = "auto" if engine == "sglang" else None  # its variable replaces its own files
    command = export_to(MOE_CONFIGS, engine, winner, overlay=overlay, siblings=siblings)
    return f"{command} && {set_variable(engine)}"


def export_to(
    destination: str, engine: str, winner: Path | None, *, overlay: str | None = None, siblings: bool = False
) -> str:
    """The line that writes what this package has. destination, overlay: as a shell takes them. winner: wanted in it."""
    command = f"fused-moe-configs export {destination} --engine {engine}"
    if engine == "vllm" and winner and (version := version_in(winner.parent.name)):
        command += f" --triton-version {'.'.join(map(str, version))}"
    return command + (f" --overlay {overlay}" if overlay else "") + " --siblings" * siblings


def set_variable(engine: str) -> str:
    """The line that has it read `MOE_CONFIGS`."""
    return f'export {VARIABLES[engine]}="$PWD/{MOE_CONFIGS.removeprefix("./")}"'


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
