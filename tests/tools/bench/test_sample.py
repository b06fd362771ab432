"""The workloads and launch configs that kernels are compared on."""

from __future__ import annotations

from collections import Counter

import pytest

from kernels.launch_config import LaunchConfig
from kernels.problem import QuantMode
from tools.bench.sample import read_workload, sample
from tools.errors import UserError
from tools.launch.axes import AMD
from tools.launch.shared_memory import loop_bytes
from tools.registry.models import load_models
from tools.registry.sharding import Engine

H100_SMEM_BYTES = 232448
H100 = "device_name=NVIDIA_H100_80GB_HBM3"


def of(count: int, dtype: str | None = None, block_shape: tuple[int, int] | None = None, limit: int = H100_SMEM_BYTES):
    return sample(count, arch="sm_90", dtype=dtype, block_shape=block_shape, smem_limit_bytes=limit)


@pytest.mark.parametrize(("dtype", "block_shape"), [(None, None), ("fp8_w8a8", (128, 128)), ("fp8_w8a8", None)])
def test_sixty_different_configs_that_fit(dtype: str | None, block_shape: tuple[int, int] | None) -> None:
    configs = of(60, dtype, block_shape)
    assert len(set(configs)) == 60
    for config in configs:
        needed = loop_bytes(config, arch="sm_90", dtype=dtype, block_quantised=block_shape is not None)
        assert needed is not None
        assert needed.total_bytes <= H100_SMEM_BYTES


def test_every_value_of_every_axis_appears() -> None:
    values = [config.to_entry() for config in of(60)]
    axes = {key: {value[key] for value in values} for key in values[0]}
    assert axes == {
        "BLOCK_SIZE_M": {16, 32, 64, 128, 256},
        "BLOCK_SIZE_N": {32, 64, 128, 256},
        "BLOCK_SIZE_K": {64, 128, 256},
        "GROUP_SIZE_M": {1, 8, 16, 32, 64},
        "num_warps": {4, 8},
        "num_stages": {2, 3, 4, 5},
    }


def test_narrow_tiles_have_the_largest_share_and_none_is_left_out() -> None:
    shares = Counter(config.BLOCK_SIZE_M for config in of(200))
    assert shares.most_common(1)[0][0] == 16
    assert min(shares.values()) >= 15


def test_likely_winners_come_first() -> None:
    assert LaunchConfig(128, 256, 64, 16, 8, 3) in of(12)


def test_block_scales_limit_the_tile_along_k() -> None:
    assert {config.BLOCK_SIZE_K for config in of(40, "fp8_w8a8", (64, 64))} == {64}


def test_a_card_with_little_shared_memory_gets_what_fits() -> None:
    small = 99 * 1024
    for config in of(60, limit=small):
        needed = loop_bytes(config, arch="sm_90", dtype=None)
        assert needed is not None
        assert needed.total_bytes <= small


def test_the_same_call_gives_the_same_configs_and_a_larger_one_contains_them() -> None:
    assert of(60) == of(60)
    assert set(of(60)) <= set(of(90))


def test_amds_gpus_have_their_own_keys() -> None:
    found = sample(60, AMD, arch="gfx942", dtype=None, block_shape=None, smem_limit_bytes=65536)
    assert len(set(found)) == 60
    assert {config.num_stages for config in found} == {2}
    for key, values in AMD.extra:
        assert {getattr(config, key) for config in found} == set(values)


def test_more_than_there_are_is_refused() -> None:
    with pytest.raises(UserError, match=r"expected at most .*, found 5000"):
        of(5000)


@pytest.mark.parametrize(
    ("text", "engine", "file_name", "quant"),
    [
        ("mistralai/Mixtral-8x7B-v0.1 tp=2", Engine.VLLM, f"E=8,N=7168,{H100}.json", QuantMode()),
        (
            "mistralai/Mixtral-8x7B-v0.1 tp=2 dtype=fp8_w8a8",
            Engine.VLLM,
            f"E=8,N=7168,{H100},dtype=fp8_w8a8.json",
            QuantMode("fp8_w8a8"),
        ),
        ("Qwen/Qwen3-30B-A3B tp=1", Engine.VLLM, f"E=128,N=768,{H100}.json", QuantMode()),
        (
            "deepseek-ai/DeepSeek-V3 tp=16",
            Engine.VLLM,
            f"E=256,N=128,{H100},dtype=fp8_w8a8,block_shape=[128,128].json",
            QuantMode("fp8_w8a8", block_shape=(128, 128)),
        ),
        (
            "deepseek-ai/DeepSeek-V3 tp=16",
            Engine.SGLANG,
            f"E=257,N=128,{H100},dtype=fp8_w8a8,block_shape=[128,128].json",
            QuantMode("fp8_w8a8", block_shape=(128, 128)),
        ),
    ],
)
def test_a_workload_is_one_rank_of_the_model(text: str, engine: Engine, file_name: str, quant: QuantMode) -> None:
    workload, shape = read_workload(text, load_models(), "NVIDIA H100 80GB HBM3", engine)
    assert (workload.file_name(), shape.quant) == (file_name, quant)
    assert (shape.num_experts, shape.intermediate_size) == (workload.E, workload.N)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("Qwen/Qwen3-30B-A3", "Did you mean Qwen/Qwen3-30B-A3B"),
        ("Qwen/Qwen3-30B-A3B tp=5", "expected a multiple of tp=5, found 768"),
        ("Qwen/Qwen3-30B-A3B pp=2", 'expected "MODEL tp=N'),
        (" ", "found ''"),
        ("Qwen/Qwen3-30B-A3B tp=1 dtype=int3", "int3"),
        ("openai/gpt-oss-120b tp=1", "mxfp4"),
        ("moonshotai/Kimi-K2-Thinking tp=8", "int4_w4a16"),
        ("nvidia/NVIDIA-Nemotron-3-Nano-30B-A3B-BF16 tp=1", "expected gated experts"),
    ],
)
def test_a_workload_that_cannot_be_is_refused(text: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        read_workload(text, load_models(), "NVIDIA H100 80GB HBM3", Engine.VLLM)
