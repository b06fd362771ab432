"""How a tuned file is compared, as far as that needs no GPU: what is compiled, timed, and concluded."""

from __future__ import annotations

import errno
from dataclasses import replace
from typing import Any

import pytest
import torch

from kernels.launch_config import LaunchConfig
from kernels.problem import QuantMode
from tests.tools.bench.fake_pool import DEVICE, FakePool, with_parameters
from tools.bench import comparison, time_files
from tools.bench.candidates import Candidate, FileComparison
from tools.bench.comparison import Setup
from tools.bench.time_files import compile_file, verdict, worst
from tools.compile.outcome import Status
from tools.errors import MachineError
from tools.measure.kernels import OwnKernel
from tools.measure.layer import LayerShape
from tools.measure.statistics import FAILED, SAME_ENTRY, Duel, Interval, RowVerdict, Verdict, score
from tools.store.workload import Workload

A, B, C = (LaunchConfig(16, 64, 128, 1, 4, stages) for stages in (3, 4, 5))
FLOOR = (5.0, "memory")
MIXTRAL = Workload(8, 7168, "NVIDIA_H100_80GB_HBM3")
SHAPE = LayerShape(8, 7168, 4096, 2, QuantMode())


def samples(**us: float) -> dict[LaunchConfig, tuple[float, ...]]:
    return {config: (us[name],) * 16 for name, config in (("a", A), ("b", B), ("c", C)) if name in us}


def row(*, failures: dict[LaunchConfig, str] | None = None, rival: LaunchConfig = B, **us: float) -> RowVerdict:
    return verdict(64, FLOOR, {"this file": A, "rival": rival, "other": C}, samples(**us), failures or {})


class TestVerdict:
    def test_every_candidate_meets_the_file_and_no_other(self) -> None:
        found = row(a=10.0, b=20.0, c=5.0)
        assert (found.num_tokens, found.floor_us, found.bound) == (64, 5.0, "memory")
        assert {name: duel.verdict for name, duel in found.duels.items()} == {
            "rival": Verdict.FASTER,
            "other": Verdict.SLOWER,
        }
        assert list(found.measured) == ["this file", "rival", "other"]

    def test_one_launch_config_is_measured_once_and_equal_by_definition(self) -> None:
        found = row(rival=A, a=10.0, c=5.0)
        assert found.duels["rival"] is SAME_ENTRY
        assert found.measured["rival"].us == found.measured["this file"].us

    def test_a_candidate_that_fails_has_its_reason_and_no_verdict(self) -> None:
        found = row(a=10.0, c=5.0, failures={B: "compile: no"})
        assert found.duels["rival"] is FAILED
        assert (found.measured["rival"].us, found.measured["rival"].message) == (None, "compile: no")
        assert found.duels["other"].verdict is Verdict.SLOWER

    def test_a_file_that_fails_loses_no_duel_but_has_none(self) -> None:
        found = row(rival=A, c=5.0, failures={A: "crash"})
        assert found.duels == {"rival": FAILED, "other": FAILED}
        assert found.measured["this file"].message == found.measured["rival"].message == "crash"


class TestWorstShape:
    def test_the_shape_with_the_largest_ratio_is_shown(self) -> None:
        shapes = [row(a=10.0, b=20.0, c=20.0), row(a=10.0, b=9.0, c=20.0), row(a=10.0, b=11.0, c=11.0)]
        assert worst(shapes).measured == shapes[1].measured

    def test_each_rival_is_met_where_the_file_does_worst_against_it(self) -> None:
        """Slower than one under one shape, and than the other under another: neither verdict may be lost."""
        found = worst([row(a=10.0, b=20.0, c=9.0), row(a=10.0, b=5.0, c=20.0)])
        assert {name: duel.verdict for name, duel in found.duels.items()} == {
            "rival": Verdict.SLOWER,
            "other": Verdict.SLOWER,
        }
        assert score([found], "other") is not None
        assert found.duels["other"].ratio.median == pytest.approx(10.0 / 9.0)  # type: ignore[union-attr]

    def test_a_verdict_counts_more_than_a_ratio_that_noise_explains(self) -> None:
        noisy = replace(row(a=10.0, b=10.0, c=20.0), duels={"rival": Duel(Interval(0.9, 1.2, 1.5), Verdict.SAME)})
        slower = replace(row(a=10.0, b=9.5, c=20.0), duels={"rival": Duel(Interval(1.05, 1.05, 1.06), Verdict.SLOWER)})
        assert worst([noisy, slower]).duels == slower.duels

    def test_a_file_that_fails_is_worse_than_any_loss(self) -> None:
        shapes = [row(a=10.0, b=1.0, c=1.0), row(b=1.0, c=1.0, failures={A: "crash"})]
        assert worst(shapes) is shapes[1]

    def test_a_candidate_that_fails_hides_no_loss_under_another_shape(self) -> None:
        shapes = [row(a=10.0, b=5.0, c=20.0), row(a=10.0, c=20.0, failures={B: "crash"})]
        assert worst(shapes) == shapes[0]

    def test_where_all_others_fail_any_shape_will_do(self) -> None:
        only = row(a=10.0, failures={B: "crash", C: "crash"})
        assert worst([only]) == only


class TestCompileFile:
    @pytest.fixture(autouse=True)
    def _kernels_have_parameters(self, monkeypatch: pytest.MonkeyPatch) -> None:
        with_parameters(monkeypatch)

    def compile(self, pool: FakePool, *rows: dict[int, LaunchConfig], **changes: Any) -> dict[int, Any]:
        candidates = tuple(Candidate(f"number {i}", entries) for i, entries in enumerate(rows))
        comparison = FileComparison("a.json", MIXTRAL, (SHAPE,), candidates, tuple(rows[0]))
        return compile_file(replace(comparison, **changes), OwnKernel(), DEVICE, pool)  # type: ignore[arg-type]

    def test_every_candidates_entries_are_compiled_once(self) -> None:
        pool = FakePool()
        assert self.compile(pool, {64: A, 128: A}, {64: A, 128: B}) == {64: {}, 128: {}}
        # Up and down of two launch configs.
        assert len(pool.tasks) == 4

    def test_what_does_not_compile_has_its_status_and_reason(self) -> None:
        found = self.compile(FakePool(stages_4=Status.TIMEOUT), {64: A}, {64: B})
        assert found == {64: {B: "timeout: of the compiler"}}

    def test_what_a_rule_forbids_has_the_rule_alone(self) -> None:
        odd = LaunchConfig(16, 64, 128, 1, 4, 3, waves_per_eu=2)
        found = self.compile(FakePool(), {64: odd})
        assert found[64][odd].startswith("launch config: expected no AMD keys on sm90")

    def test_block_scales_clamp_the_tile_as_vllm_does(self) -> None:
        workload = Workload(256, 128, "NVIDIA_H100_80GB_HBM3", "fp8_w8a8", (128, 128))
        shape = LayerShape(256, 128, 7168, 8, QuantMode("fp8_w8a8", block_shape=(128, 128)))
        deep = LaunchConfig(16, 64, 256, 1, 4, 3)
        pool = FakePool()
        assert self.compile(pool, {64: deep}, workload=workload, shapes=(shape,)) == {64: {}}
        assert {task.problem.config.BLOCK_SIZE_K for task in pool.tasks} == {128}


class FakeRow:
    """A row whose check fails for some launch configs."""

    def __init__(self, errors: dict[LaunchConfig, Exception]) -> None:
        self.errors = errors
        self.launched: list[LaunchConfig] = []

    def check(self, contender: Any, config: LaunchConfig, projection: int) -> None:
        if config in self.errors:
            raise self.errors[config]

    def layers(self, kernel: Any, config: LaunchConfig) -> LaunchConfig:
        self.launched.append(config)
        return config


class TestTimeEntries:
    @pytest.fixture(autouse=True)
    def _no_gpu(self, monkeypatch: pytest.MonkeyPatch) -> None:
        us = {A: 15.0, B: 27.0}
        monkeypatch.setattr(comparison, "capture", lambda launches, a_sample: launches)
        monkeypatch.setattr(
            time_files, "measure_series", lambda replays, policy: [[us[replay], us[replay] + 1.0] for replay in replays]
        )

    def time(self, row: FakeRow, *configs: LaunchConfig, failures: dict[LaunchConfig, str] | None = None) -> Any:
        setup = Setup((OwnKernel(),), "sm90", None, 50 << 20, None)  # type: ignore[arg-type]
        return time_files.time_entries(row, setup, configs, failures or {})  # type: ignore[arg-type]

    def test_a_sample_a_round(self) -> None:
        times, failures = self.time(FakeRow({}), A, B)
        assert times == {A: (15.0, 16.0), B: (27.0, 28.0)}
        assert failures == {}

    def test_what_did_not_compile_is_not_launched(self) -> None:
        row = FakeRow({})
        times, failures = self.time(row, A, B, failures={B: "compile: no"})
        assert (list(times), failures) == ([A], {B: "compile: no"})
        assert row.launched == [A]

    def test_wrong_numbers_are_no_time(self) -> None:
        times, failures = self.time(FakeRow({A: AssertionError("ours, up: expected …\nmore")}), A, B)
        assert list(times) == [B]
        assert failures == {A: "AssertionError: ours, up: expected …"}

    def test_where_all_fail_nothing_is_timed(self) -> None:
        times, failures = self.time(FakeRow({A: RuntimeError("no image")}), A)
        assert (times, failures) == ({}, {A: "RuntimeError: no image"})

    def test_a_failure_of_this_row_is_not_kept_for_the_next(self) -> None:
        known: dict[LaunchConfig, str] = {}
        self.time(FakeRow({A: RuntimeError("no image")}), A, failures=known)
        assert known == {}

    def test_a_full_disk_ends_the_run_and_is_no_failure_of_the_file(self) -> None:
        full = OSError(errno.ENOSPC, "No space left on device", "/cache")
        with pytest.raises(MachineError, match="found: No space left on device at /cache"):
            self.time(FakeRow({A: full}), A)

    def test_a_full_gpu_ends_the_run(self) -> None:
        with pytest.raises(torch.OutOfMemoryError):
            self.time(FakeRow({A: torch.OutOfMemoryError("full")}), A)
