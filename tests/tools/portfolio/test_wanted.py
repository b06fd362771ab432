from __future__ import annotations

import math
from dataclasses import replace

import pytest

from tests import builders
from tests.tools.portfolio.stocked import H100, full, wanted, wanted_of_h100
from tools.portfolio.wanted import Shipped, Today, Wanted, unplaced, wanted_on
from tools.registry.models import AS_STORED, Model, ModelRegistry, Placement, Quantisation
from tools.registry.sharding import Engine
from tools.store.record import Record, ShapeOfModels, Source
from tools.store.workload import Shape, parse_file_name
from tools.tune.subject import ModelSource, Parallel, make_subject

DEVICE = builders.devices().find(H100)
BF16 = Quantisation("bf16")


def model(name: str, **changes: object) -> Model:
    """One that both engines run with 64 experts of 1024 on one H100."""
    known = Model(f"owner/{name}", 64, 1024, 2048, 8, BF16, "", placements=(Placement("H100", 1),))
    return replace(known, **changes)


def names(*models: Model, surveys: tuple[Shipped, ...] = ()) -> list[str]:
    found = wanted_on(DEVICE, ModelRegistry(models), surveys).names
    return [each.name.replace(f",device_name={H100}", "").removesuffix(".json") for each in found]


class TestWhatIsWanted:
    def test_a_name_follows_from_a_placement_on_the_gpu_and_the_engine_that_reads_it(self) -> None:
        (found,) = wanted_on(DEVICE, ModelRegistry((model("a"),))).names
        assert found.name == full("E=64,N=1024")
        assert found.models == ("owner/a tp=1",)
        assert found.engines == found.judges == (Engine.VLLM, Engine.SGLANG)
        assert found.shapes == (Shape(2048, 8),)

    def test_a_placement_on_another_gpu_asks_for_nothing_here(self) -> None:
        assert names(model("a", placements=(Placement("H200", 1),))) == []

    def test_a_placement_in_one_engine_is_read_by_that_one(self) -> None:
        placed = model("a", placements=(Placement("H100", 1, engine="sglang"),))
        (found,) = wanted_on(DEVICE, ModelRegistry((placed,))).names
        assert found.engines == (Engine.SGLANG,)
        assert found.judges == (Engine.VLLM, Engine.SGLANG)  # vLLM's server would read it too

    def test_an_engine_that_runs_another_kernel_wants_no_file(self) -> None:
        channels = model("a", quantisation=Quantisation("fp8_w8a8", per_channel_quant=True))
        (found,) = wanted_on(DEVICE, ModelRegistry((channels,))).names
        assert found.engines == (Engine.SGLANG,)
        assert names(model("a", quantisation=Quantisation("mxfp4"))) == []

    def test_a_use_of_spread_experts_names_both_counts_of_ranks(self) -> None:
        placed = model("a", placements=(Placement("H100", 2, 2),))
        (found,) = wanted_on(DEVICE, ModelRegistry((placed,))).names
        assert found.models == ("owner/a tp=2 ep=2",)

    def test_all_models_behind_a_name_are_served_by_its_shapes(self) -> None:
        (found,) = wanted_on(DEVICE, ModelRegistry((model("a"), model("b", K=4096)))).names
        assert found.shapes == (Shape(2048, 8), Shape(4096, 8))

    def test_a_model_without_a_gate_is_told_and_left_out(self) -> None:
        found = wanted_on(DEVICE, ModelRegistry((model("a", gated=False),)))
        assert found.names == ()
        assert found.notes == (f"{full('E=64,N=1024')}: owner/a has no gate: nothing here tunes its layer",)

    def test_notes_are_in_the_order_of_names(self) -> None:
        ungated = [model(name, N=size, gated=False) for name, size in (("a", 768), ("b", 512))]
        notes = wanted_on(DEVICE, ModelRegistry(tuple(ungated))).notes
        assert [note.partition(":")[0] for note in notes] == [full("E=64,N=512"), full("E=64,N=768")]

    def test_placements_that_contradict_each_other_are_told_and_those_with_a_gate_are_served(self) -> None:
        found = wanted_on(DEVICE, ModelRegistry((model("a", K=4096), model("b", gated=False))))
        assert [each.shapes for each in found.names] == [(Shape(4096, 8),)]
        (note,) = found.notes
        assert note.startswith(f"{full('E=64,N=1024')}: placements contradict each other: ")
        assert "owner/b H100 tp=1 (bf16, no gate)" in note


class TestRank:
    def test_more_readers_come_first(self) -> None:
        single, shared = model("a", N=512), (model("b"), model("c", K=4096))
        assert names(single, *shared) == ["E=64,N=1024", "E=64,N=512"]

    def test_checkpoints_of_one_model_count_by_their_square_root(self) -> None:
        (found,) = wanted_on(DEVICE, ModelRegistry((model("a", also=("owner/b", "owner/c", "owner/d")),))).names
        assert found.score == pytest.approx(2 * math.sqrt(4))

    def test_a_model_that_comes_to_a_name_in_two_ways_is_one_reader(self) -> None:
        placements = (Placement("H100", 1), Placement("H100", 4, 2, "sglang"))
        (found, _) = wanted_on(DEVICE, ModelRegistry((model("a", E=64, placements=placements),))).names
        assert found.score == pytest.approx(2.0)

    def test_a_file_that_holds_makes_a_name_half_as_urgent_and_one_that_loses_does_not(self) -> None:
        small, large = model("a", N=512), model("b")
        holds = {full("E=64,N=1024"): False}
        assert names(small, large) == ["E=64,N=1024", "E=64,N=512"]
        assert names(small, large, surveys=(Shipped(Engine.VLLM, holds),)) == ["E=64,N=512", "E=64,N=1024"]
        loses = Shipped(Engine.VLLM, {full("E=64,N=1024"): True})
        assert names(small, large, surveys=(loses,)) == ["E=64,N=1024", "E=64,N=512"]

    @pytest.mark.parametrize(("loses", "urgency"), [(False, 0.5), (True, 1.0)], ids=["holds", "loses"])
    def test_its_urgency_counts_for_the_engine_that_ships_the_file(self, loses: bool, urgency: float) -> None:
        survey = Shipped(Engine.VLLM, {full("E=64,N=1024"): loses})
        (found,) = wanted_on(DEVICE, ModelRegistry((model("a"),)), (survey,)).names
        assert found.score == pytest.approx(urgency + 1.0)

    def test_what_an_engine_reads_today_is_told(self) -> None:
        survey = Shipped(Engine.SGLANG, {full("E=64,N=512"): False})
        (found,) = wanted_on(DEVICE, ModelRegistry((model("a"),)), (survey,)).names
        assert found.today == {Engine.VLLM: Today.UNKNOWN, Engine.SGLANG: Today.NOTHING}

    def test_at_one_score_fewer_ranks_come_first(self) -> None:
        wide = model("a", E=32, placements=(Placement("H100", 2),))
        assert names(wide, model("b")) == ["E=64,N=1024", "E=32,N=512"]


class TestTheRegistry:
    """Against values that are kept here: what the most used models read on an H100 is derived, not listed."""

    WANTED = (
        "E=256,N=256,dtype=fp8_w8a8,block_shape=[128,128]",
        "E=256,N=512,dtype=fp8_w8a8,block_shape=[128,128]",
        "E=256,N=128,dtype=fp8_w8a8,block_shape=[128,128]",
        "E=256,N=256",
        "E=128,N=768,dtype=fp8_w8a8,block_shape=[128,128]",
        "E=512,N=128,dtype=fp8_w8a8,block_shape=[128,128]",
        "E=289,N=256,dtype=fp8_w8a8,block_shape=[128,128]",
        "E=161,N=192,dtype=fp8_w8a8,per_channel_quant=True",
        "E=512,N=160,dtype=fp8_w8a8,block_shape=[32,32]",
        "E=513,N=128",
        "E=64,N=1408",
        "E=8,N=1792",
        "E=8,N=7168,dtype=fp8_w8a8",
    )

    @pytest.mark.parametrize("name", WANTED)
    def test_a_name_that_people_read_is_wanted(self, name: str) -> None:
        assert wanted(name).uses

    def test_gpt_oss_asks_for_nothing(self) -> None:
        models = {use.model for each in wanted_of_h100().names for use in each.uses}
        assert not [name for name in models if name.startswith("openai/")]

    def test_the_most_shared_name_serves_every_shape_that_reads_it(self) -> None:
        found = wanted("E=256,N=256,dtype=fp8_w8a8,block_shape=[128,128]")
        sizes = {(shape.K, shape.top_k) for shape in found.shapes}
        assert sizes == {(2048, 8), (3072, 8), (4096, 6), (4096, 8), (3072, 10)}

    @pytest.mark.parametrize("device_name", [H100, "NVIDIA_H200"])
    def test_the_tuner_asked_for_the_first_use_serves_the_whole_name(self, device_name: str) -> None:
        devices, models = builders.devices(), builders.models()
        names = wanted_on(devices.find(device_name), models).names
        assert len(names) > 60
        for each in names:
            use = each.uses[0]
            source = ModelSource(use.model, Parallel(use.tp, use.ep))
            subject = make_subject(source, device_name, models, devices, engine=use.engine, all_shapes=True)
            assert subject.workload.file_name() == each.name
            assert {named.shape for named in subject.shapes} >= set(each.shapes)
            assert {flavour.value for flavour in subject.placements} == {engine.value for engine in each.judges}


class TestNamesWithoutAPlacement:
    def of(self, name: str) -> Wanted | None:
        workload = parse_file_name(full(name)).workload
        assert workload is not None
        return unplaced(workload, builders.models())

    def test_the_first_model_of_these_sizes_stands_for_them(self) -> None:
        found = self.of("E=8,N=14336")
        assert found is not None
        assert found.models == ("mistralai/Mixtral-8x7B-v0.1 tp=1",)
        assert not found.is_placed

    def test_but_a_model_whose_shape_the_file_is_measured_for_goes_first(self) -> None:
        workload = parse_file_name(full("E=256,N=128,dtype=fp8_w8a8,block_shape=[128,128]")).workload
        assert workload is not None
        models = builders.models()
        first, deepseek = unplaced(workload, models), ShapeOfModels(Shape(7168, 8))
        record = Record(workload, (deepseek,), Source.MEASURED, "0" * 64, "2026-11-27")
        measured = unplaced(workload, models, record)
        assert first is not None
        assert measured is not None
        assert (first.shapes, measured.shapes) == ((Shape(2048, 8),), (Shape(7168, 8),))

    @pytest.mark.parametrize("name", ["E=8,N=14336", "E=384,N=256,dtype=fp8_w8a8,block_shape=[128,128]"])
    def test_a_model_that_is_stored_as_the_name_says_is_not_quantised_further(self, name: str) -> None:
        found = self.of(name)
        assert found is not None
        assert found.uses[0].asked == AS_STORED

    def test_a_16_bit_model_is_quantised_as_the_name_says(self) -> None:
        found = self.of("E=8,N=3584,dtype=fp8_w8a8,block_shape=[128,128]")
        assert found is not None
        assert found.uses[0].asked.dtype == "fp8_w8a8"
        assert found.uses[0].asked.block_shape == (128, 128)

    def test_sizes_that_no_model_has_are_not_wanted(self) -> None:
        assert self.of("E=7,N=999") is None
