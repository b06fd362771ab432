"""The pure part of the plan: which shapes, how much memory, how a plan is written."""

from __future__ import annotations

import pytest

from kernels.launch_config import LaunchConfig
from tests.tools.validate.builder import H100, entry
from tools.pull_request.plan import (
    ASSUMED_SHAPE,
    HIDDEN_SIZES,
    MOST_EXPERTS_PER_TOKEN,
    MOST_SHAPES,
    NamedShape,
    Plan,
    PlannedFile,
    needed_bytes,
    registered_shapes,
    shapes_of,
)
from tools.registry.models import ModelRegistry, load_models
from tools.registry.sharding import PARALLEL_SIZES
from tools.store import schemas
from tools.store.workload import Shape, Workload

MIXTRAL = Workload(8, 3584, H100)
UNKNOWN = Workload(8, 17, H100)
MODELS = load_models()


class TestShapes:
    def test_the_records_shapes_are_taken_and_those_of_the_registry_marked(self) -> None:
        recorded = [Shape(4096, 2), Shape(5120, 3), Shape(4096, 2)]
        assert shapes_of(MIXTRAL, recorded, MODELS) == (
            NamedShape(Shape(4096, 2), registered=True),
            NamedShape(Shape(5120, 3), registered=False),
        )

    def test_without_any_the_registrys_are_taken(self) -> None:
        assert shapes_of(MIXTRAL, [], MODELS) == tuple(NamedShape(s, True) for s in registered_shapes(MIXTRAL, MODELS))

    def test_without_either_one_is_assumed_that_the_workload_can_have(self) -> None:
        assert shapes_of(UNKNOWN, [], MODELS) == (NamedShape(ASSUMED_SHAPE, registered=False),)
        (assumed,) = shapes_of(Workload(1, 17, H100), [], MODELS)
        assert assumed.shape.top_k == 1

    def test_int4_is_looked_up_by_half_its_size(self) -> None:
        int4 = Workload(8, 2 * 3584, H100, "int4_w4a16")
        assert registered_shapes(int4, MODELS) == registered_shapes(MIXTRAL, MODELS) != ()

    def test_an_empty_registry_knows_none(self) -> None:
        assert registered_shapes(MIXTRAL, ModelRegistry(())) == ()

    def test_the_bounds_hold_all_that_is_registered(self) -> None:
        for model in MODELS:
            assert model.K in HIDDEN_SIZES, model.id
            assert model.top_k <= MOST_EXPERTS_PER_TOKEN, model.id
            for tp in PARALLEL_SIZES:
                workload = Workload(model.E, model.N // tp, H100)
                assert len(registered_shapes(workload, MODELS)) <= MOST_SHAPES


@pytest.mark.parametrize(
    ("dtype", "weights"), [(None, 2), ("float32", 4), ("fp8_w8a8", 1), ("int8_w8a8", 1), ("int4_w4a16", 1)]
)
def test_memory_is_of_weights_and_of_the_largest_batch(dtype: str | None, weights: int) -> None:
    workload, shape = Workload(8, 1000, H100, dtype), Shape(2000, 2)
    activations = 100 * (2000 + 2 * (3 * 1000 + 2000)) * 2
    assert needed_bytes(workload, shape, 100) == 3 * 8 * 1000 * 2000 * weights + activations


def test_a_plan_is_written_as_its_schema_says_in_a_fixed_order() -> None:
    workload = Workload(8, 2048, H100, "fp8_w8a8", (128, 128), down=True)
    config = LaunchConfig.from_entry(entry(num_ctas=1))
    file = PlannedFile(
        workload, "triton_3_6_0", (NamedShape(Shape(4096, 2), True),), {128: config, 64: config}, None, {64: 1.5}
    )
    document = Plan(12, "0" * 40, "1" * 40, {"NVIDIA_H200": (file,), H100: (file,)}).to_json()
    assert schemas.faults("plan", document) == []
    assert [leg["device_name"] for leg in document["legs"]] == ["NVIDIA_H100_80GB_HBM3", "NVIDIA_H200"]
    (written,) = document["legs"][0]["workloads"]
    assert list(written["claimed"]) == ["64", "128"]
    assert (written["down"], written["workload"]["down"], written["workload"]["block_shape"]) == (
        True,
        True,
        [128, 128],
    )
    assert (written["main"], written["record"]) == (None, {"median_us": {"64": 1.5}})
