"""What both comparisons do alike, as far as that needs no GPU: what is compiled, and who shares a kernel's fate."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from types import SimpleNamespace

import pytest

from kernels.launch_config import LaunchConfig
from kernels.problem import Flavour, QuantMode
from tests.tools.bench.fake_pool import DEVICE, FakePool, with_parameters
from tools.bench.comparison import CompiledKernels, Floor, NotTimed, Setup, compile_all
from tools.compile.outcome import Status
from tools.launch.layer_config import LayerConfig
from tools.measure.gpu import Ceilings
from tools.measure.kernels import OwnKernel
from tools.measure.layer import LayerShape, Load, row_bytes, row_operations

A, B = (LayerConfig.of(LaunchConfig(16, 64, 128, 1, 4, stages)) for stages in (3, 4))
SHAPE = LayerShape(8, 7168, 4096, 2, QuantMode())
ALL = Load(8.0, 4096 * 2.0, 4096.0)


@dataclass(frozen=True)
class OtherKernel(OwnKernel):
    """Another one to compare with."""

    name: str = "other"


class TestCompileAll:
    @pytest.fixture(autouse=True)
    def _kernels_have_parameters(self, monkeypatch: pytest.MonkeyPatch) -> None:
        with_parameters(monkeypatch)

    def compile(
        self,
        pool: FakePool,
        configs: dict[int, list[LayerConfig]],
        shapes: Sequence[LayerShape] = (SHAPE,),
        kernels: Sequence[OwnKernel] = (OwnKernel(),),
    ) -> CompiledKernels:
        return compile_all(kernels, shapes, configs, DEVICE, pool)  # type: ignore[arg-type]

    def test_each_kernel_is_compiled_once(self) -> None:
        pool = FakePool()
        found = self.compile(pool, {64: [A, A], 128: [A, B]})
        assert found == CompiledKernels({"ok": 4}, {64: {}, 128: {}}, {64: {}, 128: {}})
        # Up and down of two launch configs.
        assert len(pool.tasks) == 4

    def test_a_down_entry_of_its_own_is_compiled_for_down_alone(self) -> None:
        pool = FakePool()
        self.compile(pool, {64: [LayerConfig(A.up, B.down)]})
        stages = [(task.problem.projection.mul_routed_weight, task.problem.config.num_stages) for task in pool.tasks]
        assert stages == [(False, 3), (True, 4)]

    def test_each_of_the_compared_kernels_is(self) -> None:
        pool = FakePool()
        self.compile(pool, {64: [A]}, kernels=(OwnKernel(), OtherKernel()))
        assert [task.kernel.name for task in pool.tasks] == ["ours", "ours", "other", "other"]

    def test_every_shape_has_kernels_of_its_own(self) -> None:
        pool = FakePool()
        self.compile(pool, {64: [A]}, shapes=(SHAPE, LayerShape(8, 7168, 4095, 2, QuantMode())))
        assert len(pool.tasks) == 4

    def test_what_does_not_compile_has_its_kernel_status_and_reason(self) -> None:
        found = self.compile(FakePool(stages_4=Status.TIMEOUT), {64: [A, B]})
        assert found.failed == {64: {B: NotTimed("ours", "timeout", "of the compiler")}}
        assert found.outcomes == {"ok": 2, "timeout": 2}

    def test_all_that_share_a_kernel_share_its_failure(self) -> None:
        grouped = LayerConfig.of(LaunchConfig(16, 64, 128, 16, 4, 4))
        pool = FakePool(stages_4=Status.CRASH)
        found = self.compile(pool, {64: [B, grouped]})
        assert len(pool.tasks) == 2
        assert set(found.failed[64]) == {B, grouped}

    def test_all_that_share_a_kernel_spill_alike(self) -> None:
        grouped = LayerConfig.of(LaunchConfig(16, 64, 128, 16, 4, 4))
        found = self.compile(FakePool(spills=(4,)), {64: [A, B, grouped]})
        assert found.spilling == {
            64: dict.fromkeys((B, grouped), NotTimed("ours", "spills", "1504 bytes of stack a thread"))
        }
        assert found.failed == {64: {}}

    def test_a_mode_that_does_not_compile_fails_only_where_it_runs(self) -> None:
        """One token runs the naive mode, another kernel than that of 256."""
        pool = FakePool(is_bad=lambda task: task.problem.routing.is_naive)
        found = self.compile(pool, {1: [A], 256: [A]})
        assert found.failed == {1: {A: NotTimed("ours", "compile", "of the compiler")}, 256: {}}

    def test_what_a_rule_forbids_never_reaches_the_pool(self) -> None:
        odd = LayerConfig.of(LaunchConfig(16, 64, 128, 1, 4, 3, waves_per_eu=2))
        pool = FakePool()
        found = self.compile(pool, {64: [odd]})
        assert pool.tasks == []
        assert list(found.failed[64]) == [odd]
        assert found.failed[64][odd].status == "constraints"
        assert "expected no AMD keys on sm90" in found.failed[64][odd].message


class TestFloor:
    CEILINGS = Ceilings(3e12, 750e12, 1500e12, True)

    def floor(self, shape: LayerShape, num_tokens: int, load: Load, flavour: Flavour = Flavour.VLLM) -> Floor:
        inputs = SimpleNamespace(routing=SimpleNamespace(num_tokens=num_tokens), load=load)
        setup = Setup((OwnKernel(flavour=flavour),), "sm90", self.CEILINGS, 50 << 20, None)  # type: ignore[arg-type]
        return setup.floor(SimpleNamespace(shape=shape, inputs=inputs))  # type: ignore[arg-type]

    def test_few_tokens_wait_for_the_weights_of_the_experts_that_they_reach(self) -> None:
        load = Load(2.0, 2.0, 1.0)
        found = self.floor(SHAPE, 1, load)
        assert (found.bound, found.num_bytes) == ("memory", row_bytes(SHAPE, 1, load))
        assert found.us == pytest.approx(found.num_bytes / 3e12 * 1e6)

    def test_many_tokens_wait_for_the_products(self) -> None:
        found = self.floor(SHAPE, 4096, ALL)
        assert (found.bound, found.operations) == ("compute", row_operations(SHAPE, ALL))
        assert found.us == pytest.approx(found.operations / 750e12 * 1e6)

    def test_quantised_activations_run_twice_as_fast(self) -> None:
        fp8 = LayerShape(8, 7168, 4096, 2, QuantMode("fp8_w8a8"))
        assert self.floor(fp8, 4096, ALL).us == pytest.approx(row_operations(fp8, ALL) / 1500e12 * 1e6)

    def test_sglang_waits_for_the_zeros_of_other_ranks_pairs_too(self) -> None:
        shape, load = replace(SHAPE, ep=8), Load(8.0, 1024.0, 900.0)
        zeros = (4096 * 2 - 1024) * (2 * 7168 + 4096) * 2
        vllm, sglang = (self.floor(shape, 4096, load, flavour).num_bytes for flavour in Flavour)
        assert sglang - vllm == zeros
