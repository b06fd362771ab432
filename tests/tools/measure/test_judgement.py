"""A verdict rests on blocks that all contestants share, and on as many as it takes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest

from kernels.launch_config import LaunchConfig
from kernels.problem import Flavour
from tools.launch.layer_config import LayerConfig
from tools.measure.judgement import (
    FAILED,
    Duel,
    PartVerdict,
    PlayedPart,
    RowVerdict,
    Score,
    Verdict,
    judge,
    score,
    worst_beside,
    worst_of,
)
from tools.measure.panel import MAX_DRAWS, MIN_BLOCKS, Part, Ratio, RoutingKind
from tools.measure.seeds import BLOCKS_A_SERIES

OWN, RIVAL, THIRD = (LayerConfig.of(LaunchConfig(16, 64, 128, 1, 4, stages)) for stages in (3, 4, 5))
PART = Part(Flavour.VLLM, 0, RoutingKind.UNIFORM)
ENTRIES = {"this file": OWN, "rival": RIVAL}


class Gpu:
    """Every block is asked for here. us: of a launch config in a block; a text is why it fails."""

    def __init__(self, us: Callable[[LayerConfig, int], float | str], draws: int = 8) -> None:
        self.us, self.draws = us, draws
        self.asked: list[tuple[list[LayerConfig], range]] = []

    def play(self, configs: Sequence[LayerConfig], blocks: range) -> PlayedPart:
        self.asked.append((list(configs), blocks))
        found = {config: [self.us(config, block) for block in blocks] for config in configs}
        failures = {config: us[0] for config, us in found.items() if isinstance(us[0], str)}
        times = {config: us for config, us in found.items() if config not in failures}
        return PlayedPart(times, failures, self.draws, 5.0, "memory")  # type: ignore[arg-type]

    def judge(
        self, entries: dict[str, LayerConfig] = ENTRIES, first_block: int = 0, most_blocks: int | None = None
    ) -> PartVerdict:
        return judge(PART, entries, self.play, first_block, most_blocks)


def steady(own_us: float, rival_us: float = 100.0) -> Gpu:
    """Draws differ by 10 %, for both alike."""
    return Gpu(lambda config, block: (own_us if config == OWN else rival_us) * (1.0 + 0.1 * (block % 2)))


@pytest.mark.parametrize(
    ("own_us", "verdict"),
    [(90.0, "faster"), (99.9, "faster"), (100.0, "same"), (101.9, "same"), (102.1, "slower"), (150.0, "slower")],
)
def test_what_draws_do_to_both_alike_cancels(own_us: float, verdict: str) -> None:
    gpu = steady(own_us)
    found = gpu.judge()
    assert found.duels["rival"].verdict == verdict
    assert gpu.asked == [([OWN, RIVAL], range(MIN_BLOCKS))]
    assert found.is_slower is (verdict == "slower")


def test_an_open_verdict_gets_blocks_until_it_is_none() -> None:
    """The first four leave open whether it is 2 % slower; later ones are clear."""
    gpu = Gpu(lambda config, block: 100.0 + (10.0 * (block % 2) if config == OWN and block < MIN_BLOCKS else 0.0))
    found = gpu.judge()
    assert [blocks for _, blocks in gpu.asked][:2] == [range(4), range(4, 5)]
    assert len(gpu.asked) > 2
    ratio = found.duels["rival"].ratio
    assert ratio is not None
    assert not ratio.is_open or ratio.blocks == MAX_DRAWS // 8


def test_it_ends_with_the_draws() -> None:
    gpu = Gpu(lambda config, block: 100.0 + (50.0 * (block % 2) - 23.0 if config == OWN else 0.0), draws=2)
    found = gpu.judge()
    ratio = found.duels["rival"].ratio
    assert ratio is not None
    assert (ratio.is_open, ratio.blocks) == (True, MAX_DRAWS // 2)
    assert [len(blocks) for _, blocks in gpu.asked] == [4, *[4] * 7]


def test_it_ends_with_the_most_blocks_that_it_may_play() -> None:
    gpu = Gpu(lambda config, block: 100.0 + (50.0 * (block % 2) - 23.0 if config == OWN else 0.0), draws=2)
    found = gpu.judge(most_blocks=MIN_BLOCKS)
    ratio = found.duels["rival"].ratio
    assert ratio is not None
    assert (ratio.is_open, ratio.blocks) == (True, MIN_BLOCKS)


def test_only_the_open_ones_are_played_again() -> None:
    def us(config: LayerConfig, block: int) -> float:
        return {OWN: 100.0, RIVAL: 100.0 + 10.0 * (block % 2), THIRD: 200.0}[config]

    gpu = Gpu(us)
    found = gpu.judge({**ENTRIES, "third": THIRD})
    assert [configs for configs, _ in gpu.asked[1:]] == [[OWN, RIVAL]] * (len(gpu.asked) - 1)
    assert len(gpu.asked) > 1
    third = found.duels["third"].ratio
    assert third is not None
    assert third.blocks == MIN_BLOCKS


def test_a_series_begins_where_no_other_ends() -> None:
    gpu = steady(90.0)
    gpu.judge(first_block=3 * BLOCKS_A_SERIES)
    assert gpu.asked[0][1] == range(192, 196)


def test_one_launch_config_is_played_once_and_equal_by_definition() -> None:
    gpu = steady(90.0)
    found = gpu.judge({"this file": OWN, "same": OWN})
    assert gpu.asked == [([OWN], range(MIN_BLOCKS))]
    assert found.duels["same"] == Duel(Ratio(1.0, 1.0, 1.0, MIN_BLOCKS), Verdict.SAME)


def test_a_rival_that_fails_says_nothing_of_the_file() -> None:
    found = Gpu(lambda config, block: "compile: no" if config == RIVAL else 100.0).judge()
    assert found.duels["rival"] is FAILED
    assert (found.measured["rival"].us, found.measured["rival"].message) == (None, "compile: no")
    assert not found.is_slower


def test_a_file_that_fails_has_no_duel_and_loses() -> None:
    found = Gpu(lambda config, block: "crash" if config == OWN else 100.0).judge()
    assert (found.duels["rival"], found.own.message, found.measured["rival"].us) == (FAILED, "crash", 100.0)
    assert found.is_slower


def test_where_all_fail_there_is_an_end() -> None:
    gpu = Gpu(lambda config, block: "crash")
    assert gpu.judge().own.us is None
    assert len(gpu.asked) == 1


def test_a_file_loses_that_loses_to_one_rival() -> None:
    found = Gpu(lambda config, block: {OWN: 100.0, RIVAL: 80.0, THIRD: 200.0}[config]).judge(
        {**ENTRIES, "third": THIRD}
    )
    assert [duel.verdict for duel in found.duels.values()] == [Verdict.SLOWER, Verdict.FASTER]
    assert found.is_slower


def test_two_contestants_are_compared_where_both_ran() -> None:
    gpu = Gpu(lambda config, block: "crash" if config == THIRD else {OWN: 90.0, RIVAL: 100.0}[config])
    found = gpu.judge({**ENTRIES, "third": THIRD})
    ratio = found.ratio_between("rival", "this file")
    assert ratio is not None
    assert ratio.mean == pytest.approx(100 / 90)
    assert found.ratio_between("this file", "third") is None
    assert found.ratio_between("another", "this file") is None


# ---------------------------------------------------------------
# A whole file


def cell(routing: RoutingKind, mean: float | None, engine: Flavour = Flavour.VLLM) -> PartVerdict:
    found = Gpu(lambda config, block: "crash" if mean is None else mean if config == OWN else 1.0).judge()
    return PartVerdict(Part(engine, 0, routing), 5.0, "memory", 8, found.measured, found.duels, found.times_us)


UNIFORM, SKEWED = RoutingKind.UNIFORM, RoutingKind.SKEW_03
ROWS = [
    RowVerdict(1, (cell(UNIFORM, 0.8), cell(UNIFORM, 1.25, Flavour.SGLANG))),
    RowVerdict(64, (cell(UNIFORM, 1.0), cell(SKEWED, 1.1), cell(UNIFORM, None, Flavour.SGLANG))),
]


def test_a_score_is_of_an_engine_and_a_routing() -> None:
    one = score(ROWS, "rival", engine=Flavour.VLLM, routing=UNIFORM)
    assert one == Score(pytest.approx(0.8**0.5), pytest.approx(0.8), pytest.approx(1.0), 64, 1, 0, 1, 0)  # type: ignore[arg-type]
    other = score(ROWS, "rival", engine=Flavour.SGLANG)
    assert other == Score(pytest.approx(1.25), pytest.approx(1.25), pytest.approx(1.25), 1, 0, 1, 0, 1)  # type: ignore[arg-type]
    assert score(ROWS, "rival", engine=Flavour.SGLANG, routing=SKEWED) is None
    assert score(ROWS, "another") is None


def test_where_it_does_worst() -> None:
    assert worst_of(ROWS[0].parts).part.engine is Flavour.SGLANG
    assert worst_of(ROWS[1].parts).own.us is None, "a file that fails is worse than any that loses"


def test_of_several_rivals_the_one_counts_that_it_does_worst_beside() -> None:
    other = ROWS[0].parts[0]
    beaten_once = replace(other, part=PART, duels={**other.duels, "third": ROWS[0].parts[1].duels["rival"]})
    assert worst_of([cell(SKEWED, 1.1), beaten_once]) is beaten_once


def test_where_it_does_worst_beside_one_rival() -> None:
    """A part in which the rival isn't met says nothing of it."""
    unmet = replace(ROWS[0].parts[1], duels={})
    assert worst_beside([*ROWS[0].parts], "rival").part.engine is Flavour.SGLANG
    assert worst_beside([ROWS[0].parts[0], unmet], "rival").part.engine is Flavour.VLLM


def test_a_row_loses_that_loses_in_one_part() -> None:
    assert ROWS[0].is_slower
    assert not RowVerdict(1, ROWS[0].parts[:1]).is_slower


def test_a_row_is_the_tuners_panel() -> None:
    row = RowVerdict(64, (replace(cell(UNIFORM, 0.9), draws=16), cell(SKEWED, 0.8)))
    assert row.panel.score_between("this file", "rival").mean == pytest.approx(0.9 ** (2 / 3) * 0.8 ** (1 / 3))
    assert row.panel.draws == 8
