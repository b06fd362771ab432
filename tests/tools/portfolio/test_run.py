from __future__ import annotations

import argparse
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.tools.portfolio.stocked import (
    H100,
    Stocked,
    bench_json,
    engine_package,
    full,
    wanted_of_h100,
)
from tools.bench import request as bench_request
from tools.bench.request import FilesRequest
from tools.checkout import reference_triton
from tools.errors import UserError
from tools.findings import Severity
from tools.measure.gpu import VisibleGpu
from tools.measure.panel import MIN_BLOCKS, RoutingKind
from tools.portfolio import listing
from tools.portfolio import run as run_
from tools.portfolio.child import JobResult, Step
from tools.portfolio.jobs import Job, Order
from tools.portfolio.pool import Ended, PoolGpu, Say
from tools.portfolio.progress import Outcome, read_progress
from tools.portfolio.run import MachineAtHand
from tools.registry.devices import load_devices
from tools.registry.models import load_models
from tools.registry.sharding import Engine
from tools.store.workload import Layout
from tools.validate import runner
from tools.validate.exceptions import Exceptions
from tools.validate.model import Context

NAMES = ("E=64,N=1408", "E=64,N=1024")
ONE_H100 = (VisibleGpu("0", "NVIDIA H100 80GB HBM3"),)


@dataclass
class Here:
    """A machine without a GPU that works as one with some: child processes leave what tuner and bench would."""

    stocked: Stocked
    engines: Path
    gpus: Sequence[VisibleGpu] = ONE_H100
    triton: str | None = reference_triton()
    loss_pct: float = 0.4
    jobs: list[Job] = field(default_factory=list)
    benched: list[list[str]] = field(default_factory=list)
    launched_on: list[PoolGpu] = field(default_factory=list)

    def __call__(self, *arguments: str, engines: bool = True) -> int:
        parser = argparse.ArgumentParser()
        run_.add_run(parser)
        given = [part for engine in Engine for part in ("--engine", f"{engine}={self.engines}")] if engines else []
        machine = MachineAtHand(lambda: self.gpus, lambda: 32, lambda: self.triton)
        return run_.run(parser.parse_args([*arguments, *given]), self.stocked.folders, machine, self.launch, self.bench)

    def launch(self, job: Job, gpu: PoolGpu, output: Path, say: Say) -> JobResult:
        self.jobs.append(job)
        self.launched_on.append(gpu)
        assert output == self.stocked.folders.configs
        short = job.name.replace(f",device_name={H100}", "").removesuffix(".json")
        if self.triton != reference_triton():
            folder = f"triton_{str(self.triton).replace('.', '_')}"
            self.stocked.store.measured(self.stocked.store.config(name=job.name, folder=folder), self.triton)
            return JobResult(Outcome.TUNED)
        if job.order is Order.TUNE:
            self.stocked.tune(short)
        for judge in job.judges:
            self.stocked.judge(short, Engine(judge.engine))
        outcome = {Order.TUNE: Outcome.TUNED, Order.JUDGE: Outcome.JUDGED, Order.WHERE_IT_LOSES: Outcome.HELD}
        return JobResult(outcome[job.order], steps=(Step("tune", 0, 0.0),))

    def bench(self, arguments: Sequence[str], gpu: PoolGpu, say: Say) -> Ended:
        self.benched.append(list(arguments))
        paths = [Path(each) for each in arguments if each.endswith(".json")]
        ratio = 1.0 + self.loss_pct / 100.0
        return Ended(0, bench_json({path.name: {"heuristic": (0.9, ratio)} for path in paths}), "")


@pytest.fixture(autouse=True)
def registry_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is wanted on an H100 is the same in every test here."""
    monkeypatch.setattr(listing, "wanted_on", lambda device, models, surveys: wanted_of_h100())


@pytest.fixture
def here(stocked: Stocked, tmp_path: Path) -> Here:
    for engine in Engine:
        engine_package(tmp_path / "engines", engine)
    return Here(stocked, tmp_path / "engines")


@pytest.fixture
def named(here: Here) -> Callable[..., int]:
    return lambda *arguments, **options: here("--names", *map(full, NAMES), *arguments, **options)


class TestWhatIsWorkedOff:
    def test_names_are_tuned_and_judged_in_the_order_given(self, here: Here, named: Callable[..., int]) -> None:
        assert named() == 0
        assert [job.name for job in here.jobs] == list(map(full, NAMES))
        assert {judge.engine for judge in here.jobs[0].judges} == {"vllm", "sglang"}

    def test_without_names_the_most_wanted_come_first(self, here: Here) -> None:
        here("--minutes", "1000")
        assert [job.name for job in here.jobs[:20]] == [each.name for each in wanted_of_h100().names[:20]]

    def test_a_finished_name_whose_second_judgement_fails_or_waits_is_not_all_well(
        self, here: Here, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        here.stocked.tune(NAMES[0], judged_on=None)
        assert here("--names", full(NAMES[0])) == 0
        ships = {full(NAMES[0]): Path("/site/E=64.json")}
        monkeypatch.setattr("tools.portfolio.engines._shipped", lambda package, device, triton: ships)
        assert here("--names", full(NAMES[0]), "--minutes", "0.01") == 1
        monkeypatch.setattr(here, "launch", lambda *_: JobResult(Outcome.FAILED, "vllm: the bench failed"))
        assert here("--names", full(NAMES[0])) == 1

    def test_what_is_finished_is_passed_over(self, here: Here, named: Callable[..., int]) -> None:
        named()
        here.jobs.clear()
        assert named() == 0
        assert here.jobs == []

    def test_a_killed_run_goes_on_where_it_was(self, here: Here, named: Callable[..., int]) -> None:
        here.stocked.tune(NAMES[0], judged_on=[Engine.VLLM])  # killed while it was judged
        assert named() == 0
        assert [(job.order, [judge.engine for judge in job.judges]) for job in here.jobs] == [
            (Order.JUDGE, ["sglang"]),
            (Order.TUNE, ["vllm", "sglang"]),
        ]

    def test_an_older_file_that_holds_is_judged_once(self, here: Here) -> None:
        here.stocked.tune(NAMES[0], rule="parts-0")
        assert here("--names", full(NAMES[0])) == 0
        assert [job.order for job in here.jobs] == [Order.WHERE_IT_LOSES]
        assert here("--names", full(NAMES[0])) == 0
        assert len(here.jobs) == 1

    def test_a_file_of_names_is_read_as_next_prints_it(self, here: Here, tmp_path: Path) -> None:
        path = tmp_path / "names.txt"
        path.write_text(f"{full(NAMES[1])}\n\n{full(NAMES[0])}  # the other\n", "utf-8")
        here("--names", str(path))
        assert [job.name for job in here.jobs] == [full(NAMES[1]), full(NAMES[0])]

    @pytest.mark.parametrize("text", ["", "\n\n", "# none yet\n"])
    def test_a_file_without_a_name_is_not_taken_for_all_names(self, here: Here, tmp_path: Path, text: str) -> None:
        path = tmp_path / "names.txt"
        path.write_text(text, "utf-8")
        with pytest.raises(UserError, match=r"--names: expected a name a line in .*names\.txt, found none"):
            here("--names", str(path))
        assert here.jobs == []

    @pytest.mark.parametrize("below", [".", "configs", "configs/records"])
    def test_copies_dont_go_into_the_store_that_they_are_of(self, here: Here, below: str) -> None:
        folder = here.stocked.folders.configs.parent / below
        folder.mkdir(parents=True, exist_ok=True)
        with pytest.raises(UserError, match="--collect: expected a folder apart from the store"):
            here("--names", full(NAMES[0]), "--collect", str(folder))

    def test_a_name_without_a_placement_is_tuned_for_the_model_of_its_sizes(self, here: Here) -> None:
        name = f"E=8,N=14336,device_name={H100}.json"

        def leave(job: Job, gpu: PoolGpu, output: Path, say: Say) -> JobResult:
            here.jobs.append(job)
            return JobResult(Outcome.FAILED, "enough for this test")

        here.launch = leave  # type: ignore[method-assign]
        assert here("--names", name) == 1
        assert here.jobs[0].tune[:4] == ("--model", "mistralai/Mixtral-8x7B-v0.1", "--tp", "1")
        assert "--all-shapes" not in here.jobs[0].tune

    def test_up_and_down_are_tried_apart_where_asked_for(self, here: Here, named: Callable[..., int]) -> None:
        named("--separate-down", "1")
        assert ["--separate-down" in job.tune for job in here.jobs] == [True, False]

    def test_the_cores_are_shared_between_gpus(self, here: Here, named: Callable[..., int]) -> None:
        here.gpus = [*ONE_H100, VisibleGpu("1", ONE_H100[0].name)]
        assert named() == 0
        assert {gpu.jobs for gpu in here.launched_on} == {16}


class TestTheEnd:
    def test_a_table_of_what_there_is_now_is_printed(
        self, here: Here, named: Callable[..., int], capsys: pytest.CaptureFixture[str]
    ) -> None:
        named()
        printed = capsys.readouterr().out
        assert printed.startswith(f"{H100}: 2 wanted files: 2 done\nrank  file ")
        assert [line.split()[1] for line in printed.splitlines()[2:]] == list(NAMES)
        assert "0.900 (" in printed

    def test_the_tuners_budget_must_fit_into_the_time(self, here: Here, named: Callable[..., int]) -> None:
        assert named("--minutes", "5", "--time-budget", "600") == 1
        assert here.jobs == []

    def test_what_no_time_is_left_for_is_missing(
        self, here: Here, named: Callable[..., int], capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert named("--minutes", "0.1") == 1
        said = capsys.readouterr()
        assert "portfolio: not begun: 2 names. Run it again to go on\n" in said.err
        assert said.out.count("not begun") == 2

    def test_what_was_finished_before_is_counted_and_not_listed(
        self, here: Here, named: Callable[..., int], capsys: pytest.CaptureFixture[str]
    ) -> None:
        here.stocked.tune(NAMES[0], judged_on=None)
        assert named() == 0
        printed = capsys.readouterr().out
        assert printed.startswith(f"{H100}: 2 wanted files: 2 done\n")
        assert [line.split()[1] for line in printed.splitlines()[2:]] == [NAMES[1]]

    def test_a_name_that_was_tuned_and_does_not_count_is_missing_and_says_why(
        self, here: Here, capsys: pytest.CaptureFixture[str]
    ) -> None:
        def launch(job: Job, gpu: PoolGpu, output: Path, say: Say) -> JobResult:
            here.stocked.tune(NAMES[0], judged_on=None, tuner={"cut_short": True})
            return JobResult(Outcome.TUNED)

        here.launch = launch  # type: ignore[method-assign]
        assert here("--names", full(NAMES[0])) == 1
        printed = capsys.readouterr().out
        assert printed.startswith(f"{H100}: 1 wanted file: 1 incomplete\n")
        assert printed.endswith("incomplete  tuned: its search was cut short\n")


class TestBadInput:
    def refused(self, here: Here, *arguments: str) -> str:
        with pytest.raises(UserError) as refusal:
            here(*arguments)
        return str(refusal.value)

    @pytest.mark.parametrize("arguments", [(), ("--second-triton",)], ids=" ".join)
    def test_without_a_gpu_that_is_said_and_not_what_such_a_machine_lacks_besides(
        self, here: Here, arguments: tuple[str, ...], capsys: pytest.CaptureFixture[str]
    ) -> None:
        here.gpus, here.triton = (), None
        assert self.refused(here, *arguments).startswith("expected a GPU, found none. Fix: ")
        assert capsys.readouterr().err == ""

    @pytest.mark.parametrize(
        ("arguments", "said"),
        [
            (("--names", "/nowhere"), "--names: /nowhere: No such file"),
            (("--names", "/dev/zero"), "--names: /dev/zero: "),
            (("--names", ""), "--names: expected a name or a file of names, found an empty text. Fix: "),
            (
                ("--engine", "vllm=a", "--engine", "vllm=b"),
                "--engine: expected vllm at most once, found it again. Fix: ",
            ),
            (("--engine", "odd=x"), "--engine: expected vllm=PATH or sglang=PATH"),
            (("--engine", "vllm=/nowhere"), "--engine vllm: /nowhere: expected "),
            (("--device-name", "NVIDIA_Z9"), "device: expected one of "),
        ],
    )
    def test_what_is_mistyped_is_said_before_a_gpu_is_asked_for(
        self, here: Here, arguments: tuple[str, ...], said: str
    ) -> None:
        here.gpus, here.triton = (), None
        with pytest.raises(UserError, match=f"^{re.escape(said)}"):
            here(*arguments, engines=False)

    def test_a_gpu_that_the_registry_does_not_know_is_left_out(
        self, here: Here, named: Callable[..., int], capsys: pytest.CaptureFixture[str]
    ) -> None:
        here.gpus = [VisibleGpu("0", "NVIDIA Z9"), VisibleGpu("1", ONE_H100[0].name)]
        assert named() == 1
        assert "portfolio: GPU 0 is left out: GPU: expected one of" in capsys.readouterr().err
        assert {gpu.id for gpu in here.launched_on} == {"1"}

    def test_only_unknown_gpus_are_none(self, here: Here) -> None:
        here.gpus = (VisibleGpu("0", "NVIDIA Z9"),)
        assert self.refused(here).startswith("GPU 0 is left out")

    def test_a_gpu_that_was_asked_for_and_is_not_here(self, here: Here) -> None:
        assert self.refused(here, "--device-name", "NVIDIA_H200") == (
            "--device-name: expected a GPU of this machine (NVIDIA H100 80GB HBM3), found NVIDIA_H200. "
            "Fix: leave it out, or run there"
        )

    def test_an_engine_that_was_given_and_cannot_be_cut_ends_it_before_anything_is_tuned(
        self, here: Here, tmp_path: Path
    ) -> None:
        broken = tmp_path / "broken"
        engine_package(broken, Engine.SGLANG, kernel="def f(): pass\n")
        arguments = ("--names", full(NAMES[0]), "--engine", f"sglang={broken}", "--engine", f"vllm={here.engines}")
        with pytest.raises(UserError, match=r"^--engine sglang: "):
            here(*arguments, engines=False)
        assert here.jobs == []

    def test_an_engine_that_is_not_at_hand_costs_its_judgement(
        self, here: Here, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert here("--names", full(NAMES[0]), "--engine", f"vllm={here.engines}", engines=False) == 1
        assert [judge.engine for judge in here.jobs[0].judges] == ["vllm"]
        assert "portfolio: no source of sglang at hand: nothing is judged on its kernel." in capsys.readouterr().err

    def test_a_kernel_without_shipped_files_judges(self, here: Here, capsys: pytest.CaptureFixture[str]) -> None:
        for folder in here.engines.rglob("configs"):
            folder.rmdir()
        assert here("--names", full(NAMES[0])) == 0
        assert {judge.engine for judge in here.jobs[0].judges} == {"vllm", "sglang"}
        assert capsys.readouterr().err.count("not beside those that it ships") == 2

    def test_a_name_that_the_gpu_has_no_memory_for_is_skipped_and_the_rest_goes_on(
        self, here: Here, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        real = run_.job_of

        def job_of(item: Any, *arguments: Any, **options: Any) -> Any:
            return run_.Skip("not enough memory") if item.name == full(NAMES[0]) else real(item, *arguments, **options)

        monkeypatch.setattr(run_, "job_of", job_of)
        assert here("--names", *map(full, NAMES)) == 1
        assert [job.name for job in here.jobs] == [full(NAMES[1])]
        said = capsys.readouterr()
        assert f"portfolio: {full(NAMES[0])}: skipped: not enough memory\n" in said.err
        assert "missing   skipped: not enough memory\n" in said.out

    @pytest.mark.parametrize("name", ["E=7,N=999,device_name=D.json", f"E=7,N=999,device_name={H100}.json"])
    def test_a_name_that_no_model_reads_is_refused(self, here: Here, name: str) -> None:
        assert self.refused(here, "--names", name).startswith("--names: expected files of ")

    def test_what_is_no_name_is_refused_before_a_gpu_is_asked_for(self, here: Here) -> None:
        here.gpus = ()
        assert self.refused(here, "--names", full(NAMES[0]), "x.json") == (
            "--names: expected names of tuned files, as E=8,N=7168,device_name=D.json, found 'x.json'. Fix: correct it."
        )

    def test_nothing_is_written_down_before_all_names_are_known(
        self, here: Here, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Not that the first one is passed over, either."""
        monkeypatch.setattr(run_, "job_of", lambda *_, **options: run_.Skip("not enough memory"))
        self.refused(here, "--names", full(NAMES[0]), "E=7,N=999,device_name=D.json")
        assert not here.stocked.folders.progress.exists()

    @pytest.mark.parametrize(
        ("arguments", "said"),
        [
            (("--minutes", "0"), "--minutes: expected above 0"),
            (("--minutes", "nan"), "--minutes: expected above 0"),
            (("--separate-down", "-1"), "--separate-down: expected 0 or more"),
            (("--ray", "auto"), "--ray: expected one --device-name"),
            (("--second-triton", "--minutes", "3"), "--second-triton: expected without --minutes"),
            (("--second-triton", "--separate-down", "3"), "--second-triton: expected without --separate-down"),
            (("--ray", "auto", "--device-name", H100, "--minutes", "3"), "--minutes: expected without --ray"),
            (("--collect", "/proc/nowhere"), "--collect: expected a folder that can be written"),
        ],
    )
    def test_bad_use_is_one_line(self, here: Here, arguments: tuple[str, ...], said: str) -> None:
        assert self.refused(here, *arguments).startswith(said)

    @pytest.mark.parametrize(("triton", "found"), [(None, "none"), ("3.6.0", "3.6.0")])
    def test_another_triton_is_refused(self, here: Here, triton: str | None, found: str) -> None:
        here.triton = triton
        assert f"Triton {reference_triton()}, found {found}. Fix: " in self.refused(here)


class TestSecondTriton:
    @pytest.fixture
    def second(self, here: Here) -> Here:
        here.triton = "3.6.0"
        for name in NAMES:
            here.stocked.tune(name)
        return here

    def loss(self, here: Here, name: str = NAMES[0]) -> list[tuple[str, float]]:
        path = here.stocked.store.record_of(here.stocked.folders.configs / full(name))
        lines = json.loads(path.read_bytes()).get("verified_with", [])
        return [(line["triton"], line["worst_loss_pct"]) for line in lines]

    def test_the_loss_of_every_file_goes_into_its_record(self, second: Here) -> None:
        assert second("--second-triton") == 0
        assert [self.loss(second, name) for name in NAMES] == [[("3.6.0", 0.4)]] * 2
        assert second.jobs == []

    def test_all_files_are_benched_in_one_process_on_uniform_routing(self, second: Here) -> None:
        second("--second-triton")
        (arguments,) = second.benched
        request = bench_request.parse(arguments)
        assert isinstance(request, FilesRequest)
        assert sorted(path.name for path in request.paths) == sorted(map(full, NAMES))
        assert request.routing is RoutingKind.UNIFORM
        assert request.batch_sizes == (1, 8, 32, 128, 512, 2048)
        assert request.most_blocks == MIN_BLOCKS
        assert request.as_json

    def test_what_loses_more_than_the_margin_is_tuned_again(self, second: Here) -> None:
        second.loss_pct = 3.25
        assert second("--second-triton") == 0
        assert [job.name for job in second.jobs] == sorted(map(full, NAMES))
        assert (second.stocked.folders.configs / "triton_3_6_0" / full(NAMES[0])).exists()
        assert self.loss(second) == [("3.6.0", 3.25)]

    def test_a_file_with_a_down_file_is_tuned_again_with_one_on_sglangs_kernel(self, second: Here) -> None:
        """A version's file alone would serve both projections, and hide the `_down` file."""
        second.loss_pct = 3.25
        second.stocked.store.config(name=full(NAMES[0]).replace(".json", "_down.json"))
        assert second("--second-triton") == 0
        asked = {job.name: job.tune for job in second.jobs}
        assert [("--separate-down" in asked[full(name)]) for name in NAMES] == [True, False]
        assert any(text.startswith("sglang=") for text in asked[full(NAMES[0])])

    def test_what_could_not_be_tuned_again_is_missing(self, second: Here, capsys: pytest.CaptureFixture[str]) -> None:
        second.loss_pct = 3.25
        second.launch = lambda *_: JobResult(Outcome.FAILED, "no room")  # type: ignore[method-assign]
        assert second("--second-triton") == 1
        assert f"{full(NAMES[0])}: not tuned again: no room\n" in capsys.readouterr().err

    def test_of_many_files_eight_share_a_process(self, second: Here) -> None:
        """What a kill loses at most."""
        for each in wanted_of_h100().names[:9]:
            second.stocked.tune(each.name.replace(f",device_name={H100}", "").removesuffix(".json"))
        second("--second-triton")
        counts = [sum(argument.endswith(".json") for argument in arguments) for arguments in second.benched]
        assert len(counts) > 1
        assert max(counts) == counts[0] == 8

    def test_what_fails_on_a_row_is_tuned_again_too(self, second: Here, capsys: pytest.CaptureFixture[str]) -> None:
        failing = bench_json({full(name): {"heuristic": (0.9, None)} for name in NAMES})
        second.bench = lambda arguments, gpu, say: Ended(1, failing, "")  # type: ignore[method-assign]
        assert second("--second-triton") == 0
        assert len(second.jobs) == 2
        assert self.loss(second) == []
        assert f"{full(NAMES[0])}: fails on a row under Triton 3.6.0\n" in capsys.readouterr().err

    def test_a_killed_run_goes_on_where_it_was(self, second: Here) -> None:
        second("--second-triton")
        assert second("--second-triton") == 0
        assert len(second.benched) == 1

    def test_a_file_that_brings_the_bench_down_costs_no_other_its_judgement(
        self, second: Here, capsys: pytest.CaptureFixture[str]
    ) -> None:
        usual = second.bench

        def bench(arguments: Sequence[str], gpu: PoolGpu, say: Say) -> Ended:
            if any(Path(each).name == full(NAMES[0]) for each in arguments):
                return Ended(2, "", "bench: a launch broke the GPU's context")
            return usual(arguments, gpu, say)

        second.bench = bench  # type: ignore[method-assign]
        assert second("--second-triton") == 1
        assert [self.loss(second, name) for name in NAMES] == [[], [("3.6.0", 0.4)]]
        said = capsys.readouterr().err
        assert f"{full(NAMES[0])}: not benched: bench: a launch broke the GPU's context\n" in said

    def test_a_gpu_on_which_nothing_can_be_benched_is_not_asked_for_every_file(self, second: Here) -> None:
        for name in ("E=64,N=896", "E=128,N=768", "E=64,N=768", "E=32,N=1792"):
            second.stocked.tune(name)
        asked: list[int] = []

        def bench(arguments: Sequence[str], gpu: PoolGpu, say: Say) -> Ended:
            asked.append(sum(each.endswith(".json") for each in arguments))
            return Ended(2, "", "bench: expected a GPU")

        second.bench = bench  # type: ignore[method-assign]
        assert second("--second-triton") == 1
        assert asked == [6, 1, 1, 1]

    def test_validate_accepts_what_it_leaves(self, second: Here) -> None:
        second.loss_pct = -3.25
        assert second("--second-triton") == 0
        context = Context(Layout.REPO, load_devices(), load_models())
        found = runner.validate([second.stocked.folders.configs], context, Exceptions.load()).findings
        assert self.loss(second) == [("3.6.0", -3.25)]
        assert [each.message for each in found if each.severity is Severity.ERROR] == []

    def test_what_the_bench_does_not_tell_is_missing(self, second: Here, capsys: pytest.CaptureFixture[str]) -> None:
        second.bench = lambda arguments, gpu, say: Ended(2, "", "bench: expected a GPU")  # type: ignore[method-assign]
        assert second("--second-triton") == 1
        assert f"{full(NAMES[0])}: not benched: bench: expected a GPU" in capsys.readouterr().err
        assert self.loss(second) == []

    def test_the_reference_is_no_second_one(self, here: Here) -> None:
        with pytest.raises(UserError, match="expected another Triton than the reference"):
            here("--second-triton")

    def test_a_file_without_a_measurement_is_skipped_and_said(
        self, second: Here, capsys: pytest.CaptureFixture[str]
    ) -> None:
        second.stocked.store.config(name=full("E=64,N=896"))
        assert second("--second-triton") == 1
        assert "skipped: no record of a measurement of this very file" in capsys.readouterr().err


class TestOnACluster:
    def test_jobs_go_out_as_child_processes_and_their_answers_are_written_down(
        self, here: Here, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from tools.tune.cluster import NodeJob, NodeResult

        sent: list[NodeJob] = []

        def on_cluster(address: str, jobs: Sequence[NodeJob], output: Path) -> Any:
            here.triton = reference_triton()  # a node's
            for job in jobs:
                sent.append(job)
                here.launch(Job.read(job.arguments[0]), None, output, print)  # type: ignore[arg-type]
                yield NodeResult(job, 0, {}, "", JobResult(Outcome.TUNED).to_text() + "\n")

        monkeypatch.setattr(run_, "on_cluster", on_cluster)
        arguments = ("--names", *map(full, NAMES), "--ray", "auto", "--device-name", H100)
        here.gpus, here.triton = (), None  # the head of a cluster may have neither
        assert here(*arguments) == 0
        assert {job.module for job in sent} == {"tools.portfolio.child"}
        assert [job.title for job in sent] == list(map(full, NAMES))

    def test_a_node_that_dies_fails_its_name_alone(self, here: Here, monkeypatch: pytest.MonkeyPatch) -> None:
        from tools.tune.cluster import NodeResult

        monkeypatch.setattr(
            run_, "on_cluster", lambda address, jobs, output: [NodeResult(job, 1, {}, "lost", "") for job in jobs]
        )
        assert here("--names", full(NAMES[0]), "--ray", "auto", "--device-name", H100) == 1

    def test_what_cannot_be_taken_over_is_not_tuned_whatever_the_node_says(
        self, here: Here, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """What stood here before would pass as what the node made."""
        from tools.tune.cluster import NodeResult

        here.stocked.tune(NAMES[0], tuner={"cut_short": True})
        answer = JobResult(Outcome.TUNED).to_text() + "\n"
        log = "can't be written to configs: No space left on device"
        monkeypatch.setattr(
            run_, "on_cluster", lambda address, jobs, output: [NodeResult(job, 2, {}, log, answer) for job in jobs]
        )
        assert here("--names", full(NAMES[0]), "--ray", "auto", "--device-name", H100) == 1
        line = read_progress(here.stocked.folders.progress_of(load_devices().find(H100)))[full(NAMES[0])]
        assert (line.outcome, line.reason) == (Outcome.FAILED, f"exit code 2: {log}")
