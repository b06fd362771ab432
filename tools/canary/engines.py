"""Where each engine keeps its look-up code, and in which layout it reads tuned files. Data."""

from __future__ import annotations

from dataclasses import dataclass

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
    "vllm": EngineLookup("vllm", Layout.VLLM, ("vllm/model_executor/layers/fused_moe/fused_moe.py",)),
    "sglang": EngineLookup(
        "sglang",
        Layout.SGLANG,
        (
            "sglang/srt/layers/moe/moe_runner/triton_utils/fused_moe_triton_config.py",
            "sglang/srt/layers/moe/fused_moe_triton/fused_moe_triton_config.py",
        ),
    ),
}
