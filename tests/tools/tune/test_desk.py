"""The desk compiles before it measures, asks for nothing twice, and ranks by the worst loss over shapes."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from kernels.launch_config import LaunchConfig
from tests.tools.tune.scripted_runner import ScriptedRunner
from tools.compile.outcome import Status
from tools.store.workload import Shape
from tools.tune.desk import QUEUE_DEPTH, Desk, Landscape, Times
from tools.tune.model import CompileJob, Event, NamedShape, ScreenJob, Subject, kernel_of

SLOW = LaunchConfig(16, 64, 64, 8, 4, 4)
FAST = replace(SLOW, num_stages=2)


def at(desk: ScriptedRunner, kind: type) -> list[object]:
    return [job for job in desk.asked if isinstance(job, kind)]


def make(subject: Subject, runner: ScriptedRunner) -> tuple[Desk, list[Event]]:
    seen: list[Event] = []
    return Desk(subject, runner, 1.5, seen.append), seen


def test_a_wish_is_compiled_then_measured(subject: Subject) -> None:
    runner = ScriptedRunner()
    desk, seen = make(subject, runner)
    desk.screen(64, [SLOW])
    desk.finish()
    assert runner.asked == [CompileJob(kernel_of(SLOW), 0, False), ScreenJob(64, 0, SLOW)]
    assert len(seen) == 2
    assert desk.landscape.times(64, 0, SLOW) == Times(4.0, 4.0)


def test_nothing_is_asked_twice_and_group_sizes_share_a_kernel(subject: Subject) -> None:
    runner = ScriptedRunner()
    desk, _ = make(subject, runner)
    for _ in range(2):
        desk.screen(64, [SLOW, SLOW, replace(SLOW, GROUP_SIZE_M=1)])
        desk.screen(256, [SLOW])
        desk.finish()
    assert len(at(runner, CompileJob)) == 1
    assert len(at(runner, ScreenJob)) == 3


def test_decode_has_kernels_of_its_own(subject: Subject) -> None:
    """With few tokens and many experts the kernel runs its naive mode."""
    many = replace(subject, workload=replace(subject.workload, E=128))
    runner = ScriptedRunner()
    desk, _ = make(many, runner)
    for num_tokens in (1, 1024):
        desk.screen(num_tokens, [SLOW])
    assert at(runner, CompileJob) == [CompileJob(kernel_of(SLOW), 0, naive) for naive in (True, False)]


def test_few_measurements_are_handed_out_at_once_and_later_ones_know_the_best(subject: Subject) -> None:
    runner = ScriptedRunner()
    desk, _ = make(subject, runner)
    group_sizes = (1, 8, 16, 32, 64)
    desk.screen(64, [replace(FAST, GROUP_SIZE_M=size) for size in group_sizes])
    desk.step()  # the kernel
    desk.step()  # the first measurement
    first = [job for job in runner.asked if isinstance(job, ScreenJob)]
    assert len(first) == QUEUE_DEPTH
    assert {job.give_up_us for job in first} == {None}
    desk.finish()
    later = [job for job in runner.asked if isinstance(job, ScreenJob)][QUEUE_DEPTH:]
    assert {job.give_up_us for job in later} == {1.5 * (2.0 + 2.0)}


def test_what_does_not_compile_is_not_measured(subject: Subject) -> None:
    runner = ScriptedRunner(refused={kernel_of(SLOW): Status.COMPILE})
    desk, _ = make(subject, runner)
    desk.screen(64, [SLOW, FAST])
    desk.finish()
    desk.screen(256, [SLOW])  # known by now
    desk.finish()
    assert at(runner, ScreenJob) == [ScreenJob(64, 0, FAST)]
    assert desk.landscape.ranking(64) == [FAST]
    assert desk.outcomes() == {"compile": 1, "ok": 1}


def test_what_fails_on_the_gpu_is_counted_and_not_ranked(subject: Subject) -> None:
    runner = ScriptedRunner(failing={SLOW: Status.CORRECTNESS})
    desk, _ = make(subject, runner)
    desk.screen(64, [SLOW, FAST])
    desk.finish()
    assert desk.landscape.ranking(64) == [FAST]
    assert desk.outcomes() == {"correctness": 1, "ok": 1}


def test_a_free_slot_is_one_that_compiles_at_once(subject: Subject) -> None:
    desk, _ = make(subject, ScriptedRunner(compile_slots=2))
    desk.screen(64, [SLOW])
    assert desk.has_free_slot
    desk.screen(64, [FAST])
    assert not desk.has_free_slot
    assert desk.is_compiling
    assert not desk.is_measuring


def test_what_still_compiles_when_time_is_up_is_no_longer_waited_for(subject: Subject) -> None:
    runner = ScriptedRunner()
    desk, _ = make(subject, runner)
    desk.screen(64, [SLOW])
    desk.forget_compiling()
    assert not desk.is_compiling
    desk.screen(64, [FAST])
    desk.finish()
    assert at(runner, ScreenJob) == [ScreenJob(64, 0, FAST)]


def test_waiting_for_nothing_is_an_error(subject: Subject) -> None:
    desk, _ = make(subject, ScriptedRunner())
    with pytest.raises(LookupError):
        desk.step()


# ---------------------------------------------------------------
# The landscape


def test_a_row_nobody_measured() -> None:
    landscape = Landscape(1)
    assert landscape.ranking(64) == []
    assert landscape.best_us(64, 0) == landscape.ratio(64, SLOW) == math.inf
    assert landscape.times(64, 0, SLOW) is None


def test_a_config_counts_by_its_worst_shape() -> None:
    landscape = Landscape(2)
    times = {SLOW: (10.0, 30.0), FAST: (20.0, 20.0)}
    for config, by_shape in times.items():
        for shape, us in enumerate(by_shape):
            landscape.add(64, shape, config, Times(us / 2, us / 2))
    assert landscape.ratio(64, SLOW) == pytest.approx(1.5)
    assert landscape.ratio(64, FAST) == pytest.approx(2.0)
    assert landscape.ranking(64) == [SLOW, FAST]


def test_a_config_that_is_unknown_under_one_shape_is_not_ranked() -> None:
    landscape = Landscape(2)
    landscape.add(64, 0, FAST, Times(1.0, 1.0))
    assert landscape.ratio(64, FAST) == math.inf
    assert landscape.ranking(64) == []


def test_every_shape_behind_the_name_is_measured(subject: Subject) -> None:
    two = replace(subject, shapes=(*subject.shapes, NamedShape(Shape(2048, 4))))
    runner = ScriptedRunner()
    desk, _ = make(two, runner)
    desk.screen(64, [SLOW])
    desk.finish()
    assert at(runner, ScreenJob) == [ScreenJob(64, shape, SLOW) for shape in (0, 1)]
    assert desk.landscape.ranking(64) == [SLOW]
