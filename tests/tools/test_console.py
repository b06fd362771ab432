"""Commands end quietly when their reader or user has had enough."""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

import pytest

from tools.console import path_argument, reason_of, run
from tools.store import CHECKOUT

COMMANDS = [f"tools.{path.parent.name}" for path in sorted((CHECKOUT / "tools").glob("*/__main__.py"))]


def test_exit_code_is_that_of_the_command() -> None:
    with pytest.raises(SystemExit) as end:
        run(lambda: 2)
    assert end.value.code == 2


def test_ctrl_c_is_no_traceback() -> None:
    def interrupted() -> int:
        raise KeyboardInterrupt

    with pytest.raises(SystemExit) as end:
        run(interrupted)
    assert end.value.code == 130


@pytest.fixture(params=[None, "1"], ids=["buffered", "unbuffered"], autouse=True)
def buffering(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Python keeps text back or doesn't: what can't be written fails when Python ends, or at once."""
    if request.param is None:
        monkeypatch.delenv("PYTHONUNBUFFERED", raising=False)
    else:
        monkeypatch.setenv("PYTHONUNBUFFERED", request.param)


def shell(code: str, redirection: str, name: str = "") -> subprocess.CompletedProcess[str]:
    program = f"import sys; from tools.console import run, say; run(lambda: {code}, {name!r})"
    command = ["bash", "-c", f'"$0" -c "$1" {redirection}', sys.executable, program]
    return subprocess.run(command, capture_output=True, text=True, cwd=CHECKOUT, check=False)


# ---------------------------------------------------------------
# Standard output that can't be written


def test_closed_pipe_is_no_traceback() -> None:
    result = shell("print('x' * 200_000) or 0", "| head -c 1; exit ${PIPESTATUS[0]}")
    assert (result.returncode, result.stdout, result.stderr) == (0, "x", "")


def test_a_pipe_that_breaks_elsewhere_is_no_reader_that_has_seen_enough() -> None:
    result = shell("(_ for _ in ()).throw(BrokenPipeError(32, 'Broken pipe'))", "")
    assert (result.returncode, result.stderr) == (2, "can't write the output: Broken pipe\n")


def test_a_command_says_its_name() -> None:
    assert shell("print('x') or 0", ">/dev/full", "tune").stderr.startswith("tune: can't write the output: ")


@pytest.mark.parametrize("redirection", [">/dev/full", ">&-"])
@pytest.mark.parametrize("size", [1, 200_000], ids=["flushed at the end", "written at once"])
def test_output_that_can_not_be_written_is_one_line_and_2(redirection: str, size: int) -> None:
    result = shell(f"print('x' * {size}) or 0", redirection)
    assert (result.returncode, result.stderr.count("\n")) == (2, 1)
    assert "output" in result.stderr


@pytest.mark.parametrize(
    ("error", "code", "last"), [("KeyboardInterrupt", 130, ""), ("ZeroDivisionError", 1, "ZeroDivisionError\n")]
)
def test_text_that_was_kept_back_changes_no_exit_code(
    error: str, code: int, last: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PYTHONUNBUFFERED", raising=False)
    result = shell(f"print('x') or (_ for _ in ()).throw({error})", ">/dev/full")
    assert result.returncode == code
    assert result.stderr[-len(last) :] == last if last else result.stderr == ""


# ---------------------------------------------------------------
# Standard error that can't be written


@pytest.mark.parametrize("redirection", ["2>&-", "2>/dev/full", "2> >(exec true)"])
@pytest.mark.parametrize(
    "speak", ["say('y')", "print('y', file=sys.stderr)", "sys.stderr.write('y')", "sys.stderr.write('y' * 200_000)"]
)
def test_what_stderr_can_not_take_changes_neither_output_nor_exit_code(redirection: str, speak: str) -> None:
    result = shell(f"[{speak} for _ in range(9)] and print('x') or 3", redirection)
    assert (result.returncode, result.stdout, result.stderr) == (3, "x\n", "")


def test_what_is_said_lands_on_stderr_at_once_and_in_order() -> None:
    lines = "say('1') or print('2', file=sys.stderr) or __import__('os').write(2, b'3\\n') and say('ü\\udc80') or 0"
    result = shell(lines, "")
    assert (result.returncode, result.stderr) == (0, "1\n2\n3\nü\\udc80\n")


@pytest.mark.parametrize("module", ["tools.validate", "tools.registry"])
@pytest.mark.parametrize("redirection", [">/dev/full", ">&-"])
def test_the_commands_end_so_too(module: str, redirection: str) -> None:
    command = ["bash", "-c", f'"$0" -m {module} {redirection}', sys.executable]
    result = subprocess.run(command, capture_output=True, text=True, cwd=CHECKOUT, check=False)
    assert (result.returncode, result.stderr.count("\n")) == (2, 1)


@pytest.mark.parametrize("module", COMMANDS)
def test_every_command_ends_with_its_own_code_where_nobody_reads_stderr(module: str) -> None:
    command = ["bash", "-c", f'"$0" -m {module} --no-such-flag 2>/dev/full', sys.executable]
    assert subprocess.run(command, cwd=CHECKOUT, check=False).returncode == 2


def test_an_empty_path_is_refused() -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="expected a path"):
        path_argument("")
    assert path_argument("a b") == Path("a b")


def test_an_errors_own_words_have_no_number_and_no_path() -> None:
    assert reason_of(FileNotFoundError(2, "No such file or directory", "/nope")) == "No such file or directory"
    assert reason_of(ValueError("no number")) == "no number"
    assert reason_of(EOFError()) == "EOFError"
