"""The command line: what is asked for, and one line for what can't be."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from tools.checkout import CHECKOUT
from tools.errors import UserError
from tools.registry.models import Asked
from tools.store import schemas
from tools.tune.policy import Budget
from tools.tune.request import (
    DEFAULT_BATCH_SIZES,
    AskedRouting,
    DownKernel,
    Effort,
    Files,
    arguments_of,
    arguments_of_effort,
    parse,
    read_workloads,
)
from tools.tune.subject import ConfigJsonSource, ModelSource, Parallel, SizesSource, Source

MODEL = ["--model", "mistralai/Mixtral-8x7B-v0.1"]
SIZES = ["--E", "8", "--N", "7168", "--K", "4096", "--top-k", "2"]


def test_a_model_is_all_it_takes() -> None:
    request = parse(MODEL)
    assert request.sources == (ModelSource("mistralai/Mixtral-8x7B-v0.1"),)
    assert request.batch_sizes == DEFAULT_BATCH_SIZES
    assert (request.files, request.effort) == (Files(), Effort())
    assert (request.recorded, request.separate_down, request.all_shapes, request.as_json) == (None, False, False, False)
    assert not request.is_partial


def test_the_usual_time_is_the_policys() -> None:
    assert Effort().time_budget_s == Budget().total_s


@pytest.mark.parametrize(
    ("arguments", "source"),
    [
        (
            [*MODEL, "--tp", "4", "--ep", "2", "--dtype", "fp8_w8a8"],
            ModelSource("mistralai/Mixtral-8x7B-v0.1", Parallel(4, 2), Asked("fp8_w8a8")),
        ),
        (["--config-json", "a/config.json", "--tp", "2"], ConfigJsonSource(Path("a/config.json"), Parallel(2))),
        (SIZES, SizesSource(8, 7168, 4096, 2)),
        (
            [*SIZES, "--dtype", "fp8_w8a8", "--block-shape", "128,64"],
            SizesSource(8, 7168, 4096, 2, Asked("fp8_w8a8", (128, 64))),
        ),
        ([*SIZES, "--ep", "4"], SizesSource(8, 7168, 4096, 2, ep=4)),
        ([*SIZES, "--fused-shared-experts", "1"], SizesSource(8, 7168, 4096, 2, fused_shared_experts=1)),
        ([*SIZES, "--block-shape", "[128, 64]"], SizesSource(8, 7168, 4096, 2, Asked(None, (128, 64)))),
        ([*SIZES, "--per-channel-quant"], SizesSource(8, 7168, 4096, 2, Asked(per_channel_quant=True))),
        (
            [*MODEL, "--block-shape", "128,128", "--dtype", "fp8_w8a8"],
            ModelSource("mistralai/Mixtral-8x7B-v0.1", asked=Asked("fp8_w8a8", (128, 128))),
        ),
        (
            ["--config-json", "a/config.json", "--per-channel-quant", "--model-id", "a/A"],
            ConfigJsonSource(Path("a/config.json"), asked=Asked(per_channel_quant=True), model_id="a/A"),
        ),
    ],
)
def test_four_ways_to_name_a_workload(arguments: list[str], source: Source) -> None:
    assert parse(arguments).sources == (source,)


def test_a_replay_brings_its_workload_along() -> None:
    request = parse(["--replay", "a.jsonl.gz", "--output", "out", "--format", "json"])
    assert request.sources == ()
    assert request.files == Files(output=Path("out"), replay=Path("a.jsonl.gz"))
    assert request.as_json


def test_batch_sizes_are_sorted_and_tuned_once() -> None:
    request = parse([*MODEL, "--num-tokens", "64", "--num-tokens", "1", "64"])
    assert request.batch_sizes == (1, 64)
    assert request.is_partial


def test_more_than_the_usual_batch_sizes_make_a_whole_file() -> None:
    assert not parse([*MODEL, "--num-tokens", *map(str, (*DEFAULT_BATCH_SIZES, 32768))]).is_partial


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ([], "the workload: expected one of --model, .*, --replay, found none of them"),
        ([*MODEL, *SIZES], "found --model and --E --N --K --top-k"),
        ([*MODEL, "--replay", "a.gz"], "found --model and --replay"),
        (SIZES[:-2], "sizes: expected all of --E --N --K --top-k, found no --top-k"),
        (["--E", "8"], "found no --N --K --top-k"),
        ([*MODEL, "--num-tokens", "0"], "--num-tokens: expected from 1 to 65536, found 0"),
        ([*MODEL, "--num-tokens", "1", "65537"], "--num-tokens: expected from 1 to 65536, found 65537"),
        ([*MODEL, "--time-budget", "0.5"], "--time-budget: expected from 1 to 604800, found 0.5"),
        ([*MODEL, "--time-budget", "nan"], "--time-budget: .* found nan"),
        ([*MODEL, "--jobs", "0"], "--jobs: expected from 1 to 1024, found 0"),
        ([*MODEL, "--jobs", "-1"], "--jobs: expected from 1 to 1024, found -1"),
        ([*MODEL, "--tp", "0"], "--tp: expected from 1 to 4096, found 0"),
        ([*MODEL, "--ep", "5000"], "--ep: expected from 1 to 4096, found 5000"),
        (["--config-json", "a", "--model-id", "Qwen3"], "--model-id: expected owner/name .*, found 'Qwen3'"),
        (["--config-json", "a", "--model-id", "a/b\nc"], r"found 'a/b\\nc'"),
        ([*MODEL, "--ray", "auto"], "--ray: expected with --workloads, found with --model"),
    ],
)
def test_bad_values_are_refused_by_name(arguments: list[str], told: str) -> None:
    with pytest.raises(UserError, match=told):
        parse(arguments)


@pytest.mark.parametrize(
    ("arguments", "flag"),
    [
        ([*SIZES, "--tp", "2"], "--tp"),
        (["--replay", "a.gz", "--ep", "2"], "--ep"),
        ([*MODEL, "--fused-shared-experts", "1"], "--fused-shared-experts"),
        ([*MODEL, "--fused-shared-experts", "0"], "--fused-shared-experts"),
        ([*MODEL, "--model-id", "a/A"], "--model-id"),
        (["--workloads", "w.txt", "--block-shape", "128,128"], "--block-shape"),
        (["--replay", "a.gz", "--per-channel-quant"], "--per-channel-quant"),
        (["--workloads", "w.txt", "--dtype", "fp8_w8a8"], "--dtype"),
        (["--replay", "a.gz", "--tp", "2"], "--tp"),
        (["--replay", "a.gz", "--resume"], "--resume"),
        (["--replay", "a.gz", "--record-landscape", "b.gz"], "--record-landscape"),
        (["--replay", "a.gz", "--routing", "ids.npy"], "--routing"),
        (["--replay", "a.gz", "--all-shapes"], "--all-shapes"),
        (["--replay", "a.gz", "--force-version-file"], "--force-version-file"),
        ([*MODEL, "--exhaustive", "--time-budget", "10"], "--time-budget"),
        (["--workloads", "w.txt", "--ray", "auto", "--resume"], "--resume"),
        (["--workloads", "w.txt", "--ray", "auto", "--jobs", "4"], "--jobs"),
        (["--workloads", "w.txt", "--ray", "auto", "--format", "json"], "--format"),
    ],
)
def test_a_flag_that_would_change_nothing_is_refused(arguments: list[str], flag: str) -> None:
    with pytest.raises(UserError, match=f"^{flag}: expected with.* it would change nothing"):
        parse(arguments)


@pytest.mark.parametrize(
    "arguments",
    [
        *(["--routing", ""], ["--format", "yaml"], ["--output", ""], ["--tp", "two"]),
        *(["--block-shape", text] for text in ("0,128", "128", "128,0", "-1,128", "128x128", "[128,128")),
    ],
)
def test_what_is_no_value_of_its_flag_is_bad_use(arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as end:
        parse([*MODEL, *arguments])
    assert end.value.code == 2


# ---------------------------------------------------------------
# A file of workloads


def test_a_file_of_workloads(tmp_path: Path) -> None:
    path = tmp_path / "workloads.txt"
    path.write_text("# three\n\na/A tp=2 # the usual\nb/B  ep=4 tp=8 dtype=fp8_w8a8\nc/C\n", "utf-8")
    sources = (
        ModelSource("a/A", Parallel(2)),
        ModelSource("b/B", Parallel(8, 4), Asked("fp8_w8a8")),
        ModelSource("c/C"),
    )
    assert read_workloads(path) == sources
    assert parse(["--workloads", str(path)]).sources == sources


@pytest.mark.parametrize(
    "line",
    [
        *("a/A pp=2", "a/A tp", "a/A tp=", "a/A tp=0", "a/A tp=-1", "a/A tp=2 tp=4", "a/A dtype=", "a/A 2", "a/A =2"),
        *("a/A block_shape=0,8", "a/A block_shape=", "a/A per_channel_quant=1", "a/A per_channel_quant"),
    ],
)
def test_a_line_that_cannot_be_read_is_named(line: str, tmp_path: Path) -> None:
    path = tmp_path / "workloads.txt"
    path.write_text(f"b/B tp=2\n{line}\n", "utf-8")
    with pytest.raises(UserError, match=rf"workloads\.txt, line 2: expected «MODEL tp=N .*», found '{line}'"):
        read_workloads(path)


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (None, r"/workloads\.txt: expected a text file, found: No such file or directory\."),
        (b"\xff\xfe", r"/workloads\.txt: expected a text file, found: bytes that are no UTF-8\."),
        (b"# nothing\n", "expected a workload a line, found none in "),
    ],
    ids=["missing", "binary", "empty"],
)
def test_a_file_that_holds_no_workload(data: bytes | None, told: str, tmp_path: Path) -> None:
    path = tmp_path / "workloads.txt"
    if data is not None:
        path.write_bytes(data)
    with pytest.raises(UserError, match=f"^--workloads: .*{told}"):
        read_workloads(path)


def test_a_pipe_is_no_file_of_workloads(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(UserError, match=r"--workloads: .*/pipe: expected a text file, found: Not a regular file\."):
        read_workloads(tmp_path / "pipe")


def test_a_byte_order_mark_is_no_part_of_the_first_name(tmp_path: Path) -> None:
    path = tmp_path / "workloads.txt"
    path.write_bytes(b"\xef\xbb\xbfa/A tp=2\n")
    (source,) = read_workloads(path)
    assert source == ModelSource("a/A", Parallel(2))
    assert source.where.endswith("workloads.txt, line 1")


def test_landscapes_of_several_workloads_are_not_mixed(tmp_path: Path) -> None:
    path = tmp_path / "workloads.txt"
    path.write_text("a/A\nb/B\n", "utf-8")
    with pytest.raises(UserError, match="--record-landscape: expected one workload, found several"):
        parse(["--workloads", str(path), "--record-landscape", "a.gz"])


@pytest.mark.parametrize("scales", ["", "block_shape=128,64", "block_shape=[128,64]", "per_channel_quant=True"])
@pytest.mark.parametrize("effort", [["--exhaustive"], ["--time-budget", "9"]])
def test_a_node_of_a_cluster_is_asked_for_the_same(effort: list[str], scales: str, tmp_path: Path) -> None:
    path = tmp_path / "workloads.txt"
    path.write_text(f"b/B tp=8 ep=4 dtype=fp8_w8a8 {scales}\n", "utf-8")
    how = ["--separate-down", "--all-shapes", "--force-version-file", "--engine", "sglang"]
    asked = parse(["--workloads", str(path), "--num-tokens", "1", "64", *effort, *how])
    (source,) = asked.sources
    assert isinstance(source, ModelSource)

    assert parse([*arguments_of(source), *arguments_of_effort(asked)]) == asked


# ---------------------------------------------------------------
# The process


def test_the_command_ends_with_two_and_one_line() -> None:
    command = [sys.executable, "-m", "tools.tune", *MODEL, "--num-tokens", "0"]
    done = subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "tune: --num-tokens: expected from 1 to 65536, found 0.\n"


def test_the_tuners_own_process_imports_neither_torch_nor_ray() -> None:
    code = "import sys, tools.tune.__main__\nprint({'torch', 'ray'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], cwd=CHECKOUT, capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


def test_default_batch_sizes_ascend_without_a_hole() -> None:
    assert list(DEFAULT_BATCH_SIZES) == sorted(set(DEFAULT_BATCH_SIZES))
    assert (DEFAULT_BATCH_SIZES[0], DEFAULT_BATCH_SIZES[-1]) == (1, 16384)


def test_recorded_routing_is_told_and_decides_only_where_asked() -> None:
    request = parse([*MODEL, "--routing", "ids.npy"])
    assert request.recorded == AskedRouting(Path("ids.npy"))
    assert not request.recorded.decides
    deciding = parse([*MODEL, "--routing", "ids.npy", "--decide-by-recorded"])
    assert deciding.recorded == AskedRouting(Path("ids.npy"), decides=True)
    with pytest.raises(UserError, match="--decide-by-recorded: expected with --routing FILE, found none"):
        parse([*MODEL, "--decide-by-recorded"])


def test_sglangs_kernel_is_for_entries_for_down_alone() -> None:
    request = parse([*MODEL, "--separate-down", "--kernel", "sglang=a/kernels.py"])
    assert request.down_kernel == DownKernel(Path("a/kernels.py"))
    with pytest.raises(UserError, match="--kernel: expected with --separate-down, found it alone"):
        parse([*MODEL, "--kernel", "sglang=a/kernels.py"])


@pytest.mark.parametrize("text", ["sglang", "sglang=", "vllm=a/fused_moe.py", "own", "a/kernels.py", "="])
def test_no_other_kernel_has_such_entries(text: str) -> None:
    with pytest.raises(UserError, match=r"^--kernel: expected sglang=PATH/fused_moe_triton_kernels\.py, found "):
        parse([*MODEL, "--separate-down", "--kernel", text])


def test_a_run_with_sglangs_kernel_is_another_run_and_its_record_says_which() -> None:
    request = parse([*MODEL, "--separate-down"])
    assert "down_kernel" not in request.settings
    kernels = [DownKernel(Path("k.py"), "0.5.23"), DownKernel(Path("k.py"), "0.5.23-rc1", "ab"), DownKernel(None)]
    found = [replace(request, down_kernel=kernel).settings for kernel in kernels]
    assert [settings["down_kernel"] for settings in found] == ["sglang-0.5.23", "sglang-0.5.23-rc1", "sglang"]
    assert [settings.get("down_kernel_sha256") for settings in found] == [None, "ab", None]
    assert list(map(DownKernel.of_settings, found)) == [replace(kernel, path=None) for kernel in kernels]
    assert DownKernel.of_settings(request.settings) is None


def test_a_run_with_other_recorded_routing_is_another_run() -> None:
    request = parse([*MODEL, "--routing", "ids.npy"])
    hashes = [replace(request, recorded=AskedRouting(Path("ids.npy"), sha256=one)).settings for one in ("a", "b")]
    assert hashes[0] != hashes[1]
    assert "recorded_sha256" not in parse([*MODEL]).settings


def test_a_record_can_hold_every_setting() -> None:
    """Hashes among them: a record of a run with recorded routing was refused for its length."""
    request = replace(
        parse([*MODEL, "--routing", "ids.npy", "--separate-down", "--kernel", "sglang=a/kernels.py"]),
        recorded=AskedRouting(Path("ids.npy"), sha256="a" * 64),
        down_kernel=DownKernel(Path("a/kernels.py"), "0.5.23", "b" * 64),
    )
    faults = schemas.faults("record", {"tuner": {"settings": request.settings}})
    assert [fault for fault in faults if fault.where.startswith("tuner / settings")] == []
