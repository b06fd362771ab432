"""Sharding, as facts about published files: which workload each model becomes under each engine."""

from __future__ import annotations

import pytest

from tools.registry.models import Model, ModelRegistry, Quantisation, load_models
from tools.registry.sharding import Engine, Explanation, ShardError, explain_pair, shard
from tools.store.workload import Layout, Shape, Workload

H100 = "NVIDIA_H100_80GB_HBM3"
VLLM, SGLANG = Engine.VLLM, Engine.SGLANG


@pytest.fixture(scope="module")
def models() -> ModelRegistry:
    return load_models()


def name_of(
    models: ModelRegistry,
    model_id: str,
    engine: Engine,
    tp: int,
    ep: int = 1,
    quantisation: Quantisation | None = None,
) -> str:
    found = shard(models.find(model_id), engine, device_name=H100, tp=tp, ep=ep, quantisation=quantisation)
    return found.workload.file_name(Layout(engine.value)).replace(f",device_name={H100}", "")


FACTS = [
    ("mistralai/Mixtral-8x7B-v0.1", VLLM, 4, 1, "E=8,N=3584.json"),
    ("databricks/dbrx-instruct", VLLM, 8, 1, "E=16,N=1344.json"),
    ("deepseek-ai/DeepSeek-V3", VLLM, 16, 1, "E=256,N=128,dtype=fp8_w8a8,block_shape=[128,128].json"),
    ("deepseek-ai/DeepSeek-V3", SGLANG, 16, 1, "E=257,N=128,dtype=fp8_w8a8,block_shape=[128, 128].json"),
    ("deepseek-ai/DeepSeek-V3", VLLM, 8, 8, "E=32,N=2048,dtype=fp8_w8a8,block_shape=[128,128].json"),
    ("deepseek-ai/DeepSeek-V3", SGLANG, 8, 8, "E=32,N=2048,dtype=fp8_w8a8,block_shape=[128, 128].json"),
    ("deepseek-ai/DeepSeek-V3", SGLANG, 16, 4, "E=64,N=512,dtype=fp8_w8a8,block_shape=[128, 128].json"),
    ("Qwen/Qwen3-30B-A3B-FP8", VLLM, 2, 1, "E=128,N=384,dtype=fp8_w8a8,block_shape=[128,128].json"),
    ("Qwen/Qwen3-30B-A3B-FP8", VLLM, 4, 1, "E=128,N=192,dtype=fp8_w8a8,block_shape=[64,64].json"),
    ("Qwen/Qwen3-30B-A3B-FP8", VLLM, 8, 1, "E=128,N=96,dtype=fp8_w8a8,block_shape=[32,32].json"),
    ("zai-org/GLM-4.5-FP8", SGLANG, 8, 1, "E=161,N=192,dtype=fp8_w8a8,per_channel_quant=True.json"),
    ("zai-org/GLM-4.5-FP8", VLLM, 8, 1, "E=160,N=192,dtype=fp8_w8a8.json"),
    ("Qwen/Qwen3-Coder-480B-A35B-Instruct-FP8", SGLANG, 8, 2, "E=80,N=640,dtype=fp8_w8a8,block_shape=[128, 128].json"),
    ("moonshotai/Kimi-K2-Instruct", SGLANG, 16, 1, "E=384,N=128,dtype=fp8_w8a8,block_shape=[128, 128].json"),
    ("moonshotai/Kimi-K2-Thinking", VLLM, 8, 1, "E=384,N=256,dtype=int4_w4a16.json"),
    ("moonshotai/Kimi-K2-Thinking", SGLANG, 8, 1, "E=384,N=128,dtype=int4_w4a16.json"),
    ("nvidia/NVIDIA-Nemotron-3-Super-120B-A12B-BF16", SGLANG, 8, 4, "E=128,N=1344.json"),
]  # fmt: skip


@pytest.mark.parametrize(("model_id", "engine", "tp", "ep", "name"), FACTS)
def test_a_rank_asks_for_the_file_that_is_known(
    models: ModelRegistry, model_id: str, engine: Engine, tp: int, ep: int, name: str
) -> None:
    assert name_of(models, model_id, engine, tp, ep) == name


@pytest.mark.parametrize(("engine", "shape"), [(VLLM, Shape(7168, 8)), (SGLANG, Shape(7168, 9, 1, 1))])
def test_a_fused_shared_expert_is_one_more_of_each_token(models: ModelRegistry, engine: Engine, shape: Shape) -> None:
    found = shard(models.find("deepseek-ai/DeepSeek-R1"), engine, device_name=H100, tp=8)
    assert found.shape == shape


def test_shared_experts_are_not_fused_under_expert_parallelism(models: ModelRegistry) -> None:
    found = shard(models.find("deepseek-ai/DeepSeek-R1"), SGLANG, device_name=H100, tp=8, ep=8)
    assert found.shape == Shape(7168, 8, ep=8)


def test_int4_has_the_models_own_size_under_both_engines(models: ModelRegistry) -> None:
    model = models.find("moonshotai/Kimi-K2-Thinking")
    assert {shard(model, engine, device_name=H100, tp=8).workload.N for engine in Engine} == {2048 // 8}


@pytest.mark.parametrize(("engine", "name"), [(VLLM, "NVIDIA_H200"), (SGLANG, "NVIDIA_H200_NVL")])
def test_only_vllm_folds_the_h200s(models: ModelRegistry, engine: Engine, name: str) -> None:
    model = models.find("mistralai/Mixtral-8x7B-v0.1")
    assert shard(model, engine, device_name="NVIDIA H200 NVL").workload.device_name == name


def test_vllm_leaves_a_gh200_alone(models: ModelRegistry) -> None:
    model = models.find("mistralai/Mixtral-8x7B-v0.1")
    found = shard(model, VLLM, device_name="NVIDIA GH200 480GB")
    assert found.workload == Workload(E=8, N=14336, device_name="NVIDIA_GH200_480GB")


def test_another_quantisation_replaces_the_checkpoints(models: ModelRegistry) -> None:
    assert name_of(models, "openai/gpt-oss-120b", VLLM, 1, quantisation=Quantisation("bf16")) == "E=128,N=2880.json"


@pytest.mark.parametrize(
    ("model_id", "engine", "tp", "ep", "quantisation", "message"),
    [
        ("mistralai/Mixtral-8x7B-v0.1", VLLM, 3, 1, None, "N: expected a multiple of tp=3, found 14336"),
        ("mistralai/Mixtral-8x7B-v0.1", VLLM, 16, 16, None, "E: expected a multiple of ep=16, found 8"),
        ("mistralai/Mixtral-8x7B-v0.1", VLLM, 6, 2, None, r"N: expected a multiple of tp // ep=3, found 14336"),
        ("mistralai/Mixtral-8x7B-v0.1", VLLM, 4, 3, None, "ep: expected a divisor of tp=4, found 3"),
        ("mistralai/Mixtral-8x7B-v0.1", VLLM, 2, 4, None, "ep: expected a divisor of tp=2, found 4"),
        ("mistralai/Mixtral-8x7B-v0.1", VLLM, 0, 1, None, "tp: expected at least 1, found 0"),
        ("mistralai/Mixtral-8x7B-v0.1", VLLM, 4, -2, None, "ep: expected at least 1, found -2"),
        ("Qwen/Qwen3-30B-A3B-FP8", SGLANG, 4, 1, None, "N=192 on a rank isn't a multiple of block_n=128"),
        ("Qwen/Qwen3-30B-A3B-FP8", VLLM, 16, 1, None, r"N=48 .*\[128,128\].* to 16 only, under its least of 32"),
        ("openai/gpt-oss-120b", VLLM, 1, 1, None, "expected a dtype that vllm has tuned files for .*found mxfp4"),
        ("openai/gpt-oss-20b", VLLM, 1, 1, Quantisation("int8_w8a8"), "vllm .* found int8_w8a8"),
        ("openai/gpt-oss-20b", SGLANG, 1, 1, Quantisation("fp8_w8a16"), "sglang .* found fp8_w8a16"),
        ("openai/gpt-oss-20b", VLLM, 1, 1, Quantisation("bf16", (128, 128)), "block_shape .* found with bf16"),
    ],
)  # fmt: skip
def test_what_cannot_be_sharded_is_an_error_that_names_both_values(
    models: ModelRegistry,
    model_id: str,
    engine: Engine,
    tp: int,
    ep: int,
    quantisation: Quantisation | None,
    message: str,
) -> None:
    with pytest.raises(ShardError, match=message):
        name_of(models, model_id, engine, tp, ep, quantisation)


def test_block_k_binds_only_where_n_is_split() -> None:
    model = Model("o/m", 8, 192, 256, 2, Quantisation("fp8_w8a8", (64, 128)), "made up")
    whole = shard(model, SGLANG, device_name=H100)
    assert whole.workload.block_shape == (64, 128)
    halved = Model("o/m", 8, 384, 256, 2, model.quantisation, "made up")
    with pytest.raises(ShardError, match="N=192 on a rank isn't a multiple of block_k=128"):
        shard(halved, SGLANG, device_name=H100, tp=2)
    assert shard(halved, VLLM, device_name=H100, tp=2).workload.block_shape == (64, 64)


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
