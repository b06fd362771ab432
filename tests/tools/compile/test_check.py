"""The compile check, from planted files to findings: each fault gets its status, and the run goes on."""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

pytest.importorskip("triton")

from tests.tools.compile.fake_tasks import FakeTask
from tests.tools.compile.hang_clock import LIMIT_S, let_hangs_pass
from tests.tools.compile.tuned_files import DEEPSEEK, MIXTRAL, SOUND, read, registries, tuned
from tools.compile import check
from tools.compile.check import judge
from tools.compile.outcome import CompileOutcome, Resources, Status
from tools.compile.plan import make_plan
from tools.compile.pool import CompilePool, CompileTask
from tools.findings import Severity
from tools.measure.kernels import KernelTask

OVER = (128, 256, 128, 1, 8, 3)
SPILLING = (128, 128, 128, 1, 4, 2)
HANGING = (16, 64, 64, 1, 4, 5)
CRASHING = (16, 64, 64, 1, 4, 4)


@dataclass(frozen=True)
class Swapping:
    """A pool that compiles fake kernels in place of those of HANGING and CRASHING. hangs: where they say so."""

    pool: CompilePool
    hangs: Path
    number: Iterator[int] = field(default_factory=itertools.count)

    def run(self, tasks: Iterable[CompileTask]) -> Iterator[tuple[int, CompileOutcome]]:
        return self.pool.run(map(self._swap, tasks))

    def _swap(self, task: CompileTask) -> CompileTask:
        assert isinstance(task, KernelTask)
        kind = {HANGING: "hang", CRASHING: "segfault"}.get(tuple(task.problem.config.to_entry().values()))
        return task if kind is None else FakeTask(kind, self.hangs / str(next(self.number)))


def checked(root: Path, cache: Path, jobs: int = 2) -> check.CheckResult:
    """The compile check of the tuned files below root; where one of them hangs, with one job."""
    progress: list[tuple[int, int]] = []
    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory() as hangs:
        patch.setenv("TRITON_CACHE_DIR", str(cache))
        let_hangs_pass(patch, Path(hangs))
        with CompilePool(jobs, timeout_s=LIMIT_S) as pool:
            swapping = Swapping(pool, Path(hangs))
            made = check.check(read(root), registries(), swapping, lambda *done: progress.append(done))
    assert progress[0][0] == 0
    assert progress[-1][0] == progress[-1][1] == made.summary.kernels
    return made


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory, cache: Path) -> check.CheckResult:
    """One run over a sound file and three planted ones."""
    root = tmp_path_factory.mktemp("configs with a space")
    tuned(root, {64: SOUND})
    tuned(root, {64: OVER, 128: SOUND}, MIXTRAL.replace("N=7168", "N=14336"))
    tuned(root, {256: SPILLING}, DEEPSEEK)
    tuned(root, {128: CRASHING, 256: SOUND}, MIXTRAL.replace("N=7168", "N=1792"))
    return checked(root, cache)


def said(result: check.CheckResult, name: str) -> list[tuple[str, Severity, str]]:
    return [(f.rule, f.severity, f.message) for f in result.report.findings if name in f.path]


def test_a_sound_file_has_no_finding(result: check.CheckResult) -> None:
    assert said(result, "E=8,N=7168") == []


def test_a_config_over_the_shared_memory_says_how_much_and_which_device(result: check.CheckResult) -> None:
    (finding,) = said(result, "N=14336")
    assert finding[:2] == ("over-shared-memory", Severity.ERROR)
    assert finding[2].startswith("batch sizes down 64; up 64 (128×256×128")
    assert "at most 232448 bytes of shared memory a block on NVIDIA_H100_80GB_HBM3, found 294" in finding[2]


def test_a_spilling_config_is_a_warning_with_its_bytes(result: check.CheckResult) -> None:
    findings = said(result, "E=256,N=128")
    assert {finding[:2] for finding in findings} == {("spills", Severity.WARNING)}
    assert "expected at most 256 bytes of stack" in findings[0][2]


def test_a_crashing_config_costs_only_itself(result: check.CheckResult) -> None:
    (finding,) = said(result, "N=1792")
    assert finding[:2] == ("crash", Severity.ERROR)
    assert finding[2].startswith("batch sizes down 128; up 128 (")


def test_a_hanging_config_costs_only_itself(tmp_path: Path, cache: Path) -> None:
    tuned(tmp_path, {64: HANGING, 128: CRASHING, 256: SOUND})
    result = checked(tmp_path, cache, jobs=1)
    assert [(f.rule, f.severity, f.message.split(" (")[0]) for f in result.report.findings] == [
        ("crash", Severity.ERROR, "batch sizes down 128; up 128"),
        ("timeout", Severity.ERROR, "batch sizes down 64; up 64"),
    ]
    assert (result.summary.outcomes["timeout"], result.summary.outcomes["crash"]) == (2, 2)


def test_the_summary_counts_every_outcome(result: check.CheckResult) -> None:
    summary = result.summary
    assert summary.files == 4
    assert sum(summary.outcomes.values()) == summary.kernels
    assert summary.outcomes["crash"] == 4  # up and down, under both shapes that models have behind the name
    assert result.report.failed


def findings_of(tmp_path: Path, outcome: CompileOutcome) -> list[tuple[str, Severity]]:
    tuned(tmp_path, {64: SOUND}, MIXTRAL.replace(".json", "_down.json"))
    known = registries()
    (binary,) = make_plan(read(tmp_path), known.devices, known.models).binaries
    return [(f.rule, f.severity) for f in judge([(binary, outcome)], known.devices)]


@pytest.mark.parametrize(
    ("resources", "expected"),
    [
        (Resources(232448, 255, 256), []),
        (Resources(232449, 255, 0), [("over-shared-memory", Severity.ERROR)]),
        (Resources(1024, 255, 257), [("spills", Severity.WARNING)]),
        (Resources(1024, 32, 4096), [("spills", Severity.ERROR)]),
        (Resources(1024, 33, 4096), [("spills", Severity.WARNING)]),
        (Resources(1024), []),
    ],
    ids=["at both limits", "one byte over", "spills", "gave up", "spills much", "unknown registers"],
)
def test_bounds(tmp_path: Path, resources: Resources, expected: list[tuple[str, Severity]]) -> None:
    assert findings_of(tmp_path, CompileOutcome(Status.OK, 0.1, resources)) == expected


@pytest.mark.parametrize(
    ("status", "rule"),
    [(Status.COMPILE, "does-not-compile"), (Status.TIMEOUT, "timeout"), (Status.CRASH, "crash")],
)
def test_no_kernel_is_an_error_under_its_own_name(tmp_path: Path, status: Status, rule: str) -> None:
    assert findings_of(tmp_path, CompileOutcome(status, 30.0, message="no answer")) == [(rule, Severity.ERROR)]


def test_files_are_compiled_with_their_own_triton_only(tmp_path: Path) -> None:
    tuned(tmp_path, {64: SOUND})
    tuned(tmp_path / "triton_3_6_0", {64: SOUND})
    tuned(tmp_path / "legacy_configs", {64: SOUND})
    own, others = check.split_by_triton(read(tmp_path), "3.8.0+git1234")
    assert [file.found.folder for file in own] == ["", "legacy_configs"]
    assert [version for _, version in others] == ["3.6.0"]
    (finding,) = check.unchecked(others, "3.8.0")
    assert (finding.rule, finding.severity) == ("another-triton", Severity.INFO)
    assert finding.fix == "nox -s compile -- --triton 3.6.0"
