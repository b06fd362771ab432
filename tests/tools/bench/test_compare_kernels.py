"""A comparison of kernels on a GPU that isn't there: what is printed, written as it goes, and how it ends."""

from __future__ import annotations

import datetime
import json
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace

import pytest

pytest.importorskip("triton")

from tests.tools.bench.fake_gpu import fake_torch
from tests.tools.bench.test_kernels_report import row
from tools.bench import __main__ as command
from tools.bench import compare_kernels, comparison, session, time_kernels
from tools.bench.comparison import Setup
from tools.bench.kernels_report import WorkloadResult
from tools.bench.request import Say
from tools.bench.sample import KernelComparison
from tools.compile.pool import CompilePool
from tools.measure import environment
from tools.measure.gpu import Ceilings
from tools.measure.kernels import EngineKernel
from tools.registry.devices import Device

MIXTRAL, QWEN = "mistralai/Mixtral-8x7B-v0.1 tp=2", "Qwen/Qwen3-30B-A3B tp=1"


@dataclass
class Compared:
    """What was asked for; dies_at: the workload in which the run is cut off."""

    output: Path
    dies_at: str = ""
    seen: list[KernelComparison] = field(default_factory=list)
    kernels: list[str] = field(default_factory=list)

    def __call__(
        self, setup: Setup, device: Device, work: KernelComparison, pool: CompilePool, say: Say
    ) -> Iterator[WorkloadResult]:
        self.seen.append(work)
        self.kernels = [kernel.name for kernel in setup.kernels]
        result = WorkloadResult(work.title, work.workload.file_name(), 4096, 2, {"ok": 580}, 40.0)
        yield result
        if work.title == self.dies_at:
            raise KeyboardInterrupt
        say("M=1: done")
        yield replace(result, rows=(row(1),))

    def bench(self, *arguments: str) -> int:
        kernel = ("--kernel", "vllm=some/where/fused_moe.py")
        return command.main(["kernels", *kernel, "--output", str(self.output), *arguments])

    def report(self) -> dict[str, object]:
        (path,) = self.output.glob("*.json")
        return json.loads(path.read_text("utf-8"))


@pytest.fixture
def compared(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Compared:
    child = Compared(tmp_path / "out")
    monkeypatch.setattr(session, "torch_with_gpu", fake_torch)
    monkeypatch.setattr(EngineKernel, "check", lambda self: None)
    monkeypatch.setattr(environment, "driver", lambda: None)
    monkeypatch.setattr(comparison, "measure_ceilings", lambda device: Ceilings(3e12, 750e12, 1500e12, True))
    source = SimpleNamespace(sha256="ab" * 32)
    monkeypatch.setattr(compare_kernels, "cut", lambda path: source)
    monkeypatch.setattr(compare_kernels, "today", lambda: datetime.date(2026, 3, 9))
    monkeypatch.setattr(time_kernels, "compare", child)
    return child


def test_kernels_that_are_alike_end_with_0_and_a_report(compared: Compared, capsys: pytest.CaptureFixture[str]) -> None:
    assert compared.bench("--workload", MIXTRAL) == 0
    printed = capsys.readouterr()
    stem = "2026-03-09-vllm-comparison-mistralai_Mixtral-8x7B-v0.1_tp=2-NVIDIA_H100_80GB_HBM3-triton-"
    markdown, body = sorted(path.name for path in compared.output.iterdir())[::-1]
    assert markdown.startswith(stem)
    assert markdown.removesuffix(".md") == body.removesuffix(".json")
    assert (compared.output / markdown).read_text("utf-8") == printed.out
    assert f"bench: {MIXTRAL}: M=1: done\n" in printed.err


def test_json_alone_goes_to_stdout(compared: Compared, capsys: pytest.CaptureFixture[str]) -> None:
    compared.bench("--workload", MIXTRAL, "--format", "json")
    assert json.loads(capsys.readouterr().out) == compared.report()


def test_a_criterion_that_fails_ends_with_1(compared: Compared, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tools.bench.kernels_report.LEAST_CONFIGS", 63)
    assert compared.bench("--workload", MIXTRAL) == 1


def test_ours_meets_the_engines_on_as_many_launch_configs_as_asked_for(compared: Compared) -> None:
    compared.bench("--workload", MIXTRAL, "--workload", QWEN, "--launch-configs", "64", "--num-tokens", "64", "1")
    assert compared.kernels == ["ours", "vllm"]
    assert [(work.title, len(work.configs), work.batch_sizes) for work in compared.seen] == [
        (MIXTRAL, 64, (1, 64)),
        (QWEN, 64, (1, 64)),
    ]
    (path,) = compared.output.glob("*.md")
    assert "-vllm-comparison-2-workloads-" in path.name


def test_the_command_in_the_report_repeats_it_without_this_machines_folders(compared: Compared) -> None:
    compared.bench("--workload", MIXTRAL)
    told = f"python -m tools.bench kernels --kernel vllm=fused_moe.py --workload '{MIXTRAL}'"
    assert compared.report()["command"] == told


def test_a_run_that_is_cut_off_leaves_what_it_finished(compared: Compared) -> None:
    compared.dies_at = QWEN
    with pytest.raises(KeyboardInterrupt):
        compared.bench("--workload", MIXTRAL, "--workload", QWEN)
    found = compared.report()
    assert (found["complete"], found["passed"]) == (False, False)
    assert [len(work["rows"]) for work in found["workloads"]] == [1, 0]  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--workload", "no-such/model tp=1"], "no-such/model"),
        (["--workload", MIXTRAL, "--launch-configs", "9999"], "launch configs: expected at most "),
    ],
)
def test_what_cannot_be_is_one_line_and_2_before_anything_runs(
    compared: Compared, capsys: pytest.CaptureFixture[str], arguments: list[str], told: str
) -> None:
    assert compared.bench(*arguments) == 2
    printed = capsys.readouterr()
    assert (printed.out, compared.seen) == ("", [])
    assert printed.err.startswith("bench: ")
    assert told in printed.err
    assert printed.err.count("\n") == 1


def test_a_workload_that_is_wrong_is_said_before_the_gpu_is_asked(
    compared: Compared, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(session, "torch_with_gpu", lambda: pytest.fail("the GPU was asked"))
    assert compared.bench("--workload", MIXTRAL, "--workload", "no-such/model tp=1") == 2
    assert "no-such/model" in capsys.readouterr().err
