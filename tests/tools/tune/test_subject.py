"""From what a person names to what is tuned, and one line with the way out for what can't be."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fused_moe_configs.serving import Serving
from kernels.problem import QuantMode
from tests.tools.registry.config_json_files import written
from tools.registry.devices import Target, load_devices
from tools.registry.models import Asked, Model, ModelRegistry, Quantisation, load_models
from tools.registry.sharding import Engine
from tools.store.workload import Shape
from tools.tune.protocol import Subject
from tools.tune.subject import (
    ConfigJsonSource,
    ModelSource,
    Parallel,
    SizesSource,
    Source,
    SubjectError,
    make_subject,
    serving_of,
    shared_name,
)

H100 = "NVIDIA H100 80GB HBM3"
MIXTRAL = "mistralai/Mixtral-8x7B-v0.1"
CONFIG_JSON = {
    "model_type": "mixtral",
    "num_local_experts": 8,
    "intermediate_size": 14336,
    "hidden_size": 4096,
    "num_experts_per_tok": 2,
}


Make = Callable[..., Subject]


@pytest.fixture(scope="module")
def make() -> Make:
    """The subject of a source, on an H100 unless a device is named, by this repository's registries."""
    models, devices = load_models(), load_devices()

    def make(source: Source, device_name: str = H100, *, all_shapes: bool = False) -> Subject:
        return make_subject(source, device_name, models, devices, all_shapes=all_shapes)

    return make


# ---------------------------------------------------------------
# What can be tuned


@pytest.mark.parametrize(
    ("source", "file_name", "shape", "quant"),
    [
        (
            ModelSource(MIXTRAL, Parallel(2)),
            "E=8,N=7168,device_name=NVIDIA_H100_80GB_HBM3.json",
            Shape(4096, 2),
            QuantMode(),
        ),
        (
            ModelSource(MIXTRAL, Parallel(2), Asked("fp16")),
            "E=8,N=7168,device_name=NVIDIA_H100_80GB_HBM3.json",
            Shape(4096, 2),
            QuantMode(None, "fp16"),
        ),
        (
            ModelSource(MIXTRAL, Parallel(4, 4), Asked("fp8_w8a8")),
            "E=2,N=14336,device_name=NVIDIA_H100_80GB_HBM3,dtype=fp8_w8a8.json",
            Shape(4096, 2, ep=4),
            QuantMode("fp8_w8a8"),
        ),
        (
            ModelSource(MIXTRAL, Parallel(2), Asked("int8_w8a16")),
            "E=8,N=7168,device_name=NVIDIA_H100_80GB_HBM3,dtype=int8_w8a16.json",
            Shape(4096, 2),
            QuantMode("int8_w8a16", per_channel=True),
        ),
        (
            ModelSource("deepseek-ai/DeepSeek-V3", Parallel(16)),
            "E=256,N=128,device_name=NVIDIA_H100_80GB_HBM3,dtype=fp8_w8a8,block_shape=[128,128].json",
            Shape(7168, 8),
            QuantMode("fp8_w8a8", block_shape=(128, 128)),
        ),
        (
            ModelSource("deepseek-ai/DeepSeek-V3", Parallel(32)),  # vLLM refines the blocks
            "E=256,N=64,device_name=NVIDIA_H100_80GB_HBM3,dtype=fp8_w8a8,block_shape=[64,64].json",
            Shape(7168, 8),
            QuantMode("fp8_w8a8", block_shape=(64, 64)),
        ),
        (
            SizesSource(64, 1408, 2048, 6, Asked("fp8_w8a8", None, True)),
            "E=64,N=1408,device_name=NVIDIA_H100_80GB_HBM3,dtype=fp8_w8a8,per_channel_quant=True.json",
            Shape(2048, 6),
            QuantMode("fp8_w8a8", per_channel=True),
        ),
        (
            SizesSource(64, 1408, 2048, 6, Asked("int8_w8a8")),
            "E=64,N=1408,device_name=NVIDIA_H100_80GB_HBM3,dtype=int8_w8a8.json",
            Shape(2048, 6),
            QuantMode("int8_w8a8", per_channel=True),
        ),
        (
            SizesSource(64, 1408, 2048, 6, Asked("int8_w8a16", None, True)),  # no name of its own
            "E=64,N=1408,device_name=NVIDIA_H100_80GB_HBM3,dtype=int8_w8a16.json",
            Shape(2048, 6),
            QuantMode("int8_w8a16", per_channel=True),
        ),
    ],
)
def test_a_source_is_one_ranks_workload(
    source: Source, file_name: str, shape: Shape, quant: QuantMode, make: Make
) -> None:
    subject = make(source)
    assert subject.workload.file_name() == file_name
    assert [named.shape for named in subject.shapes] == [shape]
    assert subject.quant == quant
    assert (subject.target, subject.arch, subject.smem_bytes) == (Target("cuda", 90, 32), "sm_90", 232448)


def test_the_devices_facts_come_from_the_registry(make: Make) -> None:
    subject = make(ModelSource(MIXTRAL, Parallel(2)), "AMD Instinct MI300X")
    assert (subject.target, subject.kernel_arch, subject.smem_bytes) == (Target("hip", "gfx942", 64), "gfx942", 65536)
    assert subject.is_rocm


def test_every_registered_model_with_the_shape_is_named(make: Make) -> None:
    (named,) = make(ModelSource("deepseek-ai/DeepSeek-V3", Parallel(16))).shapes
    assert named.models == ("deepseek-ai/DeepSeek-V3 tp=16", "deepseek-ai/DeepSeek-V3.2 tp=16")


def test_all_shapes_are_those_that_people_run_on_the_device_the_one_asked_for_first(make: Make) -> None:
    source = ModelSource("deepseek-ai/DeepSeek-V3", Parallel(16))
    first, *others = make(source, all_shapes=True).shapes
    assert first.shape == Shape(7168, 8)
    assert [named.shape for named in others] == [Shape(2048, 8), Shape(3072, 8), Shape(6144, 8)]


# ---------------------------------------------------------------
# A checkpoint's config.json: tests/tools/registry/test_config_json.py says how it is read


@pytest.mark.parametrize(
    ("quantization", "quant"),
    [
        (None, QuantMode()),
        ({"quant_method": "fp8"}, QuantMode("fp8_w8a8")),
        ({"quant_method": "fp8", "weight_block_size": [128, 128]}, QuantMode("fp8_w8a8", block_shape=(128, 128))),
        ({"quant_method": "w8a8_fp8"}, QuantMode("fp8_w8a8", per_channel=True)),
        ({"quant_method": "experts_int8"}, QuantMode("int8_w8a16", per_channel=True)),
        ({"quant_method": "w8a8_int8"}, QuantMode("int8_w8a8", per_channel=True)),
    ],
)
def test_a_config_json_is_read(quantization: Any, quant: QuantMode, make: Make, tmp_path: Path) -> None:
    path = written(tmp_path, {**CONFIG_JSON, "quantization_config": quantization})
    subject = make(ConfigJsonSource(path, Parallel(2)))
    assert (subject.workload.E, subject.workload.N, subject.shapes[0].shape) == (8, 7168, Shape(4096, 2))
    assert subject.quant == quant


def test_a_record_names_the_models_of_its_shape_and_never_a_folder(make: Make, tmp_path: Path) -> None:
    # A model that has these sizes on two expert parallel ranks has another routing, and so another shape.
    known = (f"{MIXTRAL} tp=2",)
    (tmp_path / "a-model").mkdir()
    path = written(tmp_path / "a-model", CONFIG_JSON)
    assert make(ConfigJsonSource(path, Parallel(2))).shapes[0].models == known
    named = make(ConfigJsonSource(path, Parallel(2), model_id="my/Mixtral"))
    assert named.shapes[0].models == ("my/Mixtral tp=2", *known)


def test_int8_weights_and_activations_have_a_name_under_sglang_alone(make: Make, tmp_path: Path) -> None:
    path = written(tmp_path, {**CONFIG_JSON, "quantization_config": {"quant_method": "w8a8_int8"}})
    name = make(ConfigJsonSource(path)).workload.file_name()
    assert name.endswith(",dtype=int8_w8a8,per_channel_quant=True.json")


# ---------------------------------------------------------------
# What can't be tuned


@pytest.mark.parametrize(
    ("source", "told"),
    [
        (ModelSource("mistralai/Mixtral-8x7B"), f"Did you mean {MIXTRAL} or .*--E --N --K --top-k"),
        (ModelSource("mixtral-8x7b-v0.1"), f"Did you mean {MIXTRAL}"),
        (ModelSource("nobody/Nothing-1T"), "found 'nobody/Nothing-1T'. Fix: .*--E --N --K --top-k"),
        (ModelSource("a\n::error::b"), r"found 'a\\n::error::b'"),
        (ModelSource(MIXTRAL, Parallel(3)), "N: expected a multiple of tp=3, found 14336. Fix: choose a divisor"),
        (ModelSource(MIXTRAL, Parallel(2, 16)), "ep: expected at most its 8 experts, found 16"),
        (ModelSource(MIXTRAL, Parallel(6, 3)), "E: expected a multiple of ep=3, found 8"),
        (ModelSource("deepseek-ai/DeepSeek-V3", Parallel(128)), "under its least of 32. Fix: use a smaller tp"),
        (ModelSource("openai/gpt-oss-120b"), "mxfp4 experts run another kernel .*triton_kernels.*nothing to tune"),
        (ModelSource("moonshotai/Kimi-K2-Thinking", Parallel(8)), "int4_w4a16 experts run another kernel .*Humming"),
        (ModelSource(MIXTRAL, asked=Asked("fp8_w8a16")), "fp8_w8a16: no kernel here computes it.*nothing to tune"),
        (ModelSource(MIXTRAL, asked=Asked("bf61")), "--dtype: expected one of bf16, .*found 'bf61'. Fix: name one"),
        (ModelSource(MIXTRAL, asked=Asked(None, (128, 128))), "--block-shape: .*found with bf16. Fix: add --dtype fp8"),
        (ModelSource(MIXTRAL, asked=Asked("bf16", None, True)), "--per-channel-quant: .*Fix: name --dtype fp8_w8a8"),
        (ModelSource("nvidia/NVIDIA-Nemotron-3-Nano-30B-A3B-BF16"), "without a gate.*nothing to tune"),
        (SizesSource(0, 7168, 4096, 2), "E: expected from 1 to 2147483647, found 0"),
        (SizesSource(8, -1, 4096, 2), "N: expected from 1 to 2147483647, found -1"),
        (SizesSource(8, 7168, 1 << 31, 2), "K: expected from 1 to 2147483647, found 2147483648"),
        (SizesSource(8, 7168, 4096, 0), "top_k: expected from 1 to 2147483647, found 0"),
        (SizesSource(8, 7168, 4096, 9), "top_k: expected at most E=8, the experts of a rank, found 9"),
        (SizesSource(4, 7168, 4096, 9, ep=2), "top_k: expected at most E=4 on each of 2 ranks, found 9"),
        (SizesSource(8, 7168, 4096, 9, fused_shared_experts=8), "fused_shared_experts: expected fewer than E=8 and"),
        (SizesSource(8, 7168, 4096, 2, Asked("mxfp4")), "--dtype: mxfp4 experts run another kernel.*nothing to tune"),
        (SizesSource(8, 7168, 4096, 2, Asked("float32")), "float32: no kernel here computes it"),
        (SizesSource(8, 7168, 4096, 2, Asked(None, (128, 128))), "--block-shape: expected with fp8_w8a8 or int8_w8a8"),
        (SizesSource(8, 7168, 4096, 2, Asked("fp8_w8a8", (128, 128), True)), "found both. Fix: leave one out"),
        (SizesSource(8, 7168, 4096, 2, Asked(None, None, True)), "--per-channel-quant: expected with fp8_w8a8"),
        (SizesSource(128, 1856, 2688, 6), "only models without one have .*Nemotron-3-Nano.*nothing to tune"),
    ],
)
def test_what_cannot_be_tuned_is_one_line_with_a_way_out(source: Source, told: str, make: Make) -> None:
    with pytest.raises(SubjectError, match=told) as refused:
        make(source)
    assert str(refused.value).isprintable()
    assert str(refused.value).count("Fix:") <= 1


@pytest.mark.parametrize(
    ("device_name", "told"),
    [
        ("NVIDIA GeForce RTX 9999", "found 'NVIDIA GeForce RTX 9999'. .*Fix: add \"NVIDIA_GeForce_RTX_9999\" there"),
        ("", "found ''"),
        ("a\x1b[31mb", r"found 'a\\x1b\[31mb'"),
    ],
)
def test_an_unknown_gpu_is_named_as_the_registry_would_have_it(device_name: str, told: str, make: Make) -> None:
    with pytest.raises(SubjectError, match=rf"^GPU: expected one of configs/registry/devices\.json, .*{told}"):
        make(ModelSource(MIXTRAL), device_name)


def test_top_k_may_be_more_than_a_rank_holds_where_the_layer_has_as_many(make: Make) -> None:
    subject = make(ModelSource(MIXTRAL, Parallel(8, 8)))
    assert (subject.workload.E, subject.shapes[0].shape) == (1, Shape(4096, 2, ep=8))
    routing = subject.routing(1)
    assert (routing.num_experts, routing.experts_here, routing.has_expert_map) == (8, 1, True)


@pytest.mark.parametrize("device_name", ["Intel(R) Arc(TM) Pro B60 Graphics", "Intel(R) Data Center GPU Max 9999"])
def test_on_an_intel_gpu_there_is_nothing_to_tune(device_name: str, make: Make) -> None:
    with pytest.raises(
        SubjectError, match=r"^GPU: expected one of NVIDIA or AMD, found .*there is nothing to tune or to bench"
    ):
        make(ModelSource(MIXTRAL), device_name)


@pytest.mark.parametrize(
    ("parallel", "E", "N"),
    [(Parallel(4, 1), 512, 128), (Parallel(4, 4), 128, 512), (Parallel(4, 2), 257, 256)],
    ids=["no experts spread", "vLLM spreads them over all ranks", "SGLang alone over some"],
)
def test_without_an_engine_it_is_vllms_unless_sglang_alone_runs_the_model_so(
    parallel: Parallel, E: int, N: int, make: Make
) -> None:
    """SGLang has one expert more on each rank: the fused shared one."""
    workload = make(ModelSource("Qwen/Qwen3-Next-80B-A3B-Instruct", parallel)).workload
    assert (workload.E, workload.N) == (E, N)


@pytest.mark.parametrize(("parallel", "words"), [(Parallel(4), "tp=4"), (Parallel(4, 2), "tp=4 ep=2")])
def test_a_parallel_size_of_one_is_not_told(parallel: Parallel, words: str) -> None:
    assert str(parallel) == words


def test_one_expert_a_token_is_enough(make: Make) -> None:
    assert make(SizesSource(16, 1024, 5120, 1)).shapes[0].shape == Shape(5120, 1)


class TestServingOfSizes:
    """As the rank sees them: its share of the routed experts, and the fused shared ones beside it."""

    def serving(self, source: SizesSource, engine: Engine) -> Serving:
        return serving_of(source, load_devices().find_measurable(H100), load_models(), engine)

    @pytest.mark.parametrize(
        "source",
        [
            SizesSource(256, 128, 7168, 8),
            SizesSource(257, 128, 7168, 9, fused_shared_experts=1),
            SizesSource(128, 512, 2048, 10, ep=4),
            SizesSource(129, 512, 2048, 11, ep=4, fused_shared_experts=1),
        ],
    )
    def test_the_engine_runs_those_sizes(self, source: SizesSource) -> None:
        found = self.serving(source, Engine.SGLANG)
        assert (found.E, found.N, found.K, found.top_k) == (source.E, source.N, source.K, source.top_k)
        assert (found.ep, found.fused_shared_experts) == (source.ep, source.fused_shared_experts)

    def test_an_engine_that_fuses_none_runs_others(self) -> None:
        with pytest.raises(SubjectError, match=r"fuses no shared experts: it runs E=256, top_k=8\. Fix: leave"):
            self.serving(SizesSource(257, 128, 7168, 9, fused_shared_experts=1), Engine.VLLM)


class TestModelsWithoutAGate:
    UNGATED = Model("a/Ungated", 8, 7168, 2048, 2, Quantisation("bf16"), "made up", gated=False)
    GATED = Model("b/Gated", 8, 7168, 4096, 2, Quantisation("bf16"), "made up")
    SIZES = SizesSource(8, 7168, 4096, 2)

    def subject(self, *models: Model, source: Source = SIZES) -> tuple[Subject, ModelRegistry]:
        registry = ModelRegistry(models)
        return make_subject(source, H100, registry, load_devices()), registry

    @pytest.mark.parametrize("dtype", [None, "fp8_w8a8", "int8_w8a16"])
    def test_their_file_is_refused_however_it_is_named(self, dtype: str | None) -> None:
        source = SizesSource(8, 7168, 4096, 2, Asked(dtype))
        with pytest.raises(SubjectError, match=r"only models without one have \(a/Ungated\)"):
            self.subject(self.UNGATED, source=source)

    def test_one_that_shares_its_name_is_no_cover_for_them(self) -> None:
        subject, models = self.subject(self.UNGATED, self.GATED)
        assert [served.models for served in subject.shapes] == [("b/Gated tp=1",)]
        assert "tuned for experts with a gate, though models without one" in shared_name(subject, models)
        assert "(a/Ungated): it is not theirs" in shared_name(subject, models)

    def test_of_others_nothing_is_said(self) -> None:
        assert shared_name(*self.subject(self.GATED)) == ""
