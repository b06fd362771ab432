"""The nox sessions: what they install, where they run, and what is named after `--`."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn

import nox
import pytest

from tests.workflows.repository import git, snapshot
from tools.checkout import CHECKOUT

READERS = ("validate", "registry", "convert", "release", "nightly", "canary", "pull_request")
INSTALL_TORCH = ("gpu_environment", "measure", "tests")


class RefusalError(Exception):
    """What `error` raises."""


@dataclass
class Session:
    """Stands in for nox's and keeps what it is asked for. failing: a program that ends with a code."""

    name: str
    posargs: list[str] = field(default_factory=list)
    venv_backend: str = "virtualenv"
    failing: str = ""
    bin: str = "/environment/bin"
    installed: list[str] = field(default_factory=list)
    commands: list[tuple[str, ...]] = field(default_factory=list)
    lines: list[str] = field(default_factory=list)

    def install(self, *packages: str) -> None:
        self.installed.extend(packages)

    def run(self, *command: str, **options: Any) -> None:
        self.commands.append(command)
        if command[0] == self.failing:
            raise nox.command.CommandFailed

    def notify(self, name: str) -> None:
        self.commands.append(("notify", name))

    def log(self, line: str) -> None:
        self.lines.append(line)

    warn = log

    def error(self, line: str) -> NoReturn:
        raise RefusalError(line)

    @property
    def has_torch(self) -> bool:
        return any(package.startswith("torch") for package in self.installed)


# ---------------------------------------------------------------
# PyTorch


@pytest.fixture
def amd(noxfile: ModuleType) -> None:
    noxfile.AMD_DRIVER.touch()
    noxfile.ROCM.mkdir()


@pytest.mark.parametrize("name", INSTALL_TORCH)
def test_pytorch_is_installed_beside_an_nvidia_gpu(
    noxfile: ModuleType, amd: None, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the processor draws the screen with AMD's graphics."""
    monkeypatch.setattr(shutil, "which", lambda program: f"/usr/bin/{program}")
    session = Session(name)
    getattr(noxfile, name)(session)
    assert session.has_torch
    assert session.installed[-2:] == ["--no-deps", "triton==3.8.0"], "over what torch pins"


@pytest.mark.parametrize("name", INSTALL_TORCH)
def test_on_rocm_no_pytorch_is_installed_and_no_venv_is_named(noxfile: ModuleType, amd: None, name: str) -> None:
    session = Session(name)
    with pytest.raises(RefusalError, match=r"found AMD's, for which nox installs no PyTorch\. Fix: .* --no-venv"):
        getattr(noxfile, name)(session)
    assert not session.has_torch
    assert session.commands == []


@pytest.mark.parametrize("name", INSTALL_TORCH)
def test_on_rocm_no_venv_uses_what_is_there(noxfile: ModuleType, amd: None, name: str) -> None:
    session = Session(name, venv_backend="none")
    getattr(noxfile, name)(session)
    assert session.installed == []


def test_the_suite_runs_beside_an_amd_gpu_that_only_draws_the_screen(noxfile: ModuleType) -> None:
    noxfile.AMD_DRIVER.touch()
    session = Session("tests")
    noxfile.tests(session)
    assert session.has_torch


@pytest.mark.parametrize("name", ["gpu_environment", "measure"])
@pytest.mark.parametrize(("arguments", "has_gpu"), [([], False), (["--replay", "file"], True)])
def test_what_measures_gets_no_pytorch_that_it_can_not_use(
    noxfile: ModuleType, name: str, arguments: list[str], has_gpu: bool
) -> None:
    if has_gpu:
        noxfile.AMD_DRIVER.touch()
    session = Session(name, arguments)
    getattr(noxfile, name)(session)
    assert not session.has_torch


# ---------------------------------------------------------------
# Environments that sessions share


@pytest.mark.parametrize("name", READERS)
def test_what_only_reads_files_shares_an_environment(noxfile: ModuleType, name: str) -> None:
    session_of = getattr(noxfile, name)
    assert (session_of.requires, session_of.venv_backend) == (["reader-environment"], "none")
    noxfile.reader_environment(Session("reader-environment"))
    session = Session(name, ["a b"])
    session_of(session)
    assert session.commands == [("/environment/bin/python", "-m", f"tools.{name}", "a b")]
    assert session.installed == []


@pytest.mark.parametrize("name", ["tune", "bench"])
def test_tuner_and_bench_share_an_environment(noxfile: ModuleType, name: str) -> None:
    session_of = getattr(noxfile, name)
    assert (session_of.requires, session_of.venv_backend) == (["gpu-environment"], "none")
    noxfile.gpu_environment(Session("gpu-environment", venv_backend="none"))
    session = Session(name)
    session_of(session)
    assert session.commands == [("python", "-m", f"tools.{name}")], "with --no-venv: the active environment's"


def test_measuring_a_plan_runs_where_pytorch_is(noxfile: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda program: f"/usr/bin/{program}")
    arguments = ["measure", "--plan", "plan.json", "--triton", "3.9.0"]
    asked = Session("pull-request", arguments)
    noxfile.pull_request(asked)
    assert asked.commands == [("notify", "measure")]
    measuring = Session("measure", arguments)
    noxfile.measure(measuring)
    assert measuring.installed[-1] == "triton==3.9.0"
    assert measuring.commands == [("python", "-m", "tools.pull_request", *arguments)]


# ---------------------------------------------------------------
# Locks


@pytest.fixture
def on_ci(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    monkeypatch.setattr(sys, "version_info", (3, 11, 7))


def test_ci_installs_by_the_lock(noxfile: ModuleType, on_ci: None) -> None:
    for name, group in (("reader_environment", "validate"), ("build", "build")):
        session = Session(name)
        getattr(noxfile, name)(session)
        assert session.installed == ["--require-hashes", "--requirement", f"locks/{group}.txt"]


def test_a_person_needs_no_lock(noxfile: ModuleType, on_ci: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GITHUB_ACTIONS")
    session = Session("reader-environment")
    noxfile.reader_environment(session)
    assert session.installed == ["jsonschema>=4.23", "jsonschema-rs>=0.33"]


def test_ci_on_another_python_installs_nothing(
    noxfile: ModuleType, on_ci: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The hashes are of other wheels: without this, pip would say so of the first package alone."""
    monkeypatch.setattr(sys, "version_info", (3, 12, 1))
    session = Session("reader-environment")
    with pytest.raises(RefusalError, match=r"locks/validate.txt: expected Python 3.11 on Linux, x86-64, found another"):
        noxfile.reader_environment(session)
    assert session.installed == []


def test_a_gpu_machine_of_another_architecture_says_that_it_has_no_lock(
    noxfile: ModuleType, on_ci: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "aarch64")
    session = Session("reader-environment")
    noxfile.reader_environment(session)
    assert session.installed == ["jsonschema>=4.23", "jsonschema-rs>=0.33"]
    assert session.lines == [
        "locks/validate.txt is for Python 3.11 on Linux, x86-64: installing what pyproject.toml asks for"
    ]


def test_locks_take_releases_that_have_rested(noxfile: ModuleType, on_ci: None) -> None:
    session = Session("lock", failing="python")
    with pytest.raises(nox.command.CommandFailed):
        noxfile.lock(session)
    (command,) = session.commands
    assert command[command.index("--uploaded-prior-to") + 1] == "P7D"


# ---------------------------------------------------------------
# The test suite


def test_slow_tests_are_left_out_where_nothing_is_named(noxfile: ModuleType) -> None:
    session = Session("tests")
    noxfile.tests(session)
    (command,) = session.commands
    assert command[3:5] == ("-m", "not slow")


def test_a_test_that_is_named_runs(noxfile: ModuleType) -> None:
    session = Session("tests", ["tests/tools/tune/test_kill.py"])
    noxfile.tests(session)
    assert session.commands == [("python", "-m", "pytest", "tests/tools/tune/test_kill.py")]


@pytest.mark.parametrize(
    ("arguments", "files"),
    [
        ([], {path.name for path in (CHECKOUT / "tests" / "workflows").glob("test_*.py")}),
        (["tests/workflows/test_linters.py"], {"test_linters.py"}),
        (["tests/workflows/test_linters.py::test_zizmor_has_no_complaint"], {"test_linters.py"}),
        (["-k", "zizmor"], {"test_linters.py"}),
    ],
)
def test_a_path_replaces_the_folder(arguments: list[str], files: set[str]) -> None:
    command = [sys.executable, "-m", "nox", "--no-venv", "-s", "workflows", "--", "--collect-only", "-q", *arguments]
    answer = subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True, check=True)
    tests = [line for line in answer.stdout.splitlines() if "::" in line]
    assert {line.partition("::")[0].removeprefix("tests/workflows/") for line in tests} == files


# ---------------------------------------------------------------
# ready


def test_ready_runs_every_check_and_names_those_that_fail(noxfile: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(noxfile, "git", lambda *arguments: "1234" if "main^{commit}" in arguments else "")
    session = Session("ready", failing="mypy")
    with pytest.raises(RefusalError, match=r"^not ready: lint, see above$"):
        noxfile.ready(session)
    commands = [" ".join(command) for command in session.commands]
    assert commands[0] == "python -m tools.pull_request diff main HEAD"
    assert "lint-imports" in commands, "after a linter that failed"
    assert commands[-1] == "python -m tools.compile --since main"


def test_ready_ends_with_one_line(noxfile: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(noxfile, "git", lambda *arguments: " M a\n?? b" if arguments[0] == "status" else "1234")
    session = Session("ready", ["v2026.1.1"])
    noxfile.ready(session)
    assert session.commands[0][-2:] == ("v2026.1.1", "HEAD")
    assert session.lines[0].startswith("2 paths are not committed")
    assert session.lines[1].startswith("ready: diff, validate, lint, compile pass")


def test_ready_asks_for_a_main_where_there_is_none(noxfile: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(noxfile, "git", lambda *arguments: "")
    with pytest.raises(RefusalError, match="expected one of upstream/main, origin/main, main, found none"):
        noxfile.ready(Session("ready"))


def test_ready_says_what_the_hosted_check_would_refuse(tmp_path: Path) -> None:
    """A real run on a branch whose record says `verified`; the linters are stand-ins."""
    branch = snapshot(tmp_path / "branch")
    git(branch, "switch", "--quiet", "--create", "mine")
    record = min((branch / "configs" / "records").glob("E=*.json"))
    text = record.read_text("utf-8")
    assert '"verified": null' in text
    record.write_text(text.replace('"verified": null', '"verified": {}'), "utf-8")
    git(branch, "commit", "--quiet", "--all", "--message=mine")
    programs = tmp_path / "programs"
    programs.mkdir()
    for name in ("ruff", "mypy", "lint-imports"):
        (programs / name).write_text("#!/bin/sh\n", "utf-8")
        (programs / name).chmod(0o755)
    path = os.pathsep.join([str(programs), str(Path(sys.executable).parent), os.environ["PATH"]])
    command = [sys.executable, "-m", "nox", "--no-venv", "-s", "ready"]
    answer = subprocess.run(
        command, cwd=branch, env={**os.environ, "PATH": path}, capture_output=True, text=True, check=False
    )
    assert answer.returncode == 1
    assert "refused: configs/records/" in answer.stdout
    assert "not ready: diff, validate, see above" in answer.stderr
