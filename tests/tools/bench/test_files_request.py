"""The command line `PATH…`: what is asked for, and one line for what can't be."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from tools.bench.files_request import FilesRequest, parse
from tools.bench.request import RequestError
from tools.checkout import CHECKOUT
from tools.store.workload import Layout

DEFAULTS = FilesRequest((Path("a.json"),), Layout.REPO, ("heuristic",), None, (), "uniform", 1, None, False, False)


def test_a_path_is_enough() -> None:
    found = parse(["a.json"])
    assert found.jobs >= 1
    assert replace(found, jobs=1) == DEFAULTS


def test_every_flag() -> None:
    arguments = "a.json b --layout sglang --against heuristic --against HEAD~1 --against old/a.json"
    arguments += " --kernel vllm=v/fused_moe.py --num-tokens 64 1 64 --routing skew --jobs 3 --output out --format json"
    assert parse(arguments.split()) == FilesRequest(
        (Path("a.json"), Path("b")),
        Layout.SGLANG,
        ("heuristic", "HEAD~1", "old/a.json"),
        Path("v/fused_moe.py"),
        (1, 64),
        "skew",
        3,
        Path("out"),
        False,
        True,
    )


def test_whoever_is_named_twice_is_met_once() -> None:
    assert parse(["a.json", "--against", "main", "--against", "main"]).against == ("main",)


def test_another_candidate_replaces_the_heuristics() -> None:
    assert parse(["a.json", "--against", "main"]).against == ("main",)


@pytest.mark.parametrize("kernel", ["vllm", "vllm=", "sglang=a.py", "ours", "own=a.py", ""])
def test_an_unknown_kernel_is_refused(kernel: str) -> None:
    with pytest.raises(RequestError) as raised:
        parse(["a.json", "--kernel", kernel])
    assert str(raised.value) == f"--kernel: expected own or vllm=PATH/fused_moe.py, found {kernel!r}."


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--num-tokens", "1", "0"], "--num-tokens: expected from 1 to 65536, found 0."),
        (["--num-tokens", "65537"], "--num-tokens: expected from 1 to 65536, found 65537."),
        (["--jobs", "0"], "--jobs: expected from 1 to 1024, found 0."),
        (["--jobs", "1025"], "--jobs: expected from 1 to 1024, found 1025."),
    ],
)
def test_bad_counts_are_refused_by_name(arguments: list[str], message: str) -> None:
    with pytest.raises(RequestError) as raised:
        parse(["a.json", *arguments])
    assert str(raised.value) == message


class TestWriteRecord:
    def test_it_is_asked_for(self) -> None:
        assert parse(["a.json", "--write-record"]).writes_record
        assert parse(["a.json", "--write-record", "--against", "main"]).writes_record
        assert parse(["a.json", "--write-record", "--kernel", "vllm=a.py"]).writes_record

    def test_some_rows_are_no_evidence_for_the_file(self) -> None:
        with pytest.raises(RequestError, match="expected every batch size of the file, found --num-tokens"):
            parse(["a.json", "--write-record", "--num-tokens", "64"])

    def test_on_an_engines_kernel_the_engines_own_answer_takes_part(self) -> None:
        with pytest.raises(RequestError, match="expected --against heuristic among what it meets, found main, old"):
            parse(["a.json", "--write-record", "--kernel", "vllm=a.py", "--against", "main", "--against", "old"])


@pytest.mark.parametrize(
    "arguments", [[], [""], ["a.json", "--layout", "flat"], ["a.json", "--routing", "odd"], ["a.json", "--output", ""]]
)
def test_what_argparse_refuses_ends_with_two(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        parse(arguments)
    assert end.value.code == 2
    assert "error: " in capsys.readouterr().err


def test_the_help_says_what_becomes_of_down_files(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        parse(["--help"])
    assert end.value.code == 0
    assert "_down files are left out" in " ".join(capsys.readouterr().out.split())


def test_the_command_ends_with_two_and_one_line() -> None:
    command = [sys.executable, "-m", "tools.bench", "a.json", "--jobs", "0"]
    done = subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "bench: --jobs: expected from 1 to 1024, found 0.\n"


def test_checking_it_imports_no_torch_or_triton() -> None:
    code = "import sys, tools.bench.compare_files; print({'torch', 'triton'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], cwd=CHECKOUT, capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"
