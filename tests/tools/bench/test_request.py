"""The command line: what is asked for, and one line for what can't be."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from kernels.problem import QuantMode
from tools.bench.request import BATCH_SIZES, RequestError, parse, read_workload
from tools.checkout import CHECKOUT
from tools.registry.models import load_models

GOOD = ["--kernel", "vllm=a/fused_moe.py", "--workload", "Qwen/Qwen3-30B-A3B tp=1"]


def test_defaults() -> None:
    request = parse(GOOD)
    assert (request.engine, request.engine_path) == ("vllm", Path("a/fused_moe.py"))
    assert request.batch_sizes == BATCH_SIZES
    assert (request.launch_configs, request.output) == (60, Path("docs/measurements"))


def test_batch_sizes_are_sorted_and_measured_once() -> None:
    assert parse([*GOOD, "--num-tokens", "64", "1", "64"]).batch_sizes == (1, 64)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--kernel", "fused_moe.py"], "--kernel: expected vllm=PATH/fused_moe.py, found 'fused_moe.py'"),
        (["--num-tokens", "0"], "--num-tokens: expected from 1 to 65536, found 0"),
        (["--num-tokens", "65537"], "found 65537"),
        (["--jobs", "0"], "--jobs: expected from 1 to 1024, found 0"),
        (["--launch-configs", "-1"], "--launch-configs: expected from 1 to 10000, found -1"),
    ],
)
def test_bad_values_are_refused_by_name(arguments: list[str], message: str) -> None:
    with pytest.raises(RequestError, match=message):
        parse([*GOOD, *arguments])


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
    with pytest.raises(RequestError, match=message):
        read_workload(text, load_models(), "NVIDIA H100 80GB HBM3")


def test_an_empty_output_is_not_the_working_directory() -> None:
    with pytest.raises(SystemExit) as end:
        parse([*GOOD, "--output", ""])
    assert end.value.code == 2


def test_a_folder_that_cannot_take_the_report_shows_before_a_gpu_is_looked_for() -> None:
    command = [sys.executable, "-m", "tools.bench", *GOOD, "--output", __file__]
    done = subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("bench: --output: expected a folder that can be written, found ")


def test_the_command_ends_with_two_and_one_line() -> None:
    command = [sys.executable, "-m", "tools.bench", *GOOD, "--num-tokens", "0"]
    done = subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "bench: --num-tokens: expected from 1 to 65536, found 0.\n"


def test_the_edge_imports_no_torch_triton_or_schema_validator() -> None:
    code = (
        "import sys, tools.bench.request, tools.bench.compare_kernels\n"
        "print({'torch', 'triton', 'jsonschema_rs'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=CHECKOUT, capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"
