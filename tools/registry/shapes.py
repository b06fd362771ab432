"""What a tuned file's name doesn't say and its kernel needs: hidden size, experts per token, how it is quantised.

The one answer to «which shapes does this file serve?», asked by compile, bench, tuner, pull requests and nightly.
"""

from __future__ import annotations

from kernels.problem import QuantMode
from tools.registry.models import ModelRegistry, Quantisation
from tools.registry.sharding import explain_pair
from tools.store.config_file import ConfigFile
from tools.store.files import read_file, record_path
from tools.store.record import RecordError, ShapeOfModels, as_record
from tools.store.workload import Shape, Workload

ASSUMED_SHAPE = Shape(K=4096, top_k=2)
"""Mixtral 8x7B's."""


def shapes_of(file: ConfigFile, models: ModelRegistry) -> tuple[Shape, ...]:
    """From the file's record, else of every registered model that reads it; empty: neither tells."""
    if file.workload is None:
        return ()
    if recorded := _recorded(file):
        return recorded
    return tuple(served.shape for served in registered_shapes(file.workload, models))


def registered_shapes(workload: Workload, models: ModelRegistry) -> tuple[ShapeOfModels, ...]:
    """Each shape behind the name, with the models that have it; that of the model on the fewest ranks first.

    A model counts at the parallel sizes that give it this E and N, where its checkpoint can run in the name's dtype.
    """
    by_shape: dict[Shape, list[str]] = {}
    for found in explain_pair(workload.E, workload.N, models):
        model = models.find(found.model_id)
        if may_read(model.quantisation, workload):
            shape = Shape(model.K, model.top_k + found.fused_shared_experts, found.ep, found.fused_shared_experts)
            by_shape.setdefault(shape, []).append(str(found))
    return tuple(ShapeOfModels(shape, tuple(names)) for shape, names in by_shape.items())


def may_read(stored: Quantisation, workload: Workload) -> bool:
    """Whether a checkpoint stored so can run in the workload's dtype: quantised while loading, or stored in it."""
    if stored.dtype in ("bf16", "fp16"):
        return True
    return stored.dtype == workload.dtype and (stored.block_shape is None) == (workload.block_shape is None)


def assumed_shape(E: int) -> Shape:
    """Where neither a record nor a model tells: Mixtral 8x7B's, as far as there are experts to choose."""
    return Shape(ASSUMED_SHAPE.K, min(ASSUMED_SHAPE.top_k, E))


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
    try:
        record = as_record(read_file(record_path(file.found.root, file.found.relative)))
    except RecordError:
        return ()  # the validator says what is wrong with it
    return tuple(served.shape for served in record.shapes)
