"""fused-moe-configs export: the chain's answers in an engine's own layout."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fused_moe_configs.api import where
from fused_moe_configs.exporting import summary, write_export
from fused_moe_configs.naming import ENGINES

from .console import machine_arguments, say, show

if TYPE_CHECKING:
    from .console import Commands


def add_to(commands: Commands) -> None:
    command = commands.add_parser("export", help="write an engine's own layout", parents=[machine_arguments()])
    command.set_defaults(run=run)
    command.add_argument("destination", metavar="DEST", help="what the engine's variable is set to")
    command.add_argument("--engine", required=True, choices=ENGINES)
    wish = "the engine's own configs folder, copied first; auto: that of the installed engine"
    command.add_argument("--overlay", metavar="DIR", help=wish)
    command.add_argument("--siblings", action="store_true", help="GPUs without a file get that of a sibling GPU")


def run(destination: str, engine: str, **options: Any) -> int:
    done = write_export(where(), destination, engine, **options)
    try:
        show(*summary(done))
    finally:  # behind the many lines of it, where they are seen
        if done.notes:
            say(*done.notes)
    return 0 if done.is_whole else 1
