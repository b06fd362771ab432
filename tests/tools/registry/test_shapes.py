"""What a name doesn't say: hidden size and top_k, from the record or the registry; and how the kernel runs it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from kernels.problem import QuantMode
from tests.builders import Store
from tests.tools.compile.tuned_files import MIXTRAL, SOUND, read, tuned
from tools.registry.models import Model, ModelRegistry, Quantisation, load_models
from tools.registry.shapes import ASSUMED_SHAPE, assumed_shape, quant_mode_of, registered_shapes, shapes_of
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
        assert shapes_of(file(tmp_path, MIXTRAL.replace("E=8,N=7168", "E=17,N=512")), MODELS) == (Shape(1024, 7),)

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
