"""fused-moe-configs explain: every place that is looked at for a workload, and what comes near where nothing serves."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fused_moe_configs import machine
from fused_moe_configs.api import explain, where
from fused_moe_configs.lookup import get_config_file_name
from fused_moe_configs.naming import ENGINES, parse
from fused_moe_configs.near import near_misses

from .console import machine_arguments, show, size, workload_arguments
from .of_model import AskedModel, asked_model, model_arguments, serving_here

if TYPE_CHECKING:
    from .console import Commands


def add_to(commands: Commands) -> None:
    parents = [model_arguments(), workload_arguments(), machine_arguments()]
    command = commands.add_parser(
        "explain",
        help="every place looked at",
        description="Every place that is looked at for a workload: E and N as a rank has them, or a model, whose shape "
        "on a rank, backend and file name come first. --dtype and the like beside a model: what it is quantised to "
        "while loading. Exit 0: a file serves. 1: none does.",
        parents=parents,
    )
    command.set_defaults(run=run)
    command.add_argument("E", type=size, nargs="?", help="experts on the rank")
    command.add_argument("N", type=size, nargs="?", help="intermediate size per shard")
    command.add_argument("--engine", choices=ENGINES, help="beside --model: whose split, backend and name (vllm)")
    command.add_argument("--siblings", action="store_true", help="without a file, read that of a sibling GPU")


def run(
    model: str | None, tp: int | None, ep: int | None, engine: str | None,
    E: int | None, N: int | None, device_name: str | None, triton_version: str | None, siblings: bool,
    down: bool, **quantisation: Any,
) -> int:  # fmt: skip
    asked = asked_model(model, tp, ep, engine, quantisation)
    if asked is None and (E is None or N is None):
        raise ValueError("the workload: expected E and N, or --model, found neither. Fix: name one of them")
    if asked is not None and E is not None:
        raise ValueError("the workload: expected E and N, or --model, found both. Fix: leave one of them out")
    device_name = machine.device_name() if device_name is None else device_name
    workload = {"E": E, "N": N, "down": down, "device_name": device_name, **quantisation}
    if asked is not None:
        named = _of_model(asked, engine or ENGINES[0], device_name)
        if named is None:
            return 1
        workload = {**named, "down": down}
    lookup = explain(triton_version=triton_version, siblings=siblings, **workload)
    show(lookup)
    if lookup.winner:
        return 0
    if parsed := parse(get_config_file_name(**workload)):
        show(*near_misses(parsed, where()))
    return 1


def _of_model(asked: AskedModel, engine: str, device_name: str) -> dict[str, Any] | None:
    """The workload that the model's file is named for, once it is shown; None: no tuned file has such a name."""
    serving = serving_here(asked, engine, device_name)
    show(serving)
    named = parse(serving.file) if serving.file else None
    return named and named._asdict()
