"""The command, on a landscape that was recorded on an H100: what it prints and writes, and how it ends."""

from __future__ import annotations

import errno
import gzip
import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.builders import BATCH_SIZES
from tools.checkout import CHECKOUT
from tools.errors import MachineError
from tools.measure.panel import LARGEST_RATIO
from tools.store import existing
from tools.store.files import canonical_config, sha256
from tools.tune import __main__ as command
from tools.tune import destination, run_journals
from tools.tune.journal import JournalError
from tools.tune.request import parse
from tools.validate.__main__ import main as validate

LANDSCAPE = Path(__file__).with_name("landscape.jsonl.gz")
NAME = "E=256,N=128,device_name=NVIDIA_H100_80GB_HBM3,dtype=fp8_w8a8,block_shape=[128,128].json"
REPLAY = ["--replay", str(LANDSCAPE)]


def tune(*arguments: object) -> int:
    return command.main([str(argument) for argument in arguments])


def files(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def document(path: Path) -> Any:
    return json.loads(path.read_bytes())


def test_a_whole_replay_writes_what_validate_finds_sound(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert tune(*REPLAY, "--output", tmp_path) == 0
    told = capsys.readouterr()
    assert set(files(tmp_path)) == {NAME, f"records/{NAME}"}
    assert list(document(tmp_path / NAME)) == [str(m) for m in BATCH_SIZES]

    lines = told.out.splitlines()
    assert lines[0].startswith(NAME)
    assert [line.split()[0] for line in lines[2:20]] == [str(m) for m in BATCH_SIZES]
    assert lines[-2:] == [f"written: {tmp_path / NAME}", f"written: {tmp_path / 'records' / NAME}"]
    assert len(told.err.splitlines()) == 18

    assert validate([str(tmp_path)]) == 0
    assert "1 file: 0 errors, 0 warnings" in capsys.readouterr().out


def test_no_row_is_slower_than_the_heuristic_by_more_than_the_bound(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert tune(*REPLAY, "--format", "json") == 0
    rows = json.loads(capsys.readouterr().out)["rows"]
    assert len(rows) == 18
    assert all(row["new_us"] <= LARGEST_RATIO * row["heuristic_us"] for row in rows)
    assert max(row["gain_pct"] for row in rows) > 20.0


def test_json_stands_alone_on_stdout(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert tune(*REPLAY, "--num-tokens", 1, 64, "--output", tmp_path, "--format", "json") == 0
    report = json.loads(capsys.readouterr().out)
    assert report["workload"] == NAME
    assert report["files"] == [str(tmp_path / NAME), str(tmp_path / "records" / NAME)]
    assert [row["num_tokens"] for row in report["rows"]] == [1, 64]


@pytest.mark.skipif(sys.platform != "linux", reason="/proc")
def test_a_place_that_takes_no_file_shows_before_anything_is_tuned(tmp_path: Path) -> None:
    """Permissions tell nothing of a file system that takes no file, or is full: 512 KiB is what is left here."""
    for output, limit, found in (
        (Path("/proc/out"), "unlimited", "/proc: "),
        (tmp_path, "512", f"{tmp_path}: File too"),
    ):
        shell = ["bash", "-c", f'ulimit -f {limit}; exec "$0" -m tools.tune "$@"', sys.executable, *REPLAY]
        done = subprocess.run([*shell, "--output", output], cwd=CHECKOUT, capture_output=True, text=True, check=False)
        assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
        assert done.stderr.startswith(f"tune: --output: expected a folder that can be written, found {found}")
    assert list(tmp_path.iterdir()) == []


def test_what_can_not_be_written_at_the_end_is_printed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(path: Path, data: bytes) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    monkeypatch.setattr(existing, "write_file", full)
    assert tune(*REPLAY, "--num-tokens", 1, 64, "--output", tmp_path, "--format", "json") == 2
    told = capsys.readouterr()
    report = json.loads(told.out)
    assert ([row["num_tokens"] for row in report["rows"]], report["files"]) == ([1, 64], [])
    where = tmp_path / NAME
    assert told.err.splitlines()[-1] == f"tune: {where}: expected to write it, found: No space left on device."


@pytest.mark.parametrize(("first", "second"), [("1", "64"), ("64", "1")])
def test_two_runs_that_write_one_file_at_the_same_instant_lose_no_row(tmp_path: Path, first: str, second: str) -> None:
    program = Path(__file__).with_name("two_tuners.py")
    processes = [
        subprocess.Popen(
            [sys.executable, str(program), role, str(tmp_path), num_tokens, str(LANDSCAPE)],
            cwd=CHECKOUT,
            env={**os.environ, "PYTHONPATH": str(CHECKOUT)},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )
        for role, num_tokens in (("first", first), ("second", second))
    ]
    told = [process.communicate()[1] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], told
    assert (tmp_path / "waits").exists()
    folder = tmp_path / "out"
    assert set(files(folder)) == {NAME, f"records/{NAME}"}
    assert list(document(folder / NAME)) == ["1", "64"]
    record = document(folder / "records" / NAME)
    assert list(record["rows"]) == ["1", "64"]
    assert record["config_sha256"] == sha256((folder / NAME).read_bytes())


def test_only_the_rows_asked_for_change(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert tune(*REPLAY, "--output", tmp_path) == 0
    path, record_path = tmp_path / NAME, tmp_path / "records" / NAME
    # Entries that nobody would choose, in the row that is tuned again and in one that isn't.
    slow = {**document(path)["64"], "num_stages": 5, "BLOCK_SIZE_N": 32}
    before = {**document(path), "64": slow, "512": slow}
    path.write_bytes(canonical_config(before))
    old_rows = document(record_path)["rows"]

    assert tune(*REPLAY, "--output", tmp_path, "--num-tokens", 1, 64, 4096) == 0
    after = document(path)
    assert list(after) == list(before)
    assert after["512"] == slow
    assert after["64"] != slow
    rows = document(record_path)["rows"]
    assert {key for key in rows if rows[key] != old_rows[key]} == {"1", "64", "4096"}
    capsys.readouterr()
    assert validate([str(tmp_path)]) == 0


def test_without_output_a_replay_writes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(destination, "CONFIGS", tmp_path)
    monkeypatch.setattr(run_journals, "JOURNALS", tmp_path)
    assert tune(*REPLAY, "--num-tokens", 64) == 0
    assert files(tmp_path) == {}
    assert "written:" not in capsys.readouterr().out


def test_text_that_stdout_cannot_carry_is_escaped() -> None:
    arguments = [sys.executable, "-m", "tools.tune", *REPLAY, "--num-tokens", "64"]
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    done = subprocess.run(arguments, cwd=CHECKOUT, capture_output=True, env=environment, check=False)
    assert done.returncode == 0
    assert rb"(\xb5s, up + down)" in done.stdout


def test_progress_that_nobody_reads_loses_no_result(tmp_path: Path) -> None:
    command = (
        f'"$0" -m tools.tune --replay {LANDSCAPE} --num-tokens 1 64 --output {tmp_path} 2>&1 >/dev/null | head -c 1'
    )
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", command, sys.executable], cwd=CHECKOUT, capture_output=True, check=False
    )
    assert (done.returncode, done.stdout) == (0, b"t")
    assert set(files(tmp_path)) == {NAME, f"records/{NAME}"}


def test_a_name_writes_nothing_to_the_terminal_but_itself(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "\x1b[31mred\n.jsonl"
    path.write_bytes(gzip.decompress(LANDSCAPE.read_bytes()))
    assert tune("--replay", path, "--num-tokens", 64) == 0
    assert r"replayed from \x1b[31mred\n.jsonl: nothing was measured" in capsys.readouterr().out
    assert tune("--replay", tmp_path / "\x1b[31m") == 2
    told = capsys.readouterr().err
    assert r"\x1b[31m" in told
    assert told.rstrip("\n").isprintable()


# ---------------------------------------------------------------
# SGLang's kernel, for entries for down


def no_gpu_is_asked_for() -> str:
    raise AssertionError("a mistake shows before")


@pytest.mark.parametrize("way", ["tuning", "a dry run", "several workloads"])
@pytest.mark.parametrize(
    ("written", "told"),
    [
        (None, r"expected the engine's kernel there, found none \(No such file"),
        ("a folder", r"expected the engine's kernel there, found none \(Is a directory"),
        ("a circle", r"expected the engine's kernel there, found none \(Too many levels of symbolic links"),
        (b"", "expected a JIT function fused_moe_kernel, found none"),
        (b"\xff\xfe", "expected Python source, found 'utf-8' codec"),
        (b"import triton\n@triton.jit\ndef fused_moe_kernel(a_ptr): pass\n", "expected the parameters of SGLang"),
    ],
    ids=["missing", "folder", "circle", "empty", "no UTF-8", "another engine's"],
)
def test_a_bad_kernel_for_down_is_one_line_before_a_gpu_is_asked_for(
    way: str,
    written: str | bytes | None,
    told: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(command, "find_gpu", no_gpu_is_asked_for)
    path, workloads = tmp_path / "kernels.py", tmp_path / "workloads"
    match written:
        case bytes():
            path.write_bytes(written)
        case "a folder":
            path.mkdir()
        case "a circle":
            path.symlink_to(path)
    workloads.write_text("Qwen/Qwen3-30B-A3B tp=2\nQwen/Qwen3-30B-A3B tp=4\n")
    model = ["--model", "Qwen/Qwen3-30B-A3B"]
    ways = {"tuning": model, "a dry run": [*model, "--dry-run"], "several workloads": ["--workloads", workloads]}
    assert tune(*ways[way], "--separate-down", "--kernel", f"sglang={path}") == 2
    said = capsys.readouterr()
    assert re.fullmatch(rf"tune: \S*/kernels\.py: {told}.*\n", said.err)
    assert said.out == ""


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (["--model", "a/b"], "expected with --separate-down, found it alone: it would change nothing"),
        (["--workloads", "w", "--ray", "auto", "--separate-down"], "expected without --ray, found both"),
        ([*REPLAY, "--separate-down"], "expected with --model or .*, found with --replay: it would change nothing"),
    ],
)
def test_a_kernel_for_down_that_would_change_nothing_is_refused(
    flags: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert tune(*flags, "--kernel", "sglang=kernels.py") == 2
    assert re.fullmatch(rf"tune: --kernel: {told}.*\n", capsys.readouterr().err)


# ---------------------------------------------------------------
# Exit code 1: a row that can't be decided


def spoilt(path: Path, spoil: Callable[[dict[str, Any]], dict[str, Any]]) -> Path:
    """The landscape with other events."""
    lines = gzip.decompress(LANDSCAPE.read_bytes()).decode().splitlines()
    events = [json.dumps(spoil(json.loads(line))) for line in lines[1:]]
    path.write_text("\n".join([lines[0], *events, ""]), "utf-8")
    return path


def test_where_the_heuristic_does_not_run_the_run_ends_with_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    vllm = {"BLOCK_SIZE_M": 16, "BLOCK_SIZE_N": 128, "BLOCK_SIZE_K": 128, "GROUP_SIZE_M": 32, "num_stages": 3}

    def is_heuristic(config: dict[str, Any]) -> bool:
        return config.items() >= vllm.items() and config["num_warps"] == 4

    def spoil(event: dict[str, Any]) -> dict[str, Any]:
        failed = {"status": "runtime", "message": "illegal address"}
        rows = [
            row | failed | {"up_us": [], "down_us": []} if is_heuristic(row["config"]) else row
            for row in event.get("confirmed", [])
        ]
        return {**event, **({"confirmed": rows} if rows else failed if is_heuristic(event.get("screened", {})) else {})}

    path = spoilt(tmp_path / "spoilt.jsonl", spoil)
    assert tune("--replay", path, "--num-tokens", 64, "--output", tmp_path / "out") == 1
    told = capsys.readouterr()
    assert told.out == ""
    assert told.err == "tune: M=64: expected vLLM's heuristic to run, found runtime: illegal address.\n"
    assert not (tmp_path / "out").exists()


def test_a_landscape_that_was_cut_is_replayed_says_so_and_ends_with_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "cut.jsonl"
    path.write_bytes(gzip.decompress(LANDSCAPE.read_bytes())[:-20])
    assert tune("--replay", path, "--num-tokens", 64) == 1
    told = capsys.readouterr()
    assert "replayed from cut.jsonl" in told.out
    assert "cut.jsonl: expected a whole landscape, found one without the end of its last line and " in told.err


# ---------------------------------------------------------------
# Exit code 2: bad use, or impossible here


@pytest.fixture
def no_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine without one, whatever this one has."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setenv("HIP_VISIBLE_DEVICES", "")


@pytest.mark.usefixtures("no_gpu")
def test_without_a_gpu_a_replay_is_offered_that_works() -> None:
    arguments = [sys.executable, "-m", "tools.tune", "--model", "mistralai/Mixtral-8x7B-v0.1", "--tp", "2"]
    done = subprocess.run(arguments, cwd=CHECKOUT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("tune: expected a GPU, found none. Fix: ")
    assert done.stderr.count("\n") == 1

    offered = shlex.split(done.stderr.partition("nox -s tune -- ")[2])
    assert (CHECKOUT / offered[1]).samefile(LANDSCAPE)
    again = [sys.executable, "-m", "tools.tune", *offered, "--num-tokens", "64"]
    assert subprocess.run(again, cwd=CHECKOUT, capture_output=True, check=False).returncode == 0


@pytest.mark.usefixtures("no_gpu")
@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--model", "mistralai/Mixtral-8x7B-v0.2"], "expected one of .*, found 'mistralai/Mixtral-8x7B-v0.2'"),
        (["--model", "mistralai/Mixtral-8x7B-v0.1", "--tp", "3"], "tp"),
        (["--model", "mistralai/Mixtral-8x7B-v0.1", "--dtype", "fp7"], "fp7"),
        (["--E", "8", "--N", "64", "--K", "64", "--top-k", "9"], "top_k: expected at most E=8"),
        (["--model", "mistralai/Mixtral-8x7B-v0.1", "--output", __file__], "--output: expected a folder that holds"),
        (["--model", "mistralai/Mixtral-8x7B-v0.1", "--output", "/proc/none"], "--output: expected a folder that can"),
        (["--workloads", "{out}/none"], "--workloads: "),
        (["--workloads", "{out}/mistyped"], "mistyped, line 2: .*found 'mistralai/Mixtral'"),
        (["--workloads", "{out}/mistyped", "--ray", "auto"], "mistyped, line 2: .*found 'mistralai/Mixtral'"),
    ],
)
def test_what_is_no_matter_of_the_gpu_is_checked_before_it(
    arguments: list[str], told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mistyped").write_text("mistralai/Mixtral-8x7B-v0.1 tp=2\nmistralai/Mixtral tp=2\n", "utf-8")
    assert tune(*(argument.replace("{out}", str(tmp_path)) for argument in arguments)) == 2
    printed = capsys.readouterr().err
    assert re.search(told, printed)
    assert "expected a GPU" not in printed
    assert printed.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--replay", "no such file"], "no such file: expected a journal of the tuner, found: .*No such file"),
        (["--replay", __file__], "test_main.py, line 1: expected the header of a tuner's journal"),
        (
            [*REPLAY, "--num-tokens", "5"],
            "batch size 5, found those of 1, .* Fix: --num-tokens 1, say",
        ),
        ([*REPLAY, "--num-tokens", "0"], "--num-tokens: expected from 1 to 65536, found 0"),
        (
            [*REPLAY, "--output", "{out}/triton_3_6_0"],
            "--output: expected a folder that holds tiers, as the default tier is of the Triton",
        ),
        ([*REPLAY, "--output", __file__], "--output: expected a folder that holds tiers"),
        ([*REPLAY, "--model", "x"], "found --model and --replay"),
    ],
)
def test_bad_use_is_one_line_and_nothing_is_written(
    arguments: list[str], told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    flags = [argument.replace("{out}", str(out)) for argument in arguments]
    assert tune(*flags, *([] if "--output" in flags else ["--output", out])) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("tune: ")
    assert printed.err.count("\n") == 1
    assert re.search(told, printed.err)
    assert not out.exists()


def test_a_workload_whose_place_is_taken_ends_no_others(capsys: pytest.CaptureFixture[str]) -> None:
    def taken() -> Any:
        raise JournalError("x.jsonl: expected no other run of this file, found one at work.")

    done: list[Any] = ["tuned"]
    assert command._tune(parse(REPLAY), [taken, done.pop]) == (["tuned"], 2)
    assert capsys.readouterr().err == "tune: x.jsonl: expected no other run of this file, found one at work.\n"


# ---------------------------------------------------------------
# A GPU that is there, and can't be used: the real process finds out. (A program that answers as nvidia-smi stands for
# the driver; torch sees no GPU.)


@pytest.fixture
def unusable_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of the journals."""
    if sys.platform != "linux":
        pytest.skip("Triton has Linux wheels only")
    program = tmp_path / "bin" / "nvidia-smi"
    program.parent.mkdir()
    program.write_text("#!/bin/sh\necho NVIDIA H100 80GB HBM3\n", "utf-8")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setattr(run_journals, "JOURNALS", tmp_path / "journals")
    return tmp_path / "journals"


MIXTRAL = ["--model", "mistralai/Mixtral-8x7B-v0.1", "--tp", "2", "--jobs", "1", "--num-tokens", "64"]


def test_a_refusal_of_the_gpus_process_leaves_nothing(
    unusable_gpu: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    landscape = tmp_path / "landscape.jsonl"
    journal = unusable_gpu / "E=8,N=7168,device_name=NVIDIA_H100_80GB_HBM3.jsonl"
    journal.parent.mkdir()
    journal.write_bytes(b"of a run that was killed")

    assert tune(*MIXTRAL, "--output", tmp_path / "out", "--record-landscape", landscape) == 2
    expected = "tune: expected a GPU that torch can use, found none. Fix: run where there is one.\n"
    assert capsys.readouterr().err == expected
    assert not landscape.exists()
    assert not (tmp_path / "out").exists()
    assert files(unusable_gpu) == {journal.name: b"of a run that was killed"}


@pytest.mark.parametrize("more", [(), ("--ray", "auto")], ids=["here", "on a cluster"])
def test_two_workloads_of_one_file_are_refused_before_the_first_is_tuned(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], more: tuple[str, ...]
) -> None:
    """The second would be refused for what the first has just written."""
    workloads = tmp_path / "workloads.txt"
    workloads.write_text("Qwen/Qwen3.5-35B-A3B-FP8 tp=4\ndeepseek-ai/DeepSeek-V3 tp=16\n", "utf-8")
    assert tune("--workloads", workloads, "--output", tmp_path / "out", *more) == 2
    assert capsys.readouterr().err == (
        "tune: --workloads: expected one line for a file, found Qwen/Qwen3.5-35B-A3B-FP8 tp=4 and "
        "deepseek-ai/DeepSeek-V3 tp=16, which read the same one. Fix: leave one of them out, and give --all-shapes.\n"
    )


def test_all_workloads_are_checked_before_the_first_is_tuned(
    unusable_gpu: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    workloads = tmp_path / "workloads.txt"
    workloads.write_text("mistralai/Mixtral-8x7B-v0.1 tp=2\nmistralai/Mixtral-8x7B-v0.1 tp=3\n", "utf-8")
    assert tune("--workloads", workloads, "--output", tmp_path / "out") == 2
    told = capsys.readouterr().err
    assert re.fullmatch(r"tune: .*workloads\.txt, line 2: .*N: expected a multiple of tp=3, found 14336.*\n", told)
    assert not unusable_gpu.exists()


def test_a_gpu_that_nobody_knows(unusable_gpu: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "bin" / "nvidia-smi").write_text("#!/bin/sh\necho NVIDIA X1\n", "utf-8")
    assert tune(*MIXTRAL, "--output", tmp_path / "out") == 2
    assert "GPU: expected one of configs/registry/devices.json, found 'NVIDIA X1'" in capsys.readouterr().err
    assert not unusable_gpu.exists()


def test_what_the_machine_fails_at_ends_all_workloads_with_2_and_the_way_on(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    runs: list[object] = []

    def full(request: object, subject: object) -> None:
        runs.append(subject)
        raise MachineError("this machine: expected a place, found: No space left on device. Fix: make room.")

    monkeypatch.setattr(command, "_subjects", lambda request: ["a", "b"])
    monkeypatch.setattr(command.session, "tune_here", full)
    assert tune(*MIXTRAL) == 2
    assert runs == ["a"]
    assert capsys.readouterr().err == (
        "tune: this machine: expected a place, found: No space left on device. Fix: make room. "
        "The measurements are kept: --resume continues with them.\n"
    )


@pytest.mark.parametrize(
    ("ids", "told"),
    [
        ([[0, 1], [2, 8]], "expected ids of the layer's 8 experts, 0 to 7, found 8"),
        ([[0, 1, 2]], "expected 2 experts a token, found 3"),
        ([[0, -1]], "found -1"),
        (None, "expected a .npy file, found none"),
    ],
    ids=["outside E", "another top_k", "negative", "no file"],
)
def test_recorded_routing_of_another_layer_is_one_line_before_a_gpu_is_asked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], ids: list[list[int]] | None, told: str
) -> None:
    numpy = pytest.importorskip("numpy")
    path = tmp_path / "ids.npy"
    if ids is not None:
        numpy.save(path, numpy.array(ids))
    flags = ("--model", "mistralai/Mixtral-8x7B-v0.1", "--tp", 2, "--output", tmp_path / "out", "--routing", path)
    assert tune(*flags) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("tune: --routing ")
    assert told in line
