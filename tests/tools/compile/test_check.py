"""The compile check, from planted files to findings: each fault gets its status, and the run goes on."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

pytest.importorskip("triton")

from tests.tools.compile.fake_tasks import FakeTask
from tests.tools.compile.tuned_files import DEEPSEEK, MIXTRAL, SOUND, read, registries, tuned
from tools.compile import check
from tools.compile.check import judge
from tools.compile.outcome import Outcome, Resources, Status
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
    """A pool that compiles fake kernels in place of those of two launch configs."""

    pool: CompilePool

    def run(self, tasks: Iterable[CompileTask]) -> Iterator[tuple[int, Outcome]]:
        return self.pool.run(map(self._swap, tasks))

    def _swap(self, task: CompileTask) -> CompileTask:
        assert isinstance(task, KernelTask)
        kind = {HANGING: "hang", CRASHING: "segfault"}.get(tuple(task.problem.config.to_entry().values()))
        return task if kind is None else FakeTask(kind)


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> check.CheckResult:
    """One run over a sound file and four planted ones."""
    root = tmp_path_factory.mktemp("configs with a space")
    tuned(root, {64: SOUND})
    tuned(root, {64: OVER, 128: SOUND}, MIXTRAL.replace("N=7168", "N=14336"))
    tuned(root, {256: SPILLING}, DEEPSEEK)
    tuned(root, {64: HANGING, 128: CRASHING, 256: SOUND}, MIXTRAL.replace("N=7168", "N=1792"))
    progress: list[tuple[int, int]] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRITON_CACHE_DIR", str(tmp_path_factory.mktemp("cache")))
        with CompilePool(2, timeout_s=30) as pool:
            made = check.check(read(root), registries(), Swapping(pool), lambda *done: progress.append(done))
    assert progress[0][0] == 0
    assert progress[-1][0] == progress[-1][1] == made.summary.kernels
    return made


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


def test_a_hanging_and_a_crashing_config_cost_only_themselves(result: check.CheckResult) -> None:
    findings = said(result, "N=1792")
    assert {severity for _, severity, _ in findings} == {Severity.ERROR}
    assert [(rule, message.split(" (")[0]) for rule, _, message in findings] == [
        ("crash", "batch sizes down 128; up 128"),
        ("timeout", "batch sizes down 64; up 64"),
    ]


def test_the_summary_counts_every_outcome(result: check.CheckResult) -> None:
    summary = result.summary
    assert summary.files == 4
    assert sum(summary.outcomes.values()) == summary.kernels
    assert (summary.outcomes["timeout"], summary.outcomes["crash"]) == (2, 2)
    assert result.report.failed


def findings_of(tmp_path: Path, resources: Resources) -> list[tuple[str, Severity]]:
    tuned(tmp_path, {64: SOUND}, MIXTRAL.replace(".json", "_down.json"))
    known = registries()
    (binary,) = make_plan(read(tmp_path), known.devices, known.models).binaries
    return [(f.rule, f.severity) for f in judge([(binary, Outcome(Status.OK, 0.1, resources))], known.devices)]


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
    assert findings_of(tmp_path, resources) == expected


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
