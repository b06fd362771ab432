"""The command line: what is asked for, and one line for what can't be."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from kernels.problem import Flavour
from tools.bench.request import BATCH_SIZES, EngineFile, FilesRequest, KernelsRequest, parse
from tools.checkout import CHECKOUT, MEASUREMENTS
from tools.errors import UserError
from tools.measure.panel import RoutingKind
from tools.store.workload import Layout

DEFAULTS = FilesRequest((Path("a.json"),), Layout.REPO, ("heuristic",), None, (), None, 0, None, 1, None, False, False)
KERNELS = ["--kernel", "vllm=a/fused_moe.py", "--workload", "Qwen/Qwen3-30B-A3B tp=1"]


def command(*arguments: str) -> subprocess.CompletedProcess[str]:
    """`python -m tools.bench`, as a process."""
    process = [sys.executable, "-m", "tools.bench", *arguments]
    return subprocess.run(process, cwd=CHECKOUT, capture_output=True, text=True, check=False)


class TestCommands:
    def test_paths_alone_are_short_for_files(self) -> None:
        assert parse(["a.json", "--jobs", "3"]) == parse(["files", "a.json", "--jobs", "3"])
        assert parse(["--jobs", "3", "a.json"]) == parse(["files", "a.json", "--jobs", "3"])

    def test_kernels_are_a_command_of_their_own(self) -> None:
        assert isinstance(parse(["kernels", *KERNELS]), KernelsRequest)

    def test_a_folder_of_a_commands_name_is_a_path_where_files_stands_before_it(self) -> None:
        assert parse(["files", "kernels"]).paths == (Path("kernels"),)
        assert parse(["./kernels"]).paths == (Path("kernels"),)

    @pytest.mark.parametrize("workload", [["--workload", "m tp=1"], ["--workload=m tp=1"]])
    @pytest.mark.parametrize("others", [[], ["--kernel", "vllm=a.py", "--launch-configs", "9", "--format", "text"]])
    def test_kernels_without_the_command_are_told_what_to_type(self, others: list[str], workload: list[str]) -> None:
        with pytest.raises(UserError) as raised:
            parse([*others, *workload])
        assert str(raised.value) == (
            "--workload: expected the command kernels, found none. "
            "Fix: python -m tools.bench kernels --kernel vllm=PATH/fused_moe.py --workload …"
        )

    def test_the_help_names_both(self, capsys: pytest.CaptureFixture[str]) -> None:
        with pytest.raises(SystemExit) as end:
            parse(["--help"])
        assert end.value.code == 0
        told = " ".join(capsys.readouterr().out.split())
        assert "files tuned files beside what would run without them" in told
        assert "kernels our kernel beside an engine's own" in told
        assert "short for files PATH" in told

    def test_a_recorded_routing_is_a_file(self) -> None:
        found = parse(["a.json", "--routing", "logs/routing.npy"])
        assert isinstance(found, FilesRequest)
        assert found.routing == Path("logs/routing.npy")

    @pytest.mark.parametrize(
        "arguments",
        [
            [],
            ["files"],
            [""],
            ["a.json", "--layout", "flat"],
            ["a.json", "--routing", "odd"],
            ["a.json", "--routing", "skew"],
            ["a.json", "--routing", "recorded"],
            ["a.json", "--output", ""],
            ["kernels", *KERNELS, "--output", ""],
            ["kernels", *KERNELS[:2]],
            ["kernels", *KERNELS[2:]],
            ["kernels", *KERNELS, "a.json"],
        ],
    )
    def test_what_argparse_refuses_ends_with_two(
        self, arguments: list[str], capsys: pytest.CaptureFixture[str]
    ) -> None:
        with pytest.raises(SystemExit) as end:
            parse(arguments)
        assert end.value.code == 2
        assert "error: " in capsys.readouterr().err

    @pytest.mark.parametrize(
        ("arguments", "told"),
        [
            (["a.json", "--jobs", "0"], "bench: --jobs: expected from 1 to 1024, found 0.\n"),
            (["kernels", *KERNELS, "--num-tokens", "0"], "bench: --num-tokens: expected from 1 to 65536, found 0.\n"),
        ],
    )
    def test_the_process_ends_with_two_and_one_line(self, arguments: list[str], told: str) -> None:
        done = command(*arguments)
        assert (done.returncode, done.stdout, done.stderr) == (2, "", told)

    def test_a_folder_that_cannot_take_the_report_shows_before_a_gpu_is_looked_for(self) -> None:
        done = command("kernels", *KERNELS, "--output", __file__)
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr.startswith("bench: --output: expected a folder that can be written, found ")

    def test_checking_it_imports_no_torch_triton_or_schema_validator(self) -> None:
        code = "import sys, tools.bench.__main__; print({'torch', 'triton', 'jsonschema_rs'} & set(sys.modules))"
        done = subprocess.run([sys.executable, "-c", code], cwd=CHECKOUT, capture_output=True, text=True, check=True)
        assert done.stdout == "set()\n"


class TestFiles:
    def test_a_path_is_enough(self) -> None:
        found = parse(["a.json"])
        assert found.jobs >= 1
        assert replace(found, jobs=1) == DEFAULTS

    def test_every_flag(self) -> None:
        arguments = "a.json b --layout sglang --against heuristic --against HEAD~1 --against old/a.json"
        arguments += " --kernel vllm=v/fused_moe.py --num-tokens 64 1 64 --routing skew_0.3 --series 5 --blocks 4"
        arguments += " --jobs 3 --output out --format json"
        assert parse(arguments.split()) == FilesRequest(
            (Path("a.json"), Path("b")),
            Layout.SGLANG,
            ("heuristic", "HEAD~1", "old/a.json"),
            EngineFile(Flavour.VLLM, Path("v/fused_moe.py")),
            (1, 64),
            RoutingKind.SKEW_03,
            5,
            4,
            3,
            Path("out"),
            False,
            True,
        )

    def test_what_is_named_twice_is_met_once(self) -> None:
        assert parse(["a.json", "--against", "main", "--against", "main"]).against == ("main",)

    def test_another_candidate_replaces_the_heuristics(self) -> None:
        assert parse(["a.json", "--against", "main"]).against == ("main",)

    @pytest.mark.parametrize("kernel", ["vllm", "vllm=", "sglang", "sglang=", "ours", "own=a.py", ""])
    def test_an_unknown_kernel_is_refused(self, kernel: str) -> None:
        with pytest.raises(UserError) as raised:
            parse(["a.json", "--kernel", kernel])
        assert str(raised.value) == (
            "--kernel: expected own, vllm=PATH/fused_moe.py or sglang=PATH/fused_moe_triton_kernels.py, "
            f"found {kernel!r}."
        )

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (["--num-tokens", "1", "0"], "--num-tokens: expected from 1 to 65536, found 0."),
            (["--num-tokens", "65537"], "--num-tokens: expected from 1 to 65536, found 65537."),
            (["--jobs", "0"], "--jobs: expected from 1 to 1024, found 0."),
            (["--jobs", "1025"], "--jobs: expected from 1 to 1024, found 1025."),
            (["--series", "-1"], "--series: expected from 0 to 16383, found -1."),
            (["--series", "16384"], "--series: expected from 0 to 16383, found 16384."),
            (["--blocks", "3"], "--blocks: expected from 4 to 64, found 3."),
            (["--blocks", "65"], "--blocks: expected from 4 to 64, found 65."),
        ],
    )
    def test_bad_counts_are_refused_by_name(self, arguments: list[str], message: str) -> None:
        with pytest.raises(UserError) as raised:
            parse(["a.json", *arguments])
        assert str(raised.value) == message

    def test_the_help_says_what_becomes_of_down_files(self, capsys: pytest.CaptureFixture[str]) -> None:
        with pytest.raises(SystemExit) as end:
            parse(["files", "--help"])
        assert end.value.code == 0
        assert "a _down file beside one runs down for SGLang" in " ".join(capsys.readouterr().out.split())


class TestWriteRecord:
    def test_it_is_asked_for(self) -> None:
        assert parse(["a.json", "--write-record"]).writes_record
        assert parse(["a.json", "--write-record", "--against", "main"]).writes_record
        assert parse(["a.json", "--write-record", "--kernel", "vllm=a.py"]).writes_record

    def test_some_rows_are_no_evidence_for_the_file(self) -> None:
        with pytest.raises(UserError, match="expected every batch size of the file, found --num-tokens"):
            parse(["a.json", "--write-record", "--num-tokens", "64"])

    def test_nor_is_one_routing(self) -> None:
        with pytest.raises(UserError, match=r"expected every drawn routing, found --routing\. Fix: drop one\."):
            parse(["a.json", "--write-record", "--routing", "uniform"])

    def test_on_an_engines_kernel_the_engines_own_answer_takes_part(self) -> None:
        with pytest.raises(UserError, match="expected --against heuristic among what it meets, found main, old"):
            parse(["a.json", "--write-record", "--kernel", "vllm=a.py", "--against", "main", "--against", "old"])


class TestKernels:
    def test_defaults(self) -> None:
        request = parse(["kernels", *KERNELS])
        assert request.engine == EngineFile(Flavour.VLLM, Path("a/fused_moe.py"))
        assert request.batch_sizes == BATCH_SIZES
        assert (request.launch_configs, request.output) == (60, MEASUREMENTS)

    def test_batch_sizes_are_sorted_and_measured_once(self) -> None:
        assert parse(["kernels", *KERNELS, "--num-tokens", "64", "1", "64"]).batch_sizes == (1, 64)
        assert parse(["kernels", *KERNELS, "--num-tokens", "64", "--num-tokens", "1"]).batch_sizes == (1, 64)

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (
                ["--kernel", "fused_moe.py"],
                "--kernel: expected vllm=PATH/fused_moe.py or sglang=PATH/fused_moe_triton_kernels.py, "
                "found 'fused_moe.py'",
            ),
            (["--num-tokens", "0"], "--num-tokens: expected from 1 to 65536, found 0"),
            (["--num-tokens", "65537"], "found 65537"),
            (["--jobs", "0"], "--jobs: expected from 1 to 1024, found 0"),
            (["--launch-configs", "-1"], "--launch-configs: expected from 1 to 10000, found -1"),
        ],
    )
    def test_bad_values_are_refused_by_name(self, arguments: list[str], message: str) -> None:
        with pytest.raises(UserError, match=message):
            parse(["kernels", *KERNELS, *arguments])
