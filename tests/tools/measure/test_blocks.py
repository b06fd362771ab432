"""Blocks are played on the draws that they name, into buffers that stay: a stand-in kernel on the CPU, a fake clock."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("triton")
np = pytest.importorskip("numpy")

from kernels.launch import Launch, Pointers  # noqa: E402
from kernels.launch_config import LaunchConfig  # noqa: E402
from kernels.problem import NO_DESCRIPTORS, Flavour, Problem, QuantMode  # noqa: E402
from tests.tools.measure.torch_kernel import TorchKernel  # noqa: E402
from tools.launch.layer_config import LayerConfig  # noqa: E402
from tools.measure.blocks import BlockPlayer, Clock, ContextLost, Played  # noqa: E402
from tools.measure.inputs import RowInputs  # noqa: E402
from tools.measure.layer import LayerShape  # noqa: E402
from tools.measure.panel import Part, RoutingKind  # noqa: E402
from tools.measure.recorded_routing import read_recorded_routing  # noqa: E402
from tools.measure.seeds import Purpose, seed_of  # noqa: E402

VLLM, SGLANG = Flavour
GOOD, OTHER = (LayerConfig.of(LaunchConfig(size, 32, 32, 1, 4, 3)) for size in (16, 32))
LAYER = LayerShape(16, 32, 64, 2, QuantMode())
UNIFORM = Part(VLLM, 0, RoutingKind.UNIFORM)


@dataclass
class FakeClock:
    """The n-th graph that is played takes n µs. What lies in the row when a block is played is kept."""

    row: Callable[[], Any] = lambda: None
    captured: int = 0
    samples: list[int] = field(default_factory=list)
    dealt: list[Any] = field(default_factory=list)

    @property
    def clock(self) -> Clock:
        return Clock(capture_deck=self.capture, play=self.play, synchronize=lambda: None)

    def capture(self, launches: Sequence[Any], a_sample: int) -> Any:
        self.captured += 1
        self.samples.append(len(launches) // a_sample)
        return SimpleNamespace(graph=launches, num_samples=len(launches) // a_sample)

    def play(self, replays: Sequence[Any], deals: Sequence[Callable[[], object]]) -> list[list[float]]:
        for deal in deals:
            deal()
            self.dealt.append(self.row())
        return [[float(place + 1)] * len(deals) for place, _ in enumerate(replays)]


@pytest.fixture
def fake() -> FakeClock:
    return FakeClock()


def player_of(
    fake: FakeClock,
    layers: tuple[LayerShape, ...] = (LAYER,),
    kernel: Callable[[Flavour], Any] = TorchKernel,
    clock: Clock | None = None,
    **options: Any,
) -> BlockPlayer:
    place, used = torch.device("cpu"), clock or fake.clock
    player = BlockPlayer(layers, "sm90", place, 1 << 16, 64, clock=used, kernel=kernel, **options)
    fake.row = lambda: player.row(64, 0).inputs.dealt
    return player


@pytest.fixture
def player(fake: FakeClock) -> BlockPlayer:
    return player_of(fake)


def play(player: BlockPlayer, *configs: LayerConfig, part: Part = UNIFORM, blocks: range = range(2)) -> Played:
    return player.play(Purpose.JUDGEMENT, 64, part, configs, blocks)


def test_both_engines_meet_the_same_draws_block_by_block(player: BlockPlayer, fake: FakeClock) -> None:
    for part in (UNIFORM, replace(UNIFORM, engine=SGLANG), replace(UNIFORM, routing=RoutingKind.SKEW_03)):
        play(player, GOOD, part=part, blocks=range(64, 66))
    assert fake.dealt == [
        (kind, seed_of(Purpose.JUDGEMENT, 64, 0, kind, block))
        for kind in (RoutingKind.UNIFORM, RoutingKind.UNIFORM, RoutingKind.SKEW_03)
        for block in (64, 65)
    ]


def test_a_graph_serves_every_routing_and_block_of_an_engine(player: BlockPlayer, fake: FakeClock) -> None:
    for kind in (RoutingKind.UNIFORM, RoutingKind.SKEW_1, RoutingKind.SKEW_03):
        play(player, GOOD, OTHER, part=replace(UNIFORM, routing=kind))
    assert fake.captured == 2
    play(player, GOOD, part=replace(UNIFORM, engine=SGLANG))
    assert fake.captured == 3


class WithoutDescriptors(TorchKernel):
    takes_descriptors = False


class OnlyDescriptors(TorchKernel):
    def bind(self, problem: Problem, pointers: Pointers) -> Launch:
        assert problem.descriptors != NO_DESCRIPTORS
        return super().bind(problem, pointers)


def test_what_uses_descriptors_is_played_on_the_kernel_that_has_them(fake: FakeClock) -> None:
    loads = LayerConfig(GOOD.up, replace(GOOD.down, BLOCK_SIZE_N=64, USE_TMA=True))
    sglangs = replace(UNIFORM, engine=SGLANG)
    found = play(player_of(fake, kernel=WithoutDescriptors), GOOD, loads, part=sglangs)
    assert (set(found.us), set(found.failures)) == ({GOOD}, {loads})
    player = player_of(fake, kernel=WithoutDescriptors, descriptors=OnlyDescriptors(SGLANG, name="sglang"))
    found = play(player, GOOD, loads, part=sglangs)
    assert (set(found.us), found.failures) == ({GOOD, loads}, {})


def test_every_config_has_a_value_a_block(player: BlockPlayer) -> None:
    found = play(player, GOOD, OTHER, blocks=range(3))
    assert found.us == {GOOD: ((1.0, 1.0, 1.0),), OTHER: ((2.0, 2.0, 2.0),)}
    assert found.draws == player.row(64, 0).inputs.num_routings
    assert found.load.local_pairs == 128


def test_the_load_is_of_all_the_blocks_that_the_times_are_of(player: BlockPlayer) -> None:
    """Of the last one alone it would give a floor that lies above the times."""
    skewed = replace(UNIFORM, routing=RoutingKind.SKEW_03)
    each = [play(player, GOOD, part=skewed, blocks=range(b, b + 1)).load.active_experts for b in range(4)]
    assert len(set(each)) > 1
    assert play(player, GOOD, part=skewed, blocks=range(4)).load.active_experts == pytest.approx(sum(each) / 4)


def test_a_block_that_is_dealt_again_counts_once_in_the_load(player: BlockPlayer, fake: FakeClock) -> None:
    def play_the_first_again(replays: Sequence[Any], deals: Sequence[Callable[[], object]]) -> list[list[float]]:
        return [us[: len(deals)] for us in fake.play(replays, [*deals, deals[0]])]

    skewed = replace(UNIFORM, routing=RoutingKind.SKEW_03)
    once = play(player, GOOD, part=skewed, blocks=range(4))
    again = play(
        player_of(fake, clock=replace(fake.clock, play=play_the_first_again)), GOOD, part=skewed, blocks=range(4)
    )
    assert fake.dealt[4:] == [*fake.dealt[:4], fake.dealt[0]]
    assert again.load == once.load


def test_up_and_down_apart_have_a_graph_and_a_value_a_block_each(player: BlockPlayer, fake: FakeClock) -> None:
    """A sample is two launches of a layer, and one of a projection: one for each draw of a block."""
    found = player.play(Purpose.JUDGEMENT, 64, UNIFORM, [GOOD], range(3), is_apart=True)
    assert found.us == {GOOD: ((1.0, 1.0, 1.0), (2.0, 2.0, 2.0))}
    assert play(player, GOOD, blocks=range(3)).us == {GOOD: ((1.0, 1.0, 1.0),)}
    assert fake.samples == [found.draws] * 3


def test_a_recorded_part_is_dealt_from_the_recording_and_checked_on_drawn_routing(
    fake: FakeClock, tmp_path: Path
) -> None:
    tokens = np.arange(128).reshape(64, 2) % 16
    np.save(tmp_path / "routing.npy", tokens)
    player = player_of(fake, recorded=read_recorded_routing(tmp_path / "routing.npy"))
    found = play(player, GOOD, part=replace(UNIFORM, routing=RoutingKind.RECORDED), blocks=range(1))
    assert not found.failures
    chosen = player.row(64, 0).inputs.draws.chosen[0]
    assert sorted(map(tuple, chosen.tolist())) == sorted(map(tuple, tokens.tolist()))


def test_nothing_is_dealt_that_lies_there_already(player: BlockPlayer, monkeypatch: pytest.MonkeyPatch) -> None:
    """A row begins with the search's first block, on which it is also checked."""
    seeds: list[int] = []
    deal = RowInputs.deal
    monkeypatch.setattr(RowInputs, "deal", lambda row, source, seed: (seeds.append(seed), deal(row, source, seed)))
    made = player.row(64, 0).inputs.dealt
    seeds.clear()
    player.play(Purpose.SEARCH, 64, UNIFORM, [GOOD, OTHER], range(1))
    assert made == (RoutingKind.UNIFORM, seed_of(Purpose.SEARCH, 64, 0, RoutingKind.UNIFORM, 0))
    assert seeds == []


@pytest.mark.parametrize("error", [AssertionError("wrong numbers"), torch.OutOfMemoryError("out of memory")])
def test_wrong_numbers_and_too_little_memory_leave_the_gpu_as_it_was(fake: FakeClock, error: Exception) -> None:
    """It isn't even asked whether it answers."""

    def kernel(engine: Flavour) -> TorchKernel:
        raise error

    def broken() -> None:
        raise RuntimeError("every later call fails")

    player = player_of(fake, kernel=kernel, clock=replace(fake.clock, synchronize=broken))
    assert play(player, GOOD).failures == {GOOD: error}


def test_what_fails_is_told_and_the_others_are_played(fake: FakeClock) -> None:
    @dataclass(frozen=True)
    class Failing(TorchKernel):
        def bind(self, problem: Any, pointers: Any) -> Any:
            if problem.config == OTHER.up:
                raise RuntimeError("out of resources")
            return TorchKernel.bind(self, problem, pointers)

    found = play(player_of(fake, kernel=Failing), OTHER, GOOD)
    assert list(found.us) == [GOOD]
    assert str(found.failures[OTHER]) == "out of resources"


@pytest.mark.parametrize(("checks_each_row", "checked"), [(True, 2), (False, 1)])
def test_a_binary_is_checked_in_every_row_or_where_it_is_met_first(
    fake: FakeClock, checks_each_row: bool, checked: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All batch sizes run one here."""
    monkeypatch.setattr(TorchKernel, "key", lambda kernel, problem: problem.config)
    rows: list[int] = []
    check = BlockPlayer.check

    def counted(player: BlockPlayer, row: Any, *rest: Any) -> None:
        rows.append(row.inputs.routing.num_tokens)
        check(player, row, *rest)

    monkeypatch.setattr(BlockPlayer, "check", counted)
    player = player_of(fake, checks_each_row=checks_each_row)
    for num_tokens in (64, 32):
        for kind in (RoutingKind.UNIFORM, RoutingKind.SKEW_03):
            player.play(Purpose.JUDGEMENT, num_tokens, replace(UNIFORM, routing=kind), [GOOD], range(1))
    assert rows == [64, 32][:checked]


def test_where_all_fail_nothing_is_played(fake: FakeClock) -> None:
    def kernel(engine: Flavour) -> TorchKernel:
        raise ValueError("no such kernel")

    found = play(player_of(fake, kernel=kernel), GOOD)
    assert (dict(found.us), fake.dealt) == ({}, [])


def test_a_gpu_that_answers_no_more_is_no_configs_failure(fake: FakeClock) -> None:
    def kernel(engine: Flavour) -> TorchKernel:
        raise RuntimeError("an illegal memory access")

    def broken() -> None:
        raise RuntimeError("every later call fails")

    player = player_of(fake, kernel=kernel, clock=replace(fake.clock, synchronize=broken))
    with pytest.raises(ContextLost, match="an illegal memory access"):
        play(player, GOOD)


def test_a_gpu_that_a_later_draw_broke_is_no_configs_failure_either(fake: FakeClock) -> None:
    def failing(*_: Any) -> Any:
        raise RuntimeError("unspecified launch failure")

    def broken() -> None:
        raise RuntimeError("every later call fails")

    with pytest.raises(ContextLost, match="unspecified launch failure"):
        play(player_of(fake, clock=replace(fake.clock, play=failing, synchronize=broken)), GOOD)
    with pytest.raises(RuntimeError, match="unspecified launch failure"):
        play(player_of(fake, clock=replace(fake.clock, play=failing)), GOOD)


def test_placements_of_one_width_share_weights_and_activations(fake: FakeClock) -> None:
    player = player_of(fake, (LAYER, replace(LAYER, top_k=4), replace(LAYER, hidden_size=32)))
    first, more, narrow = (player.row(64, placement).inputs for placement in range(3))
    assert first.weights is more.weights
    assert first.weights is not narrow.weights
    assert [one.weights.w[0].shape[-1] for one in (first, more, narrow)] == [64, 64, 32]
    assert first.a[0].data_ptr() == more.a[0].data_ptr() == player.row(1, 0).inputs.a[0].data_ptr()
    assert first.a[0].data_ptr() != narrow.a[0].data_ptr()
    assert (len(first.c[0]), len(more.c[0])) == (2 * 64, 4 * 64)
