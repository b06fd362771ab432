"""Commands end quietly when their reader or user has had enough."""

from __future__ import annotations

import argparse
import importlib
import os
import re
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from tools.checkout import CHECKOUT
from tools.cli import (
    block_shape_argument,
    check_file,
    check_folder,
    command,
    engine_path,
    engine_paths,
    hand_on,
    path_argument,
    read_text,
    run,
)
from tools.errors import UserError, reason_of

COMMANDS = [f"tools.{path.parent.name}" for path in sorted((CHECKOUT / "tools").glob("*/__main__.py"))]


def test_exit_code_is_that_of_the_command() -> None:
    with pytest.raises(SystemExit) as end:
        run(lambda: 2, "tool")
    assert end.value.code == 2


def test_ctrl_c_is_no_traceback() -> None:
    def interrupted() -> int:
        raise KeyboardInterrupt

    with pytest.raises(SystemExit) as end:
        run(interrupted, "tool")
    assert end.value.code == 130


AT_WORK = """
import sys, tempfile, time
from tools.cli import run

def main():
    with tempfile.TemporaryDirectory() as folder:
        try:
            print(folder, flush=True)
            time.sleep(60)
        finally:
            print("clearing", flush=True)
            sys.stdin.read()

run(main, "tool")
"""


def begin_work(*before: str) -> tuple[subprocess.Popen[str], Path]:
    """A command that has a folder of its own, and the folder. It clears away once its standard input ends."""
    process = subprocess.Popen(
        [*before, sys.executable, "-c", AT_WORK], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=CHECKOUT
    )
    assert process.stdout is not None
    return process, Path(process.stdout.readline().rstrip("\n"))


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
@pytest.mark.parametrize("times", [1, 2])
def test_a_stopped_command_clears_away_what_it_had_and_says_nothing(
    number: signal.Signals, code: int, times: int, capfd: pytest.CaptureFixture[str]
) -> None:
    process, folder = begin_work()
    assert folder.is_dir()
    assert process.stdout is not None
    process.send_signal(number)
    assert process.stdout.readline() == "clearing\n"
    for _ in range(times - 1):
        process.send_signal(number)
    process.communicate(timeout=30)
    assert process.returncode == code
    assert not folder.exists()
    assert capfd.readouterr().err == ""


def test_a_signal_that_the_caller_switched_off_stays_so() -> None:
    process, folder = begin_work("sh", "-c", """trap "" HUP; exec "$@" """, "sh")
    for number in (signal.SIGHUP, signal.SIGTERM):  # the first that is heard is the one that ends it
        process.send_signal(number)
    process.communicate(timeout=30)
    assert process.returncode == 143
    assert not folder.exists()


def test_signals_are_the_callers_again_afterwards() -> None:
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    with pytest.raises(SystemExit):
        run(lambda: 0, "tool")
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


@pytest.mark.parametrize("module", [*COMMANDS, "tools.pull_request.child"])
def test_ctrl_c_while_a_command_is_imported_is_no_traceback(module: str, tmp_path: Path) -> None:
    """Struck when a module that every command imports is looked for."""
    (tmp_path / "sitecustomize.py").write_text(
        "import os, signal, sys\n"
        "class Strike:\n"
        "    def find_spec(self, name, *_):\n"
        "        if name == 'tools.text': os.kill(os.getpid(), signal.SIGINT)\n"
        "sys.meta_path.insert(0, Strike())\n"
    )
    command = [sys.executable, "-m", module, "--help"]
    env = {**os.environ, "PYTHONPATH": str(tmp_path)}
    result = subprocess.run(command, capture_output=True, text=True, cwd=CHECKOUT, env=env, check=False)
    assert (result.returncode, result.stdout, result.stderr) == (130, "", "")


@pytest.fixture(params=[None, "1"], ids=["buffered", "unbuffered"], autouse=True)
def buffering(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Python keeps text back or doesn't: what can't be written fails when Python ends, or at once."""
    if request.param is None:
        monkeypatch.delenv("PYTHONUNBUFFERED", raising=False)
    else:
        monkeypatch.setenv("PYTHONUNBUFFERED", request.param)


def shell(code: str, redirection: str) -> subprocess.CompletedProcess[str]:
    program = f"import sys; from tools.cli import run, say; run(lambda: {code}, 'tool')"
    command = ["bash", "-c", f'"$0" -c "$1" {redirection}', sys.executable, program]
    return subprocess.run(command, capture_output=True, text=True, cwd=CHECKOUT, check=False)


# ---------------------------------------------------------------
# Folders for results


def test_a_folder_that_is_not_there_yet_is_fine(tmp_path: Path) -> None:
    check_folder(tmp_path / "a" / "b", "--output")
    assert not (tmp_path / "a").exists()


def test_a_file_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError) as refusal:
        check_folder(tmp_path / "file" / "below", "--out")
    found = f"found {tmp_path / 'file'}: Not a directory. Fix: make it writable, or name another."
    assert str(refusal.value) == f"--out: expected a folder that can be written, {found}"


def test_a_folder_that_belongs_to_another_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.access", lambda path, mode: path != tmp_path)
    with pytest.raises(UserError, match="--output: expected a folder that can be written, found "):
        check_folder(tmp_path / "a", "--output")


# ---------------------------------------------------------------
# Standard output that can't be written


def test_closed_pipe_is_no_traceback() -> None:
    result = shell("print('x' * 200_000) or 0", "| head -c 1; exit ${PIPESTATUS[0]}")
    assert (result.returncode, result.stdout, result.stderr) == (0, "x", "")


def test_a_pipe_that_breaks_elsewhere_is_no_reader_that_has_seen_enough() -> None:
    result = shell("(_ for _ in ()).throw(BrokenPipeError(32, 'Broken pipe'))", "")
    assert (result.returncode, result.stderr) == (2, "tool: can't write the output: Broken pipe\n")


def test_a_missing_place_for_temporary_files_is_not_taken_for_the_output() -> None:
    result = shell("(_ for _ in ()).throw(FileNotFoundError(2, 'No usable temporary directory found'))", "")
    assert (result.returncode, result.stderr) == (2, "tool: No usable temporary directory found\n")


def test_a_path_is_named_without_a_guess_whether_it_was_read_or_written() -> None:
    result = shell("open('/nowhere/file')", "")
    assert (result.returncode, result.stderr) == (2, "tool: /nowhere/file: No such file or directory\n")


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


class TestAPackageThatThisPythonLacks:
    def test_is_one_line_with_what_to_type(self, capsys: pytest.CaptureFixture[str]) -> None:
        with pytest.raises(SystemExit) as end:
            run(lambda: bool(importlib.import_module("package_that_nobody_has.part")), "tool")
        assert end.value.code == 2
        line = capsys.readouterr().err
        assert line.startswith("tool: expected the package package_that_nobody_has,")
        assert line.endswith(f"{sys.executable} -m pip install package_that_nobody_has\n")
        assert line.count("\n") == 1

    @pytest.mark.parametrize("name", ["tools.no_such_room", "os.nothing", "pytest.no_such_part"])
    def test_a_part_that_is_missing_of_what_is_there_keeps_its_traceback(self, name: str) -> None:
        """No installation would bring it."""
        with pytest.raises(ModuleNotFoundError):
            run(lambda: bool(importlib.import_module(name)), "tool")

    @pytest.mark.parametrize("redirection", ["> /dev/full", ""])
    def test_ends_with_2_also_where_the_output_can_not_be_written(
        self, redirection: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.delenv("PYTHONUNBUFFERED", raising=False)
        code = (
            "from tools.cli import run\n"
            "def main():\n    print('begun')\n    import package_that_nobody_has\n"
            "run(main, 'tool')"
        )
        done = subprocess.run(
            ["sh", "-c", f'"$0" -c "$1" {redirection}', sys.executable, code],
            cwd=CHECKOUT,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 2
        assert "Traceback" not in done.stderr
        assert "Exception ignored" not in done.stderr

    @pytest.mark.parametrize("module", COMMANDS)
    def test_no_command_needs_one_to_say_how_it_is_used(self, module: str) -> None:
        """-S: no site-packages, as on a machine where nothing was installed."""
        done = subprocess.run(
            [sys.executable, "-S", "-m", module, "--help"], capture_output=True, text=True, cwd=CHECKOUT, check=False
        )
        assert (done.returncode, done.stderr) == (0, "")

    @pytest.mark.parametrize("command", [("tools.validate",), ("tools.registry",), ("tools.site", "OUT")])
    def test_what_needs_one_says_so(self, command: tuple[str, ...], tmp_path: Path) -> None:
        done = subprocess.run(
            [sys.executable, "-S", "-m", *(str(tmp_path / "site") if part == "OUT" else part for part in command)],
            capture_output=True,
            text=True,
            cwd=CHECKOUT,
            check=False,
        )
        assert (done.returncode, done.stdout) == (2, "")
        assert re.match(r"\w+: expected the package (jsonschema_rs|jinja2), which this Python doesn't", done.stderr)


class TestAnEngineWithItsPath:
    def test_the_path_may_hold_an_equals_sign(self) -> None:
        assert engine_path("--kernel", "vllm=/a=b", {"vllm": ""}) == ("vllm", Path("/a=b"))

    @pytest.mark.parametrize("text", ["vllm", "vllm=", "trtllm=/x", "=x", "", "VLLM=x"])
    def test_anything_else_is_told_what_may_be_given(self, text: str) -> None:
        ends = {"vllm": "/fused_moe.py", "sglang": "/kernels.py"}
        told = f"--kernel: expected own, vllm=PATH/fused_moe.py or sglang=PATH/kernels.py, found {text!r}."
        with pytest.raises(UserError, match=f"^{re.escape(told)}$"):
            engine_path("--kernel", text, ends, "own, ")

    def test_of_several_each_may_come_once(self) -> None:
        assert engine_paths("--engine", ["sglang=a"], ["vllm", "sglang"]) == {"sglang": Path("a")}
        with pytest.raises(UserError, match=r"^--engine: expected sglang at most once, found it again\. Fix: leave "):
            engine_paths("--engine", ["sglang=a", "sglang=a"], ["vllm", "sglang"])


def test_an_empty_path_is_refused() -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="expected a path"):
        path_argument("")
    assert path_argument("a b") == Path("a b")


@pytest.mark.parametrize("text", ["128,64", "128, 64", "[128,64]", "[128, 64]"])
def test_a_block_shape_is_two_numbers(text: str) -> None:
    assert block_shape_argument(text) == (128, 64)


@pytest.mark.parametrize(
    "text", ["", "128", "0,128", "128,0", "-1,128", "128x128", "[128,128", "128,128]", "١,٢", "1,2,3"]
)
def test_anything_else_is_no_block_shape(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="expected two numbers above 0 as in 128,128, found"):
        block_shape_argument(text)


def test_an_errors_own_words_have_no_number_and_no_path() -> None:
    assert reason_of(FileNotFoundError(2, "No such file or directory", "/nope")) == "No such file or directory"
    assert reason_of(ValueError("no number")) == "no number"
    assert reason_of(EOFError()) == "EOFError"


# What a person names is read only where it is a regular file of bounded size.


def test_text_is_read_without_its_byte_order_mark(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes("\ufeffé\n".encode())
    assert read_text(tmp_path / "a") == "é\n"


def test_links_are_followed(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("x")
    (tmp_path / "b").symlink_to(tmp_path / "a")
    assert read_text(tmp_path / "b") == "x"


def test_pipes_devices_and_folders_are_not_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", tmp_path, Path("/dev/zero")):
        with pytest.raises(OSError, match="Not a regular file"):
            read_text(path)


def test_more_than_is_wanted_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(bytes(11))
    check_file(tmp_path / "a", 11)
    with pytest.raises(OSError, match="File too large, 11 bytes where at most 10 are read"):
        check_file(tmp_path / "a", 10)


def test_what_is_missing_says_so(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        check_file(tmp_path / "a")


# Outputs of a workflow's step.


def test_values_are_appended_a_line_each(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    output = tmp_path / "output"
    output.write_text("before=1\n")
    monkeypatch.setenv("GITHUB_OUTPUT", str(output))
    hand_on({"number": "12", "any": True, "due": False})
    assert output.read_text() == "before=1\nnumber=12\nany=true\ndue=false\n"


@pytest.mark.parametrize("value", ["a\nb=c", "a\rb", "a\u2028b"])
def test_no_value_forges_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("GITHUB_OUTPUT", str(tmp_path / "output"))
    with pytest.raises(ValueError, match="values of one line"):
        hand_on({"name": value})
    assert not (tmp_path / "output").exists()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="/dev/full")
def test_what_can_not_be_handed_on_names_the_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GITHUB_OUTPUT", "/dev/full")
    with pytest.raises(OSError, match="No space left on device") as error:
        hand_on({"number": "12"})
    assert error.value.filename == "/dev/full"


def test_outside_a_workflow_nothing_is_written(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GITHUB_OUTPUT", raising=False)
    hand_on({"number": "12"})


def test_an_error_for_people_ends_a_command_with_2_and_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    @command("name")
    def main(arguments: Sequence[str] | None = None) -> int:
        raise UserError("a: expected 1, found\n2. Fix: b.")

    assert main([]) == 2
    assert capsys.readouterr() == ("", "name: a: expected 1, found\\n2. Fix: b.\n")


def test_a_fault_of_the_program_is_no_error_for_people() -> None:
    @command("name")
    def main(arguments: Sequence[str] | None = None) -> int:
        raise ValueError("x")

    with pytest.raises(ValueError, match="x"):
        main([])
