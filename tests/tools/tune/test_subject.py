"""From what a person names to what is tuned, and one line with the way out for what can't be."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kernels.problem import QuantMode
from tools.registry.devices import Target, load_devices
from tools.registry.models import load_models
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
    read_config_json,
)

H100 = "NVIDIA H100 80GB HBM3"
MIXTRAL = "mistralai/Mixtral-8x7B-v0.1"
CONFIG_JSON = {"num_local_experts": 8, "intermediate_size": 14336, "hidden_size": 4096, "num_experts_per_tok": 2}


Make = Callable[..., Subject]


@pytest.fixture(scope="module")
def make() -> Make:
    """The subject of a source, on an H100 unless a device is named, by this repository's registries."""
    models, devices = load_models(), load_devices()

    def make(source: Source, device_name: str = H100, *, all_shapes: bool = False) -> Subject:
        return make_subject(source, device_name, models, devices, all_shapes=all_shapes)

    return make


def config_json(folder: Path, document: Any) -> Path:
    path = folder / "a-model" / "config.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(document), "utf-8")
    return path


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
            ModelSource(MIXTRAL, Parallel(2), "fp16"),
            "E=8,N=7168,device_name=NVIDIA_H100_80GB_HBM3.json",
            Shape(4096, 2),
            QuantMode(None, "fp16"),
        ),
        (
            ModelSource(MIXTRAL, Parallel(4, 4), "fp8_w8a8"),
            "E=2,N=14336,device_name=NVIDIA_H100_80GB_HBM3,dtype=fp8_w8a8.json",
            Shape(4096, 2),
            QuantMode("fp8_w8a8"),
        ),
        (
            ModelSource(MIXTRAL, Parallel(2), "int8_w8a16"),
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
            SizesSource(64, 1408, 2048, 6, "fp8_w8a8", None, per_channel_quant=True),
            "E=64,N=1408,device_name=NVIDIA_H100_80GB_HBM3,dtype=fp8_w8a8,per_channel_quant=True.json",
            Shape(2048, 6),
            QuantMode("fp8_w8a8", per_channel=True),
        ),
        (
            SizesSource(64, 1408, 2048, 6, "int8_w8a8"),
            "E=64,N=1408,device_name=NVIDIA_H100_80GB_HBM3,dtype=int8_w8a8.json",
            Shape(2048, 6),
            QuantMode("int8_w8a8", per_channel=True),
        ),
        (
            SizesSource(64, 1408, 2048, 6, "int8_w8a16", None, per_channel_quant=True),  # no name of its own
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


def test_all_shapes_are_those_behind_the_name_the_one_asked_for_first(make: Make) -> None:
    source = ModelSource("deepseek-ai/DeepSeek-V3", Parallel(16))
    first, *others = make(source, all_shapes=True).shapes
    assert first.shape == Shape(7168, 8)
    assert Shape(2048, 8) in [named.shape for named in others]
    assert len({named.shape for named in others} | {first.shape}) == len(others) + 1


# ---------------------------------------------------------------
# A checkpoint's config.json


@pytest.mark.parametrize(
    ("document", "quant"),
    [
        (CONFIG_JSON, QuantMode()),
        ({**CONFIG_JSON, "torch_dtype": "float16"}, QuantMode(None, "fp16")),
        ({**CONFIG_JSON, "dtype": "float16"}, QuantMode(None, "fp16")),
        ({"text_config": {**CONFIG_JSON, "torch_dtype": "float16"}, "hidden_size": 1}, QuantMode(None, "fp16")),
        ({**CONFIG_JSON, "moe_intermediate_size": 14336, "intermediate_size": 5}, QuantMode()),
        ({**CONFIG_JSON, "quantization_config": {"quant_method": "fp8"}}, QuantMode("fp8_w8a8")),
        (
            {**CONFIG_JSON, "quantization_config": {"quant_method": "fp8", "weight_block_size": [128, 128]}},
            QuantMode("fp8_w8a8", block_shape=(128, 128)),
        ),
    ],
    ids=[
        "bf16",
        "fp16",
        "as Transformers 5",
        "of several modalities",
        "experts of a width of their own",
        "fp8",
        "blocks",
    ],
)
def test_a_config_json_is_read(document: Any, quant: QuantMode, make: Make, tmp_path: Path) -> None:
    source = ConfigJsonSource(config_json(tmp_path, document), Parallel(2))
    subject = make(source)
    assert (subject.workload.E, subject.workload.N, subject.shapes[0].shape) == (8, 7168, Shape(4096, 2))
    assert subject.shapes[0].models == ("a-model tp=2", f"{MIXTRAL} tp=2", "ai21labs/AI21-Jamba-Mini-1.5 tp=4 ep=2")
    assert subject.quant == quant


def test_a_named_dtype_helps_where_the_checkpoints_own_is_unknown(make: Make, tmp_path: Path) -> None:
    path = config_json(tmp_path, {**CONFIG_JSON, "quantization_config": {"quant_method": "awq"}})
    with pytest.raises(SubjectError, match=r"expected fp8 .* 'awq'.* Fix: name the dtype: --dtype, or give the sizes"):
        make(ConfigJsonSource(path))
    assert make(ConfigJsonSource(path, dtype="fp8_w8a8")).quant == QuantMode("fp8_w8a8")


@pytest.mark.parametrize(
    ("document", "told"),
    [
        ([], "expected an object, found list"),
        (
            {"hidden_size": 4096, "intermediate_size": 11008},
            r"found no E \(num_local_experts or .*\), no top_k .*--E --N",
        ),
        ({**CONFIG_JSON, "num_local_experts": True}, "found no E"),
        ({**CONFIG_JSON, "hidden_size": 0}, "found no K"),
        (
            {**CONFIG_JSON, "num_local_experts": 10**12},
            "E: expected an integer from 1 to 2147483647, found 1000000000000",
        ),
        ({**CONFIG_JSON, "num_experts_per_tok": 9}, "top_k: expected at most E=8, the experts of a rank, found 9"),
        (
            {**CONFIG_JSON, "quantization_config": {"quant_method": "fp8", "weight_block_size": [0, 128]}},
            r"weight_block_size \[n,k\], found .*\[0, 128\]",
        ),
    ],
    ids=["no object", "dense", "a flag for a number", "zero", "too large", "more chosen than there are", "zero blocks"],
)
def test_a_config_json_that_cannot_be_used(document: Any, told: str, make: Make, tmp_path: Path) -> None:
    with pytest.raises(SubjectError, match=told):
        make(ConfigJsonSource(config_json(tmp_path, document)))


@pytest.mark.parametrize("data", [None, b"{", b"\xff", b'{"a":' * 50_000], ids=["missing", "torn", "binary", "deep"])
def test_a_file_that_is_no_config_json_is_named(data: bytes | None, make: Make, tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    if data is not None:
        path.write_bytes(data)
    with pytest.raises(SubjectError, match=r"config\.json: expected a model's config\.json, found: ") as refused:
        make(ConfigJsonSource(path))
    assert str(refused.value).isprintable()


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
        (ModelSource(MIXTRAL, Parallel(8, 8)), "top_k: expected at most E=1, the experts of a rank, found 2"),
        (ModelSource("deepseek-ai/DeepSeek-V3", Parallel(128)), "under its least of 32. Fix: use a smaller tp"),
        (ModelSource("openai/gpt-oss-120b"), "expected a dtype that vllm has tuned files for .*found mxfp4"),
        (ModelSource("moonshotai/Kimi-K2-Thinking", Parallel(8)), "found 'int4_w4a16'. Fix: .*the engine's own tool"),
        (ModelSource(MIXTRAL, dtype="fp8_w8a16"), "found 'fp8_w8a16'. Fix: tune it with the engine's own tool"),
        (ModelSource(MIXTRAL, dtype="bf61"), "found 'bf61'. Did you mean bf16. Fix: name one"),
        (ModelSource("nvidia/NVIDIA-Nemotron-3-Nano-30B-A3B-BF16"), "expected gated experts, found a model without"),
        (SizesSource(0, 7168, 4096, 2), "E: expected from 1 to 2147483647, found 0"),
        (SizesSource(8, -1, 4096, 2), "N: expected from 1 to 2147483647, found -1"),
        (SizesSource(8, 7168, 1 << 31, 2), "K: expected from 1 to 2147483647, found 2147483648"),
        (SizesSource(8, 7168, 4096, 0), "top_k: expected from 1 to 2147483647, found 0"),
        (SizesSource(8, 7168, 4096, 9), "top_k: expected at most E=8, the experts of a rank, found 9"),
        (SizesSource(8, 7168, 4096, 2, "mxfp4"), "found 'mxfp4'. Fix: tune it with the engine's own tool"),
        (SizesSource(8, 7168, 4096, 2, "float32"), "found 'float32'"),
        (
            SizesSource(8, 7168, 4096, 2, None, (128, 128)),
            "block_shape: expected fp8_w8a8 or int8_w8a8 .*leave block_shape",
        ),
        (SizesSource(8, 7168, 4096, 2, "fp8_w8a8", (128, 128), True), "without per_channel, found .*True"),
        (SizesSource(8, 7168, 4096, 2, None, None, True), "expected False for 16-bit weights, found True"),
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
        ("NVIDIA GeForce RTX 9999", "found 'NVIDIA GeForce RTX 9999'. Fix: add \"NVIDIA_GeForce_RTX_9999\" there"),
        ("Intel(R) Arc(TM) Pro B60 Graphics", "without architecture or shared memory"),
        ("", "found ''"),
        ("a\x1b[31mb", r"found 'a\\x1b\[31mb'"),
    ],
)
def test_an_unknown_gpu_is_named_as_the_registry_would_have_it(device_name: str, told: str, make: Make) -> None:
    with pytest.raises(SubjectError, match=rf"^GPU: expected one of configs/registry/devices\.json, .*{told}"):
        make(ModelSource(MIXTRAL), device_name)


def test_a_pipe_is_no_config_json(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(SubjectError, match=r"pipe: expected a model's config\.json, found: Not a regular file"):
        read_config_json(tmp_path / "pipe")
