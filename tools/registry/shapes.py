"""What a tuned file's name doesn't say and its kernel needs: hidden size, experts per token, how it is quantised."""

from __future__ import annotations

from collections.abc import Mapping

from kernels.problem import QuantMode
from tools.registry.models import ModelRegistry
from tools.registry.sharding import explain_pair
from tools.store.config_file import ConfigFile
from tools.store.files import read_file, record_path
from tools.store.workload import Shape, Workload

ASSUMED_SHAPE = Shape(K=4096, top_k=2)
"""Mixtral 8x7B's, where neither a record nor a model says it."""


def shapes_of(file: ConfigFile, models: ModelRegistry) -> tuple[Shape, ...]:
    """From the file's record, else of the registered model that needs the fewest ranks; empty: nobody says it."""
    if (recorded := _recorded(file)) or file.workload is None:
        return recorded
    for explanation in explain_pair(file.workload.E, file.workload.N, models):
        model = models.find(explanation.model_id)
        return (Shape(model.K, model.top_k + explanation.fused_shared_experts),)
    return ()


def quant_mode_of(workload: Workload) -> QuantMode | None:
    """How the kernel runs it; None: this project has no kernel for it.

    A plain fp8 name serves per-tensor and per-channel scales; int8 without blocks is per channel in both engines.
    """
    per_channel = workload.block_shape is None and (
        workload.per_channel_quant or workload.dtype in ("int8_w8a8", "int8_w8a16")
    )
    try:
        return QuantMode(workload.dtype, per_channel=per_channel, block_shape=workload.block_shape)
    except ValueError:
        return None


def _recorded(file: ConfigFile) -> tuple[Shape, ...]:
    record = read_file(record_path(file.found.root, file.found.relative)).document
    shapes = record.get("shapes") if isinstance(record, Mapping) else None
    try:
        return tuple(Shape(int(shape["K"]), int(shape["top_k"])) for shape in shapes or ())
    except (KeyError, TypeError, ValueError):
        return ()  # the validator reports a broken record
