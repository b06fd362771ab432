"""A whole survey on a GPU that isn't there: what is measured in which order, what is written, and how it ends early."""

from __future__ import annotations

import contextlib
import errno
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from kernels.launch_config import LaunchConfig
from kernels.problem import Flavour
from tests.builders import entry, environment
from tests.tools.portfolio.unpacked_engine import DEEPSEEK, MIXTRAL, QWEN, down_of, rows, unpacked
from tools.bench import session
from tools.errors import MachineError, UserError
from tools.launch.layer_config import LayerConfig
from tools.measure.layer import LayerShape
from tools.portfolio import __main__ as command
from tools.portfolio import survey
from tools.portfolio.survey import survey_row
from tools.portfolio.survey_board import Survey, read_survey
from tools.portfolio.survey_plan import BATCH_SIZES, RowConfigs, ShippedContest
from tools.portfolio.survey_protocol import GpuLostError, ShapeNotMeasuredError, TimedRow
from tools.store.record import Environment

ENTRY = LaunchConfig.from_entry(entry())
VLLM_FILES = {MIXTRAL: rows(1), DEEPSEEK.replace(", ", ","): rows(1)}


@dataclass
class FakeTimer:
    """The entry of shipped files takes 110 µs, everything else 100. What is asked for is kept."""

    environment: Environment = field(default_factory=lambda: Environment.read(environment()))
    errors: Mapping[int, Exception] = field(default_factory=dict)
    """By the number of the measurement."""
    cannot: str = ""
    """Why shipped files can't be compiled."""
    notes: Sequence[str] = ()
    compiled: list[ShippedContest] = field(default_factory=list)
    measured: list[LayerShape] = field(default_factory=list)

    def compile(self, contests: Sequence[ShippedContest], jobs: int, say: Any) -> dict[Any, str]:
        self.compiled += contests
        return {}

    def measure(self, layer: LayerShape, row: Mapping[int, RowConfigs], failures: Mapping[Any, str]) -> list[TimedRow]:
        self.measured.append(layer)
        if error := self.errors.get(len(self.measured)):
            raise error
        return [self._row(num_tokens, configs) for num_tokens, configs in row.items()]

    def _row(self, num_tokens: int, configs: RowConfigs) -> TimedRow:
        us = {config: (110.0,) * 4 if config.up == ENTRY else (100.0,) * 4 for config in configs.distinct}
        if not self.cannot:
            return TimedRow(num_tokens, us, {})
        return TimedRow(num_tokens, {c: t for c, t in us.items() if c.up != ENTRY}, {configs.shipped: self.cannot})


@pytest.fixture
def timer(monkeypatch: pytest.MonkeyPatch) -> FakeTimer:
    """In place of the GPU."""
    found = FakeTimer()
    monkeypatch.setattr(survey, "_on_the_gpu", lambda engine: contextlib.nullcontext(found))
    return found


def surveyed(tmp_path: Path, *arguments: str, flavour: Flavour = Flavour.VLLM, files: Any = None) -> int:
    """The command; returns its exit code."""
    root = tmp_path / "engine"
    if not root.exists():
        unpacked(root, flavour, VLLM_FILES if files is None else files)
    engine = [] if "--engine" in arguments else ["--engine", f"{flavour}={root}"]
    return command.main(["survey", *engine, "--output", str(tmp_path / "out"), *arguments])


def board(tmp_path: Path) -> Survey:
    (path,) = (tmp_path / "out").glob("*.json")
    assert path.with_name(path.name.removesuffix(".json") + ".md").exists()
    return read_survey(path)


class TestRun:
    def test_what_was_measured_is_printed_where_the_disk_is_full(
        self, tmp_path: Path, timer: FakeTimer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        def write_file(path: Path, data: bytes) -> None:
            raise OSError(errno.ENOSPC, "No space left on device", str(path))

        monkeypatch.setattr(session, "write_file", write_file)
        assert surveyed(tmp_path, "--shapes", "1") == 1
        out, err = capsys.readouterr()
        assert "| file | shipped / none |" in out
        assert "not written: " in err
        assert len(timer.measured) > 1
        assert not [*(tmp_path / "out").iterdir()]

    def test_the_board_is_printed_and_written(
        self, tmp_path: Path, timer: FakeTimer, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert surveyed(tmp_path, "--shapes", "1") == 0
        (path,) = (tmp_path / "out").glob("*.md")
        assert capsys.readouterr().out == path.read_text("utf-8")
        day, _, rest = path.name.partition("-survey-")
        assert rest.startswith("vllm-NVIDIA_H100_80GB_HBM3-triton-3.")
        found = board(tmp_path)
        assert (found.engine, found.version, found.date) == (Flavour.VLLM, "1.2.3", day)
        assert {file.name for file in found.files} == {MIXTRAL, DEEPSEEK.replace(", ", ",")}
        for file in found.files:
            assert [row.num_tokens for row in file.rows] == list(BATCH_SIZES)
            assert file.shipped_total is not None
            assert file.shipped_total.geomean == pytest.approx(1.1)

    def test_all_is_compiled_first_and_every_names_first_shape_goes_before_the_second_ones(
        self, tmp_path: Path, timer: FakeTimer
    ) -> None:
        files = {f"triton_3_8_0/{name}": rows(1) for name in (DEEPSEEK, MIXTRAL, QWEN)}
        assert surveyed(tmp_path, "--shapes", "2", flavour=Flavour.SGLANG, files=files) == 0
        firsts = [contest.shapes[0][1] for contest in timer.compiled]
        seconds = [contest.shapes[1][1] for contest in timer.compiled if len(contest.shapes) > 1]
        assert len(firsts) == 3
        assert seconds
        assert timer.measured == firsts + seconds

    def test_a_shape_that_is_not_measured_is_said_and_listed_and_the_rest_goes_on(
        self, tmp_path: Path, timer: FakeTimer, capsys: pytest.CaptureFixture[str]
    ) -> None:
        timer.errors = {1: ShapeNotMeasuredError("K=… takes 99.0 GiB")}
        assert surveyed(tmp_path, "--shapes", "1") == 1
        found = board(tmp_path)
        assert [(each.reason, each.is_missing) for each in found.left_out] == [("K=… takes 99.0 GiB", True)]
        assert len(found.files) == 1
        assert f"portfolio: {found.left_out[0].file}: not measured: K=… takes 99.0 GiB\n" in capsys.readouterr().err

    def test_a_shape_that_is_not_measured_is_listed_beside_those_of_its_file_that_are(
        self, tmp_path: Path, timer: FakeTimer
    ) -> None:
        timer.errors = {2: ShapeNotMeasuredError("K=… takes 99.0 GiB")}
        assert surveyed(tmp_path, "--shapes", "2", files={DEEPSEEK.replace(", ", ","): rows(1)}) == 1
        found = board(tmp_path)
        assert [each.reason for each in found.left_out] == ["K=… takes 99.0 GiB"]
        assert [len(file.shapes) for file in found.files] == [1]
        assert found.files[0].unmeasured > 0

    def test_files_stand_in_the_order_of_the_plan_whichever_was_measured_first(
        self, tmp_path: Path, timer: FakeTimer
    ) -> None:
        timer.errors = {2: ShapeNotMeasuredError("K=… takes 99.0 GiB")}
        files = {f"triton_3_8_0/{name}": rows(1) for name in (DEEPSEEK, MIXTRAL, QWEN)}
        assert surveyed(tmp_path, "--shapes", "2", flavour=Flavour.SGLANG, files=files) == 1
        assert [file.file for file in board(tmp_path).files] == [contest.file.name for contest in timer.compiled]

    def test_shapes_that_failed_and_shapes_not_reached_are_both_unmeasured(
        self, tmp_path: Path, timer: FakeTimer
    ) -> None:
        timer.errors = {2: ShapeNotMeasuredError("K=… takes 99.0 GiB"), 3: GpuLostError("no process comes up")}
        assert surveyed(tmp_path, "--shapes", "3", files={DEEPSEEK.replace(", ", ","): rows(1)}) == 1
        assert board(tmp_path).files[0].unmeasured == timer.compiled[0].unmeasured + 2

    @pytest.mark.parametrize("error", [GpuLostError("no process comes up"), MachineError("no process comes up")])
    def test_a_gpu_that_answers_no_more_ends_it_with_what_was_measured(
        self, tmp_path: Path, timer: FakeTimer, error: UserError
    ) -> None:
        timer.errors = {2: error}
        assert surveyed(tmp_path, "--shapes", "1") == 1
        assert len(timer.measured) == 2
        found = board(tmp_path)
        assert len(found.files) == 1
        assert [each.reason for each in found.left_out] == ["no process comes up"]

    def test_what_disturbs_the_gpu_is_said(
        self, tmp_path: Path, timer: FakeTimer, capsys: pytest.CaptureFixture[str]
    ) -> None:
        timer.notes = ["another process uses the GPU"]
        surveyed(tmp_path, "--shapes", "1")
        assert "portfolio: another process uses the GPU\n" in capsys.readouterr().err

    def test_time_that_is_up_ends_it(self, tmp_path: Path, timer: FakeTimer) -> None:
        assert surveyed(tmp_path, "--minutes", "1e-9") == 1
        assert timer.compiled  # which counts
        assert timer.measured == []
        assert all(each.reason.startswith("not reached within") for each in board(tmp_path).left_out)

    def test_time_that_is_up_before_the_second_shapes_is_something_missing(
        self, tmp_path: Path, timer: FakeTimer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """Every file is in the board then, at its first shape."""
        monkeypatch.setattr(survey, "time", SimpleNamespace(monotonic=lambda: 60.0 * len(timer.measured)))
        files = {DEEPSEEK.replace(", ", ","): rows(1)}
        assert surveyed(tmp_path, "--shapes", "2", "--minutes", "0.5", files=files) == 1
        assert len(timer.measured) == 1
        found = board(tmp_path)
        (file,), (left_out,) = found.files, found.left_out
        assert (left_out.file, left_out.is_missing) == (file.file, True)
        assert left_out.reason == "1 of its 2 shapes: not reached within 0.5 minutes"
        assert found.unmeasured == frozenset(), "a name that has times isn't unknown"
        assert left_out.reason in capsys.readouterr().out

    def test_an_interrupted_run_leaves_what_it_has(self, tmp_path: Path, timer: FakeTimer) -> None:
        timer.errors = {2: KeyboardInterrupt()}  # type: ignore[dict-item]
        with pytest.raises(KeyboardInterrupt):
            surveyed(tmp_path, "--shapes", "1")
        found = board(tmp_path)
        assert len(found.files) == 1
        assert not found.is_whole
        assert [each.reason for each in found.left_out] == ["not reached before the survey was killed"]

    def test_a_file_that_fails_is_in_the_board_with_its_reason(
        self, tmp_path: Path, timer: FakeTimer, capsys: pytest.CaptureFixture[str]
    ) -> None:
        timer.cannot = "compile: out of shared memory"
        assert surveyed(tmp_path, files={MIXTRAL: rows(1)}) == 0
        assert "M=1, the shipped file: compile: out of shared memory" in capsys.readouterr().out
        assert [(file.name, file.loses) for file in board(tmp_path).files] == [(MIXTRAL, True)]

    def test_sglangs_down_file_is_named(self, tmp_path: Path, timer: FakeTimer) -> None:
        files = {f"triton_3_8_0/{MIXTRAL}": rows(1), f"triton_3_5_1/{down_of(MIXTRAL)}": rows(1, BLOCK_SIZE_N=128)}
        assert surveyed(tmp_path, flavour=Flavour.SGLANG, files=files) == 0
        assert board(tmp_path).files[0].down == f"triton_3_5_1/{down_of(MIXTRAL)}"


class TestRefusals:
    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (["--engine", "trt=here"], "--engine: expected vllm=PATH or sglang=PATH, found 'trt=here'."),
            (["--engine", "vllm="], "--engine: expected vllm=PATH or sglang=PATH, found 'vllm='."),
            (
                ["--engine", "vllm=nowhere"],
                "nowhere: expected vllm's package, the folder around it, or its fused_moe.py",
            ),
            (["--engine", "vllm=a", "--engine", "sglang=b"], "--engine: expected one, found 2. Fix: a survey of each."),
            (["--shapes", "0"], "--shapes: expected from 1 to 32, found 0."),
            (["--minutes", "0"], "--minutes: expected more than 0 and at most 600, found 0.0."),
            (["--minutes", "nan"], "--minutes: expected more than 0 and at most 600, found nan."),
            (["--device-name", "NVIDIA H1000"], "device: "),
        ],
    )
    def test_one_line_and_exit_2(
        self,
        tmp_path: Path,
        timer: FakeTimer,
        capsys: pytest.CaptureFixture[str],
        monkeypatch: pytest.MonkeyPatch,
        arguments: list[str],
        message: str,
    ) -> None:
        monkeypatch.chdir(tmp_path)
        assert surveyed(tmp_path, *arguments) == 2
        said = capsys.readouterr()
        assert said.err.startswith(f"portfolio: {message}")
        assert (said.out, said.err.count("\n")) == ("", 1)
        assert not (tmp_path / "out").exists()

    def test_a_gpu_for_which_nothing_is_shipped(
        self, tmp_path: Path, timer: FakeTimer, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert surveyed(tmp_path, files={MIXTRAL.replace("H100_80GB_HBM3", "H200"): rows(1)}) == 2
        assert "expected files for NVIDIA H100 80GB HBM3 that can be measured, found none" in capsys.readouterr().err


def test_without_a_gpu_it_is_one_line_before_any_package_is_asked_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    for package in ("torch", "triton"):
        monkeypatch.setitem(sys.modules, package, None)
    assert surveyed(tmp_path) == 2
    said = capsys.readouterr().err
    assert said.startswith("portfolio: expected a GPU, found none. Fix: ")
    assert said.count("\n") == 1


def test_on_a_named_gpu_nothing_is_measured(
    tmp_path: Path, timer: FakeTimer, capsys: pytest.CaptureFixture[str]
) -> None:
    assert surveyed(tmp_path, "--device-name", "NVIDIA_H100_80GB_HBM3") == 0
    assert "2 files to measure, 0 not:" in capsys.readouterr().out
    assert timer.compiled == []


class TestSurveyRow:
    A, B, C = (LayerConfig.of(LaunchConfig(16, size, 64, 1, 4, 3)) for size in (32, 64, 128))

    def test_ratios_are_paired_block_by_block(self) -> None:
        us = {self.A: (100.0, 200.0), self.B: (110.0, 220.0), self.C: (90.0, 180.0)}
        found = survey_row(RowConfigs(self.B, self.A, self.C), TimedRow(8, us, {}))
        assert (found.heuristic_us, found.shipped_us, found.ours_us) == (150.0, 165.0, 135.0)
        assert found.shipped is not None
        assert (found.shipped.low, found.shipped.mean, found.shipped.high) == (1.1, 1.1, 1.1)
        assert found.ours is not None
        assert found.ours.mean == 0.9
        assert found.over_shipped is not None
        assert found.over_shipped.mean == pytest.approx(0.8182)
        assert found.failure == ""

    def test_one_that_fails_has_no_ratio_and_is_named(self) -> None:
        us = {self.B: (110.0, 220.0)}
        found = survey_row(RowConfigs(self.B, self.A, None), TimedRow(8, us, {self.A: "runtime: no"}))
        assert (found.shipped, found.heuristic_us, found.shipped_us) == (None, None, 165.0)
        assert found.failure == "M=8, the heuristic: runtime: no"
