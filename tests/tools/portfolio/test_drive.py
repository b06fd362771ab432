from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from fused_moe_configs.lookup import down_of
from tests import builders
from tests.tools.portfolio.stocked import H100, Stocked, full, wanted
from tools.portfolio.child import MODULE, JobResult
from tools.portfolio.drive import Driver, NoAnswerError, Places, PlannedJob, TimeLimit, launch
from tools.portfolio.jobs import Job, Order, Skip, TunerBudget
from tools.portfolio.pool import Ended, Pool, PoolGpu, Say
from tools.portfolio.progress import Outcome, Step, read_progress
from tools.portfolio.stock import Method, Standing, look_up

DEVICE = builders.devices().find(H100)
NAMES = ("E=64,N=1408", "E=64,N=1024", "E=64,N=896")

Leave = Callable[[str], JobResult]


@dataclass
class Run:
    """A driver whose child processes are functions. leave: what a child does for a name, and answers."""

    stocked: Stocked
    leave: Leave
    minutes: float | None = None
    collect: Path | None = None
    jobs: list[Job] = field(default_factory=list)
    said: list[str] = field(default_factory=list)
    now: float = 0.0
    seconds_a_name: float = 60.0
    orders: Mapping[str, Order] = field(default_factory=dict)
    """By name; others are tuned."""
    budgets: Mapping[str, float] = field(default_factory=dict)
    """By name; others have the usual one."""

    def __post_init__(self) -> None:
        folders = self.stocked.folders
        places = Places(folders.configs, folders.progress_of, self.collect, self.stocked.root)
        clock = TimeLimit(None if self.minutes is None else 60.0 * self.minutes, lambda: self.now)
        self.driver = Driver(places, self._launch, clock, builders.models(), builders.devices())

    def _launch(self, job: Job, gpu: PoolGpu, output: Path, say: Say) -> JobResult:
        self.jobs.append(job)
        self.now += self.seconds_a_name
        return self.leave(job.name)

    def task(self, name: str) -> PlannedJob:
        folders = self.stocked.folders
        line = read_progress(folders.progress_of(DEVICE)).get(full(name))
        item = look_up(1, wanted(name), folders.configs, line, Method())
        job = Job(item.name, H100, self.orders.get(name, Order.TUNE), (), ())
        return PlannedJob(item, job, self.budgets.get(name, TunerBudget.time_budget_s))

    def run(self, names: Sequence[str] = NAMES, gpus: int = 1) -> list[PlannedJob]:
        pool: Pool[PlannedJob] = Pool([PoolGpu(str(place), DEVICE, 8) for place in range(gpus)], self.said.append)
        return self.driver.run([self.task(name) for name in names], pool)

    @property
    def lines(self) -> dict[str, tuple[Outcome, str]]:
        found = read_progress(self.stocked.folders.progress_of(DEVICE))
        return {name: (line.outcome, line.reason) for name, line in found.items()}


def tunes(stocked: Stocked, *, geomean: float = 0.9) -> Leave:
    """Leaves a finished file of every name."""

    def leave(name: str) -> JobResult:
        short = name.replace(f",device_name={H100}", "").removesuffix(".json")
        stocked.tune(short)
        for engine in wanted(short).judges:
            stocked.judge(short, engine, geomean)
        return JobResult(Outcome.TUNED, steps=(Step(None, 0, 40.0), Step("vllm", 0, 15.0)))

    return leave


class TestWhatIsLeft:
    def test_a_file_its_record_and_a_line_of_each_name(self, stocked: Stocked) -> None:
        run = Run(stocked, tunes(stocked))
        assert run.run() == []
        assert run.lines == {full(name): (Outcome.TUNED, "") for name in NAMES}
        assert [done.item.standing for done in run.driver.finished] == [Standing.DONE] * 3
        line = read_progress(stocked.folders.progress_of(DEVICE))[full(NAMES[0])]
        assert (line.gpu, line.rank) == (f"0: {H100}", 1)

    def test_where_the_seconds_went(self, stocked: Stocked) -> None:
        Run(stocked, tunes(stocked)).run(NAMES[:1])
        line = read_progress(stocked.folders.progress_of(DEVICE))[full(NAMES[0])]
        assert (line.seconds, line.overhead_s) == (60.0, 5.0)
        assert [line.seconds_of(engine) for engine in (None, "vllm", "sglang")] == [40.0, 15.0, None]

    def test_where_nothing_is_to_gain_the_file_is_there_and_says_so(self, stocked: Stocked) -> None:
        run = Run(stocked, tunes(stocked, geomean=0.995))
        run.run(NAMES[:1])
        ((outcome, reason),) = run.lines.values()
        assert outcome is Outcome.TUNED
        assert reason.startswith("nothing to gain")

    def test_all_of_it_is_copied_where_it_is_collected(self, stocked: Stocked, tmp_path: Path) -> None:
        Run(stocked, tunes(stocked), collect=tmp_path / "out").run(NAMES[:1])
        found = {path.relative_to(tmp_path / "out").as_posix() for path in (tmp_path / "out").rglob("*.json*")}
        assert found == {
            f"configs/{full(NAMES[0])}",
            f"configs/records/{full(NAMES[0])}",
            f".tune/portfolio/{H100}.jsonl",
        }

    def test_a_down_file_that_is_gone_is_no_longer_collected(self, stocked: Stocked, tmp_path: Path) -> None:
        name = full(NAMES[0])
        run = Run(stocked, tunes(stocked), collect=tmp_path / "out")
        down = stocked.folders.configs / down_of(name)
        down.parent.mkdir(parents=True, exist_ok=True)
        down.write_text("{}")
        run.driver.places.copy(name)
        assert (tmp_path / "out" / "configs" / down_of(name)).exists()
        down.unlink()
        run.driver.places.copy(name)
        assert not (tmp_path / "out" / "configs" / down_of(name)).exists()


class TestBesideAnotherRun:
    def test_what_that_one_has_finished_is_passed_over(self, stocked: Stocked) -> None:
        whole = tunes(stocked)

        def leave(name: str) -> JobResult:
            stocked.tune(NAMES[1], judged_on=None)
            return whole(name)

        run = Run(stocked, leave)
        assert run.run() == []
        assert [job.name for job in run.jobs] == [full(NAMES[0]), full(NAMES[2])]
        assert f"{full(NAMES[1])}: passed over: finished by another run meanwhile" in run.said
        assert full(NAMES[1]) not in run.lines, "what came of it the other run has written"
        assert [done.item.standing for done in run.driver.finished] == [Standing.DONE] * 3

    def test_what_was_finished_before_and_is_to_be_judged_again_is_not(self, stocked: Stocked) -> None:
        stocked.tune(NAMES[0], judged_on=None)
        run = Run(stocked, tunes(stocked))
        run.run()
        assert full(NAMES[0]) in [job.name for job in run.jobs]


class TestWhatGoesWrong:
    def test_what_another_gpu_finishes_meanwhile_is_kept(self, stocked: Stocked) -> None:
        """A run that an error ends waits for what still runs, and its files are written by then."""
        whole, has_begun, has_failed = tunes(stocked), threading.Event(), threading.Event()

        def leave(name: str) -> JobResult:
            if name == full(NAMES[0]):
                assert has_begun.wait(10)
                has_failed.set()
                raise OSError(28, "No space left on device")
            has_begun.set()
            assert has_failed.wait(10)
            time.sleep(0.5)  # until the pool has stopped
            return whole(name)

        run = Run(stocked, leave)
        with pytest.raises(OSError, match="No space left"):
            run.run(NAMES[:2], gpus=2)
        assert {name: outcome for name, (outcome, _) in run.lines.items()} == {full(NAMES[1]): Outcome.TUNED}

    def test_a_name_that_fails_costs_no_other(self, stocked: Stocked) -> None:
        whole = tunes(stocked)

        def leave(name: str) -> JobResult:
            if name == full(NAMES[1]):
                raise NoAnswerError("its process ended without an answer (killed by signal 9): silent")
            return whole(name)

        run = Run(stocked, leave)
        run.run()
        assert [outcome for outcome, _ in run.lines.values()] == [Outcome.TUNED, Outcome.FAILED, Outcome.TUNED]
        assert run.lines[full(NAMES[1])][1].startswith("its process ended without an answer")

    def test_a_file_that_the_validator_refuses_is_no_success(self, stocked: Stocked) -> None:
        def leave(name: str) -> JobResult:
            stocked.store.config(builders.table(), full(NAMES[0]), record=False)
            return JobResult(Outcome.TUNED)

        run = Run(stocked, leave)
        run.run(NAMES[:1])
        outcome, reason = run.lines[full(NAMES[0])]
        assert outcome is Outcome.FAILED
        assert reason.startswith("record: ")

    def test_a_tuner_that_leaves_nothing_is_no_success(self, stocked: Stocked) -> None:
        run = Run(stocked, lambda name: JobResult(Outcome.TUNED))
        run.run(NAMES[:1])
        assert run.lines[full(NAMES[0])] == (Outcome.FAILED, "the tuner wrote no file")

    def test_a_search_that_was_cut_short_is_told(self, stocked: Stocked) -> None:
        def leave(name: str) -> JobResult:
            stocked.tune(NAMES[0], judged_on=None, tuner={"cut_short": True})
            return JobResult(Outcome.TUNED)

        run = Run(stocked, leave)
        run.run(NAMES[:1])
        assert run.lines[full(NAMES[0])] == (Outcome.TUNED, "its search was cut short")
        assert not run.driver.finished[0].is_good

    def test_a_skip_is_written_down_once(self, stocked: Stocked) -> None:
        run = Run(stocked, tunes(stocked))
        for _ in range(2):
            run.driver.skip(run.task(NAMES[0]).item, Skip("not enough memory"), DEVICE)
        path = stocked.folders.progress_of(DEVICE)
        assert [json.loads(line)["reason"] for line in path.read_text("utf-8").splitlines()] == ["not enough memory"]
        assert [done.line.reason for done in run.driver.finished] == ["not enough memory"] * 2


class TestTime:
    def test_no_name_is_begun_that_may_not_end_in_time(self, stocked: Stocked) -> None:
        run = Run(stocked, tunes(stocked), minutes=2.5)
        assert [task.item.name for task in run.run()] == [full(NAMES[2])]

    def test_before_any_was_measured_a_name_is_taken_to_last_two_minutes(self, stocked: Stocked) -> None:
        run = Run(stocked, tunes(stocked), minutes=1.5)
        assert len(run.run()) == 3
        assert run.jobs == []

    def test_what_is_only_judged_goes_first_and_says_nothing_of_how_long_tuning_takes(self, stocked: Stocked) -> None:
        for name in NAMES[1:]:
            stocked.tune(name)
        orders = dict(zip(NAMES, (Order.TUNE, Order.JUDGE, Order.JUDGE), strict=True))
        run = Run(stocked, tunes(stocked), minutes=1.9, seconds_a_name=5.0, orders=orders)
        assert [task.item.name for task in run.run()] == [full(NAMES[0])]
        assert [job.name for job in run.jobs] == [full(NAMES[1]), full(NAMES[2])]

    def test_a_name_that_failed_says_nothing_of_how_long_others_take(self, stocked: Stocked) -> None:
        run = Run(stocked, lambda name: JobResult(Outcome.FAILED, "no"), minutes=1.9, seconds_a_name=5.0)
        assert len(run.run()) == 2
        assert len(run.jobs) == 1

    def test_what_may_be_tuned_after_it_is_judged_needs_time_for_both(self, stocked: Stocked) -> None:
        for minutes, jobs in ((2.5, 0), (2.8, 1)):
            run = Run(stocked, tunes(stocked), minutes, orders={NAMES[0]: Order.WHERE_IT_LOSES})
            run.run(NAMES[:1])
            assert len(run.jobs) == jobs

    @pytest.mark.parametrize(("minutes", "jobs"), [(10.0, 0), (10.4, 1)])
    def test_before_any_was_measured_a_name_is_weighed_by_its_own_budget(
        self, stocked: Stocked, minutes: float, jobs: int
    ) -> None:
        run = Run(stocked, tunes(stocked), minutes, budgets={NAMES[0]: 600.0})
        run.run(NAMES[:1])
        assert len(run.jobs) == jobs

    @pytest.mark.parametrize(("minutes", "jobs"), [(3.4, 1), (3.6, 2)])
    def test_a_name_of_twice_the_budget_may_last_as_much_longer(
        self, stocked: Stocked, minutes: float, jobs: int
    ) -> None:
        """The one before it took 60 s of its 90, so this one takes 150."""
        run = Run(stocked, tunes(stocked), minutes, budgets={NAMES[1]: 180.0})
        run.run(NAMES[:2])
        assert len(run.jobs) == jobs

    def test_two_gpus_take_them_in_turn(self, stocked: Stocked) -> None:
        run = Run(stocked, tunes(stocked))
        assert run.run(gpus=2) == []
        assert sorted(job.name for job in run.jobs) == sorted(map(full, NAMES))


class TestChildProcess:
    GPU = PoolGpu("3", DEVICE, 8)
    JOB = Job("a.json", H100, Order.TUNE, ("--model", "m"), ())

    class Ends:
        """In place of `Children`."""

        def __init__(self, ended: Ended) -> None:
            self.ended, self.command = ended, list[str]()

        def run(self, command: Sequence[str], gpu: PoolGpu, say: Say) -> Ended:
            self.command = list(command)
            return self.ended

    def test_gets_its_job_and_its_share_of_the_cores(self) -> None:
        children = self.Ends(Ended(0, JobResult(Outcome.TUNED).to_text() + "\n", ""))
        answer = launch(children, self.JOB, self.GPU, Path("/configs"), print)  # type: ignore[arg-type]
        assert answer.outcome is Outcome.TUNED
        assert children.command[1:3] == ["-m", MODULE]
        assert Job.read(children.command[3]) == self.JOB
        assert children.command[4:] == ["--output", "/configs", "--jobs", "8"]

    @pytest.mark.parametrize("printed", ["", "{}", "Segmentation fault"])
    def test_without_an_answer_it_says_how_it_ended(self, printed: str) -> None:
        children = self.Ends(Ended(-11, printed, "the last line"))
        with pytest.raises(NoAnswerError, match=r"\(killed by signal 11\): the last line"):
            launch(children, self.JOB, self.GPU, Path("/configs"), print)  # type: ignore[arg-type]
