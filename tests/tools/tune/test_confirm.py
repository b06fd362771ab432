"""The last word on a row: rivals are measured until they are told apart, and whoever fails once is out."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import pytest

from kernels.launch_config import LaunchConfig
from tests.tools.tune.scripted_runner import ScriptedRunner
from tools.compile.outcome import Status
from tools.store.record import ShapeOfModels
from tools.store.workload import Shape
from tools.tune.confirm import Confirmation, RowSamples, confirm
from tools.tune.policy import ConfirmPolicy
from tools.tune.protocol import Compiled, CompileJob, ConfirmJob, Event, Subject

A = LaunchConfig(16, 64, 64, 8, 4, 2)
B = replace(A, num_stages=3)
C = replace(A, num_stages=4)
HEURISTIC = replace(A, num_stages=5)
POLICY = ConfirmPolicy(rounds=8, max_jobs=4, noise_pct=0.3)


def run(
    subject: Subject,
    runner: ScriptedRunner,
    finalists: Sequence[LaunchConfig] = (A, B, C),
    deadline_s: float = math.inf,
) -> tuple[Confirmation, list[ConfirmJob]]:
    seen: list[Event] = []
    confirmation = confirm(subject, runner, 64, finalists, [HEURISTIC], POLICY, seen.append, deadline_s)
    jobs = [job for job in runner.asked if isinstance(job, ConfirmJob)]
    assert len(seen) == len(jobs)
    return confirmation, jobs


def noisy(job: ConfirmJob, us: float) -> tuple[float, ...]:
    """Alternating around `us` by 2 %: the interval never parts from a rival within it."""
    return tuple(us * (1.02 if i % 2 else 0.98) for i in range(job.rounds))


def steady(**us: float) -> ScriptedRunner:
    by_stages = {A.num_stages: "a", B.num_stages: "b", C.num_stages: "c", HEURISTIC.num_stages: "heuristic"}
    return ScriptedRunner(lambda job, config: (us.get(by_stages[config.num_stages], 20.0),) * job.rounds)


def test_all_are_measured_together_first(subject: Subject) -> None:
    _, jobs = run(subject, steady(a=10.0, b=11.0, c=12.0))
    assert jobs[0] == ConfirmJob(64, 0, (A, B, C, HEURISTIC), 8)


def test_the_beaten_are_not_measured_further_but_the_heuristic_is(subject: Subject) -> None:
    confirmation, jobs = run(subject, steady(a=10.0, b=11.0, c=12.0))
    assert [job.configs for job in jobs] == [(A, B, C, HEURISTIC), (A, HEURISTIC)]
    assert {config: len(samples[0].up_us) for config, samples in confirmation.samples.items()} == {
        A: 16,
        B: 8,
        C: 8,
        HEURISTIC: 16,
    }
    assert confirmation.best_of([A, B, C]) == A


def test_rivals_within_noise_are_measured_until_the_policy_ends_it(subject: Subject) -> None:
    runner = ScriptedRunner(lambda job, config: noisy(job, 20.0 if config in (C, HEURISTIC) else 10.0))
    _, jobs = run(subject, runner)
    assert [job.configs for job in jobs] == [(A, B, C, HEURISTIC)] + [(A, B, HEURISTIC)] * 3


def test_a_high_clock_makes_nobody_win_who_was_dropped(subject: Subject) -> None:
    """C is slower in every round that both took part in; its few rounds just were the fast ones."""
    clocks = iter([0.9, 1.0, 1.0, 1.0])
    us = {A: 100.0, B: 100.1, C: 101.0, HEURISTIC: 105.0}

    class Drifting(ScriptedRunner):
        def submit(self, job: object) -> None:
            self.clock = next(clocks)
            super().submit(job)  # type: ignore[arg-type]

    runner = Drifting(lambda job, config: (us[config] * runner.clock,) * job.rounds)
    confirmation, jobs = run(subject, runner)
    assert C not in jobs[1].configs
    assert confirmation.best_of([A, B, C]) == A
    assert confirmation.loss(C) == pytest.approx(1.01)
    assert confirmation.beside(C, HEURISTIC)[0].ratio.median == pytest.approx(101.0 / 105.0)


def test_a_lead_below_the_noise_is_no_lead(subject: Subject) -> None:
    _, jobs = run(subject, steady(a=10.0, b=10.0 * 1.002, c=12.0))
    assert len(jobs) == POLICY.max_jobs
    assert jobs[-1].configs == (A, B, HEURISTIC)


def test_the_clock_ends_it_but_not_before_the_first_job(subject: Subject) -> None:
    runner = ScriptedRunner(lambda job, config: noisy(job, 10.0))
    confirmation, jobs = run(subject, runner, deadline_s=0.0)
    assert len(jobs) == 1
    assert set(confirmation.samples) == {A, B, C, HEURISTIC}


def test_a_finalist_that_is_the_heuristic_is_measured_once(subject: Subject) -> None:
    _, jobs = run(subject, steady(a=10.0), finalists=(A, HEURISTIC))
    assert jobs[0].configs == (A, HEURISTIC)


def test_whoever_fails_is_out_with_the_reason(subject: Subject) -> None:
    runner = replace_failing(steady(a=10.0, b=11.0), {A: Status.CORRECTNESS})
    confirmation, jobs = run(subject, runner)
    assert confirmation.failures == {A: (Status.CORRECTNESS, "no")}
    assert confirmation.loss(A) == math.inf
    assert confirmation.best_of([A, B]) == B
    assert A not in jobs[1].configs


def replace_failing(runner: ScriptedRunner, failing: dict[LaunchConfig, Status]) -> ScriptedRunner:
    return ScriptedRunner(runner.times, failing=failing)


def test_whoever_fails_later_loses_what_it_had(subject: Subject) -> None:
    class FailsAtItsSecondJob(ScriptedRunner):
        def submit(self, job: object) -> None:
            self.failing = {A: Status.RUNTIME} if self.asked else {}
            super().submit(job)  # type: ignore[arg-type]

    confirmation, _ = run(subject, FailsAtItsSecondJob(steady(a=10.0, b=11.0).times))
    assert A not in confirmation.samples
    assert confirmation.failures[A][0] is Status.RUNTIME


def test_where_everybody_fails_nobody_is_best(subject: Subject) -> None:
    runner = ScriptedRunner(failing=dict.fromkeys((A, B, C, HEURISTIC), Status.TIMEOUT))
    confirmation, _ = run(subject, runner)
    assert confirmation.samples == {}
    assert confirmation.best_of([A, B, C]) is None


def test_under_several_shapes_the_worst_counts(subject: Subject) -> None:
    two = replace(subject, shapes=(*subject.shapes, ShapeOfModels(Shape(2048, 4))))
    us = {A: (10.0, 30.0), B: (12.0, 22.0), C: (20.0, 20.0), HEURISTIC: (40.0, 40.0)}
    runner = ScriptedRunner(lambda job, config: (us[config][job.shape],) * job.rounds)
    confirmation, jobs = run(two, runner)
    assert [job.shape for job in jobs[:2]] == [0, 1]
    assert confirmation.best_of([A, B, C]) == B
    assert confirmation.loss(B) == pytest.approx(1.2)
    assert confirmation.worst_shape(A) == 1
    assert confirmation.worst_shape(C) == 0


def test_compilations_that_come_late_are_let_by(subject: Subject) -> None:
    runner = steady(a=10.0)
    runner.submit(CompileJob(A, 0, False))
    seen: list[Event] = []
    confirm(subject, runner, 64, [A], [HEURISTIC], POLICY, seen.append)
    assert isinstance(seen[0], Compiled)


def test_samples_add_up_round_by_round() -> None:
    both = RowSamples((1.0,), (0.5,)) + RowSamples((3.0,), (2.0,))
    assert both == RowSamples((1.0, 3.0), (0.5, 2.0))
    assert both.total_us == (1.5, 5.0)
