"""fused-moe-configs explain: every place that is looked at for a workload, and what comes near where nothing serves."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fused_moe_configs import machine
from fused_moe_configs.api import explain, where
from fused_moe_configs.lookup import get_config_file_name
from fused_moe_configs.naming import parse
from fused_moe_configs.near import near_misses

from .console import machine_arguments, show, size, workload_arguments

if TYPE_CHECKING:
    from .console import Commands


def add_to(commands: Commands) -> None:
    parents = [workload_arguments(), machine_arguments()]
    command = commands.add_parser("explain", help="every place looked at", parents=parents)
    command.set_defaults(run=run)
    command.add_argument("E", type=size, help="experts on the rank")
    command.add_argument("N", type=size, help="intermediate size per shard")
    command.add_argument("--siblings", action="store_true", help="without a file, read that of a sibling GPU")


def run(device_name: str | None, triton_version: str | None, siblings: bool, **workload: Any) -> int:
    device_name = machine.device_name() if device_name is None else device_name
    lookup = explain(device_name=device_name, triton_version=triton_version, siblings=siblings, **workload)
    show(lookup)
    if lookup.winner:
        return 0
    if asked := parse(get_config_file_name(device_name=device_name, **workload)):
        show(*near_misses(asked, where()))
    return 1
