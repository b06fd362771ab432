"""The verdict on a comparison, and the report that carries it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from kernels.launch_config import LaunchConfig
from tools.bench.kernels_report import (
    CeilingFigures,
    ComparedKernels,
    KernelsReport,
    KernelsRow,
    LayerFigures,
    Pair,
    WorkloadResult,
    to_json,
    to_markdown,
    verdict,
)
from tools.store.record import Environment

COUNT = 62
"""Launch configs of a row: two more than the verdict asks for."""

GOLDEN = Path(__file__).with_name("kernels_report.golden.md")


def config(i: int) -> LaunchConfig:
    return LaunchConfig(16, 64, 128, 1, 4, i)


def pair(i: int, own_us: float, engine_us: float) -> Pair:
    return Pair(config(i), "ok", own_us, engine_us)


def row(num_tokens: int = 1, **changes: object) -> KernelsRow:
    pairs = tuple(pair(i, 100.0 + i, 100.0 + i) for i in range(COUNT))
    plain = KernelsRow(num_tokens, num_tokens == 1, 8, 2.0, 3e8, 7e8, 90.0, "memory", 120.0, pairs, pairs[:5])
    return replace(plain, **changes)  # type: ignore[arg-type]


def workload(*rows: KernelsRow, layer: LayerFigures | None = None) -> WorkloadResult:
    return WorkloadResult(
        "mistralai/Mixtral-8x7B-v0.1 tp=2",
        "E=8,N=7168,device_name=D.json",
        4096,
        2,
        {"ok": 580},
        40.0,
        rows,
        layer,
        99.0,
    )


def failed(*rows: KernelsRow, layer: LayerFigures | None = None) -> list[str]:
    return [line.name for line in verdict((workload(*rows, layer=layer),)) if not line.passed]


def test_equal_kernels_pass_everything() -> None:
    assert failed(row(1), row(64), layer=LayerFigures(1, 130.0, 115.0)) == []


def test_nothing_measured_is_no_verdict() -> None:
    assert verdict((workload(),)) == ()


def test_a_kernel_slower_everywhere_fails_the_geomean_only() -> None:
    slower = tuple(pair(i, 102.0 + i, 100.0 + i) for i in range(COUNT))
    assert failed(row(pairs=slower, finalists=slower[:5])) == ["time ratio ours / engine, geomean of all pairs"]


def test_one_bad_config_among_the_ten_best_fails() -> None:
    pairs = (pair(0, 106.0, 100.0), *(pair(i, 100.0 + i, 100.0 + i) for i in range(1, COUNT)))
    assert failed(row(pairs=pairs)) == ["ratio, worst of a row's best 10"]


def test_one_bad_config_behind_the_ten_best_is_spread_only() -> None:
    slow = tuple(pair(i, 1.1 * (100.0 + i), 100.0 + i) for i in range(COUNT - 4, COUNT))
    pairs = (*(pair(i, 100.0 + i, 100.0 + i) for i in range(COUNT - 4)), *slow)
    names = failed(row(pairs=pairs))
    assert names == ["pairs within ±3% of their row's median ratio, worst row"]


def test_a_winner_that_is_none_on_the_engines_kernel_fails_by_its_loss_there() -> None:
    finalists = (pair(0, 99.0, 104.0), pair(1, 100.0, 100.0))
    worst = row(64, finalists=finalists)
    assert worst.winner_loss == pytest.approx(0.04)
    assert failed(row(1), row(16), worst) == ["our winner on the engine's kernel, loss, worst row"]
    assert len(failed(worst)) == 2


def test_too_few_launch_configs_are_no_proof() -> None:
    assert failed(row(pairs=row().pairs[:59])) == ["launch configs timed, fewest of a row"]


def test_a_config_that_spills_is_dropped_and_no_failure() -> None:
    spilling = Pair(config(COUNT - 1), "spills", message="ours: 1504 bytes of stack a thread")
    assert failed(row(pairs=(*row().pairs[:-1], spilling))) == []


def test_wrong_numbers_fail_whatever_the_times() -> None:
    wrong = Pair(config(COUNT - 1), "correctness", message="ours, up: expected every output written, found NaN.")
    assert failed(row(pairs=(*row().pairs[:-1], wrong))) == ["pairs that computed wrong numbers or failed to launch"]


def test_a_config_that_the_compiler_refuses_is_no_failure_of_either_kernel() -> None:
    refused = Pair(config(COUNT - 1), "compile", message="vllm: RuntimeError: PassManager::run failed")
    assert failed(row(pairs=(*row().pairs[:-1], refused))) == []


def test_a_layer_that_costs_too_much_around_its_products_fails() -> None:
    names = failed(row(), layer=LayerFigures(1, 131.0, 115.0))
    assert names == ["fused_experts over its two launches, M=1, in a graph"]


def report(**changes: object) -> KernelsReport:
    refused = Pair(config(COUNT - 1), "compile", message="vllm: RuntimeError: PassManager::run failed\nand pages more")
    rows = (
        row(1, pairs=(*row().pairs[:-1], refused)),
        row(4096, bound="compute", operations=4.5e10, floor_us=60.0, grouped_mm_us=None),
    )
    whole = KernelsReport(
        Environment("NVIDIA H100", "9.0", 132, "580.1", "13.0", "2.11.0", "3.8.0", "3.12.3"),
        ComparedKernels("vLLM 0.33.0", "ab" * 32, "cd" * 32),
        "2026-11-22",
        "python -m tools.bench --kernel vllm=fused_moe.py",
        CeilingFigures(3000.0, 750.0, 1500.0, False),
        (workload(*rows, layer=LayerFigures(1, 130.0, 118.5)),),
        ("5.0 GiB of the GPU were in use at the start: another process uses the GPU; timings may be noisy.",),
        complete=True,
    )
    return replace(whole, **changes)  # type: ignore[arg-type]


def test_the_markdown_is_the_golden_one() -> None:
    assert to_markdown(report()) == GOLDEN.read_text("utf-8")


def test_the_json_holds_every_pair_and_reads_back() -> None:
    body = json.loads(to_json(report()))
    first = body["workloads"][0]["rows"][0]
    assert len(first["pairs"]) == COUNT
    assert first["pairs"][0] == {
        "config": [16, 64, 128, 1, 4, 0],
        "status": "ok",
        "own_us": 100.0,
        "engine_us": 100.0,
    }
    assert first["pairs"][-1]["status"] == "compile"
    assert (body["complete"], body["passed"]) == (True, True)
    assert all(criterion["passed"] for criterion in body["criteria"])


def test_the_json_says_what_ran_where() -> None:
    assert json.loads(to_json(report()))["environment"] == {
        "date": "2026-11-22",
        "device": "NVIDIA H100",
        "compute_capability": "9.0",
        "sm_count": "132",
        "driver": "580.1",
        "cuda": "13.0",
        "torch": "2.11.0",
        "triton": "3.8.0",
        "python": "3.12.3",
        "engine": "vLLM 0.33.0",
        "engine_sha256": "ab" * 32,
        "kernel_sha256": "cd" * 32,
    }


def test_a_run_that_was_cut_off_never_passes_and_says_so() -> None:
    cut_off = report(complete=False)
    assert not cut_off.passed
    assert "cut off" in to_markdown(cut_off)


def test_without_a_workload_it_does_not_pass() -> None:
    assert not report(workloads=()).passed
