"""A survey's process that measures, seen from outside: it is replaced when it is lost, and what fits no GPU is said."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import pytest

pytest.importorskip("triton")

from kernels.launch_config import LaunchConfig
from kernels.problem import Flavour, QuantMode
from tests.tools.measure.torch_kernel import TorchKernel
from tests.tools.portfolio import survey_children as children
from tests.tools.portfolio.unpacked_engine import H100, MIXTRAL, rows, unpacked
from tools.compile.outcome import CompileOutcome, Resources, Status
from tools.errors import MachineError, UserError
from tools.launch.layer_config import LayerConfig
from tools.measure.kernels import KernelTask
from tools.measure.layer import LayerShape
from tools.portfolio import survey_process
from tools.portfolio.shipped_files import find_engine
from tools.portfolio.survey_plan import RowConfigs, plan
from tools.portfolio.survey_process import MOST_LOST, GpuTimer, Patience, compile_all
from tools.portfolio.survey_protocol import GpuLostError, ShapeNotMeasuredError
from tools.registry.devices import Target

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="Triton has Linux wheels only")

A, B = (LayerConfig.of(LaunchConfig(16, size, 32, 1, 4, 3)) for size in (16, 32))
QUICK = Patience(start_s=30.0, measure_s=0.5)


@pytest.fixture
def timer() -> Iterator[GpuTimer]:
    with GpuTimer(None, QUICK, children.measuring) as found:  # type: ignore[arg-type]  # no kernel is asked for
        assert found.environment.device_name == H100
        yield found


def measured_by(timer: GpuTimer, hidden_size: int = children.GOOD) -> float:
    """The id of the process that measured such a layer."""
    layer = LayerShape(4, 32, hidden_size, 2, QuantMode())
    (row,) = timer.measure(layer, {8: RowConfigs(A, B, None)}, {})
    assert row.num_tokens == 8
    return row.us[A][0]


class TestMeasure:
    def test_one_process_measures_all_and_says_what_disturbs_it(self, timer: GpuTimer) -> None:
        assert timer.notes == ("another process uses the GPU",)
        assert measured_by(timer) == measured_by(timer)

    def test_a_shape_that_does_not_fit_leaves_the_process_as_it_is(self, timer: GpuTimer) -> None:
        first = measured_by(timer)
        with pytest.raises(ShapeNotMeasuredError, match=r"^K=128, top_k=2 takes 99.0 GiB$"):
            measured_by(timer, children.TOO_LARGE)
        assert measured_by(timer) == first

    @pytest.mark.parametrize(
        ("hidden_size", "reason"),
        [
            (children.LOSES_CONTEXT, "K=192, top_k=2: the GPU doesn't answer any more"),
            (children.CRASHES, "K=256, top_k=2: its process ended: killed by signal 11. an assertion of the driver"),
            (children.HANGS, "K=320, top_k=2: no answer within 0.5 s"),
        ],
    )
    def test_a_process_that_is_lost_costs_its_shape_and_is_replaced(
        self, timer: GpuTimer, hidden_size: int, reason: str
    ) -> None:
        first = measured_by(timer)
        with pytest.raises(ShapeNotMeasuredError) as lost:
            measured_by(timer, hidden_size)
        assert str(lost.value) == reason
        assert measured_by(timer) != first

    def test_one_that_died_after_its_answer_costs_nothing(self, timer: GpuTimer) -> None:
        first = measured_by(timer, children.DIES_AFTERWARDS)
        assert timer._child is not None
        timer._child.process.join()
        assert measured_by(timer) != first

    def test_what_the_machine_fails_at_is_raised(self, timer: GpuTimer) -> None:
        with pytest.raises(MachineError, match="no space left"):
            measured_by(timer, children.NO_DISK)

    def test_several_lost_in_a_row_are_the_gpus_fault(self, timer: GpuTimer) -> None:
        for _ in range(MOST_LOST):
            with pytest.raises(ShapeNotMeasuredError):
                measured_by(timer, children.LOSES_CONTEXT)
        with pytest.raises(GpuLostError, match=f"^{MOST_LOST} processes in a row were lost"):
            measured_by(timer)

    def test_one_that_comes_up_no_more_ends_it(self, tmp_path: Path) -> None:
        marker = str(tmp_path / "marker")
        with GpuTimer(marker, QUICK, children.up_once) as timer:  # type: ignore[arg-type]
            assert timer.notes
            with pytest.raises(ShapeNotMeasuredError):
                measured_by(timer, children.LOSES_CONTEXT)
            with pytest.raises(GpuLostError, match="comes up any more: expected an NVIDIA GPU, found none"):
                measured_by(timer)

    @pytest.mark.parametrize(
        ("main", "message"),
        [
            (children.refusing, "expected an NVIDIA GPU, found none"),
            (children.never_up, "GPU: expected a process that measures, found none: its process ended: exit code 3."),
        ],
    )
    def test_one_that_never_comes_up_is_one_line(self, main: Callable[..., None], message: str) -> None:
        with GpuTimer(None, QUICK, main) as timer, pytest.raises(UserError) as refusal:  # type: ignore[arg-type]
            timer.environment  # noqa: B018
        assert str(refusal.value).startswith(message)


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

        monkeypatch.setattr(survey_process, "CompilePool", Pool)
        return given

    def test_every_binary_once_and_what_fails_by_what_launches_it(
        self, tmp_path: Path, tasks: list[KernelTask]
    ) -> None:
        files = {MIXTRAL: rows(1, 64, num_stages=5), MIXTRAL.replace(".json", ",dtype=fp8_w8a8.json"): rows(1)}
        engine = find_engine(Flavour.VLLM, unpacked(tmp_path, Flavour.VLLM, files))
        contests = plan(engine, H100, "3.8.0", 1, tmp_path / "none").contests
        said: list[str] = []
        failures = compile_all(TorchKernel(), Target("cuda", 90, 32), contests, 7, said.append)
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
