"""How a tuned file is judged, as far as that needs no GPU: what is compiled, played, and concluded."""

from __future__ import annotations

import errno
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch

from kernels.launch_config import LaunchConfig
from kernels.problem import Flavour, QuantMode
from tests.tools.bench.fake_pool import DEVICE, FakePool, with_parameters
from tools.bench.candidates import Candidate, FileComparison, Judging
from tools.bench.time_files import compile_file, measure
from tools.compile.outcome import Status
from tools.errors import MachineError
from tools.launch.layer_config import LayerConfig
from tools.measure.blocks import Played
from tools.measure.gpu import Ceilings
from tools.measure.judgement import RowVerdict, Verdict
from tools.measure.kernels import OwnKernel
from tools.measure.layer import LayerShape, Load
from tools.measure.panel import Part, RoutingKind
from tools.measure.seeds import Purpose
from tools.store.workload import Workload

VLLM, SGLANG = Flavour
USUAL = Judging()
A, B, C = (LaunchConfig(16, 64, 128, 1, 4, stages) for stages in (3, 4, 5))
MIXTRAL = Workload(8, 7168, "NVIDIA_H100_80GB_HBM3")
SHAPE = LayerShape(8, 7168, 4096, 2, QuantMode())


def comparison(*rows: dict[int, LaunchConfig]) -> FileComparison:
    """Of candidates with these entries, judged on vLLM's kernel."""
    candidates = tuple(Candidate.alike(f"number {i}", entries) for i, entries in enumerate(rows))
    return FileComparison("a.json", MIXTRAL, (SHAPE,), candidates, tuple(rows[0]), ((VLLM,),))


class TestCompileFile:
    @pytest.fixture(autouse=True)
    def _kernels_have_parameters(self, monkeypatch: pytest.MonkeyPatch) -> None:
        with_parameters(monkeypatch)

    def compile(self, pool: FakePool, *rows: dict[int, LaunchConfig], **changes: Any) -> dict[int, Any]:
        """On vLLM's kernel."""
        found = compile_file(replace(comparison(*rows), **changes), {VLLM: OwnKernel()}, DEVICE, pool)  # type: ignore[arg-type]
        return {num_tokens: failed for (engine, num_tokens), failed in found.items() if engine is VLLM}

    def test_each_engines_flavour_is_compiled_for_the_shapes_that_it_reads(self) -> None:
        pool = FakePool()
        kernels = {flavour: OwnKernel(flavour=flavour) for flavour in Flavour}
        two = replace(comparison({64: A}), shapes=(SHAPE, replace(SHAPE, top_k=4)), engines=((VLLM,), (SGLANG,)))
        found = compile_file(two, kernels, DEVICE, pool)  # type: ignore[arg-type]
        assert found == {(VLLM, 64): {}, (SGLANG, 64): {}}
        tasks = [(t.problem.routing.flavour, t.problem.routing.top_k) for t in pool.tasks]
        assert tasks == [(VLLM, 2)] * 2 + [(SGLANG, 4)] * 2

    def test_every_candidates_entries_are_compiled_once(self) -> None:
        pool = FakePool()
        assert self.compile(pool, {64: A, 128: A}, {64: A, 128: B}) == {64: {}, 128: {}}
        # Up and down of two launch configs.
        assert len(pool.tasks) == 4

    def test_what_does_not_compile_has_its_status_and_reason(self) -> None:
        found = self.compile(FakePool(stages_4=Status.TIMEOUT), {64: A}, {64: B})
        assert found == {64: {LayerConfig.of(B): "timeout: of the compiler"}}

    def test_what_a_rule_forbids_has_the_rule_alone(self) -> None:
        odd = LaunchConfig(16, 64, 128, 1, 4, 3, waves_per_eu=2)
        found = self.compile(FakePool(), {64: odd})
        assert found[64][LayerConfig.of(odd)].startswith("launch config: expected no AMD keys on sm90")

    def test_block_scales_clamp_the_tile_as_vllm_does(self) -> None:
        workload = Workload(256, 128, "NVIDIA_H100_80GB_HBM3", "fp8_w8a8", (128, 128))
        shape = LayerShape(256, 128, 7168, 8, QuantMode("fp8_w8a8", block_shape=(128, 128)))
        deep = LaunchConfig(16, 64, 256, 1, 4, 3)
        pool = FakePool()
        assert self.compile(pool, {64: deep}, workload=workload, shapes=(shape,)) == {64: {}}
        assert {task.problem.config.BLOCK_SIZE_K for task in pool.tasks} == {128}


class FakePlayer:
    """us: of a launch config under a routing; an exception is why it fails. What was asked for is kept."""

    layers = (SHAPE,)

    def __init__(self, us: dict[Any, Any]) -> None:
        self.us = us
        self.asked: list[tuple[Purpose, int, Part, list[LaunchConfig], range]] = []

    def play(
        self, purpose: Purpose, num_tokens: int, part: Part, configs: Sequence[LayerConfig], blocks: range
    ) -> Played:
        self.asked.append((purpose, num_tokens, part, [config.up for config in configs], blocks))
        found = {config: self.us.get((config.up, part.routing), self.us.get(config.up)) for config in configs}
        failures = {config: us for config, us in found.items() if isinstance(us, Exception)}
        times = {config: (tuple([us] * len(blocks)),) for config, us in found.items() if config not in failures}
        return Played(times, failures, Load(2.0, 2.0, 1.0), 8)


class TestMeasure:
    CEILINGS = Ceilings(3e12, 750e12, 1500e12, True)

    def measure(
        self, player: FakePlayer, *rows: dict[int, LaunchConfig], failures: Any = None, judging: Judging = USUAL
    ) -> list[RowVerdict]:
        known = {(VLLM, m): {LayerConfig.of(c): why for c, why in (failures or {}).items()} for m in rows[0]}
        return list(measure(comparison(*rows), judging, player, self.CEILINGS, known))  # type: ignore[arg-type]

    def test_every_part_is_judged_on_its_own(self) -> None:
        player = FakePlayer({A: 100.0, B: 120.0, (B, RoutingKind.SKEW_03): 90.0})
        (row,) = self.measure(player, {64: A}, {64: B})
        verdicts = {str(part.part): part.duels["number 1"].verdict for part in row.parts}
        assert verdicts == {
            "vllm, uniform": Verdict.FASTER,
            "vllm, skew_1.0": Verdict.FASTER,
            "vllm, skew_0.3": Verdict.SLOWER,
        }
        assert [(purpose, m, list(configs)) for purpose, m, _, configs, _ in player.asked] == [
            (Purpose.JUDGEMENT, 64, [A, B])
        ] * 3

    def test_the_largest_batch_size_comes_first(self) -> None:
        """Its check stands for all that run the same binaries."""
        rows = self.measure(FakePlayer({A: 100.0}), {1: A, 64: A, 8: A})
        assert [row.num_tokens for row in rows] == [64, 8, 1]

    def test_on_the_draws_of_its_series(self) -> None:
        player = FakePlayer({A: 100.0})
        self.measure(player, {1: A}, judging=Judging(series=2, purpose=Purpose.CI))
        assert [(purpose, blocks) for purpose, *_, blocks in player.asked] == [(Purpose.CI, range(128, 132))]

    def test_the_floor_is_of_what_was_drawn(self) -> None:
        (row,) = self.measure(FakePlayer({A: 100.0}), {1: A})
        (part,) = row.parts
        assert part.bound == "memory"
        assert part.floor_us == pytest.approx(2 * 3 * 7168 * 4096 * 2 / 3e12 * 1e6, rel=0.01)

    def test_what_did_not_compile_is_not_launched(self) -> None:
        player = FakePlayer({A: 100.0})
        (row,) = self.measure(player, {1: A}, {1: B}, failures={B: "compile: no"})
        assert [configs for *_, configs, _ in player.asked] == [[A]]
        assert row.parts[0].measured["number 1"].message == "compile: no"

    def test_wrong_numbers_are_no_time(self) -> None:
        player = FakePlayer({A: AssertionError("ours, up: expected …\nmore"), B: 10.0})
        (row,) = self.measure(player, {1: A}, {1: B})
        assert row.parts[0].own.message == "AssertionError: ours, up: expected …"
        assert row.is_slower

    def test_a_full_disk_ends_the_run_and_is_no_failure_of_the_file(self) -> None:
        full = OSError(errno.ENOSPC, "No space left on device", "/cache")
        with pytest.raises(MachineError, match="found: No space left on device at /cache"):
            self.measure(FakePlayer({A: full}), {1: A})

    def test_a_full_gpu_ends_the_run(self) -> None:
        with pytest.raises(torch.OutOfMemoryError):
            self.measure(FakePlayer({A: torch.OutOfMemoryError("full")}), {1: A})
