"""Below what no sound time of a layer lies, from the registry alone: what a claim or a runner says is held against it.

Standard library only.
"""

from __future__ import annotations

from collections.abc import Iterable

from tools.measure.layer import DOWN, UP, LayerShape, expected_load, row_bytes
from tools.registry.devices import Device
from tools.registry.shapes import quant_mode_of
from tools.store.workload import Shape, Workload

LEAST_US = 0.5
"""Of anything: two launches alone take longer."""

SHARE = 0.5
"""Of the nominal time of memory or tensor cores, which no figure goes below by more than its draws can explain.

Of 108 rows measured on H100 and H200 the least is 0.92 of the memory's, where two tokens may meet in the same experts,
and 1.93 of the tensor cores' (a dense product alone reaches 711 to 798 TFLOP/s of the 989 on an H100's data sheet).
"""

MOST_SPREAD_PCT = 30.0
"""Half of what may lie between 10th and 90th percentile, of the median. The most of 10,992 measured figures is 18.2, of
Mixtral at four tokens: its draws reach four to seven experts, so that few blocks spread by nature."""


def least_us(workload: Workload, shapes: Iterable[Shape], num_tokens: int, device: Device | None) -> float:
    """In µs, of the shape that takes least; `LEAST_US` where device, its rates, shapes or kernel are unknown.

    A layer that the device can't hold has no time at all: that it doesn't fit says more, and `plan` says it.
    """
    quant = quant_mode_of(workload)
    if device is None or quant is None:
        return LEAST_US
    layers = [LayerShape.of(workload, shape, quant) for shape in shapes]
    down = workload.down
    nominal_us = [_nominal_us(layer, num_tokens, device, down=down) for layer in layers if _fits(layer, device)]
    return max(LEAST_US, SHARE * min(nominal_us, default=0.0))


def _fits(layer: LayerShape, device: Device) -> bool:
    return device.memory_gib is None or layer.weights_bytes <= device.memory_gib * 2**30


def _nominal_us(layer: LayerShape, num_tokens: int, device: Device, *, down: bool) -> float:
    """At the data sheet's rates, of the slower of memory and tensor cores; 0 where the registry has neither rate."""
    bytes_per_us = (device.memory_bandwidth_gb_per_s or 0) * 1e3
    # 8-bit operands run at twice the rate at best: 4-bit weights and such as are widened first run at the 16-bit one.
    operations_per_us = (device.bf16_tflop_per_s or 0) * 1e6 * (2 if layer.quant.quantizes_activations else 1)
    memory_us = _num_bytes(layer, num_tokens, down=down) / bytes_per_us if bytes_per_us else 0.0
    compute_us = _num_operations(layer, num_tokens, down=down) / operations_per_us if operations_per_us else 0.0
    return max(memory_us, compute_us)


def _num_bytes(layer: LayerShape, num_tokens: int, *, down: bool) -> float:
    """Of both projections, or of down's weights alone."""
    load = expected_load(layer, num_tokens)
    return load.active_experts * layer.expert_bytes(DOWN) if down else row_bytes(layer, num_tokens, load)


def _num_operations(layer: LayerShape, num_tokens: int, *, down: bool) -> float:
    """Multiplications and additions, as `_num_bytes`."""
    pairs = expected_load(layer, num_tokens).local_pairs
    chosen = [layer.projections[index] for index in ((DOWN,) if down else (UP, DOWN))]
    return float(sum(2 * pairs * p.n * p.k for p in chosen))
