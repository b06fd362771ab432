"""The loader's answer as the tools have it, and which models are behind an (E, N)."""

from __future__ import annotations

import pytest

from tools.registry.models import Model, ModelRegistry, Quantisation, load_models
from tools.registry.sharding import (
    PARALLEL_SIZES,
    Engine,
    Explanation,
    ShardError,
    explain_pair,
    named_model_has,
    shard,
)
from tools.store.workload import Layout, Shape, Workload

H100 = "NVIDIA_H100_80GB_HBM3"
VLLM, SGLANG = Engine.VLLM, Engine.SGLANG


def sizes_of(model: Model) -> set[tuple[int, int]]:
    """(E, N) on a rank, at the usual sizes of either engine."""
    found = set()
    for engine in Engine:
        for tp in PARALLEL_SIZES:
            for ep in PARALLEL_SIZES:
                try:
                    rank = shard(model, engine, device_name=H100, tp=tp, ep=ep, quantisation=Quantisation("bf16"))
                except ShardError:
                    continue
                found.add((rank.workload.E, rank.workload.N))
    return found


@pytest.fixture(scope="module")
def models() -> ModelRegistry:
    return load_models()


@pytest.mark.parametrize(("engine", "E", "top_k"), [(VLLM, 256, 8), (SGLANG, 257, 9)])
def test_a_rank_is_the_workload_and_shape_that_the_loader_gives(
    models: ModelRegistry, engine: Engine, E: int, top_k: int
) -> None:
    found = shard(models.find("deepseek-ai/DeepSeek-R1"), engine, device_name=H100, arch="sm_90", tp=16)
    assert found.workload == Workload(E, 128, H100, "fp8_w8a8", (128, 128))
    assert found.shape == Shape(7168, top_k, fused_shared_experts=top_k - 8)
    assert found.serving.reads_tuned_files


@pytest.mark.parametrize("engine", Engine)
def test_every_registered_model_gets_the_loaders_file_in_both_spellings(models: ModelRegistry, engine: Engine) -> None:
    names = 0
    for model in models:
        for tp, ep in ((1, 1), (2, 1), (4, 1), (4, 4), (8, 2)):
            try:
                found = shard(model, engine, device_name="NVIDIA H200 NVL", tp=tp, ep=ep)
            except ShardError:
                continue
            assert found.serving.file == found.workload.file_name(Layout.REPO)
            assert found.serving.engine_file == found.workload.file_name(Layout(engine.value))
            names += 1
    assert names > 150


def test_int4_has_the_models_own_size_under_both_engines(models: ModelRegistry) -> None:
    model = models.find("moonshotai/Kimi-K2-Thinking")
    assert {shard(model, engine, device_name=H100, tp=8).workload.N for engine in Engine} == {2048 // 8}


def test_another_quantisation_replaces_the_checkpoints(models: ModelRegistry) -> None:
    found = shard(models.find("openai/gpt-oss-120b"), VLLM, device_name=H100, quantisation=Quantisation("bf16"))
    assert found.workload == Workload(128, 2880, H100)


@pytest.mark.parametrize(
    ("model_id", "engine", "tp", "quantisation", "message"),
    [
        ("mistralai/Mixtral-8x7B-v0.1", VLLM, 3, None, "N: expected a multiple of tp=3, found 14336"),
        ("Qwen/Qwen3-30B-A3B-FP8", SGLANG, 4, None, "N=192 on a rank isn't a multiple of block_n=128"),
        ("openai/gpt-oss-120b", VLLM, 1, None, "expected a dtype that vllm has tuned files for .*found mxfp4"),
        ("openai/gpt-oss-20b", VLLM, 1, Quantisation("int8_w8a8"), "vllm .* found int8_w8a8"),
        ("openai/gpt-oss-20b", SGLANG, 1, Quantisation("fp8_w8a16"), "sglang .* found fp8_w8a16"),
        ("openai/gpt-oss-20b", VLLM, 1, Quantisation("bf16", (128, 128)), "block_shape .* found with bf16"),
        ("openai/gpt-oss-20b", VLLM, 1, Quantisation("float8"), "dtype: expected one of .*, found 'float8'"),
    ],
)
def test_what_cannot_be_sharded_is_the_tools_own_error(
    models: ModelRegistry,
    model_id: str,
    engine: Engine,
    tp: int,
    quantisation: Quantisation | None,
    message: str,
) -> None:
    with pytest.raises(ShardError, match=message):
        shard(models.find(model_id), engine, device_name=H100, tp=tp, quantisation=quantisation)


class TestExplainPair:
    def test_every_way_is_given_the_fewest_ranks_first(self) -> None:
        stored = Quantisation("bf16")
        small = Model("o/small", 8, 64, 64, 2, stored, "made up")
        large = Model("o/large", 16, 128, 64, 2, stored, "made up")
        wide = Model("o/wide", 8, 2048, 64, 2, stored, "made up")
        assert explain_pair(8, 64, [wide, large, small]) == (
            Explanation(1, 1, "o/small"),
            Explanation(2, 4, "o/large"),
            Explanation(1, 32, "o/wide"),
        )

    def test_fused_shared_experts_count_whether_by_default_or_on_demand(self, models: ModelRegistry) -> None:
        by_default = Explanation(1, 16, "deepseek-ai/DeepSeek-V3", 1)
        assert by_default in explain_pair(257, 128, models)
        assert str(by_default) == "deepseek-ai/DeepSeek-V3 tp=16 +1 shared"
        assert Explanation(1, 16, "moonshotai/Kimi-K2-Instruct", 1) in explain_pair(385, 128, models)

    @pytest.mark.parametrize(("E", "N"), [(272, 128), (8, 3585), (1, 3072)])
    def test_a_pair_of_no_model_is_left_unexplained(self, models: ModelRegistry, E: int, N: int) -> None:
        assert explain_pair(E, N, models) == ()

    def test_expert_parallelism_is_said(self, models: ModelRegistry) -> None:
        assert "Qwen/Qwen3-Coder-480B-A35B-Instruct-FP8 tp=8 ep=2" in map(str, explain_pair(80, 640, models))

    def test_ranks_of_vllm_that_hold_fewer_experts_than_others_are_explained(self, models: ModelRegistry) -> None:
        uneven = Explanation(8, 8, "Qwen/Qwen1.5-MoE-A2.7B")  # 60 experts: four ranks hold 8, four 7
        assert uneven in explain_pair(8, 1408, models)
        assert uneven in explain_pair(7, 1408, models)

    def test_the_same_ways_are_given_again(self, models: ModelRegistry) -> None:
        assert explain_pair(257, 128, models) == explain_pair(257, 128, list(models))


class TestNamedModel:
    """Models as records name them, beside the sizes of a file."""

    MIXTRAL = 8, 7168, Shape(4096, 2)

    def test_every_way_that_is_explained_has_its_sizes(self, models: ModelRegistry) -> None:
        tried = 0
        for model in models:
            for E, N in sizes_of(model):
                for found in explain_pair(E, N, [model]):
                    shape = Shape(model.K, model.top_k + found.fused_shared_experts)
                    assert named_model_has(str(found), E, N, shape, models), str(found)
                    tried += 1
        assert tried > 500

    @pytest.mark.parametrize(
        ("name", "has"),
        [
            ("mistralai/Mixtral-8x7B-v0.1 tp=2", True),
            ("MISTRALAI/mixtral-8x7b-v0.1 tp=2", True),
            ("mistralai/Mixtral-8x7B-v0.1 tp=4", False),
            ("mistralai/Mixtral-8x7B-v0.1 tp=2 ep=2", False),
            ("mistralai/Mixtral-8x7B-v0.1 tp=2 +1 shared", False),
            ("mistralai/Mixtral-8x22B-v0.1 tp=2", False),
            ("deepseek-ai/DeepSeek-V3 tp=8", False),
            ("a/model tp=2", None),
            ("mistralai/Mixtral-8x7B-v0.1", None),
        ],
    )
    def test_another_size_or_model_has_not(self, models: ModelRegistry, name: str, has: bool | None) -> None:
        assert named_model_has(name, *self.MIXTRAL, models) is has

    @pytest.mark.parametrize("shape", [Shape(4096, 1), Shape(6144, 2)])
    def test_nor_has_another_shape(self, models: ModelRegistry, shape: Shape) -> None:
        assert named_model_has("mistralai/Mixtral-8x7B-v0.1 tp=2", 8, 7168, shape, models) is False

    def test_experts_that_are_fused_need_not_be_named(self, models: ModelRegistry) -> None:
        for name in ("deepseek-ai/DeepSeek-V3 tp=16", "deepseek-ai/DeepSeek-V3 tp=16 +1 shared"):
            assert named_model_has(name, 257, 128, Shape(7168, 9), models)
