"""What is asked of each engine's look-up code, and in which layout it reads tuned files."""

from __future__ import annotations

from dataclasses import dataclass

from tools.launch.engine_package import LOOK_UP_MODULES
from tools.store.workload import Layout

WANTED = ("get_config_file_name", "get_moe_configs", "try_get_optimal_moe_config")
"""From a workload to a name, from the name to a table, from the table to the entry of the nearest batch size."""


@dataclass(frozen=True)
class EngineLookup:
    """places: the module with the look-up, the newest first."""

    name: str
    layout: Layout
    places: tuple[str, ...]


ENGINES = {
    name: EngineLookup(name, layout, LOOK_UP_MODULES[name])
    for name, layout in (("vllm", Layout.VLLM), ("sglang", Layout.SGLANG))
}
