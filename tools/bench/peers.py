"""What the comparison is seen beside: torch's grouped product, and the layer as a whole. Needs a GPU."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from kernels.fused_experts import fused_experts
from kernels.launch_config import EntryValue
from tools.bench.results import LayerFigures
from tools.measure.inputs import RowInputs, sorted_rows
from tools.measure.layer import DOWN, UP
from tools.measure.timing import LaunchCall, Policy, capture, measure


def grouped_mm_us(inputs: RowInputs) -> float | None:
    """`torch._grouped_mm`, up plus down, on rows that lie sorted by expert already: no gather, no padding.

    None for quantised weights, or where this torch doesn't have it or refuses.
    """
    if inputs.shape.quant.dtype is not None or not hasattr(torch, "_grouped_mm"):
        return None
    pairs = inputs.routing.num_pairs
    ends = [sorted_rows(ids, inputs.shape.num_experts) for ids in inputs.topk_ids]
    replays = []
    for projection in (UP, DOWN):
        weight = inputs.weights.w[projection].transpose(1, 2)
        rows = torch.randn((pairs, weight.shape[1]), device=weight.device).to(weight.dtype)
        launches = [_grouped_launch(rows, weight, end) for end in ends]
        try:
            replays.append(capture(launches))
        except (RuntimeError, ValueError):
            return None
    return sum(samples.median_us for samples in measure(replays))


def _grouped_launch(rows: torch.Tensor, weight: torch.Tensor, ends: torch.Tensor) -> LaunchCall:
    return lambda: torch._grouped_mm(rows, weight, offs=ends)


def layer_overhead(
    inputs: RowInputs, entry: Mapping[str, EntryValue], products: tuple[list[LaunchCall], list[LaunchCall]]
) -> LayerFigures:
    """`fused_experts` against the given launches of up and down with the same launch config."""

    def layer(routing: int) -> LaunchCall:
        return lambda: fused_experts(
            inputs.hidden_states,
            *inputs.weights.w,
            inputs.topk_weights[routing],
            inputs.topk_ids[routing],
            config=entry,
            quant=inputs.shape.quant,
            scales=inputs.weights.as_scales,
        )

    layers = capture([layer(routing) for routing in range(inputs.num_routings)])
    both = capture([launch for pair in zip(*products, strict=True) for launch in pair])
    whole, single = measure([layers, both], Policy(max_rounds=20))
    return LayerFigures(inputs.routing.num_tokens, whole.median_us, 2 * single.median_us)
