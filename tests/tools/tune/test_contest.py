"""The last word on a row: part by part in blocks, the hopeless dropped, until the rule can choose."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest

from kernels.launch_config import LaunchConfig
from kernels.problem import Flavour
from tests.tools.tune.scripted_runner import ScriptedRunner
from tools.compile.outcome import Status
from tools.measure.panel import MAX_DRAWS, Choice, Panel, Part, PromotionPolicy, RoutingKind
from tools.store.record import Decision
from tools.tune.contest import Contest, ContestError, SeparateDown, separate_down, with_event
from tools.tune.policy import PanelPolicy
from tools.tune.protocol import BlockJob, Measured

A = LaunchConfig(16, 64, 64, 8, 4, 2)
B = replace(A, num_stages=3)
C = replace(A, num_stages=4)
VLLMS = replace(A, num_stages=5)
SGLANGS = replace(A, num_stages=1)
NAMES = {A: "a", B: "b", C: "c", VLLMS: "vllms", SGLANGS: "sglangs"}
UNIFORM = Part(Flavour.VLLM, 0, RoutingKind.UNIFORM)
SKEWED = replace(UNIFORM, routing=RoutingKind.SKEW_03)
OTHER = replace(UNIFORM, engine=Flavour.SGLANG)
RECORDED = replace(UNIFORM, routing=RoutingKind.RECORDED)
POLICY = PanelPolicy()


def noise(config: LaunchConfig, block: int) -> float:
    """What differs from block to block, by a thousandth: an interval of no width would part everything."""
    return 1.0 + 0.001 * ((3 * block + 7 * config.num_stages) % 5 - 2)


def drawn(block: int) -> float:
    """What a draw does to all: far more."""
    return 1.0 + 0.05 * (block % 4)


def measured(us: dict[Part, dict[str, float]], failing: dict[LaunchConfig, Status] | None = None) -> ScriptedRunner:
    """By part and name; who isn't named takes 20 µs, heuristics 10."""

    def times(job: BlockJob, config: LaunchConfig) -> tuple[float, ...]:
        usual = 10.0 if config in (VLLMS, SGLANGS) else 20.0
        base = us.get(job.part, {}).get(NAMES[config], usual)
        return tuple(base * noise(config, b) * drawn(b) for b in range(job.first, job.first + job.count))

    return ScriptedRunner(times, failing=failing or {})


def measure_by(runner: ScriptedRunner) -> Callable[[BlockJob], Measured]:
    def measure(job: BlockJob) -> Measured:
        runner.submit(job)
        event = runner.wait()
        assert isinstance(event, Measured)
        return replace(event, draws=8)

    return measure


def contest(*parts: Part, finalists: Sequence[LaunchConfig] = (A, B, C), beside: tuple[Part, ...] = ()) -> Contest:
    both = {Flavour.VLLM: VLLMS, Flavour.SGLANG: SGLANGS}
    engines = {part.engine for part in parts}
    heuristics = {engine: config for engine, config in both.items() if engine in engines}
    found = Contest(64, parts, heuristics, None, POLICY, PromotionPolicy(), beside)
    found.enter(finalists)
    return found


def settle(found: Contest, runner: ScriptedRunner, *, is_over: bool = False) -> tuple[Choice, list[BlockJob]]:
    choice = found.settle(measure_by(runner), lambda: is_over)
    return choice, [job for job in runner.asked if isinstance(job, BlockJob)]


def test_all_play_the_first_blocks_together_beside_the_heuristic() -> None:
    _, jobs = settle(contest(UNIFORM), measured({UNIFORM: {"a": 9.0, "b": 9.5, "c": 9.8}}))
    assert jobs[0] == BlockJob(64, UNIFORM, (VLLMS, A, B, C), 0, POLICY.blocks)


def test_the_least_score_wins() -> None:
    choice, _ = settle(contest(UNIFORM), measured({UNIFORM: {"a": 9.0, "b": 8.5, "c": 9.8}}))
    assert (choice.entry, choice.decision, choice.is_bounded) == (B, Decision.PROMOTE, True)


def test_what_draws_do_to_all_cancels() -> None:
    """They differ by 15 % from block to block, the contestants by 1."""
    found = contest(UNIFORM)
    choice, _ = settle(found, measured({UNIFORM: {"a": 8.6, "b": 8.5}}))
    ratio = found.panel.ratio(UNIFORM, choice.entry)
    assert choice.entry == B
    assert ratio.high - ratio.low < 0.01


def test_who_is_hopeless_in_the_first_part_is_not_measured_in_the_next() -> None:
    _, jobs = settle(contest(UNIFORM, SKEWED), measured({UNIFORM: {"a": 9.0, "b": 9.2}, SKEWED: {"a": 9.0, "b": 9.0}}))
    assert jobs[1] == BlockJob(64, SKEWED, (VLLMS, A, B), 0, POLICY.blocks)


def test_who_would_be_admissible_is_hopeless_beside_one_that_is_far_better() -> None:
    us = {"a": 8.5, "b": 8.6, "c": 9.9}
    _, jobs = settle(contest(UNIFORM, SKEWED), measured({UNIFORM: us, SKEWED: us}))
    assert [job.configs for job in jobs] == [(VLLMS, A, B, C), (VLLMS, A, B)]


def test_an_incumbent_stays_unless_it_is_beaten_by_the_margin() -> None:
    for challenger_us, entry, decision in ((8.95, A, Decision.RETAIN), (8.5, B, Decision.PROMOTE)):
        found = contest(UNIFORM, finalists=(B,))
        found.incumbent = A
        found.enter([A])
        choice, _ = settle(found, measured({UNIFORM: {"a": 9.0, "b": challenger_us}}))
        assert (choice.entry, choice.decision) == (entry, decision)


def test_what_uniform_routing_likes_less_wins_where_skew_leaves_nothing_else() -> None:
    us = {UNIFORM: {"a": 9.0, "b": 9.3}, SKEWED: {"a": 12.0, "b": 9.0}}
    choice, _ = settle(contest(UNIFORM, SKEWED), measured(us))
    assert (choice.entry, choice.is_bounded) == (B, True)


def test_the_other_engines_kernel_has_a_say() -> None:
    us = {UNIFORM: {"a": 9.0, "b": 9.3}, OTHER: {"a": 10.5, "b": 9.5}}
    choice, jobs = settle(contest(UNIFORM, OTHER), measured(us))
    assert choice.entry == B
    assert {job.configs[0] for job in jobs if job.part == OTHER} == {SGLANGS}, "beside its own heuristic"


def test_an_undecided_row_gets_more_blocks_of_those_that_might_win() -> None:
    """a would win, and may be 2 % slower under skew: its interval holds the bound."""

    def times(job: BlockJob, config: LaunchConfig) -> tuple[float, ...]:
        wobble = 0.04 if (job.part, config) == (SKEWED, A) else 0.0
        us = {A: 9.0, B: 9.9, VLLMS: 10.0}.get(config, 20.0) if job.part == UNIFORM else 10.0
        return tuple(us * (1.0 + wobble * (b % 2)) * noise(config, b) for b in range(job.first, job.first + job.count))

    _, jobs = settle(contest(UNIFORM, SKEWED, finalists=(A, B)), ScriptedRunner(times))
    more = [job for job in jobs if job.first]
    assert more
    assert {job.part for job in more} == {SKEWED}
    assert {job.configs for job in more} == {(VLLMS, A)}
    assert [job.first for job in more] == list(range(POLICY.blocks, POLICY.blocks + len(more)))


def test_blocks_end_with_the_draws() -> None:
    """Of blocks of one draw eight more are asked for at once, as far as there are so many."""

    def times(job: BlockJob, config: LaunchConfig) -> tuple[float, ...]:
        wobble = (0.95, 1.095) if (job.part, config) == (SKEWED, A) else (1.0, 1.0)  # 1.02 on average
        us = 9.0 if (job.part, config) == (UNIFORM, A) else 10.0
        return tuple(us * wobble[b % 2] for b in range(job.first, job.first + job.count))

    runner = ScriptedRunner(times)
    inner = measure_by(runner)
    contest(UNIFORM, SKEWED, finalists=(A,)).settle(lambda job: replace(inner(job), draws=1), lambda: False)
    counts = [job.count for job in runner.asked if isinstance(job, BlockJob) and job.part == SKEWED]
    assert counts == [4, *[8] * 7, 4]
    assert sum(counts) == MAX_DRAWS


def test_the_experts_that_a_part_reached_are_kept_where_they_were_counted() -> None:
    inner = measure_by(measured({}))

    def measure(job: BlockJob) -> Measured:
        return replace(inner(job), active_experts=5.5 if job.part == UNIFORM else None)

    found = contest(UNIFORM, SKEWED)
    found.settle(measure, lambda: False)
    assert {part: {*blocks.values()} for part, blocks in found.active_experts.items()} == {UNIFORM: {5.5}}
    assert found.active_experts[UNIFORM].keys() == found.panel.times[UNIFORM][A].keys()


def test_a_panels_blocks_are_of_the_fewest_draws_that_one_of_them_had() -> None:
    """Before the first there is nothing to compare with."""
    event = measure_by(measured({}))(BlockJob(64, UNIFORM, (VLLMS, A), 0, 2))
    panel = with_event(Panel({Flavour.VLLM: VLLMS}, 1), replace(event, draws=8))
    assert panel.draws == 8
    assert with_event(panel, replace(event, draws=4)).draws == 4
    assert with_event(panel, replace(event, draws=16)).draws == 8


def test_past_the_deadline_no_further_block_is_asked_for() -> None:
    """The first ones are measured in any case: a row without figures is none."""
    us = {UNIFORM: {"a": 10.19}}
    _, jobs = settle(contest(UNIFORM, finalists=(A,)), measured(us), is_over=True)
    assert [(job.part, job.first) for job in jobs] == [(UNIFORM, 0)]


def test_a_latecomer_plays_the_draws_that_the_others_had_and_the_clock_is_taken_out() -> None:
    runner = measured({UNIFORM: {"a": 9.0, "b": 8.0}})
    found = contest(UNIFORM, finalists=(A,))
    found.play([UNIFORM], measure_by(runner))
    found.enter([B])

    inner = measure_by(runner)

    def slower_clock(job: BlockJob) -> Measured:
        event = inner(job)
        return replace(event, series=tuple(replace(s, us=tuple(1.3 * us for us in s.us)) for s in event.series))

    choice = found.settle(slower_clock, lambda: False)
    jobs = [job for job in runner.asked if isinstance(job, BlockJob)]
    assert jobs[1] == BlockJob(64, UNIFORM, (VLLMS, B), 0, POLICY.blocks)
    assert choice.entry == B
    assert found.panel.ratio(UNIFORM, B).mean == pytest.approx(0.8, rel=0.003)
    assert found.panel.between(UNIFORM, B, A).mean == pytest.approx(8 / 9, rel=0.003)


def test_who_fails_anywhere_is_out_everywhere() -> None:
    found = contest(UNIFORM, SKEWED)
    runner = measured({UNIFORM: {"a": 8.8, "b": 9.0}, SKEWED: {"b": 9.0}})
    times = runner.times
    failing = ScriptedRunner(times, failing={})

    def measure(job: BlockJob) -> Measured:
        failing.failing = {A: Status.CORRECTNESS} if job.part == SKEWED else {}
        return measure_by(failing)(job)

    choice = found.settle(measure, lambda: False)
    assert choice.entry == B
    assert found.failures == {A: (Status.CORRECTNESS, "no")}
    assert all(A not in row for row in found.panel.times.values())


def test_without_a_running_heuristic_nothing_can_be_judged() -> None:
    with pytest.raises(ContestError, match="M=64: expected vLLM's heuristic to run, found runtime: no"):
        settle(contest(UNIFORM), measured({}, failing={VLLMS: Status.RUNTIME}))


def test_an_engine_whose_heuristic_does_not_run_is_left_out() -> None:
    us = {UNIFORM: {"a": 9.0}, OTHER: {"a": 30.0}}
    found = contest(UNIFORM, OTHER, finalists=(A,))
    choice, _ = settle(found, measured(us, failing={SGLANGS: Status.RUNTIME}))
    assert choice.entry == A
    assert found.parts == (UNIFORM,)
    assert set(found.panel.times) == {UNIFORM}


def test_an_engine_whose_heuristic_fails_in_a_further_block_is_left_out_of_all_its_parts() -> None:
    """Of two parts that were asked for together the second is not played for nobody."""
    us = {UNIFORM: {"a": 10.21}, SKEWED: {"a": 10.21}, OTHER: {"a": 9.0}}
    runner = measured(us)

    def measure(job: BlockJob) -> Measured:
        runner.failing = {VLLMS: Status.RUNTIME} if job.first and job.part.engine is Flavour.VLLM else {}
        return measure_by(runner)(job)

    found = contest(UNIFORM, SKEWED, OTHER, finalists=(A,))
    assert found.settle(measure, lambda: False).entry == A
    assert found.parts == (OTHER,)
    assert set(found.panel.times) == {OTHER}
    assert any(isinstance(job, BlockJob) and job.first for job in runner.asked), "further blocks were asked for"


def test_a_heuristic_that_fails_on_the_other_engines_kernel_stays_the_yardstick_of_its_own() -> None:
    runner = measured({UNIFORM: {"a": 9.0}, OTHER: {"a": 9.0}})

    def measure(job: BlockJob) -> Measured:
        runner.failing = {VLLMS: Status.RUNTIME} if job.part == OTHER else {}
        return measure_by(runner)(job)

    found = contest(UNIFORM, OTHER, finalists=(A,))
    assert found.settle(measure, lambda: False).entry == A
    assert set(found.panel.times) == {UNIFORM, OTHER}
    assert VLLMS not in found.panel.configs


def test_recorded_routing_is_told_and_decides_nothing() -> None:
    us = {UNIFORM: {"a": 9.0, "b": 9.5}, RECORDED: {"a": 15.0, "b": 5.0}}
    found = contest(UNIFORM, beside=(RECORDED,))
    choice, jobs = settle(found, measured(us))
    assert choice.entry == A
    assert jobs[-1].part == RECORDED
    assert found.told.ratio(RECORDED, A).mean == pytest.approx(1.5, rel=0.003)


class TestSeparateDown:
    """Behind the row's own up, A's; the script gives up two thirds of what is timed apart."""

    def found(self, *, failing: LaunchConfig | None = None, **us: float) -> tuple[SeparateDown, list[BlockJob]]:
        """us: by name, of a layer with A for up; timed apart all take 10 µs."""

        def times(job: BlockJob, config: LaunchConfig) -> tuple[float, ...]:
            base = 10.0 if job.is_apart else us.get(NAMES[config], 10.0)
            return tuple(base * noise(config, b) for b in range(job.first, job.first + job.count))

        runner = ScriptedRunner(times, failing={failing: Status.RUNTIME} if failing else {})
        heuristics = {Flavour.SGLANG: SGLANGS}
        rivals, blocks = [B, C], range(8, 12)
        down = separate_down(64, [OTHER], A, rivals, heuristics, blocks, PromotionPolicy(), measure_by(runner))
        return down, [job for job in runner.asked if isinstance(job, BlockJob)]

    def test_a_rival_for_down_alone_wins_where_the_row_gains_more_than_the_margin(self) -> None:
        down, _ = self.found(b=9.3)
        assert down.entry == B
        assert down.ratio == pytest.approx(0.93, rel=0.003)

    def test_else_down_keeps_the_rows_entry(self) -> None:
        down, _ = self.found(b=9.95)
        assert (down.entry, down.ratio) == (A, 1.0)

    def test_it_is_judged_in_the_layers_order_and_timed_apart_for_the_record_alone(self) -> None:
        """SGLang's launches overlap: what is the same apart may be another time in the layer."""
        down, jobs = self.found(b=9.3)
        assert jobs == [
            BlockJob(64, OTHER, (A, B, C), 8, 4, up=A),
            BlockJob(64, OTHER, (B, SGLANGS), 8, 4, is_apart=True),
        ]
        assert [len(apart.down_us) for apart in (*down.apart, *down.heuristic)] == [4, 4]
        assert down.apart[0].down_us[0] == pytest.approx(10.0 / 3, rel=0.003)

    @pytest.mark.parametrize(("us", "wins"), [(9.75, False), (9.5, True)])
    def test_one_that_uses_descriptors_gains_what_padding_costs_beside_it(self, us: float, wins: bool) -> None:
        loads, runner = replace(B, USE_TMA=True), ScriptedRunner(lambda job, config: self.of(job, config, us))
        down = separate_down(
            64, [OTHER], A, [loads], {Flavour.SGLANG: SGLANGS}, range(8, 12), PromotionPolicy(), measure_by(runner)
        )
        assert down.entry == (loads if wins else A)
        assert down.gains is wins
        behind = [job.up for job in runner.asked if isinstance(job, BlockJob) and job.is_apart]
        assert behind == ([None, A] if wins else [None]), "up stores its rows otherwise there, behind which it is timed"
        assert [len(apart.down_us) for apart in (*down.apart, *down.heuristic)] == [4, 4]

    def of(self, job: BlockJob, config: LaunchConfig, us: float) -> tuple[float, ...]:
        base = us if config.USE_TMA and not job.is_apart else 10.0
        return tuple(base * noise(replace(config, USE_TMA=None), b) for b in range(job.first, job.first + job.count))

    def test_a_smaller_gain_wins_where_the_larger_one_is_too_small_for_descriptors(self) -> None:
        loads = replace(B, USE_TMA=True)
        runner = ScriptedRunner(lambda job, config: self.of(job, config, 9.75) if config != C else (9.85,) * job.count)
        down = separate_down(
            64, [OTHER], A, [loads, C], {Flavour.SGLANG: SGLANGS}, range(8, 12), PromotionPolicy(), measure_by(runner)
        )
        assert down.entry == C

    def test_a_rival_counts_by_the_shape_where_it_does_worst(self) -> None:
        def times(job: BlockJob, config: LaunchConfig) -> tuple[float, ...]:
            base = 10.0 if job.is_apart or config != B else (9.0, 10.1)[job.part.placement]
            return tuple(base * noise(config, b) for b in range(job.first, job.first + job.count))

        parts, heuristics = [OTHER, replace(OTHER, placement=1)], {Flavour.SGLANG: SGLANGS}
        measure = measure_by(ScriptedRunner(times))
        down = separate_down(64, parts, A, [B], heuristics, range(8, 12), PromotionPolicy(), measure)
        assert (down.entry, down.gains) == (A, False)

    def test_a_rival_that_fails_is_out_and_a_row_without_its_own_entry_is_no_row(self) -> None:
        assert self.found(failing=B, b=9.0)[0].entry == A
        with pytest.raises(ContestError, match="to run in the layer's order, it failed"):
            self.found(failing=A)
        with pytest.raises(ContestError, match="to run with up and down timed apart, it failed"):
            self.found(failing=SGLANGS)
