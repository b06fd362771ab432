"""The GPU half of a survey, on a kernel in plain torch and a clock that gives each launch config its time."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from multiprocessing import Pipe
from typing import Any

import pytest
import torch

pytest.importorskip("triton")

from kernels.launch_config import LaunchConfig
from kernels.problem import Flavour, QuantMode
from tests.builders import environment
from tests.tools.measure.torch_kernel import TorchKernel
from tools.errors import UserError
from tools.launch.layer_config import LayerConfig
from tools.measure.blocks import Clock
from tools.measure.layer import LayerShape
from tools.portfolio import survey_gpu
from tools.portfolio.survey_gpu import Surveyor
from tools.portfolio.survey_plan import RowConfigs
from tools.portfolio.survey_protocol import GpuLostError, Measurement, Ready, ShapeNotMeasuredError
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
    return Surveyor(kernel, Target("cuda", 90, 32), torch.device("cpu"), 1 << 10, clock)


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

    def test_a_launch_that_breaks_the_context_on_a_later_draw_ends_it_too(self) -> None:
        class Breaking(Played):
            def play(self, replays: Sequence[Any], deals: Sequence[Callable[[], object]]) -> list[list[float]]:
                raise RuntimeError("unspecified launch failure")

        def lost() -> None:
            raise RuntimeError("the same")

        with pytest.raises(GpuLostError, match="after RuntimeError: unspecified launch failure"):
            surveyor(TorchKernel(), Breaking(), lost).measure(LAYER, {24: RowConfigs(B, A, None)}, {})

    def test_memory_that_runs_out_is_said(self) -> None:
        class Full(Played):
            def capture(self, launches: Sequence[Any], a_sample: int) -> Any:
                raise torch.OutOfMemoryError("out of memory")

        with pytest.raises(ShapeNotMeasuredError, match=r"^K=64, top_k=2, ep=2: the GPU's memory ran out$"):
            surveyor(TorchKernel(), Full()).measure(LAYER, {24: RowConfigs(B, A, None)}, {})


class TestServe:
    @pytest.fixture
    def answers(self, monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[Any]]:
        """What it says to layers of these sizes."""

        @dataclass(frozen=True)
        class Here:
            device: Any = None

            def environment(self) -> Environment:
                return Environment.read(environment())

        monkeypatch.setattr(torch.cuda, "memory_reserved", lambda: 0)
        monkeypatch.setattr(survey_gpu.Gpu, "here", lambda: Here())
        monkeypatch.setattr(Surveyor, "here", lambda gpu, kernel: surveyor(kernel))

        def ask(*layers: LayerShape) -> list[Any]:
            ours, theirs = Pipe()
            for layer in layers:
                ours.send(Measurement(layer, {8: RowConfigs(B, A, None)}, {}))
            thread = threading.Thread(target=survey_gpu.serve, args=(theirs, TorchKernel()))
            thread.start()
            said = [ours.recv() for _ in range(1 + len(layers))]
            ours.close()
            thread.join(10)
            assert not thread.is_alive()
            return said

        return ask

    def test_it_reports_and_measures_until_its_pipe_closes(self, answers: Callable[..., list[Any]]) -> None:
        ready, *measured = answers(LAYER, LAYER)
        assert isinstance(ready, Ready)
        assert [row.num_tokens for rows in measured for row in rows] == [8, 8]

    def test_after_a_layer_that_does_not_fit_it_goes_on(self, answers: Callable[..., list[Any]]) -> None:
        huge = replace(LAYER, intermediate_size=1 << 20, hidden_size=1 << 16)
        _, first, second = answers(huge, LAYER)
        assert isinstance(first, ShapeNotMeasuredError)
        assert [row.num_tokens for row in second] == [8]

    def test_without_a_gpu_it_says_so_and_ends(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def none() -> Any:
            raise UserError("expected an NVIDIA GPU, found none")

        monkeypatch.setattr(survey_gpu.Gpu, "here", none)
        ours, theirs = Pipe()
        survey_gpu.serve(theirs, TorchKernel())
        assert str(ours.recv()) == "expected an NVIDIA GPU, found none"
