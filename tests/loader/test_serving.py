"""What an engine runs for a model's experts, and the file it asks for: facts about releases and published files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fused_moe_configs.api import where
from fused_moe_configs.backends import EngineRelease, choose_release, read_engines
from fused_moe_configs.registry import Checkpoint, ServingError
from fused_moe_configs.serving import Serving, find_serving, parallel_text, serve, split

H100 = "NVIDIA H100 80GB HBM3"
BLOCK = (128, 128)


@pytest.fixture(scope="module")
def releases() -> dict[str, EngineRelease]:
    engines = read_engines(where())
    return {name: choose_release(engines, name)[0] for name in ("vllm", "sglang")}


def model(E: int, N: int, K: int, top_k: int, kind: str = "bf16", *, fused: int = 0, **facts: object) -> Checkpoint:
    """A checkpoint of a kind of weights, in engines.json's words."""
    stored = {
        "fp8_block": {"dtype": "fp8_w8a8", "block_shape": BLOCK},
        "fp8_tensor_static": {"dtype": "fp8_w8a8", "activation_scales": "static"},
        "fp8_tensor_dynamic": {"dtype": "fp8_w8a8", "activation_scales": "dynamic"},
        "fp8_tensor": {"dtype": "fp8_w8a8"},
        "fp8_channel": {"dtype": "fp8_w8a8", "per_channel_quant": True},
        "int8_channel": {"dtype": "int8_w8a8"},
    }.get(kind, {"dtype": kind})
    facts = {"id": "owner/model", **facts}
    checkpoint = Checkpoint(E=E, N=N, K=K, top_k=top_k, fused_shared_experts=fused, **stored, **facts)  # type: ignore[arg-type]
    assert checkpoint.kind == kind
    return checkpoint


QWEN_30B = model(128, 768, 2048, 8)
QWEN_30B_FP8 = model(128, 768, 2048, 8, "fp8_block")
DEEPSEEK_V3 = model(256, 2048, 7168, 8, "fp8_block", fused=1)
QWEN_NEXT = model(512, 512, 2048, 10, "fp8_block", fused=1, fused_under_ep=True)
GLM_45 = model(160, 1536, 5120, 8, "fp8_channel", fused=1)
KIMI_INT4 = model(384, 2048, 7168, 8, "int4_w4a16", id="moonshotai/Kimi-K2-Thinking")
NEMOTRON = model(128, 1856, 2688, 6, gated=False)
GPT_OSS = model(128, 2880, 2880, 4, "mxfp4", id="openai/gpt-oss-120b")
DEEPSEEK_V4 = model(256, 2048, 4096, 6, "mxfp4", id="deepseek-ai/DeepSeek-V4-Flash")

# model, (tp, ep) of a recipe on Hopper, what vLLM runs there and whether that reads tuned files, the same of SGLang.
# The backend None with reads None: not known. A refusal is what the message says.
ON_HOPPER: list[tuple[str, Checkpoint, tuple[int, int], tuple[str | None, bool | None], object]] = [
    ("Qwen3.5-35B-A3B", model(256, 512, 2048, 8), (2, 1), ("TRITON", True), ("triton", True)),
    ("Qwen3.5-35B-A3B-FP8", model(256, 512, 2048, 8, "fp8_block"), (1, 1), ("TRITON", True), ("triton", True)),
    ("Qwen3.5-122B-A10B", model(256, 1024, 3072, 8), (8, 1), ("TRITON", True), ("triton", True)),
    ("Qwen3.5-122B-A10B-FP8", model(256, 1024, 3072, 8, "fp8_block"), (4, 1), ("TRITON", True), ("triton", True)),
    ("Qwen3.5-397B-A17B-FP8", model(512, 1024, 4096, 10, "fp8_block"), (8, 1), ("TRITON", True), ("triton", True)),
    ("Qwen3.5-397B-A17B-FP8 ep", model(512, 1024, 4096, 10, "fp8_block"), (8, 8),
     ("FLASHINFER_CUTLASS", False), ("triton", True)),
    ("Qwen3.8-Flash-Next", model(512, 640, 2560, 10), (4, 1), ("TRITON", True), ("triton", True)),
    ("Qwen3.8-Flash-Next-FP8", model(512, 640, 2560, 10, "fp8_block"), (1, 1), ("TRITON", True), ("triton", True)),
    ("Qwen3.8-Flash-Next-FP8", model(512, 640, 2560, 10, "fp8_block"), (2, 1), ("TRITON", True), "N=320 on a rank"),
    ("Qwen3.8-Flash-Next-FP8", model(512, 640, 2560, 10, "fp8_block"), (4, 1), ("TRITON", True), "N=160 on a rank"),
    ("Qwen3-30B-A3B", QWEN_30B, (1, 1), ("TRITON", True), ("triton", True)),
    ("Qwen3-30B-A3B-FP8", model(128, 768, 2048, 8, "fp8_block"), (2, 1), ("TRITON", True), ("triton", True)),
    ("Qwen3-30B-A3B-FP8", model(128, 768, 2048, 8, "fp8_block"), (4, 1), ("TRITON", True), "N=192 on a rank"),
    ("Qwen3-235B-A22B", model(128, 1536, 4096, 8), (8, 1), ("TRITON", True), ("triton", True)),
    ("Qwen3-235B-A22B-FP8", model(128, 1536, 4096, 8, "fp8_block"), (4, 1), ("TRITON", True), ("triton", True)),
    ("Qwen3-Next-80B-A3B", model(512, 512, 2048, 10, fused=1), (4, 1), ("TRITON", True), ("triton", True)),
    ("Qwen3-Next-80B-A3B-FP8", QWEN_NEXT, (4, 1), ("TRITON", True), ("triton", True)),
    ("Qwen3-Coder-480B-FP8", model(160, 2560, 6144, 8, "fp8_block"), (4, 1), ("TRITON", True), ("triton", True)),
    ("Qwen3-Coder-480B-FP8", model(160, 2560, 6144, 8, "fp8_block"), (8, 1), ("TRITON", True), "N=320 on a rank"),
    ("DeepSeek-V3", DEEPSEEK_V3, (16, 1), ("TRITON", True), ("triton", True)),
    ("DeepSeek-V3 ep", DEEPSEEK_V3, (16, 16), ("FLASHINFER_CUTLASS", False), ("triton", True)),
    ("DeepSeek-V3.2", model(256, 2048, 7168, 8, "fp8_block"), (8, 1), ("TRITON", True), ("triton", True)),
    ("DeepSeek-V4-Flash", DEEPSEEK_V4, (8, 1), ("HUMMING", False), ("flashinfer_mxfp4", False)),
    ("DeepSeek-V4-Flash-FP8", model(256, 2048, 4096, 6, "fp8_block"), (8, 1), ("TRITON", True), ("triton", True)),
    ("GLM-5", model(256, 2048, 6144, 8, fused=1), (16, 1), ("TRITON", True), ("triton", True)),
    ("GLM-5-FP8", model(256, 2048, 6144, 8, "fp8_block", fused=1), (8, 1), ("TRITON", True), ("triton", True)),
    ("GLM-5.3-Flash ep", model(288, 2048, 4096, 8, fused=1), (8, 8), ("TRITON", True), ("triton", True)),
    ("GLM-4.5", model(160, 1536, 5120, 8, fused=1), (8, 1), ("TRITON", True), ("triton", True)),
    ("GLM-4.5-FP8", GLM_45, (8, 1), ("VLLM_CUTLASS", False), ("triton", True)),
    ("GLM-4.5-Air-FP8", model(128, 1408, 4096, 8, "fp8_channel"), (2, 1), ("VLLM_CUTLASS", False), ("triton", True)),
    ("GLM-4.7-Flash", model(64, 1536, 2048, 4, fused=1), (1, 1), ("TRITON", True), ("triton", True)),
    ("MiniMax-M2", model(256, 1536, 3072, 8, "fp8_block"), (4, 1), ("TRITON", True), ("triton", True)),
    ("MiniMax-M2 ep", model(256, 1536, 3072, 8, "fp8_block"), (4, 4), ("FLASHINFER_CUTLASS", False), ("triton", True)),
    ("MiniMax-M3", model(128, 3072, 6144, 4, fused=1), (16, 1), ("TRITON", True), ("triton", True)),
    ("MiniMax-M3-MXFP8", model(128, 3072, 6144, 4, "mxfp8"), (8, 1), ("HUMMING", False), ("none", False)),
    ("gpt-oss-120b", GPT_OSS, (1, 1), ("TRITON (triton_kernels)", False), ("triton_kernel", False)),
    ("gemma-4-26B-A4B", model(128, 704, 2816, 8), (1, 1), ("TRITON", True), ("triton", True)),
    ("gemma-4-26B FP8-Dynamic", model(128, 704, 2816, 8, "fp8_channel"), (1, 1),
     ("VLLM_CUTLASS", False), ("triton", True)),
    ("Kimi-K2-Instruct", model(384, 2048, 7168, 8, "fp8_block"), (16, 1), ("TRITON", True), ("triton", True)),
    ("Kimi-K2-Thinking", KIMI_INT4, (8, 1), ("HUMMING", False), ("marlin", False)),
    ("Kimi-K3", model(896, 3072, 3584, 16, "mxfp4"), (8, 1), ("HUMMING", False), (None, None)),
    ("Kimi-Linear-48B-A3B", model(256, 1024, 2304, 8), (4, 1), ("TRITON", True), ("triton", True)),
    ("Nemotron-3-Nano-30B", NEMOTRON, (1, 1), ("TRITON", True), ("flashinfer_cutlass", False)),
    ("Nemotron-3-Nano-30B-FP8", model(128, 1856, 2688, 6, "fp8_tensor_static", gated=False), (1, 1),
     ("FLASHINFER_CUTLASS", False), ("flashinfer_cutlass", False)),
    ("Nemotron-3-Super-120B", model(512, 2688, 1024, 22, gated=False), (4, 1),
     ("TRITON", True), ("flashinfer_cutlass", False)),
    ("Nemotron-3-Super-NVFP4", model(512, 2688, 1024, 22, "nvfp4", gated=False), (4, 1),
     ("HUMMING", False), ("marlin", False)),
    ("Mistral-Small-4-119B", model(128, 2048, 4096, 4, "fp8_tensor_static"), (2, 1),
     ("FLASHINFER_CUTLASS", False), ("triton", True)),
    ("Mistral-Large-3-675B", model(128, 4096, 7168, 4, "fp8_tensor_static"), (8, 1),
     ("FLASHINFER_CUTLASS", False), ("triton", True)),
    ("Llama-4-Scout", model(16, 8192, 5120, 1), (8, 1), ("TRITON", True), ("triton", True)),
    ("Llama-4-Maverick-FP8", model(128, 8192, 5120, 1, "fp8_channel"), (8, 1),
     ("VLLM_CUTLASS", False), ("triton", True)),
    ("Step-3.5-Flash", model(288, 1280, 4096, 8), (8, 1), ("TRITON", True), ("triton", True)),
    ("Step-3.5-Flash-FP8", model(288, 1280, 4096, 8, "fp8_block"), (8, 1), ("TRITON", True), "N=160 on a rank"),
    ("MiMo-V2-Flash", model(256, 2048, 4096, 8, "fp8_block"), (8, 1), ("TRITON", True), ("triton", True)),
    ("Hy3", model(192, 1536, 4096, 8), (8, 1), ("TRITON", True), ("triton", True)),
    ("Hy3-FP8", model(192, 1536, 4096, 8, "fp8_tensor_static"), (8, 1),
     ("FLASHINFER_CUTLASS", False), ("triton", True)),
    ("Ling-3.0-flash", model(512, 768, 2560, 8, fused=1), (2, 1), ("TRITON", True), ("triton", True)),
    ("Ling-3.0-flash-FP8", model(512, 768, 2560, 8, "fp8_block", fused=1), (2, 1), ("TRITON", True), ("triton", True)),
    ("Laguna-S-2.1-FP8", model(256, 1024, 3072, 10, "fp8_block"), (2, 1), ("TRITON", True), ("triton", True)),
    ("LFM2-8B-A1B", model(32, 1792, 2048, 4), (1, 1), ("TRITON", True), ("triton", True)),
    ("online per tensor", model(128, 768, 2048, 8, "fp8_tensor_dynamic"), (1, 1), ("TRITON", True), ("triton", True)),
    ("int8 w8a8", model(128, 768, 2048, 8, "int8_channel"), (1, 1), ("TRITON", True), ("triton", True)),
    ("channels without a gate", model(128, 768, 2048, 8, "fp8_channel", gated=False), (1, 1),
     ("TRITON", True), (None, None)),
]  # fmt: skip


def answer(checkpoint: Checkpoint, release: EngineRelease, sizes: tuple[int, int]) -> object:
    found = serve(checkpoint, release, *sizes, H100, "sm_90")
    return found.backend, found.reads_tuned_files


@pytest.mark.parametrize(
    ("checkpoint", "sizes", "vllm", "sglang"),
    [pytest.param(*rest, id=f"{name} tp={rest[1][0]} ep={rest[1][1]}") for name, *rest in ON_HOPPER],
)
def test_hopper_runs(releases, checkpoint, sizes, vllm, sglang):
    assert answer(checkpoint, releases["vllm"], sizes) == vllm
    if isinstance(sglang, str):
        with pytest.raises(ServingError, match=f"{sglang} isn't a multiple of block_n=128, which SGLang needs"):
            answer(checkpoint, releases["sglang"], sizes)
    else:
        assert answer(checkpoint, releases["sglang"], sizes) == sglang


def test_on_hopper_an_answer_is_known_for_every_registered_model_as_it_is_placed(releases):
    unknown, answers = [], 0
    for entry in json.loads((where() / "registry" / "models.json").read_text("utf-8"))["models"]:
        for placement in entry.get("placements", [{"tp": 1}]):
            for engine in {"vllm", "sglang"} & {placement.get("engine", "vllm"), placement.get("engine", "sglang")}:
                tp, ep = placement["tp"], placement.get("ep", 1)
                found = serve(Checkpoint.read(entry), releases[engine], tp, ep, H100, "sm_90")
                unknown += [(engine, found.model)] if found.backend is None else []
                answers += 1
    assert unknown == [("sglang", "moonshotai/Kimi-K3")]
    assert answers > 300


@pytest.mark.parametrize(
    ("checkpoint", "engine", "arch", "expected"),
    [
        (QWEN_30B, "vllm", "sm_80", ("TRITON", True)),
        (QWEN_30B, "vllm", "sm_100", (None, None)),  # which FlashInfer kernel, if one, hangs on the activation
        (QWEN_30B, "vllm", "gfx942", ("TRITON", True)),
        (QWEN_30B, "sglang", "sm_120", ("triton", True)),
        (QWEN_30B, "sglang", "gfx942", (None, None)),  # its images set SGLANG_USE_AITER
        (DEEPSEEK_V3, "vllm", "sm_89", ("TRITON", True)),
        (DEEPSEEK_V3, "vllm", "sm_80", ("MARLIN", False)),
        (GLM_45, "vllm", "sm_89", ("TRITON", True)),
        (GLM_45, "vllm", "sm_120", ("TRITON", True)),
        (model(128, 768, 2048, 8, "fp8_tensor_dynamic"), "vllm", "sm_100", ("TRITON", True)),
        (model(128, 768, 2048, 8, "int8_channel"), "vllm", "sm_86", ("TRITON", True)),
        (NEMOTRON, "sglang", "sm_100", ("flashinfer_trtllm", False)),
        (model(128, 2880, 2880, 4, id="openai/gpt-oss-120b"), "sglang", "sm_120", ("triton or triton_kernel", None)),
        (QWEN_30B, "vllm", "pvc", (None, None)),
    ],
)
def test_other_architectures_run(releases, checkpoint, engine, arch, expected):
    found = serve(checkpoint, releases[engine], 1, 1, "D", arch)
    assert (found.backend, found.reads_tuned_files) == expected


@pytest.mark.parametrize("arch", ["sm_100", None])
def test_what_is_not_known_is_said_as_such(releases, arch):
    found = serve(DEEPSEEK_V3, releases["sglang"], 8, 1, "NVIDIA B200", arch)
    assert found.verdict == "not known which backend runs"
    missing = "no rule for fp8_block without expert parallelism on sm_100" if arch else "the device's architecture"
    assert missing in found.reason
    assert found.notes == ("Backends that don't take the fused shared expert run E=256, top_k=8.",)


def test_of_scales_that_may_be_either_both_answers_are_given_where_they_differ(releases):
    unsaid = model(128, 2048, 4096, 4, "fp8_tensor")
    assert answer(unsaid, releases["sglang"], (1, 1)) == ("triton", True)
    found = serve(unsaid, releases["vllm"], 1, 1, H100, "sm_90")
    assert (found.backend, found.reads_tuned_files) == (None, None)
    assert "with static ones FLASHINFER_CUTLASS, reads no tuned files; with dynamic ones TRITON, reads" in found.reason


def test_its_words_name_both_sizes_and_the_lines_that_show_the_answer(releases):
    words = str(serve(QWEN_NEXT, releases["vllm"], 2, 2, H100, "sm_90")).splitlines()
    assert words[0].startswith("owner/model tp=2 ep=2, vllm ")
    assert words[3].startswith("source: vllm/model_executor/")
    unknown = str(serve(QWEN_30B, releases["vllm"], 1, 1, H100, None))
    assert unknown.startswith("owner/model tp=1, vllm ")
    assert "source: " not in unknown


@pytest.mark.parametrize(
    ("checkpoint", "dtype"),
    [(QWEN_30B, None), (QWEN_30B_FP8, "fp8_w8a8"), (KIMI_INT4, "int4_w4a16"), (GPT_OSS, "mxfp4")],
)
def test_16_bit_weights_alone_have_no_dtype(releases, checkpoint, dtype):
    assert serve(checkpoint, releases["vllm"], 1, 1, H100, "sm_90").dtype == dtype


def test_an_answer_has_its_reason_and_the_lines_that_show_it(releases):
    found = serve(DEEPSEEK_V3, releases["vllm"], 16, 1, H100, "sm_90")
    assert found.reason.startswith("On Hopper Triton goes to the front")
    assert {citation.symbol for citation in found.source} >= {"TRITON"}
    assert str(found.source[0]).startswith("vllm/model_executor/layers/fused_moe/oracle/fp8.py:")
    assert found.triton == "3.8.0"


NAMES = [
    (QWEN_30B, "vllm", 1, 1, "E=128,N=768.json", None),
    (QWEN_30B_FP8, "vllm", 2, 1, "E=128,N=384,dtype=fp8_w8a8,block_shape=[128,128].json", None),
    (QWEN_30B_FP8, "vllm", 4, 1, "E=128,N=192,dtype=fp8_w8a8,block_shape=[64,64].json", None),
    (QWEN_30B_FP8, "vllm", 8, 1, "E=128,N=96,dtype=fp8_w8a8,block_shape=[32,32].json", None),
    (DEEPSEEK_V3, "vllm", 16, 1, "E=256,N=128,dtype=fp8_w8a8,block_shape=[128,128].json", None),
    (DEEPSEEK_V3, "vllm", 8, 8, "E=32,N=2048,dtype=fp8_w8a8,block_shape=[128,128].json", None),
    (DEEPSEEK_V3, "vllm", 1, 8, "E=32,N=2048,dtype=fp8_w8a8,block_shape=[128,128].json", None),  # data parallel
    (DEEPSEEK_V3, "sglang", 16, 1, "E=257,N=128,dtype=fp8_w8a8,block_shape=[128,128].json",
     "E=257,N=128,dtype=fp8_w8a8,block_shape=[128, 128].json"),
    (DEEPSEEK_V3, "sglang", 8, 8, "E=32,N=2048,dtype=fp8_w8a8,block_shape=[128,128].json",
     "E=32,N=2048,dtype=fp8_w8a8,block_shape=[128, 128].json"),
    (DEEPSEEK_V3, "sglang", 16, 4, "E=64,N=512,dtype=fp8_w8a8,block_shape=[128,128].json",
     "E=64,N=512,dtype=fp8_w8a8,block_shape=[128, 128].json"),
    (QWEN_NEXT, "sglang", 4, 1, "E=513,N=128,dtype=fp8_w8a8,block_shape=[128,128].json",
     "E=513,N=128,dtype=fp8_w8a8,block_shape=[128, 128].json"),
    (QWEN_NEXT, "sglang", 4, 4, "E=129,N=512,dtype=fp8_w8a8,block_shape=[128,128].json",
     "E=129,N=512,dtype=fp8_w8a8,block_shape=[128, 128].json"),
    (QWEN_NEXT, "vllm", 4, 4, "E=128,N=512,dtype=fp8_w8a8,block_shape=[128,128].json", None),
    (GLM_45, "vllm", 8, 1, "E=160,N=192,dtype=fp8_w8a8.json", None),
    (GLM_45, "sglang", 8, 1, "E=161,N=192,dtype=fp8_w8a8,per_channel_quant=True.json", None),
    (KIMI_INT4, "vllm", 8, 1, "E=384,N=256,dtype=int4_w4a16.json", None),
    (KIMI_INT4, "sglang", 8, 1, "E=384,N=256,dtype=int4_w4a16.json", "E=384,N=128,dtype=int4_w4a16.json"),
    (model(128, 768, 2048, 8, "int8_channel"), "vllm", 1, 1, "E=128,N=768.json", None),
    (model(128, 768, 2048, 8, "int8_channel"), "sglang", 1, 1,
     "E=128,N=768,dtype=int8_w8a8,per_channel_quant=True.json", None),
    (model(288, 2048, 4096, 8, fused=1), "sglang", 8, 8, "E=36,N=2048.json", None),
    (model(288, 2048, 4096, 8, fused=1), "sglang", 8, 4, "E=72,N=1024.json", None),
]  # fmt: skip


@pytest.mark.parametrize(("checkpoint", "engine", "tp", "ep", "file", "engine_file"), NAMES)
def test_the_engine_asks_for_the_file(releases, checkpoint, engine, tp, ep, file, engine_file):
    found = serve(checkpoint, releases[engine], tp, ep, H100, "sm_90")
    device = ",device_name=NVIDIA_H100_80GB_HBM3"
    assert str(found.file).replace(device, "") == file
    assert str(found.engine_file).replace(device, "") == (engine_file or file)


@pytest.mark.parametrize("engine", ["vllm", "sglang"])
@pytest.mark.parametrize("kind", ["mxfp4", "mxfp8", "nvfp4"])
def test_a_dtype_of_another_kernel_has_no_file(releases, engine, kind):
    found = serve(model(128, 768, 2048, 8, kind), releases[engine], 1, 1, H100, "sm_90")
    assert (found.file, found.engine_file) == (None, None)
    assert f"file: none, since no tuned file has {kind} in its name" in str(found)


@pytest.mark.parametrize(
    ("engine", "reported", "written"),
    [
        ("vllm", "NVIDIA H200 NVL", "NVIDIA_H200"),
        ("sglang", "NVIDIA H200 NVL", "NVIDIA_H200_NVL"),
        ("vllm", "NVIDIA GH200 480GB", "NVIDIA_GH200_480GB"),
    ],
)
def test_only_vllm_folds_the_h200s(releases, engine, reported, written):
    found = serve(QWEN_30B, releases[engine], 1, 1, reported, "sm_90")
    assert found.device_name == written
    assert f"device_name={written}.json" in str(found.engine_file)


def test_a_fused_shared_expert_is_one_more_of_each_token_and_only_in_sglang(releases):
    ranks = [serve(DEEPSEEK_V3, releases[engine], 8, 1, H100, "sm_90") for engine in ("vllm", "sglang")]
    assert [(rank.E, rank.top_k, rank.fused_shared_experts) for rank in ranks] == [(256, 8, 0), (257, 9, 1)]


def test_where_the_backend_is_not_known_what_others_run_is_said_of_a_fused_expert(releases):
    known, unknown, plain = (
        serve(checkpoint, releases["sglang"], 8, 1, H100, arch).notes
        for checkpoint, arch in ((DEEPSEEK_V3, "sm_90"), (DEEPSEEK_V3, None), (QWEN_30B, None))
    )
    assert (known, plain) == ((), ())
    assert unknown == ("Backends that don't take the fused shared expert run E=256, top_k=8.",)


def test_a_rank_may_hold_a_single_expert(releases):
    assert serve(QWEN_30B, releases["vllm"], 1, 128, H100, "sm_90").E == 1


def test_experts_that_vllm_can_not_spread_evenly_make_two_files(releases):
    found = serve(model(60, 1408, 2048, 4), releases["vllm"], 8, 8, H100, "sm_90")
    assert (found.E, found.E_later) == (8, 7)
    assert str(found.file_later).startswith("E=7,N=1408,")
    assert found.notes == (
        f"8 ranks share 60 experts: ranks from 4 on hold 7 and ask for {found.file_later}.",
    )  # 4 x 8 + 4 x 7


@pytest.mark.parametrize(
    ("checkpoint", "engine", "tp", "ep", "message"),
    [
        (
            QWEN_30B,
            "vllm",
            5,
            1,
            "owner/model: N: expected a multiple of tp=5, found 768. Fix: choose a divisor of 768",
        ),
        (QWEN_30B, "vllm", 0, 1, "tp: expected at least 1, found 0. Fix: "),
        (QWEN_30B, "sglang", 4, -2, "ep: expected at least 1, found -2. Fix: "),
        (QWEN_30B, "vllm", 8, 2, r"ep: expected .* a multiple of tp=8, .*, found 2\. Fix: ep=8"),
        (QWEN_30B, "vllm", 1, 256, "ep: expected at most its 128 experts, found 256. Fix: use a smaller ep"),
        (QWEN_30B, "sglang", 4, 3, "ep: expected a divisor of tp=4, .*, found 3. Fix: choose tp a multiple of ep"),
        (QWEN_30B, "sglang", 2, 4, "ep: expected a divisor of tp=2, .*, found 4"),
        (model(60, 1408, 2048, 4), "sglang", 8, 8, "E: expected a multiple of ep=8, found 60. Fix: "),
        (QWEN_30B, "sglang", 10, 2, "N: expected a multiple of tp // ep=5, found 768"),
        (
            model(128, 768, 2048, 8, "fp8_block"),
            "vllm",
            16,
            1,
            r"N=48 .*\[128,128\].* to 16 only, under its least of 32",
        ),
        (model(8, 384, 256, 2, "fp8_block"), "sglang", 2, 1, "N=192 on a rank isn't a multiple of block_n=128"),
        (
            model(8, 14, 256, 2, "int4_w4a16"),
            "sglang",
            2,
            1,
            "N on a rank: expected a multiple of int4's values in a by",
        ),
        (model(8, 2**31, 256, 2), "vllm", 1, 1, "owner/model: N: expected an integer from 1 to 2147483647, found 214"),
    ],
)
def test_what_can_not_be_served_names_both_values_and_the_way_out(releases, checkpoint, engine, tp, ep, message):
    with pytest.raises(ServingError, match=message) as refused:
        serve(checkpoint, releases[engine], tp, ep, H100, "sm_90")
    assert "Fix: " in str(refused.value)


def test_block_k_binds_only_where_an_expert_is_split(releases):
    whole = Checkpoint("o/m", 8, 192, 256, 2, "fp8_w8a8", (64, 128))
    assert serve(whole, releases["sglang"], 1, 1, H100, "sm_90").block_shape == (64, 128)
    halved = Checkpoint("o/m", 8, 384, 256, 2, "fp8_w8a8", (64, 128))
    with pytest.raises(ServingError, match="N=192 on a rank isn't a multiple of block_k=128"):
        serve(halved, releases["sglang"], 2, 1, H100, "sm_90")
    assert serve(halved, releases["vllm"], 2, 1, H100, "sm_90").block_shape == (64, 64)


@pytest.mark.parametrize("engine", ["vllm", "sglang"])
def test_ranks_hold_all_experts_whole_among_them(engine):
    """Over every model of the table and every placement that the engine takes."""
    placements = 0
    for _, checkpoint, *_ in ON_HOPPER:
        for tp in (1, 2, 4, 8, 16):
            for ep in (1, 2, 3, 4, 8, 16):
                try:
                    rank = split(checkpoint, engine, tp, ep)
                except ServingError:
                    continue
                more = checkpoint.E % ep
                later = rank.E if rank.E_later is None else rank.E_later
                assert (more or ep) * rank.E + (ep - (more or ep)) * later == checkpoint.E
                assert rank.N * rank.slices == checkpoint.N
                placements += 1
    assert placements > 300


class TestOneCall:
    def test_a_registered_model_is_found_with_its_device_and_release(self):
        found = find_serving("qwen/qwen3-30b-a3b-fp8", "vllm", where(), device_name=H100, tp=4)
        assert isinstance(found, Serving)
        assert (found.model, found.arch, found.version) == ("Qwen/Qwen3-30B-A3B-FP8", "sm_90", "0.33.0")
        assert (found.backend, found.reads_tuned_files, found.block_shape) == ("TRITON", True, (64, 64))
        assert found.notes == ()

    def test_a_checkpoint_is_quantised_while_loading_as_asked(self):
        def of(**asked):
            return find_serving("Qwen/Qwen3-30B-A3B", "vllm", where(), device_name=H100, **asked)

        assert (of(dtype="fp8_w8a8").kind, of(dtype="fp8_w8a8").backend) == ("fp8_tensor_dynamic", "TRITON")
        assert of(dtype="fp8_w8a8", block_shape=(128, 128)).kind == "fp8_block"
        assert of(dtype="fp8_w8a8", per_channel_quant=True).backend == "VLLM_CUTLASS"
        assert of(dtype="bf16").file == of().file
        with pytest.raises(ServingError, match=r"block_shape .* found with bf16. Fix: leave them out, or name such"):
            of(block_shape=(128, 128))
        with pytest.raises(
            ServingError, match=r"dtype: expected one of bf16, .*, found 'fp8_w8'. Did you mean fp8_w8a8"
        ):
            of(dtype="fp8_w8")

    def test_a_release_that_is_not_known_is_answered_by_the_one_below_and_that_is_said(self):
        found = find_serving("Qwen/Qwen3-30B-A3B", "vllm", where(), device_name=H100, version="0.35.2")
        assert found.version == "0.33.0"
        assert found.notes == ("vllm 0.35.2 is not known here: 0.33.0 answers, the nearest release below it.",)

    def test_an_architecture_that_is_given_goes_before_the_registrys(self):
        found = find_serving("Qwen/Qwen3-30B-A3B", "vllm", where(), device_name="A new GPU", arch="sm_90")
        assert found.reads_tuned_files
        assert find_serving("Qwen/Qwen3-30B-A3B", "vllm", where(), device_name="A new GPU").backend is None

    def test_its_json_and_its_words_say_everything(self):
        found = find_serving("moonshotai/Kimi-K2-Thinking", "sglang", where(), device_name=H100, tp=8)
        document = json.loads(json.dumps(found.to_json()))
        assert document["source"][0].keys() == {"file", "line", "symbol"}
        assert document["engine_file"] == "E=384,N=128,device_name=NVIDIA_H100_80GB_HBM3,dtype=int4_w4a16.json"
        lines = str(found).splitlines()
        assert lines[0] == "moonshotai/Kimi-K2-Thinking tp=8, sglang 0.5.23 on NVIDIA_H100_80GB_HBM3"
        assert lines[1] == "on a rank: E=384, N=256, K=7168, top_k=8, int4_w4a16"
        assert lines[2].startswith("backend: marlin, reads no tuned files. ")
        assert lines[-1] == f"as sglang spells it: {found.engine_file}"

    @pytest.mark.parametrize("name", ["../x", "", "a,b"])
    def test_a_device_that_no_driver_reports_is_refused(self, name):
        with pytest.raises(ServingError, match=r"device_name: expected .* Fix: "):
            find_serving("Qwen/Qwen3-30B-A3B", "vllm", where(), device_name=name)

    def test_no_registry_is_an_error_that_names_it(self, tmp_path: Path):
        with pytest.raises(ValueError, match=r"models\.json: cannot be read"):
            find_serving("Qwen/Qwen3-30B-A3B", "vllm", tmp_path, device_name=H100)


def test_parallel_sizes_are_named_as_in_records() -> None:
    assert [parallel_text(8, ep) for ep in (1, 4)] == ["tp=8", "tp=8 ep=4"]
