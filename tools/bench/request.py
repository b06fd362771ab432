"""What the command line asks for, checked before anything runs. Standard library only."""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from kernels.problem import QuantMode
from tools.child_process import usable_cores
from tools.cli import path_argument
from tools.registry.models import Model, ModelRegistry
from tools.registry.reading import RegistryError
from tools.registry.sharding import Engine, Shard, ShardError, shard

HEURISTIC = "heuristic"
BATCH_SIZES = (1, 4, 16, 64, 128, 256, 512, 1024, 4096)
MAX_NUM_TOKENS = 65536
MAX_JOBS = 1024


class RequestError(ValueError):
    """Bad use, or impossible here. One line for a person."""


@dataclass(frozen=True)
class WorkloadRequest:
    """A model on one rank. title: as it was asked for."""

    title: str
    model: Model
    shard: Shard
    quant: QuantMode


@dataclass(frozen=True)
class KernelsRequest:
    """A checked command line, but for what only the device can tell."""

    engine: str
    engine_path: Path
    workloads: tuple[str, ...]
    batch_sizes: tuple[int, ...]
    launch_configs: int
    jobs: int
    output: Path
    as_json: bool


def parse(arguments: Sequence[str]) -> KernelsRequest:
    """SystemExit(2) with a usage line, or RequestError."""
    parser = argparse.ArgumentParser(
        prog="python -m tools.bench",
        description="Times our kernel beside an engine's with the same inputs and launch configs.",
    )
    parser.add_argument("--kernel", required=True, metavar="vllm=PATH", help="the engine's installed fused_moe.py")
    parser.add_argument(
        "--workload", action="append", required=True, metavar='"MODEL tp=N [ep=N]"', help="may be given several times"
    )
    parser.add_argument("--num-tokens", type=int, nargs="+", default=list(BATCH_SIZES), metavar="M")
    parser.add_argument("--launch-configs", type=int, default=60, metavar="N", help="how many a workload (60)")
    parser.add_argument("--jobs", type=int, default=usable_cores(), help="compiling processes (one a core)")
    parser.add_argument("--output", type=path_argument, default=Path("docs/measurements"), metavar="DIR")
    parser.add_argument("--format", choices=("text", "json"), default="text")
    options = parser.parse_args(arguments)
    engine, _, path = options.kernel.partition("=")
    if engine != "vllm" or not path:
        raise RequestError(f"--kernel: expected vllm=PATH/fused_moe.py, found {options.kernel!r}.")
    check_counts("--num-tokens", options.num_tokens, MAX_NUM_TOKENS)
    check_counts("--launch-configs", [options.launch_configs], 10_000)
    check_counts("--jobs", [options.jobs], MAX_JOBS)
    return KernelsRequest(
        engine,
        Path(path),
        tuple(options.workload),
        tuple(sorted(set(options.num_tokens))),
        options.launch_configs,
        options.jobs,
        options.output,
        options.format == "json",
    )


def check_counts(name: str, values: Sequence[int], most: int) -> None:
    """RequestError: one of them is not from 1 to `most`."""
    wrong = [value for value in values if not 1 <= value <= most]
    if wrong:
        raise RequestError(f"{name}: expected from 1 to {most}, found {wrong[0]}.")


def read_workload(text: str, models: ModelRegistry, device_name: str) -> WorkloadRequest:
    """`MODEL tp=N [ep=N]` as one rank of vLLM sees it. RequestError: unknown, indivisible, no kernel."""
    name, *sizes = text.split()
    matches = [re.fullmatch(r"(tp|ep)=([1-9][0-9]{0,4})", size) for size in sizes]
    if not all(matches):
        raise RequestError(f'--workload: expected "MODEL tp=N [ep=N]", found {text!r}.')
    sizes_by_name = {match[1]: int(match[2]) for match in matches if match}
    tp, ep = (sizes_by_name.get(size, 1) for size in ("tp", "ep"))
    try:
        model = models.find(name)
        found = shard(model, Engine.VLLM, device_name=device_name, tp=tp, ep=ep)
        quant = quant_mode(model, found)
    except (RegistryError, ShardError) as error:
        raise RequestError(str(error)) from error
    if not model.gated:
        raise RequestError(f"{name}: expected gated experts, found {model.id} without a gate. Fix: another model.")
    return WorkloadRequest(text, model, found, quant)


def quant_mode(model: Model, found: Shard) -> QuantMode:
    """The kernel's mode. RequestError: there is no kernel for the dtype here."""
    workload, stored = found.workload, model.quantisation
    compute_type = "fp16" if stored.dtype == "fp16" else "bf16"
    try:
        return QuantMode(workload.dtype, compute_type, stored.per_channel_quant, workload.block_shape)
    except ValueError as error:
        raise RequestError(f"{model.id}: {error}") from error
