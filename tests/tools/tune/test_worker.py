"""Times on a fake clock what really computes (a stand-in kernel in plain torch, for the naive mode on the CPU)."""

from __future__ import annotations

import errno
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from types import SimpleNamespace
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("triton")

from kernels.launch import Launch, Pointers  # noqa: E402
from kernels.launch_config import LaunchConfig  # noqa: E402
from kernels.problem import Flavour, Problem, QuantMode  # noqa: E402
from tests.tools.measure import torch_kernel  # noqa: E402
from tools.compile.outcome import Status  # noqa: E402
from tools.errors import MachineError  # noqa: E402
from tools.launch.layer_config import LayerConfig  # noqa: E402
from tools.measure.blocks import BlockPlayer, Clock, ContextLost  # noqa: E402
from tools.measure.gpu import BUSY_BYTES  # noqa: E402
from tools.measure.panel import Part, RoutingKind  # noqa: E402
from tools.measure.seeds import Purpose, seed_of  # noqa: E402
from tools.registry.devices import Target  # noqa: E402
from tools.store import schemas  # noqa: E402
from tools.store.record import ShapeOfModels  # noqa: E402
from tools.store.workload import Shape, Workload  # noqa: E402
from tools.tune.protocol import (  # noqa: E402
    BlockJob,
    Measured,
    Refusal,
    Screened,
    ScreenJob,
    Subject,
    WorkerSpec,
    failed,
)
from tools.tune.worker import RowTimer, _look_around  # noqa: E402

GOOD = LaunchConfig(16, 32, 64, 1, 4, 3)
GROUPED = replace(GOOD, GROUP_SIZE_M=8)
WRONG = LaunchConfig(16, 32, 64, 1, 8, 3)
SILENT = LaunchConfig(16, 64, 64, 1, 4, 3)
RAISES = LaunchConfig(32, 32, 64, 1, 4, 3)
FORBIDDEN = LaunchConfig(32, 64, 64, 1, 4, 3)


@dataclass(frozen=True)
class TorchKernel:
    """Counts its launches; some configs compute wrong numbers, write nothing, or fail."""

    launched: list[tuple[int, int]] = field(default_factory=list)
    name: str = "stand-in"
    flavour: Flavour = Flavour.VLLM
    takes_descriptors: bool = False

    def load(self) -> Any:
        return _Grid()

    def bind(self, problem: Problem, pointers: Pointers) -> Launch:
        if problem.config.BLOCK_SIZE_M == 32 and problem.config.BLOCK_SIZE_N == 64:
            raise ValueError("BLOCK_SIZE_M: expected another one")
        return Launch((self, problem, pointers), {}, {}, (1,))

    def run(self, problem: Problem, pointers: Pointers) -> None:
        self.launched.append((problem.config.BLOCK_SIZE_M, problem.config.BLOCK_SIZE_N))
        options = dict(problem.config.options)
        if problem.config.BLOCK_SIZE_M == 32:
            raise RuntimeError("illegal address")
        if problem.config.BLOCK_SIZE_N == 64:
            return
        weight = pointers.b[pointers.expert_ids.long()].double()
        rows = pointers.a.double().repeat_interleave(len(weight) // len(pointers.a), dim=0)
        c = torch.einsum("pnk,pk->pn", weight, rows)
        if problem.projection.mul_routed_weight:
            c = c * pointers.topk_weights.double().reshape(-1, 1)
        pointers.c.copy_(c * (1.5 if options["num_warps"] == 8 else 1.0))


class _Grid:
    def __getitem__(self, grid: object) -> Callable[..., None]:
        return lambda kernel, problem, pointers: kernel.run(problem, pointers)


@pytest.fixture
def small() -> Subject:
    workload = Workload(64, 32, "NVIDIA_H100_80GB_HBM3")
    target = Target("cuda", 90, 32)
    return Subject(workload, (ShapeOfModels(Shape(64, 2)),), QuantMode(), target, "sm_90", 232448)


@pytest.fixture
def kernel() -> TorchKernel:
    return TorchKernel()


@pytest.fixture
def samples() -> list[int]:
    return []


@dataclass
class FakeClock:
    """Deals as it is asked to, and keeps what lay in the row's buffers when a block was played."""

    row: Callable[[], Any] = lambda: None
    dealt: list[Any] = field(default_factory=list)
    decks: list[tuple[int, int]] = field(default_factory=list)

    def capture(self, launches: Sequence[Any], a_sample: int) -> Any:
        return SimpleNamespace(num_samples=len(launches) // a_sample, graph=launches)

    def capture_deck(self, launches: Sequence[Any], a_sample: int) -> Any:
        self.decks.append((len(launches), a_sample))
        return SimpleNamespace(graph=launches)

    def play(self, replays: Sequence[Any], deals: Sequence[Callable[[], object]]) -> list[list[float]]:
        for deal in deals:
            deal()
            self.dealt.append(self.row())
        return [[10.0 * (i + 1) + block for block in range(len(deals))] for i, _ in enumerate(replays)]


@pytest.fixture
def fake() -> FakeClock:
    return FakeClock()


@pytest.fixture
def timer(small: Subject, kernel: TorchKernel, samples: list[int], fake: FakeClock) -> RowTimer:
    def sample(replays: Sequence[Any], times: int) -> list[list[float]]:
        samples.append(times)
        return [[10.0 * (place + 1)] * times for place in range(len(replays))]

    clock = Clock(
        capture=fake.capture,
        capture_deck=fake.capture_deck,
        play=fake.play,
        sample=sample,
        synchronize=lambda: None,
    )
    timer = timer_of(small, clock, kernel)
    fake.row = lambda: timer._player.row(4, 0).inputs.dealt
    return timer


def timer_of(subject: Subject, clock: Clock, kernel: Any) -> RowTimer:
    layers, device = subject.layers, torch.device("cpu")
    player = BlockPlayer(layers, "sm90", device, 1 << 20, 4, clock=clock, kernel=lambda engine: kernel)
    return RowTimer(subject, player)


UNIFORM = Part(Flavour.VLLM, 0, RoutingKind.UNIFORM)


def blocks(*configs: LaunchConfig, num_tokens: int = 4, first: int = 0, count: int = 3, **changes: Any) -> BlockJob:
    return replace(BlockJob(num_tokens, UNIFORM, configs, first, count), **changes)


def test_screens_up_and_down(timer: RowTimer) -> None:
    event = timer.screen(ScreenJob(4, 0, GOOD))
    assert (event.status, event.up_us, event.down_us) == (Status.OK, 10.0, 20.0)


def test_a_kernel_is_checked_once_in_screening(timer: RowTimer, kernel: TorchKernel) -> None:
    timer.screen(ScreenJob(4, 0, GOOD))
    checked = len(kernel.launched)
    timer.screen(ScreenJob(4, 0, GROUPED))
    timer.screen(ScreenJob(2, 0, GOOD))
    assert (checked, len(kernel.launched)) == (2, 2)


def test_far_from_the_best_one_sample_is_enough(timer: RowTimer, samples: list[int]) -> None:
    timer.screen(ScreenJob(4, 0, GOOD, give_up_us=29.0))
    assert samples == [1]
    timer.screen(ScreenJob(4, 0, GOOD, give_up_us=31.0))
    assert samples[1] == 1
    assert samples[2] > 1


@pytest.mark.parametrize(
    ("config", "status", "told"),
    [
        (WRONG, Status.CORRECTNESS, "AssertionError"),
        (SILENT, Status.CORRECTNESS, "found NaN"),
        (RAISES, Status.RUNTIME, "illegal address"),
        (FORBIDDEN, Status.CONSTRAINTS, "BLOCK_SIZE_M"),
    ],
    ids=["wrong numbers", "nothing written", "fails", "a rule forbids it"],
)
def test_what_is_wrong_is_a_status_and_has_no_time(
    timer: RowTimer, config: LaunchConfig, status: Status, told: str
) -> None:
    event = timer.screen(ScreenJob(4, 0, config))
    assert (event.status, event.up_us) == (status, 0.0)
    assert told in event.message

    measured = timer.measure(blocks(config, GOOD))
    assert [series.status for series in measured.series] == [status, Status.OK]
    assert (measured.series[0].us, measured.series[1].us) == ((), (10.0, 11.0, 12.0))
    assert measured.active_experts is not None
    assert timer._player.layers[0].top_k <= measured.active_experts <= timer._player.layers[0].num_experts


def test_a_block_is_the_whole_deck_in_the_layers_order(timer: RowTimer, fake: FakeClock) -> None:
    measured = timer.measure(blocks(GOOD))
    assert measured.draws == timer._player.row(4, 0).inputs.num_routings
    assert fake.decks == [(2 * measured.draws, 2)]


def test_up_and_down_can_be_timed_apart(timer: RowTimer, fake: FakeClock) -> None:
    (series,) = timer.measure(blocks(GOOD, is_apart=True)).series
    assert (series.up_us, series.down_us, series.us) == ((10.0, 11.0, 12.0), (20.0, 21.0, 22.0), (30.0, 32.0, 34.0))
    assert [a_sample for _, a_sample in fake.decks] == [1, 1]


def test_down_can_run_behind_another_configs_up(timer: RowTimer, fake: FakeClock) -> None:
    """In the layer's order, and not the layer that has one config for both."""
    other = replace(GOOD, num_stages=GOOD.num_stages + 1)
    timer.measure(blocks(GOOD, other))
    measured = timer.measure(blocks(GOOD, other, up=GOOD))
    assert [(series.config, series.status) for series in measured.series] == [(GOOD, Status.OK), (other, Status.OK)]
    assert all(len(series.us) == 3 and not series.up_us for series in measured.series)
    keys = [key.config for key in timer._player._graphs]
    assert keys == [LayerConfig.of(GOOD), LayerConfig.of(other), LayerConfig(GOOD, other)]
    assert fake.decks == [(2 * measured.draws, 2)] * 3


def test_every_block_has_the_draws_of_its_seed_and_none_of_the_searchs(timer: RowTimer, fake: FakeClock) -> None:
    timer.measure(blocks(GOOD))
    timer.measure(blocks(GOOD, first=3, count=1))
    timer.measure(blocks(GOOD, part=replace(UNIFORM, routing=RoutingKind.SKEW_03), count=1))
    assert fake.dealt == [
        (kind, seed_of(Purpose.CHOICE, 4, 0, kind, block))
        for kind, block in [(RoutingKind.UNIFORM, b) for b in range(4)] + [(RoutingKind.SKEW_03, 0)]
    ]


def test_screening_under_skew_has_draws_of_its_own(timer: RowTimer) -> None:
    timer.screen(ScreenJob(4, 0, GOOD, routing=RoutingKind.SKEW_03))
    row = timer._player.row(4, 0).inputs
    assert row.dealt == (RoutingKind.SKEW_03, seed_of(Purpose.SEARCH, 4, 0, RoutingKind.SKEW_03, 0))
    timer.screen(ScreenJob(4, 0, GOOD))
    assert row.dealt == (RoutingKind.UNIFORM, seed_of(Purpose.SEARCH, 4, 0, RoutingKind.UNIFORM, 0))


def test_each_engine_is_measured_in_its_own_flavour(small: Subject, kernel: TorchKernel, timer: RowTimer) -> None:
    asked: list[Flavour] = []

    def of(engine: Flavour) -> TorchKernel:
        asked.append(engine)
        return kernel

    timer._player.kernel = of
    timer.measure(blocks(GOOD, part=replace(UNIFORM, engine=Flavour.SGLANG)))
    timer.screen(ScreenJob(4, 0, GOOD))
    assert asked == [Flavour.SGLANG, Flavour.VLLM]


def test_what_is_measured_again_is_not_checked_or_captured_again(
    timer: RowTimer, kernel: TorchKernel, fake: FakeClock
) -> None:
    timer.measure(blocks(GOOD, GROUPED))
    assert (len(kernel.launched), len(fake.decks)) == (4, 2)
    timer.measure(blocks(GOOD, first=3, part=replace(UNIFORM, routing=RoutingKind.SKEW_1)))
    assert (len(kernel.launched), len(fake.decks)) == (4, 2)
    timer.measure(blocks(GOOD, num_tokens=2))
    assert (len(kernel.launched), len(fake.decks)) == (6, 3), "each batch size has inputs of its own"


def test_a_lost_context_ends_the_worker(small: Subject, kernel: TorchKernel) -> None:
    def broken() -> None:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    timer = timer_of(small, Clock(synchronize=broken), kernel)
    with pytest.raises(ContextLost, match="illegal address"):
        timer.screen(ScreenJob(4, 0, RAISES))


def test_a_launch_that_finds_no_place_to_write_to_says_nothing_of_the_launch_config(
    timer: RowTimer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(kernel: TorchKernel, problem: Problem, pointers: Pointers) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(TorchKernel, "run", full)
    for measure in (lambda: timer.screen(ScreenJob(4, 0, GOOD)), lambda: timer.measure(blocks(GOOD))):
        with pytest.raises(MachineError, match="No space left on device"):
            measure()


@pytest.mark.parametrize(
    ("engine", "captured", "us"),
    [(Flavour.VLLM, [(22, 1), (22, 1)], (30.0, 12.0)), (Flavour.SGLANG, [(44, 2), (22, 1)], (18.0, 12.0))],
)
def test_launches_that_may_overlap_are_screened_in_the_layers_order(
    engine: Flavour, captured: list[tuple[int, int]], us: tuple[float, float], small: Subject
) -> None:
    """Of 22 routings. Up behind up is something else for SGLang than up behind down."""
    seen = []

    def capture(launches: Sequence[Any], a_sample: int) -> Any:
        seen.append((len(launches), a_sample))
        return SimpleNamespace()

    clock = Clock(capture=capture, sample=lambda r, n: [[30.0] * n, [12.0] * n])
    timer = timer_of(replace(small, engines=((engine,),)), clock, torch_kernel.TorchKernel(engine))
    found = timer.screen(ScreenJob(4, 0, GOOD, engine=engine))
    assert found.message == ""
    assert (seen, (found.up_us, found.down_us)) == (captured, us)


@pytest.mark.parametrize(
    ("layers_us", "screened", "samples"),
    [
        ([30.0, 9.0, 30.0], (18.0, 12.0), [1, 3, 3]),
        ([9.0, 30.0, 30.0], (18.0, 12.0), [1, 1, 3]),
        ([30.0, 9.0, 11.0, 10.0], (0.0, 11.0), [1, 3, 3, 3]),
    ],
    ids=["held up once", "in the first sample", "three times"],
)
def test_a_sample_in_which_down_took_as_long_as_the_layer_is_taken_again(
    layers_us: list[float], screened: tuple[float, float], samples: list[int], small: Subject
) -> None:
    """The host was held up before a launch; up would seem to take no time, and be the best of all."""
    asked, left = [], list(layers_us)

    def sample(replays: Sequence[Any], times: int) -> list[list[float]]:
        asked.append(times)
        return [[left.pop(0)] * times, [12.0] * times]

    clock = Clock(capture=lambda launches, a_sample: SimpleNamespace(), sample=sample)  # type: ignore[arg-type,return-value]
    timer = timer_of(replace(small, engines=((Flavour.SGLANG,),)), clock, torch_kernel.TorchKernel(Flavour.SGLANG))
    found = timer.screen(ScreenJob(4, 0, GOOD, engine=Flavour.SGLANG))
    assert ((found.up_us, found.down_us), found.message) == (screened, "")
    assert asked == samples
    assert left == []


def test_each_shape_has_inputs_of_its_own(small: Subject, kernel: TorchKernel) -> None:
    two = replace(small, shapes=(*small.shapes, ShapeOfModels(Shape(128, 4))))
    clock = Clock(capture=lambda launches, a_sample: SimpleNamespace(), sample=lambda r, n: [[1.0] * n] * 2)  # type: ignore[arg-type,return-value]
    timer = timer_of(two, clock, kernel)
    assert [timer.screen(ScreenJob(4, shape, GOOD)).status for shape in (0, 1)] == [Status.OK, Status.OK]


# ---------------------------------------------------------------
# What it finds when it looks around: the right GPU with enough memory, or why not, on a line

GIB = 1 << 30


def machine(
    name: str = "NVIDIA H100 80GB HBM3", *, free: int = 79 * GIB, total: int = 80 * GIB, available: bool = True
) -> Any:
    """What the worker asks torch for."""
    properties = SimpleNamespace(major=9, minor=0, multi_processor_count=132, gcnArchName="")
    cuda = SimpleNamespace(
        is_available=lambda: available,
        get_device_name=lambda: name,
        current_device=lambda: 0,
        mem_get_info=lambda: (free, total),
        memory_reserved=lambda: 0,
        get_device_properties=lambda _: properties,
    )
    return SimpleNamespace(cuda=cuda, version=SimpleNamespace(hip=None, cuda="13.0"), __version__="2.13.0+cu130")


def refusal(found: Any) -> str:
    assert isinstance(found, Refusal)
    return found.message


def test_the_environment_is_what_a_record_holds(subject: Subject) -> None:
    found = _look_around(machine(), WorkerSpec(subject, 4096))
    assert not isinstance(found, Refusal)
    environment, notes = found
    assert notes == ()
    assert (environment.device_name, environment.compute_capability) == ("NVIDIA H100 80GB HBM3", "9.0")
    faults = schemas.faults("record", {"environment": environment.to_json()})
    assert not [fault for fault in faults if fault.where.startswith("environment")]


def test_no_gpu_for_torch(subject: Subject) -> None:
    told = refusal(_look_around(machine(available=False), WorkerSpec(subject, 64)))
    assert told == "expected a GPU that torch can use, found none. Fix: run where there is one."


def test_another_gpu(subject: Subject) -> None:
    told = refusal(_look_around(machine("NVIDIA H200"), WorkerSpec(subject, 64)))
    assert told.startswith("GPU: expected NVIDIA_H100_80GB_HBM3, found NVIDIA H200. Fix: ")


def test_too_little_memory_says_need_and_have(subject: Subject) -> None:
    told = refusal(_look_around(machine(free=3 * GIB), WorkerSpec(subject, 4096)))
    need = subject.memory_bytes(4096) / GIB
    assert told == (
        f"{subject.workload.file_name()}: expected {need:.1f} GiB of free GPU memory for weights and "
        "activations, found 3.0. Fix: a larger tp or ep, or smaller batch sizes (--num-tokens)."
    )


def test_a_busy_gpu_is_told_and_used(subject: Subject) -> None:
    busy = machine(free=80 * GIB - BUSY_BYTES - GIB)
    found = _look_around(busy, WorkerSpec(subject, 4096))
    assert not isinstance(found, Refusal)
    assert found[1] == ("another process uses the GPU (3.0 GiB at the start); timings may be noisy",)


def test_more_tokens_need_more_memory(subject: Subject) -> None:
    assert subject.memory_bytes(65536) > subject.memory_bytes(1)


def test_weights_count_once_for_each_hidden_size(subject: Subject) -> None:
    """Shapes that differ in top_k alone share their weights."""

    def need(*shapes: Shape) -> int:
        return replace(subject, shapes=tuple(map(ShapeOfModels, shapes))).memory_bytes(1)

    one = need(Shape(4096, 2))
    assert need(Shape(4096, 2), Shape(4096, 1)) == one
    assert need(Shape(4096, 2), Shape(2048, 2)) > one


@pytest.mark.parametrize("status", [Status.RUNTIME, Status.TIMEOUT, Status.CRASH])
def test_a_job_without_times_is_still_answered(status: Status) -> None:
    configs = (LaunchConfig(16, 64, 64, 1, 4, 3), LaunchConfig(16, 64, 64, 8, 4, 3))
    screened = failed(ScreenJob(64, 0, configs[0]), status, "why", 1.5)
    assert screened == Screened(ScreenJob(64, 0, configs[0]), status, 1.5, message="why")
    measured = failed(BlockJob(64, UNIFORM, configs, 0, 8), status, "why")
    assert isinstance(measured, Measured)
    assert [(series.status, series.us) for series in measured.series] == [(status, ())] * 2
