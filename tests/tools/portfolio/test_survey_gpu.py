"""The GPU half of a survey, on a kernel in plain torch and a clock that gives each launch config its time."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("triton")

from kernels.launch_config import LaunchConfig
from kernels.problem import Flavour, QuantMode
from tests.builders import environment
from tests.tools.measure.torch_kernel import TorchKernel
from tests.tools.portfolio.unpacked_engine import H100, MIXTRAL, rows, unpacked
from tools.compile.outcome import CompileOutcome, Resources, Status
from tools.launch.layer_config import LayerConfig
from tools.measure.blocks import Clock
from tools.measure.kernels import KernelTask
from tools.measure.layer import LayerShape
from tools.portfolio import survey_gpu
from tools.portfolio.shipped_files import find_engine
from tools.portfolio.survey import GpuLostError, ShapeNotMeasuredError
from tools.portfolio.survey_gpu import Surveyor
from tools.portfolio.survey_plan import RowConfigs, plan
from tools.registry.devices import Target
from tools.store.record import Environment

LAYER = LayerShape(4, 32, 64, 2, QuantMode(), ep=2)
A, B = (LayerConfig.of(LaunchConfig(16, size, 32, 1, 4, 3)) for size in (16, 32))
TMA = LayerConfig(A.up, replace(A.down, USE_TMA=True))


@dataclass
class Played:
    """In place of graphs: launches run when they are captured; the n-th that is played takes n µs."""

    blocks: list[int] = field(default_factory=list)

    def capture(self, launches: Sequence[Any], a_sample: int) -> Any:
        for launch in launches:
            launch()
        return len(launches) // a_sample

    def play(self, replays: Sequence[Any], deals: Sequence[Callable[[], object]]) -> list[list[float]]:
        for deal in deals:
            deal()
        self.blocks.append(len(deals))
        return [[float(place + 1)] * len(deals) for place, _ in enumerate(replays)]


def surveyor(kernel: Any, played: Played | None = None, synchronize: Callable[[], None] = lambda: None) -> Surveyor:
    played = played or Played()
    clock = Clock(capture_deck=played.capture, play=played.play, synchronize=synchronize)
    return Surveyor(
        Environment.read(environment()), kernel, Target("cuda", 90, 32), torch.device("cpu"), 1 << 10, clock
    )


@pytest.fixture(autouse=True)
def cuda(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """As if there were a GPU. Sets how many bytes are free."""
    answers = {"Stream": object, "stream": contextlib.nullcontext, "empty_cache": lambda: None}
    for name, value in answers.items():
        monkeypatch.setattr(torch.cuda, name, value)

    def free(num_bytes: int) -> None:
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (num_bytes, 80 << 30))

    free(80 << 30)
    return free


class TestMeasure:
    def test_each_distinct_config_is_checked_and_played_in_the_same_blocks(self) -> None:
        configs = RowConfigs(shipped=B, heuristic=A, ours=B)
        played = Played()
        found = surveyor(TorchKernel(Flavour.SGLANG), played).measure(LAYER, {1: configs, 24: configs}, {})
        assert [row.num_tokens for row in found] == [1, 24]
        for row in found:
            assert row.us == {A: (1.0,) * 4, B: (2.0,) * 4}
            assert row.failures == {}
        assert played.blocks == [4, 4]

    def test_rows_in_the_alignments_order_run_between_up_and_down(self) -> None:
        (row,) = surveyor(TorchKernel(Flavour.SGLANG)).measure(LAYER, {24: RowConfigs(TMA, A, None)}, {})
        assert set(row.us) == {A, TMA}

    def test_what_did_not_compile_is_not_launched(self) -> None:
        failures = {(LAYER, 24, B): "compile: no"}
        (row,) = surveyor(TorchKernel(Flavour.SGLANG)).measure(LAYER, {24: RowConfigs(B, A, None)}, failures)
        assert (list(row.us), row.failures) == ([A], {B: "compile: no"})

    def test_wrong_numbers_are_no_time(self) -> None:
        (row,) = surveyor(TorchKernel(Flavour.SGLANG, foreign_value=1.0)).measure(
            LAYER, {24: RowConfigs(B, A, None)}, {}
        )
        assert row.us == {}
        assert row.failures[A].startswith("AssertionError: torch, up: expected zeros for experts of other ranks")

    def test_a_rule_that_forbids_a_launch_is_its_reason(self) -> None:
        (row,) = surveyor(TorchKernel(Flavour.VLLM)).measure(LAYER, {24: RowConfigs(TMA, A, None)}, {})
        assert "found ['USE_TMA']" in row.failures[TMA]

    def test_a_gpu_that_answers_no_more_ends_it(self) -> None:
        @dataclass(frozen=True)
        class Crashing(TorchKernel):
            def bind(self, problem: Any, pointers: Any) -> Any:
                raise RuntimeError("an illegal memory access was encountered")

        def lost() -> None:
            raise RuntimeError("the same")

        row = {24: RowConfigs(B, A, None)}
        found = surveyor(Crashing()).measure(LAYER, row, {})
        assert found[0].failures[A] == "RuntimeError: an illegal memory access was encountered"
        with pytest.raises(GpuLostError, match="doesn't answer any more, after RuntimeError: an illegal memory access"):
            surveyor(Crashing(), synchronize=lost).measure(LAYER, row, {})

    def test_a_layer_that_does_not_fit_is_said(self, cuda: Callable[[int], None]) -> None:
        cuda(1 << 30)
        with pytest.raises(
            ShapeNotMeasuredError, match=r"K=64, top_k=2, ep=2 takes 4\.\d GiB of GPU memory, 1\.0 GiB are"
        ):
            surveyor(TorchKernel(Flavour.SGLANG)).measure(LAYER, {24: RowConfigs(B, A, None)}, {})


class TestCompile:
    @pytest.fixture
    def tasks(self, monkeypatch: pytest.MonkeyPatch) -> list[KernelTask]:
        """What the pool is given. Kernels of 3 stages don't compile."""
        given: list[KernelTask] = []

        class Pool:
            def __init__(self, jobs: int) -> None:
                assert jobs == 7

            def __enter__(self) -> Pool:
                return self

            def __exit__(self, *_: object) -> None:
                pass

            def run(self, tasks: Iterable[KernelTask]) -> Iterator[tuple[int, CompileOutcome]]:
                for index, task in enumerate(tasks):
                    given.append(task)
                    is_bad = dict(task.problem.config.options)["num_stages"] == 3
                    status = Status.COMPILE if is_bad else Status.OK
                    yield (
                        index,
                        CompileOutcome(status, 0.1, None if is_bad else Resources(1, 2, 0), "no" if is_bad else ""),
                    )

        monkeypatch.setattr(survey_gpu, "CompilePool", Pool)
        return given

    def test_every_binary_once_and_what_fails_by_what_launches_it(
        self, tmp_path: Path, tasks: list[KernelTask]
    ) -> None:
        files = {MIXTRAL: rows(1, 64, num_stages=5), MIXTRAL.replace(".json", ",dtype=fp8_w8a8.json"): rows(1)}
        engine = find_engine(Flavour.VLLM, unpacked(tmp_path, Flavour.VLLM, files))
        contests = plan(engine, H100, "3.8.0", 1, tmp_path / "none").contests
        said: list[str] = []
        failures = surveyor(TorchKernel()).compile(contests, 7, said.append)
        assert said == [f"compiling {len(tasks)} kernels"]
        assert len({task.key for task in tasks}) == len(tasks)
        shipped = [contest.configs(1, Flavour.VLLM).shipped for contest in contests]
        layers = [contest.shapes[0][1] for contest in contests]
        by_stages = {
            dict(config.up.options)["num_stages"]: (layer, config)
            for layer, config in zip(layers, shipped, strict=True)
        }
        layer, config = by_stages[3]
        assert failures[layer, 1, config] == "compile: no"
        layer, config = by_stages[5]
        assert (layer, 1, config) not in failures
