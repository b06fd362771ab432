"""How a tuned file meets its contestants, as far as that needs no GPU: what is compiled, timed, and concluded."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from kernels.launch_config import LaunchConfig
from kernels.problem import QuantMode
from tools.bench import files
from tools.bench.contestants import Contestant
from tools.bench.files import Arena, Match, compile_all, verdict, worst
from tools.compile.outcome import Outcome, Status
from tools.measure.kernels import KernelTask, OwnKernel
from tools.measure.layer import DOWN, UP, LayerShape
from tools.measure.statistics import FAILED, SAME_ENTRY, Duel, Interval, RowVerdict, Verdict, score
from tools.registry.devices import Target
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
    def test_every_contestant_meets_the_file_and_nobody_else(self) -> None:
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

    def test_a_contestant_that_fails_has_its_reason_and_no_verdict(self) -> None:
        found = row(a=10.0, c=5.0, failures={B: "compile: no"})
        assert found.duels["rival"] is FAILED
        assert (found.measured["rival"].us, found.measured["rival"].message) == (None, "compile: no")
        assert found.duels["other"].verdict is Verdict.SLOWER

    def test_a_file_that_fails_loses_no_duel_but_has_none(self) -> None:
        found = row(rival=A, c=5.0, failures={A: "crash"})
        assert found.duels == {"rival": FAILED, "other": FAILED}
        assert found.measured["this file"].message == found.measured["rival"].message == "crash"


class TestWorstShape:
    def test_the_shape_with_the_largest_ratio_is_told(self) -> None:
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

    def test_a_contestant_that_fails_hides_no_loss_under_another_shape(self) -> None:
        shapes = [row(a=10.0, b=5.0, c=20.0), row(a=10.0, c=20.0, failures={B: "crash"})]
        assert worst(shapes) == shapes[0]

    def test_where_all_others_fail_any_shape_will_do(self) -> None:
        only = row(a=10.0, failures={B: "crash", C: "crash"})
        assert worst([only]) == only


class FakePool:
    """Answers every task at once, in reverse; `status` by the task's number of stages; is_bad: doesn't compile."""

    def __init__(self, is_bad: Callable[[KernelTask], bool] = lambda task: False, **status: Status) -> None:
        self.is_bad = is_bad
        self.status = {int(stages.removeprefix("stages_")): value for stages, value in status.items()}
        self.tasks: list[KernelTask] = []

    def run(self, tasks: Iterable[KernelTask]) -> Iterator[tuple[int, Outcome]]:
        self.tasks = list(tasks)
        for index, task in reversed(list(enumerate(self.tasks))):
            stages = task.problem.config.num_stages
            status = Status.COMPILE if self.is_bad(task) else self.status.get(stages, Status.OK)
            yield index, Outcome(status, 0.1, message="" if status is Status.OK else "of the compiler")


def arena(contender: Any = None) -> Arena:
    return Arena(contender or OwnKernel(), Target("cuda", 90, 32), "sm90", None, 50 << 20, None, "uniform")  # type: ignore[arg-type]


def match(*entries: dict[int, LaunchConfig], shapes: tuple[LayerShape, ...] = (SHAPE,)) -> Match:
    contestants = tuple(Contestant(f"number {i}", rows) for i, rows in enumerate(entries))
    return Match(MIXTRAL, shapes, contestants, tuple(entries[0]))


class TestCompileAll:
    @pytest.fixture(autouse=True)
    def _knows_the_kernels_parameters(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Also in a process where the kernels' own tests asked for Triton's interpreter, whose kernels name none."""
        jit = pytest.importorskip("triton.runtime.jit")
        kernel = OwnKernel().load()
        if not hasattr(kernel, "params"):
            compiled = jit.JITFunction(kernel.fn)
            monkeypatch.setattr(OwnKernel, "load", lambda self: compiled)

    def test_each_kernel_is_compiled_once(self) -> None:
        pool = FakePool()
        assert compile_all(match({64: A, 128: A}, {64: A, 128: B}), arena(), pool) == {64: {}, 128: {}}  # type: ignore[arg-type]
        # Up and down of two launch configs.
        assert len(pool.tasks) == 4

    def test_what_does_not_compile_has_its_status_and_reason(self) -> None:
        pool = FakePool(stages_4=Status.TIMEOUT)
        found = compile_all(match({64: A}, {64: B}), arena(), pool)  # type: ignore[arg-type]
        assert found == {64: {B: "timeout: of the compiler"}}

    def test_all_that_share_a_kernel_share_its_failure(self) -> None:
        grouped = LaunchConfig(16, 64, 128, 16, 4, 4)
        pool = FakePool(stages_4=Status.CRASH)
        found = compile_all(match({64: B}, {64: grouped}), arena(), pool)  # type: ignore[arg-type]
        assert len(pool.tasks) == 2
        assert set(found[64]) == {B, grouped}

    def test_a_mode_that_does_not_compile_fails_only_where_it_runs(self) -> None:
        """One token runs the naive mode, another kernel than that of 256."""
        pool = FakePool(is_bad=lambda task: task.problem.routing.is_naive)
        found = compile_all(match({1: A, 256: A}), arena(), pool)  # type: ignore[arg-type]
        assert found == {1: {A: "compile: of the compiler"}, 256: {}}

    def test_what_a_rule_forbids_never_reaches_the_pool(self) -> None:
        odd = LaunchConfig(16, 64, 128, 1, 4, 3, waves_per_eu=2)
        pool = FakePool()
        found = compile_all(match({64: odd}), arena(), pool)  # type: ignore[arg-type]
        assert pool.tasks == []
        assert list(found[64]) == [odd]
        assert "expected no AMD keys on sm90" in found[64][odd]

    def test_every_shape_has_kernels_of_its_own(self) -> None:
        pool = FakePool()
        deep = LayerShape(8, 7168, 4095, 2, QuantMode())
        compile_all(match({64: A}, shapes=(SHAPE, deep)), arena(), pool)  # type: ignore[arg-type]
        assert len(pool.tasks) == 4

    def test_block_scales_clamp_the_tile_as_vllm_does(self) -> None:
        workload = Workload(256, 128, "NVIDIA_H100_80GB_HBM3", "fp8_w8a8", (128, 128))
        shape = LayerShape(256, 128, 7168, 8, QuantMode("fp8_w8a8", block_shape=(128, 128)))
        deep = LaunchConfig(16, 64, 256, 1, 4, 3)
        pool = FakePool()
        found = compile_all(Match(workload, (shape,), (Contestant("a", {64: deep}),), (64,)), arena(), pool)  # type: ignore[arg-type]
        assert found == {64: {}}
        assert {task.problem.config.BLOCK_SIZE_K for task in pool.tasks} == {128}


class FakeRow:
    """A row whose check fails for some launch configs."""

    def __init__(self, errors: dict[LaunchConfig, Exception]) -> None:
        self.errors = errors
        self.launched: list[tuple[LaunchConfig, int]] = []

    def check(self, contender: Any, config: LaunchConfig, projection: int) -> None:
        if config in self.errors:
            raise self.errors[config]

    def launches(self, contender: Any, config: LaunchConfig, projection: int) -> tuple[LaunchConfig, int]:
        self.launched.append((config, projection))
        return config, projection


class TestTimeEntries:
    @pytest.fixture(autouse=True)
    def _no_gpu(self, monkeypatch: pytest.MonkeyPatch) -> None:
        us = {(A, UP): 10.0, (A, DOWN): 5.0, (B, UP): 20.0, (B, DOWN): 7.0}
        monkeypatch.setattr(files, "capture", lambda launches: launches)
        monkeypatch.setattr(
            files, "measure_series", lambda replays, policy: [[us[replay], us[replay] + 1.0] for replay in replays]
        )

    def time(self, row: FakeRow, *configs: LaunchConfig, failures: dict[LaunchConfig, str] | None = None) -> Any:
        return files.time_entries(row, SimpleNamespace(contender=None), configs, failures or {})  # type: ignore[arg-type]

    def test_up_and_down_add_up_round_by_round(self) -> None:
        times, failures = self.time(FakeRow({}), A, B)
        assert times == {A: (15.0, 17.0), B: (27.0, 29.0)}
        assert failures == {}

    def test_what_did_not_compile_is_not_launched(self) -> None:
        row = FakeRow({})
        times, failures = self.time(row, A, B, failures={B: "compile: no"})
        assert (list(times), failures) == ([A], {B: "compile: no"})
        assert {config for config, _ in row.launched} == {A}

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

    def test_a_full_gpu_ends_the_run(self) -> None:
        with pytest.raises(torch.OutOfMemoryError):
            self.time(FakeRow({A: torch.OutOfMemoryError("full")}), A)
