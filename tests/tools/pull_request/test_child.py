"""The child gets the planned file as data, calls bench and tuner with it, and leaves nothing behind however it ends."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.tools.processes import wait_until_dead
from tests.tools.pull_request.documents_builder import ENVIRONMENT, H100, entry, planned
from tools.bench import compare_files
from tools.bench.candidates import NO_FILE, SGLANG_NO_FILE, THIS_FILE, FileComparison
from tools.bench.files_report import FileResult, FilesReport
from tools.bench.session import Gpu
from tools.checkout import CHECKOUT
from tools.errors import MachineError, UserError
from tools.measure import gpu
from tools.measure.layer import LayerShape
from tools.measure.statistics import FAILED, SAME_ENTRY, Duel, Interval, Measured, RowVerdict, Verdict
from tools.pull_request import child
from tools.pull_request.child import BenchedFile, NotMeasuredError, comparison_of, run_child, subject_of
from tools.pull_request.documents import PlannedFile, PlannedShape
from tools.pull_request.judge import BenchedRow
from tools.registry.devices import Device, load_devices
from tools.store.record import Environment
from tools.store.workload import Shape
from tools.tune import session
from tools.tune.protocol import RunnerError, Subject
from tools.tune.request import TuneRequest

DEVICE: Device = load_devices().find(H100)
MAIN = {64: entry(num_stages=2)}
SEVERAL = (PlannedShape(Shape(4096, 2), registered=True), PlannedShape(Shape(6144, 4), registered=False))
HERE = Environment.read(ENVIRONMENT)
FASTER = Duel(Interval(0.88, 0.9, 0.92), Verdict.FASTER)


def names(comparison: FileComparison) -> list[str]:
    return [candidate.name for candidate in comparison.candidates]


class TestWhatIsCompared:
    def test_the_claimed_file_beside_the_heuristics_and_mains(self) -> None:
        file = planned(main=MAIN)
        comparison = comparison_of(file, DEVICE)
        assert names(comparison) == [THIS_FILE, NO_FILE, SGLANG_NO_FILE, child.MAIN]
        assert comparison.candidates[0].entries == file.claimed
        assert comparison.candidates[3].entries == MAIN
        assert comparison.batch_sizes == (64, 128)

    def test_under_the_plans_shapes_registered_or_not(self) -> None:
        comparison = comparison_of(replace(planned(), shapes=SEVERAL), DEVICE)
        assert [(shape.hidden_size, shape.top_k) for shape in comparison.shapes] == [(4096, 2), (6144, 4)]
        assert all(isinstance(shape, LayerShape) for shape in comparison.shapes)

    def test_a_new_file_beside_the_heuristics_alone(self) -> None:
        assert names(comparison_of(planned(), DEVICE)) == [THIS_FILE, NO_FILE, SGLANG_NO_FILE]

    def test_mains_file_where_it_is_to_be_removed(self) -> None:
        comparison = comparison_of(planned({}, MAIN), DEVICE)
        assert names(comparison) == [THIS_FILE, NO_FILE, SGLANG_NO_FILE]
        assert comparison.candidates[0].entries == MAIN
        assert comparison.batch_sizes == (64,)

    @pytest.mark.parametrize("dtype", ["int4_w4a16", "fp8_w8a16"])
    def test_what_no_kernel_or_heuristic_covers_is_impossible(self, dtype: str) -> None:
        with pytest.raises(UserError):
            comparison_of(planned(dtype=dtype), DEVICE)


def us(median: float) -> Interval:
    return Interval(median, median, median)


def verdict(**times_us: float | None) -> RowVerdict:
    """A row as the bench gives it; no time: it failed, with a message that may say anything."""
    by_name = {"own": THIS_FILE, "main": child.MAIN, "heuristic": NO_FILE, "sglang": SGLANG_NO_FILE}
    measured = {
        by_name[name]: Measured(entry(), None if time is None else us(time), "" if time else "<b>compile</b>")
        for name, time in times_us.items()
    }
    duels = {name: FASTER if m.us and times_us["own"] else FAILED for name, m in list(measured.items())[1:]}
    return RowVerdict(64, 10.0, "memory", measured, duels)


class TestWhatTheBenchFinds:
    def test_a_row_beside_mains(self) -> None:
        row = child.benched_row(verdict(own=90.0, heuristic=120.0, sglang=130.0, main=100.0))
        assert row == BenchedRow(90.0, 100.0, 120.0, FASTER, FASTER)

    def test_a_row_without_a_file_of_mains(self) -> None:
        row = child.benched_row(verdict(own=90.0, heuristic=120.0, sglang=130.0))
        assert row == BenchedRow(90.0, None, 120.0, None, FASTER)

    def test_an_entry_that_fails_has_no_time_and_its_message_stays_behind(self) -> None:
        row = child.benched_row(verdict(own=None, heuristic=120.0, sglang=130.0, main=100.0))
        assert row == BenchedRow(None, 100.0, 120.0, FAILED, FAILED)

    def test_it_is_read_as_it_is_written(self) -> None:
        rows = {64: BenchedRow(90.0, None, 120.0, None, FASTER), 128: BenchedRow(None, 1.0, 2.0, FAILED, SAME_ENTRY)}
        benched = BenchedFile(rows, HERE)
        assert BenchedFile.read(json.loads(json.dumps(benched.to_json()))) == benched


class TestWhatIsTuned:
    @pytest.mark.parametrize(
        "file",
        [
            planned(),
            planned(E=256, N=128, dtype="fp8_w8a8", block_shape=(128, 128)),
            planned(dtype="fp8_w8a8", per_channel_quant=True),
            planned(dtype="int8_w8a16"),
        ],
    )
    def test_the_plans_workload(self, file: PlannedFile) -> None:
        subject = subject_of(file)
        assert subject.workload == file.id.workload
        assert [named.shape for named in subject.shapes] == [Shape(4096, 2)]

    def test_under_the_plans_shapes_and_no_others(self) -> None:
        """Other models may stand behind the name: their shapes are measured only where the plan has them."""
        subject = subject_of(replace(planned(), shapes=SEVERAL))
        assert [named.shape for named in subject.shapes] == [Shape(4096, 2), Shape(6144, 4)]
        mixtral, unknown = (named.models for named in subject.shapes)
        assert "mistralai/Mixtral-8x7B-v0.1 tp=2" in mixtral
        assert unknown == ()

    def test_under_another_name_of_its_gpu(self) -> None:
        assert subject_of(planned(device_name="NVIDIA_H200_NVL")).workload.device_name == "NVIDIA_H200_NVL"


class Seen:
    """What bench and tuner were called with."""

    comparison: FileComparison
    request: TuneRequest
    subject: Subject


Do = Callable[..., tuple[int, Any]]


@pytest.fixture
def do(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Do:
    """Runs the child's end in this process: (exit code, answer)."""

    def run(work: str, file: PlannedFile, **more: Any) -> tuple[int, Any]:
        job = {"work": work, "file": file.to_json(), "landscape": None, **more}
        monkeypatch.setattr(sys, "stdin", io.StringIO(json.dumps(job)))
        code = child.main()
        out = capsys.readouterr().out
        return code, json.loads(out) if out else None

    return run


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> Seen:
    """On a GPU that is not there."""
    seen = Seen()

    def compare(here: Gpu, comparisons: Sequence[FileComparison], *_: Any) -> FilesReport:
        (seen.comparison,) = comparisons
        sys.stdout.write("a library's own words\n")
        rows = (verdict(own=90.0, heuristic=120.0, sglang=130.0),)
        result = FileResult(seen.comparison.name, (), tuple(names(seen.comparison)), rows)
        return FilesReport(HERE, "2026-11-22", "uniform", "5f" * 32, None, (result,))

    monkeypatch.setattr(Gpu, "here", lambda: Gpu(None, "NVIDIA H100 80GB HBM3", DEVICE))
    monkeypatch.setattr(gpu, "check_memory", lambda torch, wanted: ("busy",))
    monkeypatch.setattr(compare_files, "compare", compare)
    return seen


class TestTheChildsEnd:
    def test_a_bench_answers_with_times_and_where_they_were_measured(self, do: Do, seen: Seen) -> None:
        code, answer = do("bench", planned(main=MAIN))
        assert code == 0
        assert BenchedFile.read(answer) == BenchedFile({64: BenchedRow(90.0, None, 120.0, None, FASTER)}, HERE)
        assert seen.comparison.candidates[3].entries == MAIN

    def test_the_tuner_is_asked_for_the_plans_rows_and_shapes(
        self, do: Do, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        seen = Seen()

        class Summary:
            class Line:
                num_tokens, new_us = 64, 81.5

            lines = (Line,)

        def tune(request: TuneRequest, subject: Subject) -> type[Summary]:
            seen.request, seen.subject = request, subject
            return Summary

        monkeypatch.setattr(session, "tune_here", tune)
        code, answer = do("tune", replace(planned(), shapes=SEVERAL), output=str(tmp_path), time_budget_s=45.0)
        assert (code, answer) == (0, {"new_us": {"64": 81.5}})
        assert seen.request.batch_sizes == (64, 128)
        assert (seen.request.files.output, seen.request.effort.time_budget_s) == (tmp_path, 45.0)
        assert [named.shape for named in seen.subject.shapes] == [Shape(4096, 2), Shape(6144, 4)]

    @pytest.mark.parametrize(
        ("error", "code"),
        [(UserError("no GPU"), 2), (RunnerError("the GPU is gone"), 1), (MachineError("the disk is full"), 1)],
    )
    def test_what_goes_wrong_is_one_line_and_no_answer(
        self, do: Do, monkeypatch: pytest.MonkeyPatch, error: Exception, code: int, capsys: pytest.CaptureFixture[str]
    ) -> None:
        def fail() -> Gpu:
            raise error

        monkeypatch.setattr(Gpu, "here", fail)
        assert do("bench", planned()) == (code, None)

    def test_a_landscape_that_cannot_be_read_is_a_crash(self, do: Do, tmp_path: Path) -> None:
        (tmp_path / "broken.jsonl.gz").write_bytes(b"broken")
        assert do("bench", planned(), landscape=str(tmp_path / "broken.jsonl.gz")) == (1, None)


# ---------------------------------------------------------------
# The parent's end, on children of the test's own


@pytest.fixture
def script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """`python -m script` runs what the test writes there."""
    monkeypatch.setattr(child, "CHECKOUT", tmp_path)
    return tmp_path / "script.py"


def test_it_reads_its_job_and_its_output_is_read_as_json(script: Path) -> None:
    script.write_text(
        "import json, sys; print(json.dumps([json.load(sys.stdin)])); print('to people', file=sys.stderr)"
    )
    assert run_child("script", {"a b": "$(c)"}, 60) == [{"a b": "$(c)"}]


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("import sys; sys.exit(2)", "unsupported"),
        ("import sys; print('{}'); sys.exit(1)", "crashed"),
        ("import os; os.abort()", "crashed"),
        ("print('{')", "crashed"),
        ("pass", "crashed"),
        ("print('x' * (17 << 20))", "crashed"),
    ],
)
def test_every_other_end_is_a_reason(script: Path, body: str, reason: str) -> None:
    script.write_text(body)
    with pytest.raises(NotMeasuredError) as error:
        run_child("script", {}, 60)
    assert error.value.reason == reason


@pytest.mark.parametrize("document", [{}, [], None, {"rows": []}, {"rows": {"64": {}}, "environment": {}}])
def test_an_answer_of_another_form_is_a_crash(monkeypatch: pytest.MonkeyPatch, document: Any, tmp_path: Path) -> None:
    monkeypatch.setattr(child, "run_child", lambda *arguments: document)
    for ask in (
        lambda: child.bench_in_child(planned(), None, 60),
        lambda: child.tune_in_child(planned(), None, tmp_path, 45, 60),
    ):
        with pytest.raises(NotMeasuredError) as error:
            ask()
        assert error.value.reason == "crashed"


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_a_child_that_hangs_is_ended_with_what_it_started(script: Path, tmp_path: Path) -> None:
    script.write_text(
        textwrap.dedent("""
            import pathlib, subprocess, sys, time
            inner = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
            pathlib.Path("inner.tmp").write_text(str(inner.pid))
            pathlib.Path("inner.tmp").rename("inner")
            time.sleep(600)
        """)
    )
    with pytest.raises(NotMeasuredError) as error:
        run_child("script", {}, 5)
    assert error.value.reason == "timeout"
    pid = int((tmp_path / "inner").read_text())
    deadline = time.monotonic() + 10
    while is_running(pid) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not is_running(pid)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a child of its parent's death")
def test_a_child_does_not_outlive_a_killed_parent(tmp_path: Path) -> None:
    """It has a session of its own, so nothing else would end it."""
    body = "import os, sys, time; print(os.getpid(), file=sys.stderr, flush=True); time.sleep(600)"
    (tmp_path / "script.py").write_text(body)
    code = (
        f"import sys; sys.path.insert(0, {str(CHECKOUT)!r})\nfrom pathlib import Path\n"
        "from tools.pull_request import child\n"
        f"child.CHECKOUT = Path({str(tmp_path)!r})\nchild.run_child('script', {{}}, 600)\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE, text=True)
    assert parent.stderr is not None
    pid = int(parent.stderr.readline())
    parent.kill()
    parent.communicate()
    wait_until_dead([pid])


def is_running(pid: int) -> bool:
    status = Path(f"/proc/{pid}/stat")
    return os.path.exists(status) and status.read_text().rpartition(")")[2].split()[0] != "Z"  # noqa: PTH110
