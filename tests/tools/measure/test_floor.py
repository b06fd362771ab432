"""The floor lies below every time that was measured, and not far below what the memory takes."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from tests.builders import H100, devices
from tools.checkout import CONFIGS
from tools.measure.floor import LEAST_US, least_us
from tools.store.workload import Shape, Workload

MIXTRAL = Shape(4096, 2)
RECORDS = [path for path in sorted((CONFIGS / "records").rglob("*.json")) if json.loads(path.read_bytes()).get("rows")]


@pytest.mark.parametrize("path", RECORDS, ids=lambda path: path.name)
def test_every_shipped_time_lies_above_it_and_a_fifth_of_most_below(path) -> None:
    record = json.loads(path.read_bytes())
    workload = Workload.read(record["workload"])
    shapes = [Shape.read(shape) for shape in record["shapes"]]
    ratios = [
        row["latency_us"]["median"] / least_us(workload, shapes, int(key), devices().get(workload.device_name))
        for key, row in record["rows"].items()
    ]
    assert min(ratios) > 1.0
    assert min(ratios) / 5.0 < 1.0, "a file of fifths is seen by itself"


def test_it_grows_with_the_experts_that_are_read_and_no_further() -> None:
    found = [least_us(Workload(8, 7168, H100), [MIXTRAL], m, devices().get(H100)) for m in (1, 2, 64, 65)]
    assert found == sorted(found)
    assert found[3] < 1.01 * found[2]


def test_many_tokens_take_the_tensor_cores_longer_than_the_memory() -> None:
    """4096 tokens of Mixtral are 1.44e12 operations: at 989 TFLOP/s 1459 µs, of which half is asked for."""
    device = devices().find(H100)
    workload = Workload(8, 7168, H100)
    assert least_us(workload, [MIXTRAL], 4096, device) == pytest.approx(0.5 * 1459.3, rel=1e-3)
    without = replace(device, bf16_tflop_per_s=None)
    assert least_us(workload, [MIXTRAL], 4096, without) == pytest.approx(0.5 * 556, rel=0.01)
    assert least_us(workload, [MIXTRAL], 64, device) == least_us(workload, [MIXTRAL], 64, without)


def test_eight_bit_operands_run_at_twice_the_rate_and_eight_bit_weights_alone_do_not() -> None:
    device = replace(devices().find(H100), memory_bandwidth_gb_per_s=None)
    found = {
        dtype: least_us(Workload(8, 7168, H100, dtype=dtype), [MIXTRAL], 4096, device)
        for dtype in (None, "fp8_w8a8", "int8_w8a8", "int8_w8a16")
    }
    assert found["fp8_w8a8"] == found["int8_w8a8"] == pytest.approx(found[None] / 2)
    assert found["int8_w8a16"] == found[None]


def test_down_alone_is_a_third_of_the_operations() -> None:
    device = devices().find(H100)
    whole, down = (least_us(Workload(8, 7168, H100, down=down), [MIXTRAL], 4096, device) for down in (False, True))
    assert down == pytest.approx(whole / 3)


def test_of_few_tokens_down_alone_is_a_third_of_the_weights() -> None:
    device = devices().find(H100)
    whole, down = (least_us(Workload(8, 7168, H100, down=down), [MIXTRAL], 64, device) for down in (False, True))
    assert down == pytest.approx(whole / 3, rel=0.01)


@pytest.mark.parametrize(("memory_gib", "fits"), [(1, False), (2, True)])
def test_only_a_layer_that_the_device_holds_has_a_floor(memory_gib: int, fits: bool) -> None:
    """Mixtral's at 7168 a shard has 1.3 GiB of weights."""
    device = replace(devices().find(H100), memory_gib=memory_gib)
    assert (least_us(Workload(8, 7168, H100), [MIXTRAL], 64, device) > LEAST_US) is fits


def test_of_several_shapes_the_least_counts() -> None:
    workload, device = Workload(8, 7168, H100), devices().get(H100)
    both = least_us(workload, [MIXTRAL, Shape(2048, 2)], 64, device)
    assert both == least_us(workload, [Shape(2048, 2)], 64, device)


@pytest.mark.parametrize(
    ("workload", "shapes", "device_name"),
    [
        (Workload(8, 7168, H100), [MIXTRAL], "unknown"),
        (Workload(8, 7168, "NVIDIA_H100"), [MIXTRAL], "NVIDIA_H100"),
        (Workload(8, 7168, H100), [], H100),
        (Workload(8, 7168, H100, dtype="int4_w4a16"), [MIXTRAL], H100),
        (Workload(2**31 - 1, 2**31 - 1, H100), [MIXTRAL], H100),
    ],
    ids=["device", "memory speed", "shape", "kernel", "more than the device holds"],
)
def test_where_something_is_unknown_two_launches_still_take_time(
    workload: Workload, shapes: list[Shape], device_name: str
) -> None:
    assert least_us(workload, shapes, 64, devices().get(device_name)) == LEAST_US
