"""The replay answers what was recorded, on a clock of recorded seconds, and says what it doesn't know."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from kernels.launch_config import LaunchConfig
from kernels.problem import Flavour
from tests.tools.tune.scripted_runner import ScriptedRunner
from tools.compile.outcome import Status
from tools.measure.panel import Part, RoutingKind
from tools.tune.journal import Journal, JournalEntry, JournalHeader, JournalWriter
from tools.tune.protocol import (
    BlockJob,
    Compiled,
    CompileJob,
    Event,
    Job,
    Measured,
    Screened,
    ScreenJob,
    Series,
    Subject,
)
from tools.tune.replay import NOT_RECORDED, RecordingRunner, ReplayRunner
from tools.tune.space import Space

UNIFORM = Part(Flavour.VLLM, 0, RoutingKind.UNIFORM)
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


def test_blocks_are_what_screening_saw_where_nothing_else_was_recorded(make_landscape: Make, space: Space) -> None:
    runner = ReplayRunner(make_landscape())
    runner.submit(ScreenJob(64, 0, space.kernels[0]))
    screened = runner.wait()
    runner.submit(BlockJob(64, UNIFORM, (space.kernels[0],), 0, 3))
    measured = runner.wait()

    assert isinstance(screened, Screened)
    assert isinstance(measured, Measured)
    assert measured.series[0].up_us == (screened.up_us,) * 3
    assert measured.series[0].us == (screened.total_us,) * 3


def recorded(landscape: Journal, *events: Measured | Compiled) -> ReplayRunner:
    return ReplayRunner(
        replace(landscape, entries=(*landscape.entries, *(JournalEntry(event, 0.0) for event in events)))
    )


def measure(runner: ReplayRunner, job: BlockJob) -> Measured:
    runner.submit(job)
    event = runner.wait()
    assert isinstance(event, Measured)
    return event


def measured(num_tokens: int, us: dict[LaunchConfig, tuple[float, ...]], first: int = 0) -> Measured:
    """Blocks from `first` on, by config."""
    series = tuple(Series(config, Status.OK, times) for config, times in us.items())
    job = BlockJob(num_tokens, UNIFORM, tuple(us), first, len(next(iter(us.values()))))
    return Measured(job, series, 0.5, 3.5, 8)


def test_a_block_is_answered_by_its_number(make_landscape: Make, space: Space) -> None:
    a, b = space.kernels[:2]
    runner = recorded(make_landscape(), measured(64, {a: (1.0, 2.0), b: (10.0, 20.0)}), measured(64, {a: (3.0,)}, 2))
    found = measure(runner, BlockJob(64, UNIFORM, (b, a), 1, 2))
    assert [series.us for series in found.series] == [(20.0, 10.0), (2.0, 3.0)], "b has no third: from the start again"
    assert (found.active_experts, found.draws) == (3.5, 8)


def test_at_another_batch_size_or_in_another_part_nothing_is_taken_over(make_landscape: Make, space: Space) -> None:
    a = space.kernels[0]
    runner = recorded(make_landscape(), measured(1, {a: (7.0, 7.0)}))
    assert 7.0 not in measure(runner, BlockJob(64, UNIFORM, (a,), 0, 2)).series[0].us
    skewed = replace(UNIFORM, routing=RoutingKind.SKEW_1)
    (series,) = measure(runner, BlockJob(1, skewed, (a,), 0, 2)).series
    assert (series.status, series.message) == (Status.CONSTRAINTS, NOT_RECORDED)


def test_rounds_of_older_landscapes_stand_one_behind_the_other(make_landscape: Make, space: Space) -> None:
    a = space.kernels[0]

    def rounds(*up_us: float) -> Measured:
        series = Series.apart(a, up_us, tuple(0.5 * us for us in up_us))
        return Measured(BlockJob(64, UNIFORM, (a,), 0, len(up_us), is_apart=True), (series,), 0.5)

    runner = recorded(make_landscape(), rounds(1.0, 2.0), rounds(3.0, 4.0))
    (series,) = measure(runner, BlockJob(64, UNIFORM, (a,), 1, 4)).series
    assert (series.up_us, series.us) == ((2.0, 3.0, 4.0, 1.0), (3.0, 4.5, 6.0, 1.5))


def test_down_behind_anothers_up_is_put_together_of_times_apart_unless_it_was_recorded(
    make_landscape: Make, space: Space
) -> None:
    a, b = space.kernels[:2]
    apart = (Series.apart(a, (1.0, 2.0), (0.5, 0.5)), Series.apart(b, (8.0, 8.0), (0.25, 0.125)))
    times = Measured(BlockJob(64, UNIFORM, (a, b), 0, 2, is_apart=True), apart, 0.5)
    job = BlockJob(64, UNIFORM, (a, b), 0, 2, up=a)
    found = measure(recorded(make_landscape(), times), job)
    assert [series.us for series in found.series] == [(1.5, 2.5), (1.25, 2.125)]
    whole = Measured(job, (Series(a, Status.OK, (3.0, 3.0)), Series(b, Status.OK, (2.0, 2.0))), 0.5)
    runner = recorded(make_landscape(), times, whole)
    assert measure(runner, replace(job, configs=(b,))).series[0].us == (2.0, 2.0)
    # Nor are these b's own times.
    assert measure(runner, replace(job, configs=(b,), up=None)).series[0].us == (8.25, 8.125)


def test_up_and_down_apart_are_what_screening_saw_where_blocks_have_them_together_alone(
    make_landscape: Make, space: Space
) -> None:
    a = space.kernels[0]
    runner = recorded(make_landscape(), measured(64, {a: (7.0, 7.0)}))
    (whole,) = measure(runner, BlockJob(64, UNIFORM, (a,), 0, 2)).series
    (apart,) = measure(runner, BlockJob(64, UNIFORM, (a,), 0, 2, is_apart=True)).series
    assert (whole.us, whole.up_us) == ((7.0, 7.0), ())
    assert (len(apart.up_us), len(apart.down_us)) == (2, 2)
    job = BlockJob(64, UNIFORM, (a,), 0, 2, is_apart=True)
    timed_apart = Measured(job, (Series.apart(a, (1.0, 2.0), (0.5, 0.5)),), 0.5)
    runner = recorded(make_landscape(), measured(64, {a: (7.0, 7.0)}), timed_apart)
    assert measure(runner, replace(job, first=1, count=1)).series[0].up_us == (2.0,)
    failed = Measured(replace(job, first=9), (Series(a, Status.RUNTIME, message="gone"),), 0.5)
    runner = recorded(make_landscape(), measured(64, {a: (7.0, 7.0)}), failed)
    assert measure(runner, job).series[0].message == "gone"


def test_down_with_descriptors_is_known_behind_the_up_alone_that_it_was_recorded_with(
    make_landscape: Make, space: Space
) -> None:
    a, b = space.kernels[:2]
    loads = replace(b, USE_TMA=True)
    compiled = Compiled(CompileJob(loads, 0, False, Flavour.SGLANG, 64, a), Status.OK, 1.0, 2)
    behind = Measured(BlockJob(64, UNIFORM, (loads,), 0, 2, up=a), (Series(loads, Status.OK, (7.0, 7.0)),), 0.5)
    runner = recorded(make_landscape(), behind, compiled)
    statuses = []
    for up in (a, replace(a, GROUP_SIZE_M=1), b):
        runner.submit(replace(compiled.job, up=up))
        event = runner.wait()
        assert isinstance(event, Compiled)
        statuses.append(event.status)
    assert statuses == [Status.OK, Status.OK, Status.CONSTRAINTS], "group size shapes no code"
    assert measure(runner, replace(behind.job, first=1, count=1)).series[0].us == (7.0,)
    (other,) = measure(runner, replace(behind.job, up=b)).series
    (apart,) = measure(runner, replace(behind.job, is_apart=True)).series
    assert (other.status, apart.status) == (Status.CONSTRAINTS, Status.CONSTRAINTS)


def test_who_failed_in_every_block_fails_again(make_landscape: Make, space: Space) -> None:
    a, b = space.kernels[:2]
    failed = Series(b, Status.CORRECTNESS, message="NaN")
    event = replace(measured(64, {a: (1.0, 2.0)}), job=BlockJob(64, UNIFORM, (a, b), 0, 2))
    runner = recorded(make_landscape(), replace(event, series=(*event.series, failed)))
    assert measure(runner, BlockJob(64, UNIFORM, (b,), 0, 3)).series == (failed,)


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
BLOCKS = BlockJob(64, UNIFORM, (CONFIG,), 0, 2)


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
    for job in (COMPILE, SCREEN, BLOCKS):
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
    first = answers(RecordingRunner(ScriptedRunner(), [writer]), SCREEN, BLOCKS)
    writer.close()
    before, size = Journal.read(path).entries, path.stat().st_size

    inner = ScriptedRunner(lambda job, config: (99.0,) * job.count)
    again = answers(RecordingRunner(inner, [JournalWriter(path, None)], before), SCREEN, BLOCKS)
    assert again == first
    assert inner.asked == []
    assert path.stat().st_size == size


def test_when_to_give_up_makes_no_other_measurement() -> None:
    (event,) = answers(RecordingRunner(ScriptedRunner(), []), SCREEN)
    inner = ScriptedRunner()
    runner = RecordingRunner(inner, [], [JournalEntry(event, 1.0)])
    assert answers(runner, ScreenJob(64, 0, CONFIG, give_up_us=17.0)) == [event]
    assert inner.asked == []


def test_a_job_that_was_repeated_is_answered_as_often_as_it_was_made() -> None:
    inner = ScriptedRunner()
    earlier = [JournalEntry(event, 1.0) for event in answers(RecordingRunner(ScriptedRunner(), []), BLOCKS, BLOCKS)]
    runner = RecordingRunner(inner, [], earlier)
    answers(runner, BLOCKS, BLOCKS, BLOCKS)
    assert inner.asked == [BLOCKS]


def test_compilations_are_done_anew_since_the_compilers_cache_may_be_gone() -> None:
    earlier = [JournalEntry(event, 1.0) for event in answers(RecordingRunner(ScriptedRunner(), []), COMPILE)]
    inner = ScriptedRunner()
    (event,) = answers(RecordingRunner(inner, [], earlier), COMPILE)
    assert isinstance(event, Compiled)
    assert inner.asked == [COMPILE]


def test_seconds_count_over_all_runs_and_the_clock_over_this_one() -> None:
    (event,) = answers(RecordingRunner(ScriptedRunner(), []), SCREEN)
    runner = RecordingRunner(ScriptedRunner(), [], [JournalEntry(event, 30.0)])
    answers(runner, BLOCKS)
    assert runner.clock_s == 1.0
    assert runner.seconds_in_all == 31.0


def test_known_and_new_may_be_outstanding_together() -> None:
    (event,) = answers(RecordingRunner(ScriptedRunner(), []), SCREEN)
    runner = RecordingRunner(ScriptedRunner(), [], [JournalEntry(event, 1.0)])
    for job in (BLOCKS, SCREEN):
        runner.submit(job)
    assert [runner.wait().job for _ in range(2)] == [SCREEN, BLOCKS]
    with pytest.raises(LookupError):
        runner.wait()
