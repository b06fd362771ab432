"""Below what no sound time of a layer lies, from the registry alone: what a claim or a runner says is held against it.

Standard library only.
"""

from __future__ import annotations

from collections.abc import Iterable

from tools.measure.layer import DOWN, LayerShape, expected_load, row_bytes
from tools.registry.devices import Device
from tools.registry.shapes import quant_mode_of
from tools.store.workload import Shape, Workload

LEAST_US = 0.5
"""Of anything: two launches alone take longer."""

LONGEST_US = 1e9
"""Of a time that anybody waits for."""

SHARE = 0.5
"""Of the nominal memory time, which no figure goes below by more than the draw of a few tokens' experts can explain.

Of 108 rows measured on H100 and H200 the least is 0.92 of it, where two tokens may meet in the same experts.
"""

MOST_SPREAD_PCT = 20.0
"""Half of what may lie between 10th and 90th percentile, of the median. The most of 108 measured rows is 8.4."""


def least_us(workload: Workload, shapes: Iterable[Shape], num_tokens: int, device: Device | None) -> float:
    """In µs, of the shape that takes least; `LEAST_US` where device, memory speed, shapes or kernel are unknown.

    A layer that the device can't hold has no time at all: that it doesn't fit says more, and `plan` says it.
    """
    quant = quant_mode_of(workload)
    if device is None or device.memory_bandwidth_gb_per_s is None or quant is None:
        return LEAST_US
    layers = [LayerShape.of(workload, shape, quant) for shape in shapes]
    bytes_per_us = device.memory_bandwidth_gb_per_s * 1e3
    nominal_us = [
        _num_bytes(layer, num_tokens, down=workload.down) / bytes_per_us for layer in layers if _fits(layer, device)
    ]
    return max(LEAST_US, SHARE * min(nominal_us, default=0.0))


def _fits(layer: LayerShape, device: Device) -> bool:
    return device.memory_gib is None or layer.weights_bytes <= device.memory_gib * 2**30


def _num_bytes(layer: LayerShape, num_tokens: int, *, down: bool) -> float:
    """Of both projections, or of down's weights alone."""
    load = expected_load(layer, num_tokens)
    return load.active_experts * layer.expert_bytes(DOWN) if down else row_bytes(layer, num_tokens, load)
