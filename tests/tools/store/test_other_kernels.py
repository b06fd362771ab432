"""Whose file it is shows in its name: vLLM and SGLang keep those of several kernels in one folder."""

from __future__ import annotations

import pytest

from tests.builders import NAME
from tools.store.other_kernels import other_kernel

STEM = NAME.removesuffix(".json")


@pytest.mark.parametrize(
    ("name", "kernel"),
    [
        ("NVIDIA_H200_SHRINK.json", "vLLM's LoRA kernels"),
        ("NVIDIA_H200_EXPAND_TRUE.json", "vLLM's LoRA kernels"),
        ("NVIDIA_H200_EXPAND_FALSE.json", "vLLM's LoRA kernels"),
        ("NVIDIA_H100_80GB_HBM3_FUSED_MOE_LORA_W13_SHRINK.json", "vLLM's LoRA kernels"),
        ("NVIDIA_H200_FUSED_MOE_LORA_W2_EXPAND.json", "vLLM's LoRA kernels"),
        ("lora_shrink,K=1024,R=64,S=2,device=NVIDIA_H200.json", "SGLang's LoRA kernels"),
        (
            "provider=cutedsl_fp8_masked,E=256,N1=256,N2=2048,K=2048,device_name=NVIDIA_B200.json",
            "SGLang's LoRA kernels",
        ),
        ("sm90.plans.json", "SGLang's LoRA kernels"),
        (
            "headdim=64,dstate=128,device_name=NVIDIA_B200,cache_dtype=float16.json",
            "vLLM's Mamba kernel (selective_state_update)",
        ),
        (
            "N=1024,K=2048,device_name=AMD_Instinct_MI300X,dtype=fp8_w8a8,block_shape=[128,128].json",
            "the quantised linear layers' kernel",
        ),
        ("N=1024,K=2048,device_name=NVIDIA_B200,dtype=fp8_w8a8.json", "the quantised linear layers' kernel"),
        ("awq_gemv,N=1024,K=2048,device_name=NVIDIA_B200.json", "a GEMV kernel of linear layers"),
        (f"{STEM},dtype=int4_w4a16,backend=flydsl.json", "the backend flydsl, another MoE kernel"),
        ("strategy,E=896,topk=16,device_name=NVIDIA_GB300.json", "SGLang's MoE router kernels"),
        ("minimax_m3_gfx950_mxfp8_compact_moe.json", "SGLang's compact MoE kernel"),
        ("causal_conv1d_fwd_with_prefix_sm_100.json", "SGLang's short convolution kernels"),
        ("update_sconv_cache_sm_90.json", "SGLang's short convolution kernels"),
        ("world=8,H=7168,device_name=NVIDIA_GB300.json", "SGLang's collective kernels"),
    ],
)
def test_a_file_of_another_kernel_is_known_by_its_name(name: str, kernel: str) -> None:
    assert other_kernel(name) == kernel


@pytest.mark.parametrize(
    "name",
    [
        NAME,
        f"{STEM}_down.json",
        f"{STEM},dtype=fp8_w8a8,block_shape=[128, 128],per_channel_quant=True.json",
        f"{STEM},dtype=bf16.json",
        "E=8,K=64,device_name=NVIDIA_H200.json",
        "config.json",
        "NVIDIA_H200_SHRINK.json.bak",
        "headdim=64",
    ],
)
def test_our_own_and_unknown_names_are_no_other_kernels(name: str) -> None:
    assert other_kernel(name) is None
