"""A comparison of kernels, as far as that needs no GPU: its workloads, and what its reports are called."""

from __future__ import annotations

import pytest

from kernels.problem import QuantMode
from tools.bench.compare_kernels import read_workload
from tools.errors import UserError
from tools.registry.models import load_models


@pytest.mark.parametrize(
    ("text", "file_name", "quant"),
    [
        ("mistralai/Mixtral-8x7B-v0.1 tp=2", "E=8,N=7168,device_name=NVIDIA_H100_80GB_HBM3.json", QuantMode()),
        ("Qwen/Qwen3-30B-A3B tp=1", "E=128,N=768,device_name=NVIDIA_H100_80GB_HBM3.json", QuantMode()),
        (
            "deepseek-ai/DeepSeek-V3 tp=16",
            "E=256,N=128,device_name=NVIDIA_H100_80GB_HBM3,dtype=fp8_w8a8,block_shape=[128,128].json",
            QuantMode("fp8_w8a8", block_shape=(128, 128)),
        ),
    ],
)
def test_a_workload_is_one_rank_of_the_model(text: str, file_name: str, quant: QuantMode) -> None:
    found = read_workload(text, load_models(), "NVIDIA H100 80GB HBM3")
    assert (found.shard.workload.file_name(), found.quant) == (file_name, quant)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("Qwen/Qwen3-30B-A3", "Did you mean Qwen/Qwen3-30B-A3B"),
        ("Qwen/Qwen3-30B-A3B tp=5", "expected a multiple of tp=5, found 768"),
        ("Qwen/Qwen3-30B-A3B pp=2", 'expected "MODEL tp=N'),
        ("openai/gpt-oss-120b tp=1", "mxfp4"),
        ("moonshotai/Kimi-K2-Thinking tp=8", "int4_w4a16"),
        ("nvidia/NVIDIA-Nemotron-3-Nano-30B-A3B-BF16 tp=1", "expected gated experts"),
    ],
)
def test_a_workload_that_cannot_be_is_refused(text: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        read_workload(text, load_models(), "NVIDIA H100 80GB HBM3")
