"""fused-moe-configs where: the configs folder."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fused_moe_configs.api import where

from .console import show

if TYPE_CHECKING:
    from .console import Commands


def add_to(commands: Commands) -> None:
    commands.add_parser("where", help="print the configs folder").set_defaults(run=run)


def run() -> int:
    show(where())
    return 0
