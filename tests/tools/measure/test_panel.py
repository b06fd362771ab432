"""Parts, blocks and the rule by which a row's entry is chosen."""

from __future__ import annotations

import math
import random
import statistics
from collections.abc import Mapping

import pytest

from kernels.launch_config import LaunchConfig
from kernels.problem import Flavour
from tools.measure.panel import (
    LARGEST_RATIO,
    Admissibility,
    MoreBlocks,
    Panel,
    Part,
    PromotionPolicy,
    Ratio,
    RoutingKind,
    choose,
    further_blocks,
    max_blocks,
    parts_of,
    standing,
    t_975,
    wanted,
)
from tools.store.record import Decision

UNIFORM, SKEW_1, SKEW_03 = RoutingKind.UNIFORM, RoutingKind.SKEW_1, RoutingKind.SKEW_03
VLLM, SGLANG = Part(Flavour.VLLM, 0, UNIFORM), Part(Flavour.SGLANG, 0, UNIFORM)
VLLM_SKEW = Part(Flavour.VLLM, 0, SKEW_03)
POLICY = PromotionPolicy()


def config(group: int) -> LaunchConfig:
    return LaunchConfig(16, 64, 128, group, 4, 3)


BASE, SGLANG_BASE, FAST, FASTER, OLD = map(config, (1, 2, 3, 4, 5))
HEURISTICS = {Flavour.VLLM: BASE, Flavour.SGLANG: SGLANG_BASE}
WOBBLE = (0.999, 1.001, 1.0005, 0.9995)
NOISY = (0.95, 1.05, 0.96, 1.04)


def panel(rows: Mapping[Part, Mapping[LaunchConfig, float | tuple[float, ...]]], draws: int = 8) -> Panel:
    """A number: a time that hardly moves, over four blocks; else a time a block."""
    found = Panel(HEURISTICS, draws)
    for part, row in rows.items():
        found = found.with_blocks(
            part,
            {
                entry: dict(enumerate(us if isinstance(us, tuple) else [us * w for w in WOBBLE]))
                for entry, us in row.items()
            },
        )
    return found


class TestParts:
    def test_an_engine_a_placement_and_a_routing_each(self) -> None:
        assert parts_of({Flavour.VLLM: [0, 1], Flavour.SGLANG: [0]}, 64) == tuple(
            Part(engine, place, kind)
            for engine, place in ((Flavour.VLLM, 0), (Flavour.VLLM, 1), (Flavour.SGLANG, 0))
            for kind in (UNIFORM, SKEW_1, SKEW_03)
        )

    @pytest.mark.parametrize(("num_tokens", "kinds"), [(7, 1), (8, 3)])
    def test_few_tokens_have_no_skew(self, num_tokens: int, kinds: int) -> None:
        assert len(parts_of({Flavour.VLLM: [0]}, num_tokens)) == kinds

    @pytest.mark.parametrize(("draws", "blocks"), [(2, 32), (8, 8), (16, 4), (32, 4)])
    def test_at_most_64_draws_and_at_least_four_blocks(self, draws: int, blocks: int) -> None:
        assert max_blocks(draws) == blocks

    @pytest.mark.parametrize(("draws", "blocks"), [(1, 8), (4, 2), (8, 1), (16, 1)])
    def test_eight_more_draws_at_once_and_at_least_one_block(self, draws: int, blocks: int) -> None:
        assert further_blocks(draws) == blocks

    def test_a_part_names_its_placement_where_it_is_not_the_first(self) -> None:
        assert str(VLLM_SKEW) == "vllm, skew_0.3"
        assert str(Part(Flavour.SGLANG, 1, UNIFORM)) == "sglang, uniform, placement 2"

    def test_the_first_block_of_a_part_is_number_0(self) -> None:
        assert Panel(HEURISTICS, 8).next_block(VLLM) == 0


class TestRatio:
    def test_the_interval_is_students_of_the_logarithm(self) -> None:
        ratio = Ratio.of([1.1, 1.21, 1.1, 1.21], [1.0, 1.1, 1.0, 1.1])
        assert (ratio.low, ratio.mean, ratio.high) == pytest.approx((1.1, 1.1, 1.1))
        logs = [math.log(x) for x in NOISY]
        half = 3.182 * statistics.stdev(logs) / 2
        noisy = Ratio.of(NOISY, [1.0] * 4)
        assert noisy.high == pytest.approx(math.exp(statistics.fmean(logs) + half))
        assert noisy.low == pytest.approx(math.exp(statistics.fmean(logs) - half))

    def test_two_blocks_tell_one(self) -> None:
        assert Ratio.of([1.1, 1.2], [1.0, 1.0]).blocks == 2

    @pytest.mark.parametrize("times", [[], [1.0]])
    def test_one_block_tells_no_interval(self, times: list[float]) -> None:
        with pytest.raises(ValueError, match="at least two blocks"):
            Ratio.of(times, times)

    @pytest.mark.parametrize(
        ("degrees", "t"),
        [(1, 12.706), (3, 3.182), (30, 2.042), (40, 2.021), (60, 2.000), (120, 1.980), (math.inf, 1.960), (3.5, 2.937)],
    )
    def test_students_t(self, degrees: float, t: float) -> None:
        assert t_975(degrees) == pytest.approx(t, rel=5e-3)

    @pytest.mark.parametrize("degrees", range(1, 31))
    def test_97_5_of_100_lie_below_each_entry_of_the_table(self, degrees: int) -> None:
        """By the integral of Student's density, in Simpson's steps."""
        scale = math.exp(math.lgamma((degrees + 1) / 2) - math.lgamma(degrees / 2)) / math.sqrt(degrees * math.pi)
        steps, t = 4000, t_975(degrees)
        density = [(1 + (t * i / steps) ** 2 / degrees) ** (-(degrees + 1) / 2) for i in range(steps + 1)]
        area = (density[0] + density[-1] + 4 * sum(density[1:-1:2]) + 2 * sum(density[2:-1:2])) * t / steps / 3
        assert 0.5 + scale * area == pytest.approx(0.975, abs=5e-5)

    @pytest.mark.parametrize(
        ("low", "mean", "is_slower"),
        [(1.001, 1.021, True), (1.001, 1.02, False), (1.0, 1.05, False), (0.99, 1.05, False)],
        ids=["a loss", "within the bound", "no slower at its best", "in doubt"],
    )
    def test_a_loss_is_beyond_the_bound_on_average_and_beyond_doubt_slower_at_all(
        self, low: float, mean: float, is_slower: bool
    ) -> None:
        assert Ratio(low, mean, 1.1, blocks=4).is_slower is is_slower

    def test_intervals_hold_the_truth_in_95_of_100_cases_where_draws_differ(self) -> None:
        """Draws move times by 2 %, plays of one draw by 0.2 %: what was measured on an H100."""
        chance = random.Random(1)
        held = 0
        for _ in range(2000):
            draws = [chance.gauss(0, 0.02) for _ in range(4)]
            held += (ratio := Ratio.of([math.exp(d + chance.gauss(0, 0.002)) for d in draws], [1.0] * 4)).low < 1.0
            held -= ratio.high < 1.0
        assert 0.93 < held / 2000 < 0.97


class TestScore:
    def test_engines_are_equal_and_uniform_counts_twice(self) -> None:
        parts = {part: {BASE: 100.0, SGLANG_BASE: 100.0, FAST: 100.0} for part in (VLLM, VLLM_SKEW, SGLANG)}
        parts[VLLM_SKEW] = {BASE: 100.0, SGLANG_BASE: 100.0, FAST: 80.0}
        assert panel(parts).score(FAST) == pytest.approx(0.8 ** (1 / 3 / 2))
        parts[VLLM] = {BASE: 100.0, SGLANG_BASE: 100.0, FAST: 80.0}
        assert panel(parts).score(FAST) == pytest.approx(0.8 ** (1 / 2))

    @pytest.mark.parametrize(
        ("faster_under", "share"), [(UNIFORM, 2 / 6), (SKEW_1, 1 / 6), (SKEW_03, 1 / 6), (RoutingKind.RECORDED, 2 / 6)]
    )
    def test_uniform_and_recorded_routing_count_twice_as_much_as_a_skew(
        self, faster_under: RoutingKind, share: float
    ) -> None:
        """A recorded one decides where it is asked to."""
        times = {kind: 80.0 if kind is faster_under else 100.0 for kind in RoutingKind}
        rows = {Part(Flavour.VLLM, 0, kind): {BASE: 100.0, FAST: us} for kind, us in times.items()}
        assert panel(rows).score(FAST) == pytest.approx(0.8**share)

    def test_a_score_rests_on_as_many_blocks_as_its_least_known_part(self) -> None:
        found = panel({VLLM: {BASE: 100.0, FAST: 90.0}, VLLM_SKEW: {BASE: (100.0,) * 5, FAST: (90.0,) * 5}})
        assert found.score_between(FAST, BASE).blocks == 4

    def test_placements_of_an_engine_share_its_half(self) -> None:
        second = Part(Flavour.VLLM, 1, UNIFORM)
        rows = {part: {BASE: 100.0, SGLANG_BASE: 100.0, FAST: 100.0} for part in (VLLM, SGLANG)}
        rows[second] = {BASE: 100.0, SGLANG_BASE: 100.0, FAST: 50.0}
        assert panel(rows).score(FAST) == pytest.approx(0.5 ** (1 / 4))

    def test_each_engines_own_heuristic_is_what_counts(self) -> None:
        rows = {
            VLLM: {BASE: 100.0, SGLANG_BASE: 150.0, FAST: 90.0},
            SGLANG: {BASE: 100.0, SGLANG_BASE: 150.0, FAST: 90.0},
        }
        assert panel(rows).score(FAST) == pytest.approx(math.sqrt(0.9 * 0.6))

    def test_only_blocks_that_both_have_are_compared(self) -> None:
        found = panel({VLLM: {BASE: (100.0, 100.0), FAST: (90.0, 90.0)}})
        found = found.with_blocks(VLLM, {BASE: {2: 200.0}}).with_blocks(VLLM, {BASE: {3: 200.0}, FAST: {3: 180.0}})
        ratio = found.ratio(VLLM, FAST)
        assert (ratio.mean, ratio.blocks, found.next_block(VLLM)) == (pytest.approx(0.9), 3, 4)

    def test_variances_of_the_parts_add_up(self) -> None:
        rows = {VLLM: {BASE: 100.0, FAST: tuple(90 * x for x in NOISY)}, VLLM_SKEW: {BASE: 100.0, FAST: 90.0}}
        both = panel(rows).score_between(FAST, BASE)
        alone = panel({VLLM: rows[VLLM]}).score_between(FAST, BASE)
        assert both.mean == pytest.approx(0.9, rel=2e-3)
        assert alone.low < both.low < both.high < alone.high

    def test_degrees_of_freedom_are_welchs_and_satterthwaites(self) -> None:
        """Of two parts that count and vary alike, four blocks each: twice three."""
        parts = [Part(Flavour.VLLM, place, UNIFORM) for place in (0, 1)]
        found = panel({part: {BASE: (100.0,) * 4, FAST: NOISY} for part in parts}).score_between(FAST, BASE)
        logs = [math.log(us / 100.0) for us in NOISY]
        half = 2.447 * statistics.stdev(logs) / math.sqrt(8)
        assert found.high / found.mean == pytest.approx(math.exp(half))


class TestStanding:
    @pytest.mark.parametrize(
        ("us", "expected"),
        [
            (100.0, Admissibility.ADMISSIBLE),
            (101.8, Admissibility.ADMISSIBLE),
            (103.0, Admissibility.INADMISSIBLE),
            (tuple(100 * x for x in NOISY), Admissibility.UNDECIDED),
            (tuple(150 * x for x in NOISY), Admissibility.INADMISSIBLE),
        ],
    )
    def test_by_the_bounds_of_r(self, us: float | tuple[float, ...], expected: Admissibility) -> None:
        assert standing(panel({VLLM: {BASE: 100.0, FAST: us}}), FAST) is expected

    def test_in_every_part(self) -> None:
        rows = {VLLM: {BASE: 100.0, FAST: 50.0}, VLLM_SKEW: {BASE: 100.0, FAST: 103.0}}
        assert standing(panel(rows), FAST) is Admissibility.INADMISSIBLE

    def test_undecided_after_64_draws_is_inadmissible(self) -> None:
        us = tuple(100 * x for x in NOISY * 2)
        assert standing(panel({VLLM: {BASE: (100.0,) * 8, FAST: us}}), FAST) is Admissibility.INADMISSIBLE

    def test_a_heuristic_is_never_slower_than_itself_but_may_be_than_the_others(self) -> None:
        rows = {VLLM: {BASE: 100.0, SGLANG_BASE: 110.0}, SGLANG: {BASE: 100.0, SGLANG_BASE: 110.0}}
        assert standing(panel(rows), BASE) is Admissibility.ADMISSIBLE
        assert standing(panel(rows), SGLANG_BASE) is Admissibility.INADMISSIBLE


class TestChoose:
    def test_the_least_score_of_the_admissible(self) -> None:
        rows = {
            VLLM: {BASE: 100.0, FAST: 90.0, FASTER: 70.0},
            VLLM_SKEW: {BASE: 100.0, FAST: 95.0, FASTER: 103.0},
        }
        choice = choose(panel(rows), None, POLICY)
        assert (choice.entry, choice.decision, choice.is_bounded) == (FAST, Decision.PROMOTE, True)

    def test_where_no_candidate_is_faster_the_heuristic_stays(self) -> None:
        choice = choose(panel({VLLM: {BASE: 100.0, FAST: 101.0}}), None, POLICY)
        assert (choice.entry, choice.decision) == (BASE, Decision.BASELINE)

    def test_where_none_is_admissible_the_least_worst_and_it_says_where(self) -> None:
        rows = {
            VLLM: {BASE: 100.0, SGLANG_BASE: 120.0, FAST: 103.0},
            SGLANG: {BASE: 130.0, SGLANG_BASE: 100.0, FAST: 95.0},
        }
        choice = choose(panel(rows), None, POLICY)
        assert (choice.entry, choice.unbounded) == (FAST, (VLLM,))

    def test_the_least_worst_is_not_the_best_somewhere(self) -> None:
        rows = {
            VLLM: {BASE: 100.0, SGLANG_BASE: 120.0, FAST: 103.0, FASTER: 110.0},
            SGLANG: {BASE: 130.0, SGLANG_BASE: 100.0, FAST: 95.0, FASTER: 50.0},
        }
        assert choose(panel(rows), None, POLICY).entry == FAST

    @pytest.mark.parametrize(
        ("challenger_us", "decision"),
        [(89.2, Decision.RETAIN), (89.0, Decision.PROMOTE), (tuple(85 * x for x in NOISY), Decision.RETAIN)],
        ids=["by 0.9 %", "by 1.1 %", "in doubt"],
    )
    def test_an_incumbent_yields_to_what_is_faster_by_the_margin_and_beyond_doubt(
        self, challenger_us: float | tuple[float, ...], decision: Decision
    ) -> None:
        choice = choose(panel({VLLM: {BASE: 120.0, OLD: 90.0, FAST: challenger_us}}), OLD, POLICY)
        assert choice.decision is decision

    def test_an_incumbent_that_is_not_admissible_yields_to_anything(self) -> None:
        rows = {VLLM: {BASE: 100.0, OLD: 80.0, FAST: 99.9}, VLLM_SKEW: {BASE: 100.0, OLD: 110.0, FAST: 99.9}}
        assert choose(panel(rows), OLD, POLICY).entry == FAST

    def test_an_incumbent_that_is_the_heuristic_is_retained(self) -> None:
        choice = choose(panel({VLLM: {BASE: 100.0, FAST: 99.5}}), BASE, POLICY)
        assert (choice.entry, choice.decision) == (BASE, Decision.RETAIN)

    def test_what_failed_somewhere_is_no_candidate(self) -> None:
        rows = {VLLM: {BASE: 100.0, FAST: 50.0}, VLLM_SKEW: {BASE: 100.0}}
        assert choose(panel(rows), None, POLICY).entry == BASE
        assert choose(panel({VLLM: rows[VLLM]}).without([FAST]), None, POLICY).entry == BASE


class TestWanted:
    def test_nothing_where_the_best_is_admissible(self) -> None:
        rows = {VLLM: {BASE: 100.0, FAST: 90.0, FASTER: tuple(99 * x for x in NOISY)}}
        assert wanted(panel(rows), None, POLICY) == ()

    def test_the_undecided_that_would_win_where_it_is_open(self) -> None:
        rows = {
            VLLM: {BASE: 100.0, FAST: 95.0, FASTER: 80.0},
            VLLM_SKEW: {BASE: 100.0, FAST: 95.0, FASTER: tuple(100 * x for x in NOISY)},
        }
        assert wanted(panel(rows), None, POLICY) == (MoreBlocks(VLLM_SKEW, (FASTER,)),)

    def test_no_more_than_64_draws(self) -> None:
        rows = {VLLM: {BASE: (100.0,) * 8, FAST: tuple(99 * x for x in NOISY * 2)}}
        assert wanted(panel(rows), None, POLICY) == ()
        assert choose(panel(rows), None, POLICY).entry == BASE

    def test_a_duel_in_doubt_in_all_parts(self) -> None:
        rows = {part: {BASE: 120.0, OLD: 90.0, FAST: tuple(88 * x for x in NOISY)} for part in (VLLM, VLLM_SKEW)}
        assert wanted(panel(rows), OLD, POLICY) == (
            MoreBlocks(VLLM, (FAST, OLD)),
            MoreBlocks(VLLM_SKEW, (FAST, OLD)),
        )

    @pytest.mark.parametrize(
        "challenger_us",
        [tuple(89.5 * x for x in NOISY), 89.5, 80.0, tuple(88 * x for x in NOISY * 2)],
        ids=["half a percent in doubt", "half a percent for certain", "beyond doubt", "all draws are used"],
    )
    def test_no_duel_that_more_blocks_would_not_decide(self, challenger_us: float | tuple[float, ...]) -> None:
        rows = {VLLM: {BASE: (120.0,) * 8, OLD: (90.0,) * 8, FAST: challenger_us}}
        assert wanted(panel(rows), OLD, POLICY) == ()

    def test_no_duel_with_an_incumbent_that_is_not_admissible(self) -> None:
        rows = {
            VLLM: {BASE: 100.0, OLD: 71.5, FAST: tuple(71 * x for x in NOISY)},
            VLLM_SKEW: {BASE: 100.0, OLD: 103.0, FAST: tuple(92 * x for x in NOISY)},
        }
        duel = panel(rows).score_between(FAST, OLD)
        assert duel.mean < 0.99 < 1.0 < duel.high, "else in doubt"
        assert wanted(panel(rows), OLD, POLICY) == ()

    def test_what_would_lose_anyway_gets_no_more_blocks(self) -> None:
        """Inadmissible in one part for certain, open in the other, and faster than the best on the whole."""
        rows = {
            VLLM: {BASE: 100.0, FAST: 95.0, FASTER: 50.0},
            VLLM_SKEW: {BASE: 100.0, FAST: 95.0, FASTER: tuple(100 * x for x in NOISY)},
            Part(Flavour.VLLM, 0, SKEW_1): {BASE: 100.0, FAST: 95.0, FASTER: 104.0},
        }
        assert wanted(panel(rows), None, POLICY) == ()

    def test_an_incumbent_whose_standing_is_open(self) -> None:
        rows = {VLLM: {BASE: 100.0, FAST: 99.0, OLD: tuple(99.5 * x for x in NOISY)}}
        assert wanted(panel(rows), OLD, POLICY) == (MoreBlocks(VLLM, (OLD,)),)
        rows[VLLM_SKEW] = {BASE: 100.0, FAST: 99.0, OLD: 99.5}
        assert wanted(panel(rows), OLD, POLICY) == (MoreBlocks(VLLM, (OLD,)),), "no part of it is open there"


def test_a_config_that_loses_under_skew_is_hardly_ever_chosen() -> None:
    """One that is truly 4 % slower in one part, 6 % faster in the other; draws differ by 2 %."""
    chance = random.Random(2)

    def times(us: float, blocks: range) -> dict[int, float]:
        return {block: us * math.exp(chance.gauss(0, 0.02)) for block in blocks}

    chosen = 0
    for _ in range(300):
        found = Panel(HEURISTICS, 8)
        truth = {VLLM: {BASE: 100.0, FAST: 94.0, FASTER: 97.0}, VLLM_SKEW: {BASE: 100.0, FAST: 104.0, FASTER: 97.0}}
        for part, row in truth.items():
            found = found.with_blocks(part, {entry: times(us, range(4)) for entry, us in row.items()})
        while more := wanted(found, None, POLICY):
            for each in more:
                block = found.next_block(each.part)
                row = {
                    entry: times(truth[each.part][entry], range(block, block + 1)) for entry in (BASE, *each.configs)
                }
                found = found.with_blocks(each.part, row)
        chosen += choose(found, None, POLICY).entry == FAST
    assert chosen / 300 < 0.03
    assert LARGEST_RATIO == 1.02
