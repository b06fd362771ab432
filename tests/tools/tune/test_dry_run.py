"""tune --dry-run: without a GPU, what each engine asks for, what tuning takes, and every mistake that can be known."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.builders import table
from tests.tools.registry.config_json_files import CASES, H100, written
from tools.checkout import CHECKOUT
from tools.registry.devices import load_devices
from tools.registry.models import load_models
from tools.store.files import canonical_config
from tools.tune import __main__ as command
from tools.tune import destination
from tools.tune.request import parse
from tools.tune.subject import make_subject

H200 = "NVIDIA_H200"
DEEPSEEK = ["--model", "deepseek-ai/DeepSeek-V3", "--tp", "8"]
QWEN = ["--model", "Qwen/Qwen3-30B-A3B"]
QWEN_FP8 = ["--model", "Qwen/Qwen3-30B-A3B-FP8"]
SIZES = ["--E", "8", "--N", "7168", "--K", "4096", "--top-k", "2"]


@pytest.fixture(autouse=True)
def no_gpu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """And an empty configs/."""
    monkeypatch.setattr(command, "find_gpu", lambda: None)
    monkeypatch.setattr(destination, "CONFIGS", tmp_path / "configs")


def dry_run(*arguments: object, device: str | None = H100) -> int:
    where = ["--device-name", device] if device else []
    return command.main([*map(str, arguments), "--dry-run", *where])


def rows(capsys: pytest.CaptureFixture[str], *arguments: object, device: str = H100) -> tuple[int, list[Any]]:
    code = dry_run(*arguments, "--format", "json", device=device)
    return code, json.loads(capsys.readouterr().out)["workloads"]


def test_each_engine_has_its_own_experts_name_and_reason(capsys: pytest.CaptureFixture[str]) -> None:
    code, (vllm, sglang) = rows(capsys, *DEEPSEEK, device=H200)
    assert code == 0
    name = f"N=256,device_name={H200},dtype=fp8_w8a8,block_shape="
    assert (vllm["engine"], vllm["file"]) == ("vllm", f"E=256,{name}[128,128].json")
    assert (sglang["engine"], sglang["file"]) == ("sglang", f"E=257,{name}[128, 128].json")
    assert sglang["store_file"] == f"E=257,{name}[128,128].json"
    for row, E, top_k in ((vllm, 256, 8), (sglang, 257, 9)):
        assert (row["E"], row["N"], row["K"], row["top_k"]) == (E, 256, 7168, top_k)
        assert (row["dtype"], row["block_shape"], row["per_channel_quant"]) == ("fp8_w8a8", [128, 128], False)
        assert row["read_by_default"] is True
        assert row["reason"]
        assert (row["gib_had"], row["launch_configs"]) == (141, 5 * row["kernels"])
    assert (vllm["is_tuned"], sglang["is_tuned"]) == (True, False)


def test_a_file_for_down_that_would_be_left_without_its_twin_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name = f"E=8,N=7168,device_name={H100}"
    for each in (f"{name}.json", f"{name}_down.json"):
        (tmp_path / each).write_bytes(canonical_config(table()))
    asked = [*SIZES, "--output", tmp_path]
    assert dry_run(*asked) == 1
    said = capsys.readouterr().out
    assert "  without --dry-run this is refused: " in said
    assert "this tunes" not in said
    assert dry_run(*asked, "--format", "json") == 1
    assert any("this is refused: " in note for note in json.loads(capsys.readouterr().out)["notes"])
    assert dry_run(*asked, "--separate-down") == 0
    assert "refused" not in capsys.readouterr().out


@pytest.mark.parametrize("ep", [1, 8])
def test_a_fused_shared_expert_is_on_every_rank_of_the_engine_that_fuses_it(
    ep: int, capsys: pytest.CaptureFixture[str]
) -> None:
    sizes = ["--E", 33, "--N", 1024, "--K", 4096, "--top-k", 9, "--fused-shared-experts", 1, "--ep", ep]
    assert dry_run(*sizes, "--format", "json") == 0
    found = json.loads(capsys.readouterr().out)
    (row,) = found["workloads"]
    assert (row["engine"], row["E"], row["top_k"], row["ep"], row["is_tuned"]) == ("sglang", 33, 9, ep, True)
    assert row["notes"] == []
    (refusal,) = found["notes"]
    assert refusal.startswith("vllm: vllm 0.33.0 fuses no shared experts: it runs E=32, top_k=8. Fix: leave ")


def test_an_engine_that_fuses_no_shared_expert_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert dry_run(*SIZES, "--fused-shared-experts", 1, "--engine", "vllm") == 2
    assert "tune: vllm 0.33.0 fuses no shared experts" in capsys.readouterr().err


def test_one_engine_is_asked_alone_and_tuned(capsys: pytest.CaptureFixture[str]) -> None:
    _, (row,) = rows(capsys, *DEEPSEEK, "--engine", "sglang", device=H200)
    assert (row["engine"], row["E"], row["is_tuned"]) == ("sglang", 257, True)
    request = parse([*DEEPSEEK, "--engine", "sglang"])
    subject = make_subject(request.sources[0], H200, load_models(), load_devices(), engine=request.engine)
    assert subject.workload.file_name() == row["store_file"]
    assert subject.shapes[0].models[0] == "deepseek-ai/DeepSeek-V3 tp=8 +1 shared"


@pytest.mark.parametrize("case", [case for case in CASES if "file" in case["expect"]], ids=lambda case: case["name"])
def test_a_config_json_that_is_read_is_named_as_the_case_says(
    case: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = written(tmp_path, case["config"], case.get("hf_quant_config"))
    code, found = rows(capsys, "--config-json", path)
    vllm = next(row for row in found if row["engine"] == "vllm")
    assert code in (0, 1)
    assert vllm["store_file"] == case["expect"]["file"]
    if "K" in case["expect"]:
        assert (vllm["K"], vllm["top_k"]) == (case["expect"]["K"], case["expect"]["top_k"])
    if "sglang_file" in case:
        (sglang,) = (row for row in found if row["engine"] == "sglang")
        assert sglang["store_file"] == case["sglang_file"]
        assert vllm["per_channel_quant"] is True


@pytest.mark.parametrize("given", ["--config-json <(cat {path})", "--config-json /dev/stdin < <(cat {path})"])
def test_a_config_json_comes_through_a_pipe(tmp_path: Path, given: str) -> None:
    """Which every engine's answer is of, though it can be read once."""
    path = written(tmp_path, next(case["config"] for case in CASES if "K" in case["expect"]))
    tune = f"{sys.executable} -m tools.tune --dry-run --device-name {H100} --tp 2 --model-id my/model --format json"
    tune += f" --output {tmp_path / 'out'}"  # what lies in configs/ is none of this test's
    command = ["bash", "-c", f"{tune} {given.format(path=path)}"]
    done = subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == subprocess.check_output(f"{tune} --config-json {path}".split(), cwd=CHECKOUT, text=True)


@pytest.mark.parametrize(
    ("sent", "found"),
    [(b"", "found an empty file"), (b"{", "not JSON"), (b"\xff", "text that is not UTF-8"), (b"[]", "found []")],
)
def test_what_comes_through_a_pipe_and_is_none_is_said_by_the_pipes_name(
    capfd: pytest.CaptureFixture[str], sent: bytes, found: str
) -> None:
    read, write = os.pipe()
    os.write(write, sent)
    os.close(write)
    try:
        assert dry_run("--config-json", f"/dev/fd/{read}") == 2
    finally:
        os.close(read)
    said = capfd.readouterr().err
    assert f"/dev/fd/{read}: expected " in said
    assert found in said


def test_a_pipe_that_nox_did_not_hand_on_is_said_with_one_that_it_does(capfd: pytest.CaptureFixture[str]) -> None:
    assert dry_run("--config-json", "/dev/fd/987") == 2
    said = capfd.readouterr().err
    assert "found none at /dev/fd/987: nox hands on the standard input alone" in said
    assert "--config-json /dev/stdin" in said


def test_the_candidates_are_those_that_the_tuner_tries(capsys: pytest.CaptureFixture[str]) -> None:
    _, (plain, _) = rows(capsys, *SIZES)
    _, (blocks, _) = rows(capsys, *SIZES, "--dtype", "fp8_w8a8", "--block-shape", "128,128")
    assert (plain["kernels"], blocks["kernels"]) == (326, 152)
    _, (little, _) = rows(capsys, *SIZES, device="NVIDIA_L4")
    assert little["kernels"] < plain["kernels"]  # less shared memory


def test_memory_is_that_of_the_largest_batch_and_of_every_shape(capsys: pytest.CaptureFixture[str]) -> None:
    def gib(*flags: object) -> float:
        return float(rows(capsys, "--E", 256, "--N", 512, "--K", 7168, "--top-k", 8, *flags)[1][0]["gib"])

    assert gib() < gib("--num-tokens", 65536)
    code, (row, _) = rows(capsys, *QWEN_FP8, "--tp", 2, "--all-shapes")
    assert [(shape["K"], shape["top_k"]) for shape in row["shapes"]] == [(2048, 8), (4096, 8)]
    assert code == 0


@pytest.mark.parametrize(
    ("flags", "code", "read"),
    [
        ([*QWEN, "--tp", "1"], 0, [True, True]),
        ([*QWEN_FP8, "--tp", "4", "--ep", "4"], 0, [False, True]),
        ([*QWEN_FP8, "--tp", "4", "--ep", "4", "--engine", "vllm"], 1, [False]),
        ([*SIZES, "--dtype", "fp8_w8a8", "--per-channel-quant"], 0, [False, True]),
        (["--E", "512", "--N", "4096", "--K", "8192", "--top-k", "8"], 1, [True, True]),  # 96 GiB of weights
    ],
)
def test_one_where_no_engine_reads_it_or_it_does_not_fit(
    flags: list[str], code: int, read: list[bool], capsys: pytest.CaptureFixture[str]
) -> None:
    ended, found = rows(capsys, *flags)
    assert (ended, [row["read_by_default"] for row in found]) == (code, read)


def test_an_engine_that_does_not_run_it_so_is_said_beside_the_other(capsys: pytest.CaptureFixture[str]) -> None:
    assert dry_run(*QWEN, "--tp", "4", "--ep", "2", "--format", "json") == 0
    document = json.loads(capsys.readouterr().out)
    assert [row["engine"] for row in document["workloads"]] == ["sglang"]
    (note,) = document["notes"]
    assert note.startswith("vllm: ep: expected tensor times data parallel size")


def test_every_line_of_a_list_is_answered(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = ["Qwen/Qwen3-30B-A3B tp=1", "mistralai/Mixtral-8x7B-v0.1 tp=2 dtype=fp8_w8a8", ""]
    (tmp_path / "list").write_text("\n".join(lines), "utf-8")
    code, found = rows(capsys, "--workloads", tmp_path / "list")
    assert code == 0
    assert [(row["engine"], row["E"], row["N"], row["dtype"]) for row in found] == [
        ("vllm", 128, 768, None),
        ("sglang", 128, 768, None),
        ("vllm", 8, 7168, "fp8_w8a8"),
        ("sglang", 8, 7168, "fp8_w8a8"),
    ]


def test_it_reads_well(capsys: pytest.CaptureFixture[str]) -> None:
    assert dry_run(*DEEPSEEK, device="NVIDIA H200") == 0
    lines = capsys.readouterr().out.splitlines()
    name = f"N=256,device_name={H200},dtype=fp8_w8a8,block_shape="
    assert lines[0] == f"dry run for {H200}: nothing is measured or written"
    assert lines[2:5] == [
        "deepseek-ai/DeepSeek-V3 tp=8",
        f"  vllm 0.33.0: E=256,{name}[128,128].json",
        "    on rank: E=256, N=256, K=7168, top_k=8, fp8_w8a8, scales of blocks of 128 x 128",
    ]
    assert f"    here:    E=257,{name}[128,128].json" in lines
    assert lines[-2:] == [
        f"  without --dry-run this tunes E=256,{name}[128,128].json",
        "  with --engine sglang instead, sglang's file",
    ]


@pytest.mark.parametrize(
    ("engine", "scales", "name"),
    [
        ("vllm", ["fp8_w8a8", "--per-channel-quant"], "dtype=fp8_w8a8"),
        ("sglang", ["fp8_w8a8", "--per-channel-quant"], "dtype=fp8_w8a8,per_channel_quant=True"),
        ("sglang", ["int8_w8a8"], "dtype=int8_w8a8,per_channel_quant=True"),
        ("sglang", ["fp8_w8a8", "--block-shape", "128,128"], "dtype=fp8_w8a8,block_shape=[128,128]"),
        ("sglang", ["bf16", "--ep", "4"], ""),
    ],
)
def test_sizes_make_the_file_of_the_engine_that_is_named_as_the_dry_run_says(
    engine: str, scales: list[str], name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [*SIZES, "--dtype", *scales, "--engine", engine]
    _, (row,) = rows(capsys, *arguments)
    file = f"E=8,N=7168,device_name={H100}{name and ',' + name}.json"
    assert (row["store_file"], row["is_tuned"]) == (file, True)
    request = parse(arguments)
    subject = make_subject(request.sources[0], H100, load_models(), load_devices(), engine=request.engine)
    assert subject.workload.file_name() == file
    (named,) = subject.shapes
    assert named.shape == request.sources[0].shape


def test_of_sizes_alone_the_other_engines_file_is_a_flag_away(capsys: pytest.CaptureFixture[str]) -> None:
    dry_run(*SIZES, "--dtype", "fp8_w8a8", "--per-channel-quant")
    assert capsys.readouterr().out.splitlines()[-2:] == [
        f"  without --dry-run this tunes E=8,N=7168,device_name={H100},dtype=fp8_w8a8,per_channel_quant=True.json",
        "  with --engine vllm instead, vllm's file",
    ]


@pytest.mark.parametrize(
    ("placement", "title"),
    [
        ([], "E=8, N=7168, K=4096, top_k=2"),
        (["--ep", "8"], "E=8, N=7168, K=4096, top_k=2, ep=8"),
        (["--fused-shared-experts", "1", "--ep", "2"], "E=8, N=7168, K=4096, top_k=2, 1 of them shared, ep=2"),
    ],
)
def test_sizes_are_shown_with_the_placement_that_was_given(
    placement: list[str], title: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert dry_run(*SIZES, *placement) == 0
    assert capsys.readouterr().out.splitlines()[2] == title


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--model", "Qwen/Qwen3-30B"], "Did you mean Qwen/Qwen3-30B-A3B"),
        ([*QWEN, "--tp", "7"], "N: expected a multiple of tp=7, found 768. Fix: choose a divisor of 768"),
        ([*QWEN, "--dtype", "fp7"], "--dtype: expected one of bf16"),
        (["--model", "openai/gpt-oss-20b"], "mxfp4 experts run another kernel"),
        ([*QWEN, "--output", __file__], "--output: expected a folder that holds tiers"),
        ([*QWEN, "--tp", "4", "--ep", "2", "--engine", "vllm"], "ep: expected tensor times data parallel size"),
        (["--E", "2", *SIZES[2:-1], "3", "--engine", "vllm"], "top_k: expected at most E=2"),
        ([*SIZES, "--dtype", "int8_w8a8", "--engine", "vllm"], "expected a dtype that vllm has tuned files for"),
        ([*SIZES, "--fused-shared-experts", "1", "--engine", "vllm"], "vllm 0.33.0 fuses no shared experts"),
    ],
)
def test_a_mistake_shows_here_as_in_a_real_run(
    arguments: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert dry_run(*arguments) == 2
    printed = capsys.readouterr()
    assert told in printed.err
    assert (printed.out, printed.err.count("\n")) == ("", 1)
    assert command.main(arguments) == 2
    assert capsys.readouterr().err == printed.err


def test_a_gpu_of_another_name_may_be_meant(capsys: pytest.CaptureFixture[str]) -> None:
    assert dry_run(*QWEN, device="h100") == 2
    meant = capsys.readouterr().err.partition("Did you mean ")[2].replace(",", "").split()
    assert H100 in meant[:3]


def test_without_a_gpu_its_name_is_asked_for_and_with_one_it_is_the_default(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert dry_run(*QWEN, device=None) == 2
    fix = capsys.readouterr().err.rpartition("such as ")[2].rstrip(".\n").split()
    assert fix == ["--device-name", H100]
    assert command.main([*QWEN, "--dry-run", *fix]) == 0
    monkeypatch.setattr(command, "find_gpu", lambda: "NVIDIA H200")
    assert dry_run(*QWEN, device=None) == 0
    assert f"device_name={H200}.json" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ([*QWEN, "--device-name", H100], "--device-name: expected with --dry-run, found it alone"),
        (["--replay", "a.gz", "--dry-run"], "--dry-run: expected with --model or"),
        (["--workloads", "f", "--ray", "auto", "--dry-run"], "--dry-run: expected without --ray, found both"),
    ],
)
def test_a_flag_that_would_change_nothing_is_refused(
    arguments: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command.main(arguments) == 2
    assert capsys.readouterr().err.startswith(f"tune: {told}")
