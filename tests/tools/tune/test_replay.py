"""The replay answers what was recorded, on a clock of recorded seconds, and says what it doesn't know."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from tools.compile.outcome import Status
from tools.tune.journal import Journal
from tools.tune.model import Compiled, CompileJob, Confirmed, ConfirmJob, Screened, ScreenJob
from tools.tune.replay import NOT_RECORDED, ReplayRunner
from tools.tune.space import Space

Make = Callable[..., Journal]


def test_compiles_side_by_side_and_measures_one_after_the_other(make_landscape: Make, space: Space) -> None:
    runner = ReplayRunner(make_landscape(), jobs=2)
    first, second = space.kernels[:2]
    # A second each, in two kernels of half a second: on two cores both jobs take a second together.
    runner.submit(CompileJob(first, 0, False))
    runner.submit(CompileJob(second, 0, False))
    runner.submit(ScreenJob(64, 0, first))
    runner.submit(ScreenJob(64, 0, second))

    events = [runner.wait() for _ in range(4)]
    assert [type(event) for event in events] == [Screened, Screened, Compiled, Compiled]
    assert runner.clock_s == pytest.approx(1.0)


def test_group_sizes_share_a_kernel(make_landscape: Make, space: Space) -> None:
    runner = ReplayRunner(make_landscape())
    runner.submit(CompileJob(replace(space.kernels[0], GROUP_SIZE_M=16), 0, False))
    event = runner.wait()
    assert isinstance(event, Compiled)
    assert event.status is Status.OK


def test_confirms_with_what_screening_saw_where_nothing_else_was_recorded(make_landscape: Make, space: Space) -> None:
    runner = ReplayRunner(make_landscape())
    runner.submit(ScreenJob(64, 0, space.kernels[0]))
    screened = runner.wait()
    runner.submit(ConfirmJob(64, 0, (space.kernels[0],), 3))
    confirmed = runner.wait()

    assert isinstance(screened, Screened)
    assert isinstance(confirmed, Confirmed)
    assert confirmed.series[0].up_us == (screened.up_us,) * 3


def test_what_was_not_recorded_fails_and_says_so(make_landscape: Make, space: Space) -> None:
    runner = ReplayRunner(make_landscape())
    foreign = replace(space.kernels[0], num_warps=16)
    for job in (CompileJob(foreign, 0, False), ScreenJob(64, 0, foreign)):
        runner.submit(job)
        event = runner.wait()
        assert isinstance(event, Compiled | Screened)
        assert (event.status, event.message) == (Status.CONSTRAINTS, NOT_RECORDED)


def test_waiting_for_nothing_is_an_error(make_landscape: Make) -> None:
    with pytest.raises(LookupError):
        ReplayRunner(make_landscape()).wait()
