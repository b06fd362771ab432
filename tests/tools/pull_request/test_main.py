"""The command line: what it takes, what it passes on, how it ends."""

from __future__ import annotations

import subprocess
import sys
import types
from pathlib import Path

import pytest

from tests.tools.pull_request.conftest import Project
from tools.checkout import CHECKOUT
from tools.pull_request import __main__ as command


@pytest.mark.parametrize("name", command.ELSEWHERE)
def test_other_subcommands_get_their_arguments_from_modules_of_their_own(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[list[str]] = []
    module = types.ModuleType(name)
    module.main = lambda arguments: seen.append(arguments) or 7  # type: ignore[attr-defined,func-returns-value]
    monkeypatch.setitem(sys.modules, f"tools.pull_request.{name}", module)
    assert command.main([name, "--plan", "x", "--help"]) == 7
    assert seen == [["--plan", "x", "--help"]]


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["merge"],
        ["diff", "HEAD"],
        ["diff", "a", "b", "--format", "xml"],
        ["plan", "--number", "1", "--out", "x"],
        *(["plan", "--number", n, "--head-sha", "0" * 40, "--out", "x"] for n in ("-1", "x", "٣", "9" * 10, "1\n")),
    ],
)
def test_bad_use(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as raised:
        command.main(arguments)
    assert raised.value.code == 2
    assert capsys.readouterr().out == ""


def test_a_base_that_is_nowhere_is_bad_use(project: Project, capsys: pytest.CaptureFixture[str]) -> None:
    where = ["--base", "nowhere\n", "--out", "x", "--repository", str(project.root)]
    assert command.main(["plan", "--number", "1", "--head-sha", project.main, *where]) == 2
    assert capsys.readouterr().err == (
        "pull_request plan: nowhere\\n: expected a commit of this repository, found none. "
        "Fix: correct the revision, or fetch it.\n"
    )


def test_a_plan_that_can_not_be_written_is_a_line(project: Project, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    arguments = ["plan", "--number", "1", "--head-sha", project.main, "--base", "main"]
    where = ["--out", str(tmp_path / "file" / "plan.json"), "--repository", str(project.root)]
    ended = subprocess.run(
        [sys.executable, "-m", "tools.pull_request", *arguments, *where],
        cwd=CHECKOUT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr.startswith(f"pull_request: {tmp_path / 'file' / 'plan.json'}")
    assert ended.stderr.count("\n") == 1


def test_neither_torch_nor_triton_is_imported() -> None:
    check = "import sys, tools.pull_request.__main__; sys.exit(bool({'torch', 'triton'} & sys.modules.keys()))"
    assert subprocess.run([sys.executable, "-c", check], cwd=CHECKOUT, timeout=60, check=False).returncode == 0
