"""What the registry says of the models that are run most, against values kept here: shapes, scales, fusion, names."""

from __future__ import annotations

import pytest

from tools.registry.devices import load_devices
from tools.registry.models import Model, ModelRegistry, Placement, load_models
from tools.registry.sharding import Engine, ShardError, shard
from tools.store.workload import Layout

DEVICES = {"H100": "NVIDIA_H100_80GB_HBM3", "H200": "NVIDIA_H200"}

BF16, BLOCK, CHANNEL, STATIC = "bf16", "fp8 block", "fp8 channel", "fp8 static"

SHAPES = [
    ("Qwen/Qwen3.5-35B-A3B", 256, 512, 2048, 8, BF16, 0),
    ("Qwen/Qwen3.6-35B-A3B", 256, 512, 2048, 8, BF16, 0),
    ("Qwen/Qwen3.6-35B-A3B-FP8", 256, 512, 2048, 8, BLOCK, 0),
    ("Qwen/Qwen3.5-122B-A10B", 256, 1024, 3072, 8, BF16, 0),
    ("Qwen/Qwen3.5-122B-A10B-FP8", 256, 1024, 3072, 8, BLOCK, 0),
    ("Qwen/Qwen3.5-397B-A17B-FP8", 512, 1024, 4096, 10, BLOCK, 0),
    ("Qwen/Qwen3.8-Flash-Next", 512, 640, 2560, 10, BF16, 0),
    ("Qwen/Qwen3.8-Flash-Next-FP8", 512, 640, 2560, 10, BLOCK, 0),
    ("Qwen/Qwen3-30B-A3B", 128, 768, 2048, 8, BF16, 0),
    ("Qwen/Qwen3-Omni-30B-A3B-Instruct", 128, 768, 2048, 8, BF16, 0),
    ("Qwen/Qwen3-VL-30B-A3B-Instruct-FP8", 128, 768, 2048, 8, BLOCK, 0),
    ("Qwen/Qwen3-235B-A22B", 128, 1536, 4096, 8, BF16, 0),
    ("internlm/Intern-S1", 128, 1536, 4096, 8, BF16, 0),
    ("Qwen/Qwen3-VL-235B-A22B-Instruct-FP8", 128, 1536, 4096, 8, BLOCK, 0),
    ("Qwen/Qwen3-Next-80B-A3B-Instruct", 512, 512, 2048, 10, BF16, 1),
    ("Qwen/Qwen3-Coder-Next", 512, 512, 2048, 10, BF16, 1),
    ("Qwen/Qwen3-Next-80B-A3B-Instruct-FP8", 512, 512, 2048, 10, BLOCK, 1),
    ("Qwen/Qwen3-Coder-Next-FP8", 512, 512, 2048, 10, BLOCK, 1),
    ("Qwen/Qwen3-Coder-480B-A35B-Instruct-FP8", 160, 2560, 6144, 8, BLOCK, 0),
    ("deepseek-ai/DeepSeek-V3.1", 256, 2048, 7168, 8, BLOCK, 1),
    ("deepseek-ai/DeepSeek-V3.2", 256, 2048, 7168, 8, BLOCK, 0),
    ("deepseek-ai/DeepSeek-V4-Flash", 256, 2048, 4096, 6, "mxfp4", 0),
    ("sgl-project/DeepSeek-V4-Flash-FP8", 256, 2048, 4096, 6, BLOCK, 0),
    ("sgl-project/DeepSeek-V4-Pro-FP8", 384, 3072, 7168, 6, BLOCK, 0),
    ("zai-org/GLM-5.2", 256, 2048, 6144, 8, BF16, 1),
    ("zai-org/GLM-5.3", 256, 2048, 6144, 8, BLOCK, 1),
    ("zai-org/GLM-5.3-Flash", 288, 2048, 4096, 8, BLOCK, 1),
    ("zai-org/GLM-5.3-Flash-BF16", 288, 2048, 4096, 8, BF16, 1),
    ("zai-org/GLM-4.7", 160, 1536, 5120, 8, BF16, 1),
    ("zai-org/GLM-4.7-FP8", 160, 1536, 5120, 8, CHANNEL, 1),
    ("zai-org/GLM-4.6V", 128, 1408, 4096, 8, BF16, 1),
    ("zai-org/GLM-4.6V-FP8", 128, 1408, 4096, 8, CHANNEL, 1),
    ("zai-org/GLM-4.7-Flash", 64, 1536, 2048, 4, BF16, 1),
    ("MiniMaxAI/MiniMax-M2.7", 256, 1536, 3072, 8, BLOCK, 0),
    ("MiniMaxAI/MiniMax-M3", 128, 3072, 6144, 4, BF16, 1),
    ("MiniMaxAI/MiniMax-M3-MXFP8", 128, 3072, 6144, 4, "mxfp8", 1),
    ("openai/gpt-oss-20b", 32, 2880, 2880, 4, "mxfp4", 0),
    ("openai/gpt-oss-120b", 128, 2880, 2880, 4, "mxfp4", 0),
    ("google/gemma-4-26B-A4B", 128, 704, 2816, 8, BF16, 0),
    ("RedHatAI/gemma-4-26B-A4B-it-FP8-Dynamic", 128, 704, 2816, 8, CHANNEL, 0),
    ("moonshotai/Kimi-K2-Instruct", 384, 2048, 7168, 8, BLOCK, 0),
    ("moonshotai/Kimi-K2.7-Code", 384, 2048, 7168, 8, "int4_w4a16", 0),
    ("moonshotai/Kimi-K3", 896, 3072, 3584, 16, "mxfp4", 0),
    ("moonshotai/Kimi-Linear-48B-A3B-Instruct", 256, 1024, 2304, 8, BF16, 0),
    ("nvidia/NVIDIA-Nemotron-3-Nano-30B-A3B-FP8", 128, 1856, 2688, 6, STATIC, 0),
    ("nvidia/NVIDIA-Nemotron-3.5-Lightning-30B-A3B-BF16", 128, 1856, 2688, 6, BF16, 0),
    ("nvidia/NVIDIA-Nemotron-3-Super-120B-A12B-BF16", 512, 2688, 1024, 22, BF16, 0),
    ("nvidia/NVIDIA-Nemotron-3-Super-120B-A12B-NVFP4", 512, 2688, 1024, 22, "nvfp4", 0),
    ("mistralai/Mistral-Small-4-119B-2603", 128, 2048, 4096, 4, STATIC, 0),
    ("mistralai/Mistral-Large-3-675B-Instruct-2512", 128, 4096, 7168, 4, STATIC, 0),
    ("meta-llama/Llama-4-Scout-17B-16E", 16, 8192, 5120, 1, BF16, 0),
    ("meta-llama/Llama-4-Maverick-17B-128E-Instruct-FP8", 128, 8192, 5120, 1, CHANNEL, 0),
    ("stepfun-ai/Step-3.7-Flash", 288, 1280, 4096, 8, BF16, 0),
    ("stepfun-ai/Step-3.7-Flash-FP8", 288, 1280, 4096, 8, BLOCK, 0),
    ("XiaomiMiMo/MiMo-V2.5", 256, 2048, 4096, 8, BLOCK, 0),
    ("XiaomiMiMo/MiMo-V2.5-Pro", 384, 2048, 6144, 8, BLOCK, 0),
    ("tencent/Hy3", 192, 1536, 4096, 8, BF16, 0),
    ("tencent/Hy3-FP8", 192, 1536, 4096, 8, STATIC, 0),
    ("inclusionAI/Ling-3.0-flash", 512, 768, 2560, 8, BF16, 1),
    ("inclusionAI/Ling-3.0-flash-FP8", 512, 768, 2560, 8, BLOCK, 1),
    ("poolside/Laguna-XS-2.1", 256, 512, 2048, 8, BF16, 0),
    ("poolside/Laguna-S-2.1-FP8", 256, 1024, 3072, 10, BLOCK, 0),
    ("poolside/Laguna-M.1", 256, 1024, 4096, 16, BF16, 0),
    ("LiquidAI/LFM2.5-8B-A1B", 32, 1792, 2048, 4, BF16, 0),
]  # fmt: skip

FP8_BLOCK = ",dtype=fp8_w8a8,block_shape=[128,128]"
WANTED_FILES = [
    ("H100", "E=256,N=256" + FP8_BLOCK, {(2048, 8), (3072, 8), (4096, 6), (4096, 8), (3072, 10)}),
    ("H200", "E=256,N=512" + FP8_BLOCK, {(2048, 8), (3072, 8), (4096, 6), (4096, 8), (3072, 10)}),
    ("H200", "E=256,N=384" + FP8_BLOCK, {(3072, 8), (5120, 8)}),
    ("H200", "E=64,N=1536", {(2048, 4), (2560, 6), (4096, 8)}),
    ("H100", "E=128,N=192", {(2048, 8), (4096, 8), (6144, 4)}),
    ("H100", "E=512,N=160,dtype=fp8_w8a8,block_shape=[32,32]", {(2560, 10)}),
    ("H200", "E=257,N=256" + FP8_BLOCK, {(7168, 9), (6144, 9)}),
    ("H200", "E=64,N=1024" + FP8_BLOCK, {(4096, 10)}),
    ("H200", "E=72,N=2048" + FP8_BLOCK, {(4096, 8)}),
    ("H200", "E=128,N=512,dtype=fp8_w8a8", {(4096, 4), (7168, 4)}),
    ("H100", "E=161,N=192,dtype=fp8_w8a8,per_channel_quant=True", {(5120, 9)}),
    ("H100", "E=513,N=128", {(2048, 11)}),
    ("H200", "E=513,N=384" + FP8_BLOCK, {(2560, 9)}),
]  # fmt: skip


@pytest.fixture(scope="module")
def models() -> ModelRegistry:
    return load_models()


def stored_as(model: Model) -> str:
    stored = model.quantisation
    if stored.dtype != "fp8_w8a8":
        return stored.dtype
    if stored.block_shape is not None:
        return BLOCK if stored.block_shape == (128, 128) else str(stored.block_shape)
    return CHANNEL if stored.per_channel_quant else f"fp8 {stored.activation_scales}"


@pytest.mark.parametrize(("name", "E", "N", "K", "top_k", "stored", "fused"), SHAPES)
def test_a_model_that_is_run_has_its_shape_and_scales(
    models: ModelRegistry, name: str, E: int, N: int, K: int, top_k: int, stored: str, fused: int
) -> None:
    model = models.find(name)
    assert (model.E, model.N, model.K, model.top_k) == (E, N, K, top_k)
    assert (stored_as(model), model.fused_shared_experts) == (stored, fused)


def test_the_models_with_no_gate_are_nemotron(models: ModelRegistry) -> None:
    ungated = {model.id for model in models if not model.gated}
    assert ungated == {model.id for model in models if "Nemotron-3" in model.id}


def test_a_shared_expert_stays_fused_under_expert_parallelism_in_two_families(models: ModelRegistry) -> None:
    assert {model.id for model in models if model.fused_under_ep} == {
        "Qwen/Qwen3-Next-80B-A3B-Instruct",
        "Qwen/Qwen3-Next-80B-A3B-Instruct-FP8",
        "inclusionAI/Ling-3.0-flash",
        "inclusionAI/Ling-3.0-flash-fp8",
    }


def test_every_checkpoint_with_one_scale_a_tensor_says_what_its_activations_are_scaled_by(
    models: ModelRegistry,
) -> None:
    per_tensor = [
        model.quantisation
        for model in models
        if model.quantisation.dtype == "fp8_w8a8"
        and model.quantisation.block_shape is None
        and not model.quantisation.per_channel_quant
    ]
    assert {stored.activation_scales for stored in per_tensor} == {"static"}


def test_every_placement_is_on_a_device_class_of_the_device_registry(models: ModelRegistry) -> None:
    families = {device.family for device in load_devices()}
    assert {placement.device for model in models for placement in model.placements} == set(DEVICES) <= families


def engines_of(model: Model, placement: Placement) -> list[Engine]:
    """The engines that run `placement` and have tuned files for what `model` is stored as."""
    if model.quantisation.dtype in ("mxfp4", "mxfp8", "nvfp4"):
        return []
    return list(Engine) if placement.engine is None else [Engine(placement.engine)]


def shards(models: ModelRegistry, device: str) -> dict[str, set[tuple[int, int]]]:
    """(K, top_k) by the name, without its device, that a placement on `device` asks for; fp8 as SGLang names it."""
    found: dict[str, set[tuple[int, int]]] = {}
    for model in models:
        for placement in model.placements:
            for engine in engines_of(model, placement) if placement.device == device else []:
                rank = shard(model, engine, device_name=DEVICES[device], tp=placement.tp, ep=placement.ep)
                if engine is Engine.VLLM and model.quantisation.per_channel_quant:
                    continue  # vLLM's name is that of tensor scales, and its kernel for channels reads no file
                name = rank.workload.file_name(Layout.VLLM).replace(f",device_name={DEVICES[device]}", "")
                found.setdefault(name.removesuffix(".json"), set()).add((rank.shape.K, rank.shape.top_k))
    return found


@pytest.mark.parametrize(("device", "name", "shapes"), WANTED_FILES)
def test_the_placements_ask_for_a_wanted_file_with_all_its_shapes(
    models: ModelRegistry, device: str, name: str, shapes: set[tuple[int, int]]
) -> None:
    assert shards(models, device)[name] == shapes


def test_every_placement_can_be_sharded_by_the_engines_that_run_it(models: ModelRegistry) -> None:
    faults = []
    for model in models:
        for placement in model.placements:
            for engine in engines_of(model, placement):
                try:
                    shard(model, engine, device_name=DEVICES[placement.device], tp=placement.tp, ep=placement.ep)
                except ShardError as error:
                    faults.append(f"{engine}: {error}")
    assert faults == []
