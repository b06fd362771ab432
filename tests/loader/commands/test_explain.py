"""fused-moe-configs explain: what comes near is named where nothing serves."""

from __future__ import annotations

import pytest

import fused_moe_configs
from fused_moe_configs.cli import main
from tests.loader.conftest import H100


def explained(capsys, *arguments: str):
    fused_moe_configs.cache_clear()
    code = main(["explain", *arguments, "--triton-version", "3.8.0"])
    return code, capsys.readouterr().out.splitlines()


def test_a_near_miss_follows_the_places_that_were_looked_at(store, capsys):
    store.add(f"E=8,N=7168,device_name={H100}.json")
    code, lines = explained(capsys, "8", "7168", "--device-name", "H100")
    assert code == 1
    assert lines[-3].startswith("No tier has a file for H100")
    assert lines[-2] == f"H100: did you mean {H100} or NVIDIA_H100_OEM?"
    assert lines[-1] == f"E=8,N=7168 for bf16 and fp16 is here for {H100}"


def test_nothing_is_near_where_a_file_serves(store, capsys):
    store.add(f"E=8,N=7168,device_name={H100}.json")
    store.add("E=8,N=7168,device_name=NVIDIA_H200.json")
    code, lines = explained(capsys, "8", "7168", "--device-name", H100)
    assert code == 0
    assert lines[-1].startswith("Served by the default tier")


def test_the_answer_that_is_offered_answers(store, capsys):
    """What «did you mean» names, typed as it stands, finds the file."""
    store.add(f"E=8,N=7168,device_name={H100}.json")
    _, lines = explained(capsys, "8", "7168", "--device-name", "H100")
    meant = lines[-2].removeprefix("H100: did you mean ").partition(" or ")[0]
    assert explained(capsys, "8", "7168", "--device-name", meant)[0] == 0


@pytest.mark.parametrize("size", ["x", "8_0", "٨", "8.0", "", "9" * 5000, "0x8", "+8"])
def test_a_size_is_written_with_digits_alone(store, capsys, size):
    assert main(["explain", size, "1", "--device-name", "D"]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert "expected an integer such as 8, found " in error
    assert len(error) < 250


@pytest.mark.parametrize("size", ["0", "-1", "2147483648"])
def test_a_size_that_none_can_be_says_what_it_may_be(store, capsys, size):
    assert main(["explain", size, "1", "--device-name", "D"]) == 2
    wish = f"error: E: expected an integer from 1 to 2147483647, found {size}"
    assert capsys.readouterr().err == f"{wish}. Fix: correct it; `fused-moe-configs explain --help` helps\n"


def test_a_model_is_explained_from_its_shape_to_the_places(store, capsys):
    path = store.add(f"E=128,N=768,device_name={H100}.json")
    model = ["--model", "Qwen/Qwen3-30B-A3B", "--tp", "1", "--engine", "sglang", "--device-name", H100]
    code, lines = explained(capsys, *model)
    assert code == 0
    assert lines[0] == f"Qwen/Qwen3-30B-A3B tp=1, sglang 0.5.23 on {H100}"
    assert lines[1] == "on a rank: E=128, N=768, K=2048, top_k=8, bf16"
    assert f"  found  {path}" in lines
    assert lines[-1].startswith("Served by the default tier")


def test_a_models_name_is_in_the_engines_spelling(store, capsys):
    model = ["--model", "deepseek-ai/DeepSeek-V3", "--tp", "8", "--device-name", "NVIDIA_H200"]
    code, lines = explained(capsys, *model, "--engine", "sglang")
    assert code == 1
    rest = "N=256,device_name=NVIDIA_H200,dtype=fp8_w8a8,block_shape="
    assert f"as sglang spells it: E=257,{rest}[128, 128].json" in lines
    _, lines = explained(capsys, *model)
    assert f"file: E=256,{rest}[128,128].json" in lines


def test_a_model_that_no_tuned_file_can_serve_has_no_places(store, capsys):
    code, lines = explained(capsys, "--model", "openai/gpt-oss-20b", "--device-name", H100)
    assert code == 1
    assert lines[-1] == "file: none, since no tuned file has mxfp4 in its name"


def test_the_model_that_is_offered_is_one(store, capsys):
    assert main(["explain", "--model", "qwen3-30b", "--device-name", H100]) == 2
    error = capsys.readouterr().err
    meant = error.partition("Did you mean ")[2].split(",")[0]
    assert main(["explain", "--model", meant, "--device-name", H100]) == 1
    assert f"{meant} tp=1, vllm 0.33.0" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [([], "the workload: expected E and N, or --model, found neither"),
     (["8"], "the workload: expected E and N, or --model, found neither"),
     (["8", "1", "--model", "a/B"], "the workload: expected E and N, or --model, found both"),
     (["8", "1", "--tp", "2"], "--tp: expected it beside --model, found it alone"),
     (["8", "1", "--engine", "vllm"], "--engine: expected it beside --model, found it alone"),
     (["--model", "Qwen/Qwen3-30B-A3B", "--tp", "0"], "tp: expected at least 1, found 0")],
)  # fmt: skip
def test_a_workload_is_named_once_and_wholly(store, capsys, arguments, said):
    assert main(["explain", *arguments, "--device-name", H100]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: {said}")
    assert (error.count("\n"), error.count("Fix: ")) == (1, 1)
