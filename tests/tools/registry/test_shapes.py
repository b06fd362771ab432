"""What a name doesn't say: hidden size and top_k, from the record or the registry; and how the kernel runs it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from kernels.problem import Flavour, QuantMode
from tests.builders import Store
from tests.tools.compile.tuned_files import MIXTRAL, SOUND, read, tuned
from tools.registry.devices import Device, load_devices
from tools.registry.models import Model, ModelRegistry, Placement, Quantisation, load_models
from tools.registry.shapes import (
    ASSUMED_SHAPE,
    assumed_shape,
    engines_reading,
    quant_mode_of,
    readers,
    registered_shapes,
    shapes_fault,
    shapes_of,
    why_not_measured,
    without_gate,
)
from tools.store.config_file import ConfigFile
from tools.store.record import ShapeOfModels
from tools.store.workload import Shape, Workload

BF16 = Quantisation("bf16")
MODELS = ModelRegistry(
    (
        Model("a/Whole", 8, 7168, 2048, 4, BF16, "made up"),
        Model("b/Halved", 8, 14336, 4096, 2, BF16, "made up"),
        Model("c/Shared", 16, 512, 1024, 6, BF16, "made up", fused_shared_experts=1),
    )
)


def file(root: Path, name: str = MIXTRAL) -> ConfigFile:
    tuned(root, {64: SOUND}, name)
    (found,) = read(root)
    return found


def recorded(root: Path, shapes: Any) -> ConfigFile:
    store = Store(root)
    store.measured(store.config(name=MIXTRAL), shapes=shapes)
    (found,) = read(root)
    return found


BOTH = (Shape(2048, 4), Shape(4096, 2))


class TestShapesOf:
    def test_the_record_has_the_first_word(self, tmp_path: Path) -> None:
        shapes = [{"K": 6144, "top_k": 8, "models": ["x/y tp=1"]}, {"K": 7168, "top_k": 8, "models": []}]
        assert shapes_of(recorded(tmp_path, shapes), MODELS) == (Shape(6144, 8), Shape(7168, 8))

    def test_a_tiers_file_has_a_record_of_its_own(self, tmp_path: Path) -> None:
        store = Store(tmp_path)
        store.measured(store.config(name=MIXTRAL, folder="triton_3_7_0"), shapes=[{"K": 1, "top_k": 1, "models": []}])
        (found,) = read(tmp_path)
        assert shapes_of(found, MODELS) == (Shape(1, 1),)

    def test_without_a_record_every_model_counts_that_on_the_fewest_ranks_first(self, tmp_path: Path) -> None:
        assert shapes_of(file(tmp_path), MODELS) == BOTH

    def test_a_model_may_be_split(self, tmp_path: Path) -> None:
        assert shapes_of(file(tmp_path), ModelRegistry(MODELS.models[1:])) == (Shape(4096, 2),)

    def test_fused_shared_experts_are_chosen_by_every_token(self, tmp_path: Path) -> None:
        assert shapes_of(file(tmp_path, MIXTRAL.replace("E=8,N=7168", "E=17,N=512")), MODELS) == (
            Shape(1024, 7, fused_shared_experts=1),
        )

    def test_a_shape_knows_over_how_many_ranks_the_experts_are_spread(self, tmp_path: Path) -> None:
        spread = ModelRegistry((Model("d/Spread", 32, 7168, 4096, 2, BF16, "made up"), *MODELS.models))
        assert shapes_of(file(tmp_path), spread) == (*BOTH, Shape(4096, 2, ep=4))

    def test_nobody_knows_a_stranger(self, tmp_path: Path) -> None:
        assert shapes_of(file(tmp_path, MIXTRAL.replace("E=8", "E=7")), MODELS) == ()

    def test_a_name_that_cannot_be_read_has_none(self, tmp_path: Path) -> None:
        assert shapes_of(file(tmp_path, "a.json"), MODELS) == ()

    @pytest.mark.parametrize(
        "shapes", [[], None, 3, "K", [3], [{"K": 4096}], [{"K": None, "top_k": 2}], [{"K": "many", "top_k": 2}]]
    )
    def test_a_record_that_says_nothing_leaves_it_to_the_models(self, tmp_path: Path, shapes: Any) -> None:
        assert shapes_of(recorded(tmp_path, shapes), MODELS) == BOTH

    @pytest.mark.parametrize("text", ["", "[]", "{"])
    def test_so_does_a_broken_one(self, tmp_path: Path, text: str) -> None:
        found = recorded(tmp_path, [])
        (tmp_path / "records" / MIXTRAL).write_text(text, "utf-8")
        assert shapes_of(found, MODELS) == BOTH


class TestRegisteredShapes:
    """Which models read a name, by the dtype that they are stored in."""

    MODELS = ModelRegistry(
        (
            Model("a/Plain", 8, 7168, 2048, 4, BF16, "made up"),
            Model("b/Block", 8, 7168, 4096, 2, Quantisation("fp8_w8a8", (128, 128)), "made up"),
            Model("c/AsPlain", 8, 14336, 2048, 4, BF16, "made up"),
        )
    )

    def served(self, dtype: str | None = None, block_shape: tuple[int, int] | None = None) -> Any:
        return registered_shapes(Workload(8, 7168, "any", dtype, block_shape), self.MODELS)

    def test_models_of_one_shape_are_named_together(self) -> None:
        assert self.served() == (ShapeOfModels(Shape(2048, 4), ("a/Plain tp=1", "c/AsPlain tp=2")),)

    def test_a_bf16_file_serves_no_checkpoint_that_is_stored_in_fp8(self) -> None:
        assert Shape(4096, 2) not in [each.shape for each in self.served()]

    def test_a_bf16_checkpoint_may_be_quantised_while_loading(self) -> None:
        assert [each.shape for each in self.served("fp8_w8a8", (128, 128))] == [Shape(2048, 4), Shape(4096, 2)]

    def test_scales_of_blocks_are_no_scales_of_tensors(self) -> None:
        assert [each.shape for each in self.served("fp8_w8a8")] == [Shape(2048, 4)]


class TestReaders:
    """Which models a file serves: by dtype, by scales, by gate, at the parallel sizes that give its E and N."""

    FP8_BLOCK = Quantisation("fp8_w8a8", (128, 128))
    NAME = Workload(8, 768, "any")

    def ids(self, workload: Workload, *stored: Quantisation, gated: bool = True) -> list[str]:
        models = [
            Model(f"a/{i}", 8, 768, 2048, 2, quantisation, "made up", gated=gated)
            for i, quantisation in enumerate(stored)
        ]
        return [reader.model.id for reader in readers(workload, ModelRegistry(tuple(models)))]

    def test_a_bf16_file_covers_no_checkpoint_that_exists_in_fp8_only(self) -> None:
        stored = (self.FP8_BLOCK, Quantisation("fp8_w8a8"), Quantisation("fp8_w8a8", per_channel_quant=True), BF16)
        assert self.ids(self.NAME, *stored) == ["a/3"]

    def test_nor_one_that_another_kernel_runs(self) -> None:
        assert self.ids(self.NAME, *map(Quantisation, ("mxfp4", "nvfp4", "mxfp8", "int4_w4a16"))) == []

    def test_a_plain_fp8_file_is_read_for_tensor_and_channel_scales(self) -> None:
        stored = (Quantisation("fp8_w8a8"), Quantisation("fp8_w8a8", per_channel_quant=True), self.FP8_BLOCK)
        assert self.ids(replace(self.NAME, dtype="fp8_w8a8"), *stored) == ["a/0", "a/1"]

    def test_one_for_channel_scales_is_read_for_them_alone(self) -> None:
        name = replace(self.NAME, dtype="fp8_w8a8", per_channel_quant=True)
        stored = (Quantisation("fp8_w8a8"), Quantisation("fp8_w8a8", per_channel_quant=True), self.FP8_BLOCK)
        assert self.ids(name, *stored) == ["a/1"]

    @pytest.mark.parametrize(
        ("N", "block", "is_read"),
        [(768, (128, 128), True), (192, (64, 64), True), (192, (128, 128), False), (768, (64, 64), False)],
    )
    def test_blocks_are_those_that_an_engine_runs_on_that_shard(
        self, N: int, block: tuple[int, int], is_read: bool
    ) -> None:
        """vLLM refines blocks of 128 to 64 where N=192 is no multiple; SGLang doesn't run that."""
        assert bool(self.ids(Workload(8, N, "any", "fp8_w8a8", block), self.FP8_BLOCK)) is is_read
        assert bool(self.ids(Workload(8, N, "any", "fp8_w8a8", block), BF16)) is is_read

    @pytest.mark.parametrize("dtype", ["bf16", "float8", "fp8"])
    def test_a_dtype_that_no_engine_asks_for_serves_nobody(self, dtype: str) -> None:
        assert self.ids(replace(self.NAME, dtype=dtype), BF16, Quantisation("fp8_w8a8")) == []

    def test_a_down_file_serves_whom_its_twin_serves(self) -> None:
        assert self.ids(replace(self.NAME, down=True), BF16) == ["a/0"]

    def test_a_fused_shared_expert_changes_the_name_under_sglang_alone(self) -> None:
        model = Model("a/A", 8, 768, 2048, 2, BF16, "made up", fused_shared_experts=1)
        served = {E: readers(replace(self.NAME, E=E), ModelRegistry((model,))) for E in (8, 9)}
        assert [reader.shape for reader in served[8]] == [Shape(2048, 2)]
        assert [reader.shape for reader in served[9]] == [Shape(2048, 3, fused_shared_experts=1)]

    def test_models_are_told_with_the_parallel_sizes(self) -> None:
        model = Model("a/A", 16, 1536, 2048, 2, BF16, "made up")
        (reader,) = readers(self.NAME, ModelRegistry((model,)))
        assert str(reader.found) == "a/A tp=4 ep=2"


ENGINES = (Flavour.VLLM, Flavour.SGLANG)


class TestEngines:
    """Who reads a name for a shape: what models ask for, else what the name says."""

    def test_a_model_that_both_run_alike(self) -> None:
        assert engines_reading(Workload(8, 7168, "any"), Shape(4096, 2), MODELS) == ENGINES

    def test_a_fused_shared_expert_is_sglangs(self) -> None:
        (shape,) = (served.shape for served in registered_shapes(Workload(17, 512, "any"), MODELS))
        assert shape.fused_shared_experts == 1
        assert engines_reading(Workload(17, 512, "any"), shape, MODELS) == (Flavour.SGLANG,)

    @pytest.mark.parametrize(
        ("workload", "expected"),
        [
            (Workload(9, 96, "any"), ENGINES),
            (Workload(9, 96, "any", "fp8_w8a8", (128, 128)), ENGINES),
            (Workload(9, 96, "any", "fp8_w8a8", (64, 64)), (Flavour.VLLM,)),
            (Workload(9, 96, "any", "fp8_w8a8", None, True), (Flavour.SGLANG,)),
            (Workload(9, 96, "any", "int8_w8a8"), (Flavour.SGLANG,)),
        ],
        ids=["plain", "usual block", "refined block", "channel scales in the name", "int8_w8a8"],
    )
    def test_of_a_stranger_the_name_tells(self, workload: Workload, expected: tuple[Flavour, ...]) -> None:
        assert engines_reading(workload, Shape(4096, 2), MODELS) == expected


BLOCK_128 = (128, 128)
H100, H200 = (load_devices().find(name) for name in ("NVIDIA_H100_80GB_HBM3", "NVIDIA_H200"))


class TestPlacedOn:
    """A name with several shapes is tuned for what people run on a device, and may hold what arithmetic allows."""

    NAME = Workload(8, 768, "any")

    @pytest.mark.parametrize(
        ("device", "E", "N", "dtype", "block_shape", "run"),
        [
            (H100, 256, 256, "fp8_w8a8", BLOCK_128, {(2048, 8), (3072, 8), (4096, 6), (4096, 8), (3072, 10)}),
            (
                H200, 256, 256, "fp8_w8a8", BLOCK_128,
                {(2048, 8), (3072, 8), (7168, 8), (4096, 6), (6144, 8), (4096, 8)},
            ),
            (H100, 256, 512, "fp8_w8a8", BLOCK_128, {(2048, 8), (3072, 8), (3072, 10)}),
            (H100, 256, 128, "fp8_w8a8", BLOCK_128, {(2048, 8), (3072, 8), (7168, 8), (6144, 8)}),
            (H200, 256, 256, None, None, {(2048, 8), (3072, 8)}),
            (H100, 64, 768, None, None, {(2048, 4), (4096, 8)}),
            (H200, 257, 256, "fp8_w8a8", BLOCK_128, {(7168, 9), (6144, 9)}),
            (H100, 513, 128, None, None, {(2048, 11)}),
            (H100, 128, 192, "fp8_w8a8", (64, 64), {(2048, 8), (4096, 8)}),
        ],
    )  # fmt: skip
    def test_names_with_several_shapes_are_tuned_for_those_that_recipes_give(
        self, device: Device, E: int, N: int, dtype: str | None, block_shape: Any, run: set[tuple[int, int]]
    ) -> None:
        workload, models = Workload(E, N, device.name, dtype, block_shape), load_models()
        placed = [each.shape for each in registered_shapes(workload, models, placed_on=device)]
        allowed = [each.shape for each in registered_shapes(workload, models)]
        assert {(shape.K, shape.top_k) for shape in placed} == run
        assert set(placed) <= set(allowed)
        for shape in allowed:
            assert shapes_fault(workload, [shape], models) is None

    def model(self, name: str, *placements: Placement, K: int = 2048, stored: Quantisation = BF16) -> Model:
        return Model(name, 8, 768, K, 2, stored, "made up", placements=placements)

    def ids(self, workload: Workload, *models: Model, placed_on: Device = H100) -> list[str]:
        return [str(reader.found) for reader in readers(workload, ModelRegistry(models), placed_on=placed_on)]

    def test_a_placement_on_another_device_or_of_another_size_does_not_count(self) -> None:
        here, there = self.model("a/H", Placement("H100", 1)), self.model("b/T", Placement("H200", 1))
        assert self.ids(self.NAME, here, there, self.model("c/S", Placement("H100", 2))) == ["a/H tp=1"]
        assert self.ids(self.NAME, here, there, placed_on=H200) == ["b/T tp=1"]

    def test_where_no_recipe_gives_the_name_arithmetic_counts(self) -> None:
        unplaced, elsewhere = self.model("a/U"), self.model("b/E", Placement("H100", 2))
        assert self.ids(self.NAME, unplaced, elsewhere) == ["a/U tp=1", "b/E tp=1"]
        assert self.ids(self.NAME, unplaced, self.model("c/P", Placement("H100", 1))) == ["c/P tp=1"]

    def test_a_recipe_runs_the_checkpoint_as_it_is_stored(self) -> None:
        fp8 = replace(self.NAME, dtype="fp8_w8a8", block_shape=BLOCK_128)
        stored = self.model("a/F", Placement("H100", 1), stored=Quantisation("fp8_w8a8", BLOCK_128))
        assert self.ids(fp8, stored, self.model("b/B", Placement("H100", 1))) == ["a/F tp=1"]

    def test_an_engine_that_reads_no_tuned_file_there_does_not_count(self) -> None:
        """vLLM's kernel for channel scales on Hopper reads none; SGLang asks for another name."""
        channel = Quantisation("fp8_w8a8", per_channel_quant=True)
        plain = replace(self.NAME, dtype="fp8_w8a8")
        models = (self.model("a/C", Placement("H100", 1), stored=channel), self.model("b/B"))
        assert "a/C tp=1" in self.ids(plain, *models)  # by arithmetic
        tensor = self.model("c/T", Placement("H100", 1), stored=Quantisation("fp8_w8a8", None, False, "dynamic"))
        assert self.ids(plain, *models, tensor) == ["c/T tp=1"]

    def test_a_placement_of_one_engine_is_that_engines_alone(self) -> None:
        shared = replace(self.model("a/S", Placement("H100", 1, 1, "vllm")), fused_shared_experts=1)
        both = replace(shared, placements=(Placement("H100", 1),))
        with_shared = replace(self.NAME, E=9)
        other = replace(self.model("b/O", Placement("H100", 1)), E=9)
        assert self.ids(with_shared, shared, other) == ["b/O tp=1"]
        assert self.ids(with_shared, both, other) == ["a/S tp=1 +1 shared", "b/O tp=1"]


class TestModelsWithoutAGate:
    GATED = Model("a/Gated", 8, 768, 2048, 2, BF16, "made up")
    UNGATED = Model("b/Ungated", 8, 768, 4096, 2, BF16, "made up", gated=False)
    NAME = Workload(8, 768, "any")

    def test_one_never_counts_beside_one_with_a_gate(self) -> None:
        both = ModelRegistry((self.GATED, self.UNGATED))
        assert [reader.model.id for reader in readers(self.NAME, both)] == ["a/Gated"]
        assert registered_shapes(self.NAME, both) == (ShapeOfModels(Shape(2048, 2), ("a/Gated tp=1",)),)
        assert without_gate(self.NAME, both) == ("b/Ungated",)
        assert why_not_measured(self.NAME, both) == ""

    @pytest.mark.parametrize("dtype", [None, "fp8_w8a8", "int4_w4a16"])
    def test_where_they_are_alone_the_file_is_theirs_and_not_measured(self, dtype: str | None) -> None:
        alone = ModelRegistry((self.UNGATED,))
        name = replace(self.NAME, dtype=dtype)
        assert [reader.model.id for reader in readers(name, alone)] == ["b/Ungated"]
        assert "found sizes that only models without one have (b/Ungated)" in why_not_measured(name, alone)

    def test_of_a_stranger_nothing_is_said(self) -> None:
        assert why_not_measured(Workload(7, 17, "any"), load_models()) == ""

    def test_nemotron_is_registered_without_one(self) -> None:
        names = without_gate(Workload(128, 1856, "any"), load_models())
        assert "nvidia/NVIDIA-Nemotron-3-Nano-30B-A3B-BF16" in names


def test_of_one_expert_one_is_chosen() -> None:
    assert assumed_shape(1) == Shape(4096, 1)
    assert assumed_shape(8) == Shape(4096, 2)


def test_what_is_assumed_is_mixtrals() -> None:
    mixtral = load_models().find("mistralai/Mixtral-8x7B-v0.1")
    assert Shape(mixtral.K, mixtral.top_k) == ASSUMED_SHAPE


@pytest.mark.parametrize(
    ("dtype", "block_shape", "per_channel_quant", "expected"),
    [
        (None, None, False, QuantMode()),
        ("fp8_w8a8", None, False, QuantMode("fp8_w8a8")),
        ("fp8_w8a8", None, True, QuantMode("fp8_w8a8", per_channel=True)),
        ("fp8_w8a8", (128, 128), False, QuantMode("fp8_w8a8", block_shape=(128, 128))),
        ("fp8_w8a8", (128, 128), True, QuantMode("fp8_w8a8", block_shape=(128, 128))),
        ("int8_w8a8", None, False, QuantMode("int8_w8a8", per_channel=True)),
        ("int8_w8a8", None, True, QuantMode("int8_w8a8", per_channel=True)),
        ("int8_w8a8", (64, 32), False, QuantMode("int8_w8a8", block_shape=(64, 32))),
        ("int8_w8a16", None, False, QuantMode("int8_w8a16", per_channel=True)),
        ("int8_w8a16", (128, 128), False, None),
        ("int4_w4a16", None, False, None),
        ("fp8_w8a16", None, False, None),
        ("float32", None, False, None),
        (None, None, True, None),
        (None, (128, 128), False, None),
    ],
)
def test_the_kernels_mode_of_a_name(
    dtype: str | None, block_shape: tuple[int, int] | None, per_channel_quant: bool, expected: QuantMode | None
) -> None:
    assert quant_mode_of(Workload(8, 7168, "any", dtype, block_shape, per_channel_quant)) == expected
