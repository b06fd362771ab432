"""Every event is written before anyone sees it, and what an earlier run measured is not measured again."""

from __future__ import annotations

from pathlib import Path

import pytest

from kernels.launch_config import LaunchConfig
from tests.tools.tune.scripted_runner import ScriptedRunner
from tools.tune.journal import Entry, JournalWriter, read_journal
from tools.tune.journal_lines import Header
from tools.tune.model import Compiled, CompileJob, ConfirmJob, Event, Job, ScreenJob, Subject
from tools.tune.recording import RecordingRunner

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
    runner = RecordingRunner(ScriptedRunner(), [JournalWriter(path, Header(subject, {}, {}))])
    seen: list[Event] = []
    for job in (COMPILE, SCREEN, CONFIRM):
        runner.submit(job)
        seen.append(runner.wait())
        assert [entry.event for entry in read_journal(path).entries] == seen
    assert [entry.clock_s for entry in read_journal(path).entries] == [1.0, 2.0, 3.0]


def test_every_writer_gets_every_event(tmp_path: Path, subject: Subject) -> None:
    paths = [tmp_path / "journal.jsonl", tmp_path / "landscape.jsonl.gz"]
    header = Header(subject, {}, {})
    with RecordingRunner(ScriptedRunner(), [JournalWriter(path, header) for path in paths]) as runner:
        seen = answers(runner, COMPILE, SCREEN)
    assert [[entry.event for entry in read_journal(path).entries] for path in paths] == [seen, seen]


def test_what_was_measured_before_is_answered_and_not_written_again(path: Path, subject: Subject) -> None:
    writer = JournalWriter(path, Header(subject, {}, {}))
    first = answers(RecordingRunner(ScriptedRunner(), [writer]), SCREEN, CONFIRM)
    writer.close()
    before, size = read_journal(path).entries, path.stat().st_size

    inner = ScriptedRunner(lambda job, config: (99.0,) * job.rounds)
    again = answers(RecordingRunner(inner, [JournalWriter(path, None)], before), SCREEN, CONFIRM)
    assert again == first
    assert inner.asked == []
    assert path.stat().st_size == size


def test_when_to_give_up_makes_no_other_measurement() -> None:
    (event,) = answers(RecordingRunner(ScriptedRunner(), []), SCREEN)
    inner = ScriptedRunner()
    runner = RecordingRunner(inner, [], [Entry(event, 1.0)])
    assert answers(runner, ScreenJob(64, 0, CONFIG, give_up_us=17.0)) == [event]
    assert inner.asked == []


def test_a_confirmation_that_was_repeated_is_answered_as_often_as_it_was_made() -> None:
    inner = ScriptedRunner()
    earlier = [Entry(event, 1.0) for event in answers(RecordingRunner(ScriptedRunner(), []), CONFIRM, CONFIRM)]
    runner = RecordingRunner(inner, [], earlier)
    answers(runner, CONFIRM, CONFIRM, CONFIRM)
    assert inner.asked == [CONFIRM]


def test_compilations_are_done_anew_since_the_compilers_cache_may_be_gone() -> None:
    earlier = [Entry(event, 1.0) for event in answers(RecordingRunner(ScriptedRunner(), []), COMPILE)]
    inner = ScriptedRunner()
    (event,) = answers(RecordingRunner(inner, [], earlier), COMPILE)
    assert isinstance(event, Compiled)
    assert inner.asked == [COMPILE]


def test_seconds_count_over_all_runs_and_the_clock_over_this_one() -> None:
    (event,) = answers(RecordingRunner(ScriptedRunner(), []), SCREEN)
    runner = RecordingRunner(ScriptedRunner(), [], [Entry(event, 30.0)])
    answers(runner, CONFIRM)
    assert runner.clock_s == 1.0
    assert runner.seconds_in_all == 31.0


def test_known_and_new_may_be_outstanding_together() -> None:
    (event,) = answers(RecordingRunner(ScriptedRunner(), []), SCREEN)
    runner = RecordingRunner(ScriptedRunner(), [], [Entry(event, 1.0)])
    for job in (CONFIRM, SCREEN):
        runner.submit(job)
    assert [runner.wait().job for _ in range(2)] == [SCREEN, CONFIRM]
    with pytest.raises(LookupError):
        runner.wait()
