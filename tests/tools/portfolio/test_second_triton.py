"""Which default files another Triton needs anew: what is judged, by which line of a record, and how it is tuned again.

The run as a whole: test_run.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests import builders
from tests.tools.portfolio.stocked import H100, Stocked, bench_json, full, wanted_of_h100
from tools.bench import request as bench_request
from tools.bench.request import FilesRequest
from tools.errors import UserError
from tools.portfolio.child import JobResult
from tools.portfolio.drive import Places
from tools.portfolio.jobs import Job, Order, Skip, TunerBudget
from tools.portfolio.pool import Ended, Pool, PoolGpu, Say
from tools.portfolio.progress import Outcome
from tools.portfolio.second_triton import (
    MARGIN_PCT,
    DefaultFile,
    SecondTriton,
    bench_arguments,
    default_files,
    jobs_of,
    loss_of,
    losses_of,
    note,
)
from tools.registry.models import ModelRegistry
from tools.store.files import canonical_config
from tools.store.record import VerifiedWith
from tools.tune.request import DEFAULT_BATCH_SIZES

DEVICE = builders.devices().find(H100)
NAME = "E=128,N=768"
TRITON = "3.6.0"


def files(stocked: Stocked) -> list[DefaultFile]:
    return list(default_files(stocked.folders.configs, DEVICE, TRITON)[0])


@pytest.fixture
def file(stocked: Stocked) -> DefaultFile:
    stocked.tune(NAME)
    (found,) = files(stocked)
    return found


class TestDefaultFiles:
    def test_a_measured_file_of_the_device_is_to_be_benched(self, file: DefaultFile) -> None:
        assert (file.name, file.loss_pct, file.has_version_file, file.is_done) == (full(NAME), None, False, False)

    def test_other_tiers_other_gpus_and_down_files_are_none(self, stocked: Stocked, file: DefaultFile) -> None:
        others = ((full(NAME), "triton_3_7_1"), (full("E=64,N=768"), "legacy_configs"))
        for name, folder in others:
            stocked.store.measured(stocked.store.config(name=name, folder=folder))
        for name in (full(NAME).replace(H100, "NVIDIA_H200"), full(NAME).replace(".json", "_down.json")):
            stocked.store.measured(stocked.store.config(name=name))
        assert files(stocked) == [replace(file, has_down=True)]

    def test_without_a_folder_there_are_none(self, tmp_path: Path) -> None:
        assert default_files(tmp_path / "none", DEVICE, TRITON) == ((), ())

    @pytest.mark.parametrize("record", ["published", "of other bytes", "broken"])
    def test_one_without_a_measurement_of_its_own_is_skipped_and_said(
        self, stocked: Stocked, file: DefaultFile, record: str
    ) -> None:
        place = stocked.store.record_of(file.path)
        if record == "published":
            stocked.store.record(file.path)
        elif record == "broken":
            place.write_text("{", "utf-8")
        else:
            file.path.write_bytes(file.path.read_bytes() + b"\n")
        found, (fault,) = default_files(stocked.folders.configs, DEVICE, TRITON)
        assert found == ()
        assert fault.partition("skipped: ")[0].endswith(f"{full(NAME)}: ")

    def test_a_version_file_that_is_there_is_known(self, stocked: Stocked, file: DefaultFile) -> None:
        stocked.store.config(name=file.name, folder="triton_3_6_0")
        assert [each.has_version_file for each in files(stocked)] == [True]

    @pytest.mark.parametrize(
        ("settings", "is_done"), [({}, False), ({"separate_down": True}, True)], ids=["untried", "tried apart"]
    )
    def test_one_that_hides_a_down_file_untried_is_none(
        self, stocked: Stocked, file: DefaultFile, settings: dict[str, bool], is_done: bool
    ) -> None:
        """As when the default file was tuned again with up and down apart, and the version's was not."""
        note(stocked.folders.configs, file, TRITON, MARGIN_PCT + 1.0)
        stocked.store.config(name=full(NAME).replace(".json", "_down.json"))
        version_file = stocked.store.config(name=file.name, folder="triton_3_6_0")
        tuner = {"settings": settings, "seconds": 1.0, "kernels_compiled": 1, "measurements": 1, "outcomes": {"ok": 1}}
        stocked.store.measured(version_file, TRITON, tuner=tuner)
        assert [each.is_done for each in files(stocked)] == [is_done]


@pytest.mark.parametrize(
    ("loss_pct", "has_version_file", "is_done"),
    [
        (None, True, False),
        (MARGIN_PCT, False, True),
        (MARGIN_PCT + 0.01, False, False),
        (MARGIN_PCT + 0.01, True, True),
    ],
    ids=["not benched", "holds", "loses", "loses, and was tuned again"],
)
def test_a_file_is_done(file: DefaultFile, loss_pct: float | None, has_version_file: bool, is_done: bool) -> None:
    assert replace(file, loss_pct=loss_pct, has_version_file=has_version_file).is_done is is_done


class TestLoss:
    def of(self, file: DefaultFile, *lines: tuple[str, str, float]) -> float | None:
        said = tuple(VerifiedWith(*line) for line in lines)
        return loss_of(replace(file.record, date="2026-03-09", verified_with=said), TRITON)

    def test_it_is_that_of_the_newest_line_of_the_triton(self, file: DefaultFile) -> None:
        lines = [("3.6.0", "2026-03-10", 1.0), ("3.6.0+git1", "2026-03-11", 2.0), ("3.7.1", "2026-03-12", 9.0)]
        assert self.of(file, *lines) == 2.0

    def test_a_line_from_before_the_measurement_is_of_another_file(self, file: DefaultFile) -> None:
        assert self.of(file, ("3.6.0", "2026-03-08", 1.0)) is None
        assert self.of(file, ("3.6.0", "2026-03-09", 1.0)) == 1.0

    def test_without_a_line_it_is_not_known(self, file: DefaultFile) -> None:
        assert self.of(file) is None

    def test_what_is_noted_is_read_back_and_the_rest_of_the_record_stays(
        self, stocked: Stocked, file: DefaultFile
    ) -> None:
        note(stocked.folders.configs, file, TRITON, 1.25)
        (after,) = files(stocked)
        assert after.loss_pct == 1.25
        assert replace(after.record, verified_with=None) == file.record

    def test_a_file_that_was_tuned_again_meanwhile_takes_no_line_of_the_old_one(
        self, stocked: Stocked, file: DefaultFile
    ) -> None:
        file.path.write_bytes(canonical_config(builders.table(DEFAULT_BATCH_SIZES, num_stages=2)))
        stocked.store.measured(file.path)
        with pytest.raises(UserError, match=r"records/.* expected the record of the file that was benched"):
            note(stocked.folders.configs, file, TRITON, 0.4)
        assert [each.loss_pct for each in files(stocked)] == [None]


class TestBench:
    def test_the_bench_takes_its_arguments(self, file: DefaultFile) -> None:
        asked = bench_request.parse(bench_arguments([file], 6))
        assert isinstance(asked, FilesRequest)
        assert (asked.paths, asked.against, asked.jobs, asked.as_json) == ((file.path,), ("heuristic",), 6, True)
        assert not asked.writes_record, "its loss is noted, not its bench"

    def test_of_its_report_the_worst_row_of_each_file_counts(self) -> None:
        printed = bench_json({"a": {"heuristic": (0.9, 1.0325)}, "b": {"heuristic": (0.9,)}})
        assert losses_of(printed) == {"a": 3.25, "b": -10.0}

    def test_a_row_that_fails_is_an_infinite_loss(self) -> None:
        assert losses_of(bench_json({"a": {"heuristic": (0.9, None)}})) == {"a": math.inf}

    @pytest.mark.parametrize("printed", ["", "[]", "bench: no GPU"])
    def test_what_is_no_report_says_nothing(self, printed: str) -> None:
        assert losses_of(printed) == {}


def never_benched(arguments: Sequence[str], gpu: PoolGpu, say: Say) -> Ended:
    raise AssertionError("their losses are known")


def never_tuned(job: Job, gpu: PoolGpu, output: Path, say: Say) -> JobResult:
    raise AssertionError("nothing can be tuned")


class TestTunedAgain:
    def test_as_it_is_wanted_on_the_gpu(self, file: DefaultFile) -> None:
        (job,) = jobs_of([file], wanted_of_h100(), builders.models(), TunerBudget(30.0)).values()
        assert isinstance(job, Job)
        assert (job.name, job.device_name, job.order, job.judges) == (file.name, H100, Order.TUNE, ())
        assert job.tune[job.tune.index("--time-budget") + 1] == "30"
        assert "--all-shapes" in job.tune

    def test_where_no_placement_gives_the_name_for_the_first_model_of_its_sizes(self, file: DefaultFile) -> None:
        nothing_wanted = replace(wanted_of_h100(), names=())
        (job,) = jobs_of([file], nothing_wanted, builders.models(), TunerBudget()).values()
        assert isinstance(job, Job)
        assert "--all-shapes" not in job.tune

    def test_not_where_no_model_has_its_sizes(self, file: DefaultFile) -> None:
        nothing_wanted = replace(wanted_of_h100(), names=())
        reason = "no registered model has these sizes"
        assert jobs_of([file], nothing_wanted, ModelRegistry(()), TunerBudget()) == {file.name: Skip(reason)}

    @pytest.mark.parametrize("kernel", [None, Path("kernels.py")])
    def test_with_up_and_down_apart_where_a_down_file_would_be_hidden(
        self, stocked: Stocked, file: DefaultFile, kernel: Path | None
    ) -> None:
        stocked.store.config(name=full(NAME).replace(".json", "_down.json"))
        (with_down,) = files(stocked)
        assert (file.has_down, with_down.has_down) == (False, True)
        asked = [self.tune(each, kernel) for each in (file, with_down)]
        assert ["--separate-down" in arguments for arguments in asked] == [False, True]
        assert [f"sglang={kernel}" in arguments for arguments in asked] == [False, kernel is not None]

    def test_a_down_file_of_sglangs_kernel_is_tuned_again_with_that_kernel_alone(self, file: DefaultFile) -> None:
        tuner = file.record.tuner
        assert tuner is not None
        on_sglangs = replace(tuner, settings={"down_kernel": "sglang-0.5.23"})
        file = replace(file, has_down=True, record=replace(file.record, tuner=on_sglangs))
        (skip,) = jobs_of([file], wanted_of_h100(), builders.models(), TunerBudget()).values()
        assert isinstance(skip, Skip)
        assert skip.reason.endswith("Fix: --engine sglang=PATH")
        assert self.tune(file, Path("kernels.py"))[-3:] == ("--separate-down", "--kernel", "sglang=kernels.py")

    def tune(self, file: DefaultFile, kernel: Path | None) -> tuple[str, ...]:
        (job,) = jobs_of([file], wanted_of_h100(), builders.models(), TunerBudget(), kernel).values()
        assert isinstance(job, Job)
        return job.tune

    def test_what_can_not_be_tuned_again_is_a_line(self, stocked: Stocked, file: DefaultFile) -> None:
        pool = Pool[tuple[DefaultFile, ...]]([PoolGpu("0", DEVICE, 1)], print)
        places = Places(stocked.folders.configs, stocked.folders.progress_of)
        run = SecondTriton(places, TRITON, {file.name: Skip("no kernel")}, never_benched, never_tuned)
        missing = run.run({H100: [replace(file, loss_pct=9.0)]}, pool)
        assert missing == [f"{file.name}: loses, and isn't tuned again: no kernel"]

    def test_no_tuner_is_begun_once_the_run_has_stopped(self, stocked: Stocked) -> None:
        names = [stocked.tune(name).name for name in (NAME, "E=64,N=896")]
        known = [replace(each, loss_pct=9.0) for each in files(stocked)]
        pool = Pool[tuple[DefaultFile, ...]]([PoolGpu("0", DEVICE, 1)], print)
        begun: list[str] = []

        def launch(job: Job, gpu: PoolGpu, output: Path, say: Say) -> JobResult:
            begun.append(job.name)
            pool.stop()
            return JobResult(Outcome.FAILED, "ended")

        jobs: dict[str, Job | Skip] = {name: Job(name, H100, Order.TUNE, (), ()) for name in names}
        places = Places(stocked.folders.configs, stocked.folders.progress_of)
        SecondTriton(places, TRITON, jobs, never_benched, launch).run({H100: known}, pool)
        assert begun == [known[0].name]


class Queues(Pool[tuple[DefaultFile, ...]]):
    """Keeps how many files each task has, and works on none."""

    def run(self, queues: Mapping[str, Sequence[tuple[DefaultFile, ...]]], *_: object) -> list[Any]:
        self.sizes = [len(task) for task in queues[H100]]
        return []


@pytest.mark.parametrize(
    ("count", "gpus", "sizes"),
    [(7, 3, [2, 2, 2, 1]), (5, 4, [1] * 5), (2, 4, [1, 1]), (7, 1, [7]), (20, 2, [8, 8, 4])],
    ids=["a few on several GPUs", "one more than GPUs", "fewer than GPUs", "on one GPU", "more than a process takes"],
)
def test_a_short_list_keeps_every_gpu_busy(
    count: int, gpus: int, sizes: list[int], stocked: Stocked, file: DefaultFile
) -> None:
    pool = Queues([PoolGpu(str(place), DEVICE, 1) for place in range(gpus)], print)
    places = Places(stocked.folders.configs, stocked.folders.progress_of)
    SecondTriton(places, TRITON, {}, never_benched, never_tuned).run({H100: [file] * count}, pool)
    assert pool.sizes == sizes
