"""The replay answers what was recorded, on a clock of recorded seconds, and says what it doesn't know."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from kernels.launch_config import LaunchConfig
from tests.tools.tune.scripted_runner import ScriptedRunner
from tools.compile.outcome import Status
from tools.tune.journal import Journal, JournalEntry, JournalHeader, JournalWriter
from tools.tune.protocol import (
    Compiled,
    CompileJob,
    Confirmed,
    ConfirmJob,
    Event,
    Job,
    Screened,
    ScreenJob,
    Series,
    Subject,
)
from tools.tune.replay import NOT_RECORDED, RecordingRunner, ReplayRunner
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


def recorded(landscape: Journal, *events: Confirmed) -> ReplayRunner:
    return ReplayRunner(
        replace(landscape, entries=(*landscape.entries, *(JournalEntry(event, 0.0) for event in events)))
    )


def confirm(runner: ReplayRunner, job: ConfirmJob) -> Confirmed:
    runner.submit(job)
    event = runner.wait()
    assert isinstance(event, Confirmed)
    return event


def confirmed(num_tokens: int, us: dict[LaunchConfig, tuple[float, ...]], experts: float | None = None) -> Confirmed:
    """up in µs by config; down takes half as long."""
    series = tuple(Series(config, Status.OK, up, tuple(0.5 * t for t in up)) for config, up in us.items())
    return Confirmed(ConfirmJob(num_tokens, 0, tuple(us), len(next(iter(us.values())))), series, 0.5, experts)


def test_a_job_that_was_repeated_is_answered_in_its_order_and_the_last_again(
    make_landscape: Make, space: Space
) -> None:
    first, second = (confirmed(64, {space.kernels[0]: (us, us)}) for us in (1.0, 2.0))
    runner = recorded(make_landscape(), first, second)
    assert [confirm(runner, first.job) for _ in range(4)] == [first, second, second, second]


def test_another_job_is_answered_from_each_configs_own_confirmations(make_landscape: Make, space: Space) -> None:
    a, b, c = space.kernels[:3]
    runner = recorded(
        make_landscape(),
        confirmed(64, {a: (1.0, 2.0), b: (10.0, 20.0)}, experts=3.5),
        confirmed(64, {a: (3.0, 4.0)}, experts=3.5),
        confirmed(1, {c: (7.0, 7.0)}),
    )
    found = confirm(runner, ConfirmJob(64, 0, (b, a, c), 3))
    assert [series.up_us for series in found.series[:2]] == [(10.0, 20.0, 10.0), (1.0, 2.0, 3.0)]
    assert found.series[1].down_us == (0.5, 1.0, 1.5)
    # At another batch size only: what screening saw.
    assert len(set(found.series[2].up_us)) == 1
    assert found.series[2].up_us[0] != 7.0
    assert found.active_experts == 3.5
    # What comes next goes on where this ended.
    assert confirm(runner, ConfirmJob(64, 0, (a,), 3)).series[0].up_us == (4.0, 1.0, 2.0)


def test_who_failed_in_every_confirmation_fails_again(make_landscape: Make, space: Space) -> None:
    a, b = space.kernels[:2]
    failed = Series(b, Status.CORRECTNESS, message="NaN")
    event = replace(confirmed(64, {a: (1.0, 2.0)}), job=ConfirmJob(64, 0, (a, b), 2))
    runner = recorded(make_landscape(), replace(event, series=(*event.series, failed)))
    assert confirm(runner, ConfirmJob(64, 0, (b,), 3)).series == (failed,)


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


# ---------------------------------------------------------------
# Recording: every event is written before anyone sees it, and what an earlier run measured is not measured again.

CONFIG = LaunchConfig(16, 64, 64, 8, 4, 3)
COMPILE = CompileJob(CONFIG, 0, False)
SCREEN = ScreenJob(64, 0, CONFIG)
CONFIRM = ConfirmJob(64, 0, (CONFIG,), 2)


def answers(runner: RecordingRunner, *jobs: Job) -> list[Event]:
    """Of each job, handed out one after the other."""
    found = []
    for job in jobs:
        runner.submit(job)
        found.append(runner.wait())
    return found


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "journal.jsonl"


def test_an_event_is_on_disk_before_anyone_sees_it(path: Path, subject: Subject) -> None:
    runner = RecordingRunner(ScriptedRunner(), [JournalWriter(path, JournalHeader(subject, {}, {}))])
    seen: list[Event] = []
    for job in (COMPILE, SCREEN, CONFIRM):
        runner.submit(job)
        seen.append(runner.wait())
        assert [entry.event for entry in Journal.read(path).entries] == seen
    assert [entry.clock_s for entry in Journal.read(path).entries] == [1.0, 2.0, 3.0]


def test_every_writer_gets_every_event(tmp_path: Path, subject: Subject) -> None:
    paths = [tmp_path / "journal.jsonl", tmp_path / "landscape.jsonl.gz"]
    header = JournalHeader(subject, {}, {})
    with RecordingRunner(ScriptedRunner(), [JournalWriter(path, header) for path in paths]) as runner:
        seen = answers(runner, COMPILE, SCREEN)
    assert [[entry.event for entry in Journal.read(path).entries] for path in paths] == [seen, seen]


def test_what_was_measured_before_is_answered_and_not_written_again(path: Path, subject: Subject) -> None:
    writer = JournalWriter(path, JournalHeader(subject, {}, {}))
    first = answers(RecordingRunner(ScriptedRunner(), [writer]), SCREEN, CONFIRM)
    writer.close()
    before, size = Journal.read(path).entries, path.stat().st_size

    inner = ScriptedRunner(lambda job, config: (99.0,) * job.rounds)
    again = answers(RecordingRunner(inner, [JournalWriter(path, None)], before), SCREEN, CONFIRM)
    assert again == first
    assert inner.asked == []
    assert path.stat().st_size == size


def test_when_to_give_up_makes_no_other_measurement() -> None:
    (event,) = answers(RecordingRunner(ScriptedRunner(), []), SCREEN)
    inner = ScriptedRunner()
    runner = RecordingRunner(inner, [], [JournalEntry(event, 1.0)])
    assert answers(runner, ScreenJob(64, 0, CONFIG, give_up_us=17.0)) == [event]
    assert inner.asked == []


def test_a_confirmation_that_was_repeated_is_answered_as_often_as_it_was_made() -> None:
    inner = ScriptedRunner()
    earlier = [JournalEntry(event, 1.0) for event in answers(RecordingRunner(ScriptedRunner(), []), CONFIRM, CONFIRM)]
    runner = RecordingRunner(inner, [], earlier)
    answers(runner, CONFIRM, CONFIRM, CONFIRM)
    assert inner.asked == [CONFIRM]


def test_compilations_are_done_anew_since_the_compilers_cache_may_be_gone() -> None:
    earlier = [JournalEntry(event, 1.0) for event in answers(RecordingRunner(ScriptedRunner(), []), COMPILE)]
    inner = ScriptedRunner()
    (event,) = answers(RecordingRunner(inner, [], earlier), COMPILE)
    assert isinstance(event, Compiled)
    assert inner.asked == [COMPILE]


def test_seconds_count_over_all_runs_and_the_clock_over_this_one() -> None:
    (event,) = answers(RecordingRunner(ScriptedRunner(), []), SCREEN)
    runner = RecordingRunner(ScriptedRunner(), [], [JournalEntry(event, 30.0)])
    answers(runner, CONFIRM)
    assert runner.clock_s == 1.0
    assert runner.seconds_in_all == 31.0


def test_known_and_new_may_be_outstanding_together() -> None:
    (event,) = answers(RecordingRunner(ScriptedRunner(), []), SCREEN)
    runner = RecordingRunner(ScriptedRunner(), [], [JournalEntry(event, 1.0)])
    for job in (CONFIRM, SCREEN):
        runner.submit(job)
    assert [runner.wait().job for _ in range(2)] == [SCREEN, CONFIRM]
    with pytest.raises(LookupError):
        runner.wait()
