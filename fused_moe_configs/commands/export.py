"""fused-moe-configs export: the chain's answers in an engine's own layout."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fused_moe_configs.api import where
from fused_moe_configs.exporting import write_export

from .console import machine_arguments, say, show

if TYPE_CHECKING:
    from .console import Commands


def add_to(commands: Commands) -> None:
    command = commands.add_parser("export", help="write an engine's own layout", parents=[machine_arguments()])
    command.set_defaults(run=run)
    command.add_argument("destination", metavar="DEST", help="what the engine's variable is set to")
    command.add_argument("--engine", required=True, choices=("vllm", "sglang"))
    command.add_argument("--overlay", metavar="DIR", help="the engine's own configs folder, copied first")


def run(**options: Any) -> int:
    written, notes = write_export(where(), **options)
    if notes:
        say(*notes)
    show(f"{len(written)} file{'s' * (len(written) != 1)} written to {options['destination']}")
    return 0 if written else 1
