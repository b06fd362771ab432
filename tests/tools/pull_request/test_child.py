"""The child gets the planned file as data, calls bench and tuner with it, and leaves nothing behind however it ends."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from kernels.problem import Flavour
from tests.tools.processes import pids_in, wait_until_dead
from tests.tools.pull_request.documents_builder import ENVIRONMENT, H100, entry, planned
from tools.bench import compare_files
from tools.bench.candidates import NO_FILE, THIS_FILE, FileComparison, Judging
from tools.bench.files_report import FileResult, FilesReport
from tools.bench.session import Gpu
from tools.checkout import CHECKOUT
from tools.compile.pool import CompilePool
from tools.errors import MachineError, UserError
from tools.measure import gpu
from tools.measure.judgement import FAILED, Duel, MeasuredCandidate, PartVerdict, RowVerdict
from tools.measure.layer import LayerShape
from tools.measure.panel import DRAWN_KINDS, Part, Ratio, RoutingKind
from tools.measure.seeds import Purpose
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


def names(comparison: FileComparison) -> list[str]:
    return [candidate.name for candidate in comparison.candidates]


class TestWhatIsCompared:
    def test_the_claimed_file_beside_the_heuristics_and_mains(self) -> None:
        file = planned(main=MAIN)
        comparison = comparison_of(file, DEVICE)
        assert names(comparison) == [THIS_FILE, NO_FILE, child.MAIN]
        assert comparison.candidates[0].entries == dict.fromkeys(Flavour, file.claimed)
        assert comparison.candidates[2].entries == dict.fromkeys(Flavour, MAIN)
        assert comparison.batch_sizes == (64, 128)

    def test_under_the_plans_shapes_registered_or_not(self) -> None:
        comparison = comparison_of(replace(planned(), shapes=SEVERAL), DEVICE)
        assert [(shape.hidden_size, shape.top_k) for shape in comparison.shapes] == [(4096, 2), (6144, 4)]
        assert all(isinstance(shape, LayerShape) for shape in comparison.shapes)

    def test_on_every_engine_that_reads_the_name_for_a_shape(self) -> None:
        block = planned(E=257, N=256, dtype="fp8_w8a8", block_shape=(128, 128))
        fused = PlannedShape(Shape(7168, 9, fused_shared_experts=1), registered=True)
        assert comparison_of(replace(block, shapes=(fused,)), DEVICE).engines == ((Flavour.SGLANG,),)
        assert comparison_of(planned(), DEVICE).engines == (tuple(Flavour),)

    def test_a_new_file_beside_the_heuristics_alone(self) -> None:
        assert names(comparison_of(planned(), DEVICE)) == [THIS_FILE, NO_FILE]

    def test_mains_file_where_it_is_to_be_removed(self) -> None:
        comparison = comparison_of(planned({}, MAIN), DEVICE)
        assert names(comparison) == [THIS_FILE, NO_FILE]
        assert comparison.candidates[0].entries == dict.fromkeys(Flavour, MAIN)
        assert comparison.batch_sizes == (64,)

    @pytest.mark.parametrize("dtype", ["int4_w4a16", "fp8_w8a16"])
    def test_what_no_kernel_or_heuristic_covers_is_impossible(self, dtype: str) -> None:
        with pytest.raises(UserError):
            comparison_of(planned(dtype=dtype), DEVICE)


UNIFORM, SKEWED = RoutingKind.UNIFORM, RoutingKind.SKEW_03
CONFIGS = {"own": entry(), "main": entry(num_stages=2), "heuristic": entry(num_stages=5)}
BY_NAME = {"own": THIS_FILE, "main": child.MAIN, "heuristic": NO_FILE}


def part(
    engine: Flavour = Flavour.VLLM, routing: RoutingKind = UNIFORM, placement: int = 0, **times_us: float | None
) -> PartVerdict:
    """As the bench gives it; no time: it failed, with a message that may say anything."""
    blocks = {CONFIGS[name]: dict.fromkeys(range(4), us) for name, us in times_us.items() if us}
    measured = {
        BY_NAME[name]: MeasuredCandidate(CONFIGS[name], us, "" if us else "<b>compile</b>")
        for name, us in times_us.items()
    }
    own = times_us["own"]
    duels = {
        BY_NAME[name]: Duel.of(Ratio(own / us, own / us, own / us, 4)) if own and us else FAILED
        for name, us in times_us.items()
        if name != "own"
    }
    return PartVerdict(Part(engine, placement, routing), 10.0, "memory", 8, measured, duels, blocks)  # type: ignore[arg-type]


def row(*parts: PartVerdict) -> BenchedRow:
    return child.benched_row(RowVerdict(64, parts))


class TestWhatTheBenchFinds:
    def test_a_row_beside_mains(self) -> None:
        found = row(part(own=90.0, heuristic=120.0, main=100.0))
        (only,) = found.parts
        assert (only.engine, only.routing) == (Flavour.VLLM, UNIFORM)
        assert (only.own_us, only.main_us, only.heuristic_us) == (90.0, 100.0, 120.0)
        assert only.main_over_heuristic is not None
        assert only.main_over_heuristic.mean == pytest.approx(100 / 120)
        assert found.over_main is not None
        assert found.over_main.mean == pytest.approx(0.9)

    def test_every_part_and_their_score(self) -> None:
        found = row(
            part(own=90.0, heuristic=120.0, main=100.0),
            part(own=110.0, heuristic=120.0, main=100.0, routing=SKEWED),
            part(own=100.0, heuristic=90.0, main=100.0, engine=Flavour.SGLANG),
        )
        assert [(one.engine, one.routing, one.own_us) for one in found.parts] == [
            (Flavour.VLLM, UNIFORM, 90.0),
            (Flavour.VLLM, SKEWED, 110.0),
            (Flavour.SGLANG, UNIFORM, 100.0),
        ]
        assert found.over_main is not None
        assert found.over_main.mean == pytest.approx((0.9 ** (2 / 3) * 1.1 ** (1 / 3)) ** 0.5)

    def test_of_several_shapes_every_one_the_worst_first(self) -> None:
        """Slower than no file in one shape, and than main's in the other: neither may be lost."""
        parts = row(
            part(own=90.0, heuristic=120.0, main=80.0), part(own=90.0, heuristic=80.0, main=100.0, placement=1)
        ).parts
        assert [(one.shape, one.heuristic_us) for one in parts] == [(1, 80.0), (0, 120.0)], "the row's are the worst's"
        beside_none, beside_main = (
            [duel and duel.verdict for duel in duels]
            for duels in zip(*((one.against_heuristic, one.against_main) for one in parts), strict=True)
        )
        assert (beside_none, beside_main) == (["slower", "faster"], ["faster", "slower"])

    def test_a_row_without_a_file_of_mains(self) -> None:
        found = row(part(own=90.0, heuristic=120.0))
        assert (found.parts[0].main_us, found.parts[0].against_main, found.over_main) == (None, None, None)

    def test_an_entry_that_fails_has_no_time_and_its_message_stays_behind(self) -> None:
        found = row(part(own=None, heuristic=120.0, main=100.0))
        assert (found.parts[0].own_us, found.parts[0].against_heuristic, found.over_main) == (None, FAILED, None)
        assert "compile" not in json.dumps(found.to_json())

    def test_it_is_read_as_it_is_written(self) -> None:
        rows = {64: row(part(own=90.0, heuristic=120.0, main=99.0)), 128: row(part(own=None, heuristic=2.0))}
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
    judging: Judging
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

    def compare(
        here: Gpu, comparisons: Sequence[FileComparison], engine: None, judging: Judging, *_: Any
    ) -> FilesReport:
        (seen.comparison,), seen.judging = comparisons, judging
        sys.stdout.write("a library's own words\n")
        rows = (RowVerdict(64, (part(own=90.0, heuristic=120.0),)),)
        result = FileResult(seen.comparison.name, (), tuple(names(seen.comparison)), rows)
        return FilesReport(HERE, "2026-11-22", judging, "5f" * 32, None, (result,))

    monkeypatch.setattr(CompilePool, "start", lambda pool: None)
    monkeypatch.setattr(Gpu, "here", lambda: Gpu(None, "NVIDIA H100 80GB HBM3", DEVICE))
    monkeypatch.setattr(gpu, "check_memory", lambda torch, wanted: ("busy",))
    monkeypatch.setattr(compare_files, "compare", compare)
    return seen


class TestTheChildsEnd:
    def test_a_bench_answers_with_times_and_where_they_were_measured(self, do: Do, seen: Seen) -> None:
        code, answer = do("bench", planned(main=MAIN))
        assert code == 0
        assert BenchedFile.read(answer) == BenchedFile({64: row(part(own=90.0, heuristic=120.0))}, HERE)
        assert seen.judging == Judging(DRAWN_KINDS, purpose=Purpose.CI)
        assert seen.comparison.candidates[2].entries == dict.fromkeys(Flavour, MAIN)

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

        monkeypatch.setattr(CompilePool, "start", lambda pool: None)
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


def test_a_child_that_hangs_is_ended_with_what_it_started(
    script: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script.write_text(
        textwrap.dedent("""
            import os, pathlib, subprocess, sys, time
            inner = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
            pathlib.Path("pids").write_text(f"{os.getpid()} {inner.pid}")
            time.sleep(600)
        """)
    )
    wait, pids = subprocess.Popen.wait, list[int]()

    def wait_once_it_hangs(process: subprocess.Popen[bytes], timeout: float | None = None) -> int:
        pids[:] = pids_in(tmp_path / "pids", 2)
        return wait(process, timeout)

    monkeypatch.setattr(subprocess.Popen, "wait", wait_once_it_hangs)
    with pytest.raises(NotMeasuredError) as error:
        run_child("script", {}, 0.1)
    assert error.value.reason == "timeout"
    wait_until_dead(pids)


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
