"""A repository whose main branch holds one sound tuned file with a measured record, and the command `plan` on it."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.builders import NAME, Store, signed, table
from tests.tools.pull_request.git_repository import GitRepository, files_of
from tools.pull_request import __main__ as command
from tools.store.files import canonical_record


@dataclass(frozen=True)
class Project:
    """The repository, the name of main's commit, and a store to make further files in."""

    repository: GitRepository
    main: str
    store: Store

    @property
    def root(self) -> Path:
        return self.repository.root

    def files(self, name: str = NAME, folder: str = "", record: dict[str, Any] | None = None, **changes: Any) -> Any:
        """A sound measured file, with these launch keys, and its record with these fields: path to bytes."""
        path = self.store.config(table(**changes), name, folder=folder, record=False)
        self.store.measured(path, triton=triton_of(folder), **(record or {}))
        made = files_of(self.store)
        below = f"{folder}/{name}" if folder else name
        return {path: data for path, data in made.items() if path in (f"configs/{below}", f"configs/records/{below}")}

    def published(self, name: str = NAME, folder: str = "", **changes: Any) -> Any:
        """As `files`, taken over from elsewhere."""
        made = self.files(name, folder, **changes)
        below = f"{folder}/{name}" if folder else name
        record = self.store.record(self.store.root / below)
        return {**made, f"configs/records/{below}": record.read_bytes()}

    def signed(self, name: str = NAME, record: dict[str, Any] | None = None, **said: Any) -> Any:
        """As `files`, with main's own word in the record; `said`: what that word says."""
        made = self.files(name, record=record)
        path = f"configs/records/{name}"
        return {**made, path: canonical_record(signed(json.loads(made[path]), **said))}

    def head(self, files: Any, parent: str | None = None) -> str:
        """A commit of a pull request with these files changed."""
        return self.repository.commit(files, parent or self.main)


def triton_of(folder: str) -> str | None:
    """The release that a version folder is named by; None: it is another tier."""
    return folder.removeprefix("triton_").replace("_", ".") if folder.startswith("triton_") else None


@pytest.fixture
def project(tmp_path: Path) -> Project:
    store = Store(tmp_path / "store" / "configs")
    store.root.mkdir(parents=True)
    repository = GitRepository.make(tmp_path / "größe und 形")
    project = Project(repository, "", store)
    files = {"README.md": b"# Tuned configs\n", "tools/code.py": b"print(1)\n", **project.files()}
    main = repository.commit(files)
    repository.set_ref("refs/heads/main", main)
    return Project(repository, main, store)


@dataclass(frozen=True)
class Ran:
    code: int
    plan: dict[str, Any] | None
    lines: list[str]
    output: str


RunPlan = Callable[..., Ran]


@pytest.fixture
def plan(
    project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> RunPlan:
    """Runs the command on a commit of the project's repository."""
    output, out = tmp_path / "output", tmp_path / "plan.json"
    monkeypatch.setenv("GITHUB_OUTPUT", str(output))
    monkeypatch.delenv("GITHUB_ACTIONS", raising=False)

    def run(head: str, number: int = 12, base: str = "main", runners: str = "") -> Ran:
        where = ["--base", base, "--runners", runners, "--out", str(out), "--repository", str(project.root)]
        code = command.main(["plan", "--number", str(number), "--head-sha", head, *where])
        captured = capsys.readouterr()
        document = json.loads(out.read_bytes()) if out.exists() else None
        return Ran(code, document, captured.err.splitlines(), output.read_text() if output.exists() else "")

    return run


def refusal(ran: Ran) -> str:
    """The one line of a refusal, after checking that it is all that there is."""
    assert ran.code == 1, ran.lines
    assert ran.plan is None
    assert ran.output == ""
    assert len(ran.lines) == 1, ran.lines
    (line,) = ran.lines
    assert line.startswith("refused: ")
    assert ". Fix: " in line
    assert "##[" not in line
    assert line.isprintable()
    assert len(line) < 1200
    return line
