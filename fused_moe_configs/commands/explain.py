"""fused-moe-configs explain: every place that is looked at for a workload, and what comes near where nothing serves."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fused_moe_configs.api import explain

from .console import machine_arguments, show, workload_arguments

if TYPE_CHECKING:
    from .console import Commands


def add_to(commands: Commands) -> None:
    parents = [workload_arguments(), machine_arguments()]
    command = commands.add_parser("explain", help="every place looked at", parents=parents)
    command.set_defaults(run=run)
    command.add_argument("E", type=int, help="experts on the rank")
    command.add_argument("N", type=int, help="intermediate size per shard")


def run(**workload: Any) -> int:
    lookup = explain(**workload)
    show(lookup)
    return 0 if lookup.winner else 1
