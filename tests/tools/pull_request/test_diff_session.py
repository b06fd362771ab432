"""The diff of two commits of a real repository, through the command."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.tools.pull_request.conftest import Project
from tests.tools.pull_request.git_repository import EXECUTABLE, SUBMODULE, SYMLINK, Blob
from tests.tools.validate.builder import H100, NAME
from tools.pull_request import __main__ as command

PATH, RECORD = f"configs/{NAME}", f"configs/records/{NAME}"

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(project: Project, capsys: pytest.CaptureFixture[str]) -> Run:
    def run(base: str, head: str, *arguments: str) -> tuple[int, str, str]:
        code = command.main(["diff", base, head, "--repository", str(project.root), *arguments])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


def groups(answer: tuple[int, str, str]) -> list[dict[str, Any]]:
    assert (answer[0], answer[2]) == (0, "")
    found: list[dict[str, Any]] = json.loads(answer[1])["groups"]
    return found


def test_a_file_that_was_added_with_its_coverage(project: Project, run: Run) -> None:
    head = project.head(project.files(f"E=8,N=3584,device_name={H100}.json"))
    code, out, _ = run("main", head)
    assert code == 0
    assert out.splitlines()[0] == "Added"
    assert f"  gained on {H100}: " in out
    assert "mistralai/Mixtral-8x7B-v0.1" in out


def test_a_retuned_file_with_the_gain_that_its_record_claims(project: Project, run: Run) -> None:
    latency = {"median": 8.0, "p10": 8.0, "p90": 8.0, "samples": 3}
    row = {"latency_us": latency, "baseline_us": latency, "decision": "promote"}
    keys = json.loads(project.files()[PATH])
    head = project.head(project.files(record={"rows": dict.fromkeys(keys, row)}, num_stages=4))
    (group,) = groups(run("main", head, "--format", "json"))
    assert (group["kind"], group["claimed_gain_pct"]) == ("re-tuned", 20.0)
    assert group["edits"] == [{"key": "num_stages", "before": "3", "after": "4"}]


def test_a_file_that_moved_between_tiers(project: Project, run: Run) -> None:
    moved = project.files(folder="legacy_configs")
    (group,) = groups(run("main", project.head({**moved, PATH: None, RECORD: None}), "--format", "json"))
    assert (group["kind"], group["moved_from"]) == ("moved", "default")


def test_before_the_first_push_there_was_nothing(project: Project, run: Run) -> None:
    (group,) = groups(run("0" * 40, "main", "--format", "json"))
    assert (group["kind"], [file["path"] for file in group["files"]]) == ("added", [PATH])


def test_main_going_on_is_not_the_pull_requests_doing(project: Project, run: Run) -> None:
    head = project.head(project.files(num_stages=4))
    project.repository.set_ref("refs/heads/main", project.head({PATH: None, RECORD: None}))
    assert [group["kind"] for group in groups(run("main", head, "--format", "json"))] == ["re-tuned"]


def test_github_writes_the_markdown_into_the_step_summary(
    project: Project, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    step_summary = tmp_path / "summary.md"
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(step_summary))
    code, out, _ = run("main", project.head({PATH: None, RECORD: None}), "--format", "github")
    assert code == 0
    assert out.startswith(f"::notice file=configs/{NAME}".replace(",", "%2C"))
    assert step_summary.read_text("utf-8").startswith("## Tuned configs\n\n### Removed\n")


@pytest.mark.parametrize(
    "content", [Blob(b"/etc/passwd", SYMLINK), b"\xff", b'{"1": NaN}', bytes(2_000_000), b"[" * 100_000]
)
def test_what_is_no_tuned_file_is_named_and_not_read(project: Project, run: Run, content: Any) -> None:
    (group,) = groups(run("main", project.head({PATH: content}), "--merged", "--format", "json"))
    assert (group["kind"], [file["path"] for file in group["files"]]) == ("unreadable", [PATH])


def test_a_file_with_a_hostile_name_takes_one_line(project: Project, run: Run) -> None:
    code, out, _ = run("main", project.head({"configs/a\n::error::$(x).json": b"{}"}), "--format", "github")
    assert code == 0
    assert len(out.splitlines()) == 2
    assert out.startswith("::warning file=configs/a\\n%3A%3Aerror%3A%3A$(x).json,title=unreadable::")


@pytest.mark.parametrize("revision", ["nowhere", "--output=/tmp/x", "main:configs", "a\nb", "", "main..main"])
def test_a_revision_that_is_none_is_bad_use_in_one_line(project: Project, run: Run, revision: str) -> None:
    arguments = ("main", revision) if not revision.startswith("-") else ("main", f"refs/{revision}")
    code, out, err = run(*arguments)
    assert (code, out) == (2, "")
    assert err.count("\n") == 1
    assert "expected a commit of this repository, found none. Fix: " in err


VERIFIED = {"runner": "gpu", "run_url": "https://example.org/", "commit": "0" * 40, "date": "2026-01-01"}
HOME = "fused-moe-configs/fused-moe-configs"


class TestGate:
    """The required check: a line for each file that may not be merged, after the diff itself."""

    @pytest.fixture(autouse=True)
    def home(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("GITHUB_REPOSITORY", HOME)
        monkeypatch.delenv("GITHUB_ACTIONS", raising=False)

    def verified(self, project: Project, commit: str) -> str:
        return project.head(project.files(record={"verified": {**VERIFIED, "commit": commit}}))

    @pytest.mark.parametrize("of", ["", ":", "a-stranger/fork:verify/{commit}", f"{HOME}:tune/1", f"{HOME}:verify/x"])
    def test_evidence_that_a_pull_request_wrote(self, project: Project, run: Run, of: str) -> None:
        head = self.verified(project, project.main)
        code, out, err = run("main", head, "--of", of.format(commit=project.main))
        assert (code, err.count("\n")) == (1, 1)
        assert out.startswith("New evidence, the same launch configs\n")
        assert err.startswith(f"refused: {RECORD}: verified: expected null, found evidence that only main's own run")
        assert ". Fix: " in err

    def test_evidence_that_verify_proposes(self, project: Project, run: Run) -> None:
        of = f"{HOME}:verify/{project.main}"
        code, _, err = run("main", self.verified(project, project.main), "--of", of)
        assert (code, err) == (0, "")
        assert run("main", self.verified(project, "f" * 40), "--of", of)[0] == 1

    def test_what_main_has_already_is_told_only(self, project: Project, run: Run) -> None:
        code, _, err = run("main", self.verified(project, project.main), "--merged")
        assert (code, err) == (0, "")

    @pytest.mark.parametrize(
        ("path", "blob", "told"),
        [
            (PATH, EXECUTABLE, "found an executable file"),
            (RECORD, EXECUTABLE, "found an executable file"),
            ("configs/evil.json", SYMLINK, "found a symbolic link"),
            ("configs/sub", SUBMODULE, "found a submodule"),
        ],
    )
    def test_a_file_that_is_not_plain(self, project: Project, run: Run, path: str, blob: str, told: str) -> None:
        sha = project.main if blob == SUBMODULE else project.repository.blob(project.files().get(path, b"/etc/passwd"))
        code, out, err = run("main", project.head({path: Blob(mode=blob, sha=sha)}))
        assert code == 1
        assert f"refused: {path}: expected a regular file (mode 100644), {told}. Fix: " in err
        assert "New evidence" not in out
        before = "100644" if path in (PATH, RECORD) else "absent"
        assert f"File modes\n  {path}: {before} → {blob} ({told.removeprefix('found ')})\n" in out
        assert " 1 file mode changed." in out

    def test_each_is_an_annotation_where_a_workflow_runs_it(
        self, project: Project, run: Run, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("GITHUB_ACTIONS", "true")
        head = project.head({PATH: Blob(project.files()[PATH], EXECUTABLE)})
        _, out, _ = run("main", head, "--format", "github")
        assert f"::error file={PATH}".replace(",", "%2C") + ",title=mode::" in out

    def test_becoming_plain_again_is_told_and_not_refused(self, project: Project, run: Run) -> None:
        spoilt = project.head({PATH: Blob(project.files()[PATH], EXECUTABLE)})
        code, out, err = run(spoilt, project.head({PATH: project.files()[PATH]}, spoilt))
        assert (code, err) == (0, "")
        assert f"File modes\n  {PATH}: 100755 → 100644 (a plain file)" in out
