"""The published command's edge: exit 0 good, 1 negative verdict, 2 bad use; outputs that end early; Ctrl-C."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import fused_moe_configs
from fused_moe_configs.cli import main
from fused_moe_configs.exporting.destination import LOCK
from tests.loader.conftest import ENTRY

ROOT = Path(__file__).resolve().parents[2]
NAME = "E=8,N=1,device_name=D.json"
WORKLOAD = ["8", "1", "--device-name", "D", "--triton-version", "3.8.0"]


@pytest.fixture(autouse=True)
def no_gpu(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)


def test_where(store, capsys):
    assert main(["where"]) == 0
    assert capsys.readouterr().out == f"{store.root}\n"


def test_explain_is_0_where_a_file_serves_and_1_where_none_does(store, capsys):
    assert main(["explain", *WORKLOAD]) == 1
    assert "No tier has a file" in capsys.readouterr().out
    path = store.add(NAME)
    fused_moe_configs.cache_clear()
    assert main(["explain", *WORKLOAD]) == 0
    assert f"found  {path}\nServed by the default tier (Triton 3.8.0)." in capsys.readouterr().out


def test_explain_takes_the_whole_workload(store, capsys):
    arguments = [*WORKLOAD, "--dtype", "fp8_w8a8", "--block-shape", "128,128", "--per-channel-quant", "--down"]
    store.add(NAME.replace(".json", ",dtype=fp8_w8a8,block_shape=[128,128],per_channel_quant=True.json"))
    assert main(["explain", *arguments]) == 0
    assert "no _down file" in capsys.readouterr().out


def test_a_broken_file_is_a_negative_verdict(store, capsys):
    store.write(NAME, b"{")
    assert main(["explain", *WORKLOAD]) == 1
    assert "line 1, column 2" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments",
    [[], ["unknown"], ["explain"], ["explain", "8", "x"], ["explain", *WORKLOAD, "--block-shape", "x"],
     ["export", "d"], ["export", "d", "--engine", "trt"], ["where", "x"]],
)  # fmt: skip
def test_bad_arguments_exit_2(store, arguments, capsys):
    assert main(arguments) == 2


@pytest.mark.parametrize(
    "arguments",
    [["explain", "8", "0", "--device-name", "D"], ["explain", "8", "1"], ["explain", "8", "1", "--device-name", "../x"],
     ["explain", *WORKLOAD, "--dtype", "float8"], ["explain", "8", "1", "--device-name", "D", "--triton-version", "x"],
     ["export", "/dev/null/x", "--engine", "vllm"], ["export", "d", "--engine", "vllm", "--overlay", "/none"],
     ["export", "", "--engine", "vllm"],
     ["doctor", "--device-name", "a\nb"]],
)  # fmt: skip
def test_impossible_use_exits_2_and_says_why(store, arguments, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    store.add(NAME)
    assert main(arguments) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    assert line.count("Fix: ") == 1


def test_a_place_that_can_not_be_written_is_named_without_a_number(store, capsys):
    store.add(NAME)
    assert main(["export", "/dev/null/x", "--engine", "vllm", "--triton-version", "3.8.0"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: /dev/null/x: expected to write there, found: Not a directory. Fix: ")


def test_export_writes_and_says_what_it_left_out(store, tmp_path, capsys):
    store.add(NAME)
    store.add(NAME.replace(".json", ",dtype=int8_w8a8.json"))
    assert main(["export", str(tmp_path / "zu vllm"), "--engine", "vllm", "--triton-version", "3.8.0"]) == 0
    output = capsys.readouterr()
    assert "left out: vllm never asks for dtype=int8_w8a8" in output.err
    assert output.out.splitlines() == [
        f"1 file written to {tmp_path / 'zu vllm'}",
        "D",
        "    E=8 N=1 bf16",
        "Where vLLM starts, set:",
        f"export VLLM_TUNED_CONFIG_FOLDER='{tmp_path / 'zu vllm'}'",
    ]
    assert (tmp_path / "zu vllm" / NAME).is_file()


def test_what_an_export_left_out_stands_behind_all_that_it_wrote_and_few_lines_say_it(tmp_path):
    """Of the real store, on a terminal: both outputs in one."""
    done = shell(["export", str(tmp_path / "d"), "--engine", "vllm"], "2>&1")
    lines = done.stdout.splitlines()
    (place,) = (i for i, line in enumerate(lines) if line.startswith("export "))
    assert 0 < len(lines[place + 1 :]) < 6
    assert not any("left out" in line for line in lines[:place])
    assert "left out" in lines[-1]


def test_an_export_that_lacks_what_was_asked_for_is_a_negative_verdict(store, tmp_path, capsys):
    store.add(NAME)
    (tmp_path / NAME).write_text("mine")
    store.add(NAME.replace("N=1", "N=2"))
    assert main(["export", str(tmp_path), "--engine", "vllm"]) == 1
    output = capsys.readouterr()
    assert f"{tmp_path / NAME}: left alone" in output.err
    assert "1 file written to " in output.out


@pytest.mark.usefixtures("siblings")
def test_explain_and_export_take_siblings(store, tmp_path, capsys):
    path = store.add(NAME.replace("=D", "=B"))
    asked = ["explain", "8", "1", "--device-name", "A", "--triton-version", "3.8.0"]
    assert main(asked) == 1
    assert f"A sibling has {path}: siblings=True (--siblings) reads it." in capsys.readouterr().out
    assert main([*asked, "--siblings"]) == 0
    assert "Served by the default tier (Triton 3.8.0) as B, a sibling." in capsys.readouterr().out
    assert main(["export", str(tmp_path / "d"), "--engine", "vllm", "--device-name", "A"]) == 1
    assert main(["export", str(tmp_path / "d"), "--engine", "vllm", "--device-name", "A", "--siblings"]) == 0
    assert (tmp_path / "d" / NAME.replace("=D", "=A")).is_file()


@pytest.mark.parametrize("options", [["--overlay", "auto"], ["--overlay", "/none"]])
def test_an_overlay_that_is_not_there_exits_2(store, tmp_path, capsys, monkeypatch, options):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    store.add(NAME)
    assert main(["export", str(tmp_path / "d"), "--engine", "sglang", *options]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: overlay: expected ")


def test_an_export_into_the_store_exits_2(store, capsys):
    store.add(NAME)
    assert main(["export", str(store.root), "--engine", "vllm"]) == 2
    assert capsys.readouterr().err.startswith("error: destination: expected a folder of the export's own")


def test_a_block_shape_says_how_it_is_written(store, capsys):
    assert main(["explain", *WORKLOAD, "--block-shape", "x"]) == 2
    assert "expected n,k such as 128,128, found 'x'" in capsys.readouterr().err


def test_a_device_that_no_file_serves_is_a_negative_verdict(store, tmp_path, capsys):
    store.add(NAME)
    assert main(["export", str(tmp_path / "d"), "--engine", "vllm", "--device-name", "nosuch"]) == 1
    assert "no shipped file serves nosuch" in capsys.readouterr().err


@pytest.mark.parametrize("layout", ["checkout", "wheel"])
def test_the_package_finds_its_folder_in_a_checkout_and_in_a_wheel(tmp_path, layout):
    root = tmp_path / "ein pfad ü"
    package = shutil.copytree(Path(fused_moe_configs.__file__).parent, root / "fused_moe_configs")
    configs = (root if layout == "checkout" else package) / "configs"
    (configs / "registry").mkdir(parents=True)
    (configs / "registry" / "devices.json").write_text('{"devices": []}')
    command = [sys.executable, "-m", "fused_moe_configs"]
    run = {"cwd": root, "capture_output": True, "encoding": "utf-8"}
    assert subprocess.run([*command, "where"], check=True, **run).stdout == f"{configs}\n"
    assert subprocess.run([*command, "explain", *WORKLOAD], check=False, **run).returncode == 1


# ---------------------------------------------------------------
# Outputs that end early, are full or closed

FULL = "error: the output: expected to write there, found: No space left on device. Fix: name another place\n"
CLOSED = FULL.replace("No space left on device", "it is closed")
NOTHING = ["explain", *WORKLOAD]
BAD_USE = ["explain", "8"]
BAD_VALUE = ["explain", "8", "0"]


def shell(arguments, redirection):
    """As from a terminal: without PYTHONUNBUFFERED text waits in a buffer for Python's own end."""
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONUNBUFFERED"}
    command = [
        "bash",
        "-o",
        "pipefail",
        "-c",
        f'"$0" -m fused_moe_configs "$@" {redirection}',
        sys.executable,
        *arguments,
    ]
    return subprocess.run(command, capture_output=True, text=True, env=environment, cwd=ROOT, check=False)


@pytest.mark.parametrize("arguments", [["where"], ["doctor"], NOTHING, ["--help"], ["--version"]])
def test_a_full_output_is_one_line_and_2(arguments):
    done = shell(arguments, ">/dev/full")
    assert (done.returncode, done.stderr) == (2, FULL)


@pytest.mark.parametrize("arguments", [["where"], ["doctor"], NOTHING, ["--help"], ["--version"]])
def test_a_closed_output_loses_the_answer_and_is_2(arguments):
    done = shell(arguments, ">&-")
    assert (done.returncode, done.stderr) == (2, CLOSED)


def test_an_export_whose_output_is_closed_is_written_all_the_same(tmp_path):
    done = shell(["export", str(tmp_path / "d"), "--engine", "vllm"], ">&-")
    assert (done.returncode, done.stderr.splitlines()[-1]) == (2, CLOSED.strip())
    assert [*(tmp_path / "d").glob("E=*.json")]


@pytest.mark.parametrize("arguments", [["where"], ["doctor"], NOTHING, ["--help"], ["--version"]])
def test_a_reader_that_has_seen_enough_gets_no_traceback(arguments):
    done = shell(arguments, "| true")
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(("arguments", "code"), [(["where"], 0), (NOTHING, 1), (BAD_USE, 2), (BAD_VALUE, 2)])
@pytest.mark.parametrize("redirection", ["2>/dev/full", "2>&-", "2> >(exec true)"])
def test_what_can_not_be_said_changes_no_exit_code_and_is_not_said_on_stdout(arguments, code, redirection):
    done = shell(arguments, redirection)
    assert done.returncode == code
    assert done.stdout == shell(arguments, "").stdout
    assert done.stderr == ""


@pytest.mark.parametrize("redirection", ["2>/dev/full", "2>&-", "2> >(exec true)"])
def test_an_export_whose_notes_nobody_reads_is_done(tmp_path, redirection):
    overlay = tmp_path / "overlay"
    overlay.mkdir()
    (overlay / NAME).write_text(json.dumps({"1": ENTRY}))
    (overlay / "other.json").write_text("{")  # what the notes say
    done = shell(["export", str(tmp_path / "d"), "--engine", "vllm", "--overlay", str(overlay)], redirection)
    assert done.returncode == 0
    assert f"written to {tmp_path / 'd'}" in done.stdout
    assert (tmp_path / "d" / NAME).is_file()


@pytest.mark.parametrize("redirection", [">/dev/full 2>/dev/full", ">&- 2>&-"])
def test_neither_output_is_2(redirection):
    assert shell(NOTHING, redirection).returncode == 2


def test_ctrl_c_is_no_traceback(store, capsys, monkeypatch):
    def interrupted():
        raise KeyboardInterrupt

    monkeypatch.setattr("fused_moe_configs.commands.where.where", interrupted)
    assert main(["where"]) == 130
    assert capsys.readouterr() == ("", "")


INTERRUPTED_IN_AN_IMPORT = """
import os, signal, sys
interrupted_at, sys.argv[1:] = sys.argv[1], ["where"]

class Interrupt:
    def find_spec(name, path=None, target=None):
        if name == interrupted_at:
            os.kill(os.getpid(), signal.SIGINT)

sys.meta_path.insert(0, Interrupt)
from fused_moe_configs.__main__ import run
sys.exit(run())
"""


@pytest.mark.parametrize("module", ["fused_moe_configs.cli", "fused_moe_configs.exporting", "argparse", "hashlib"])
def test_ctrl_c_while_modules_are_imported_is_no_traceback(module):
    command = [sys.executable, "-c", INTERRUPTED_IN_AN_IMPORT, module]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")


INTERRUPTED_AT_THE_END = """
import atexit, os, signal, sys
from fused_moe_configs.__main__ import run
atexit.register(os.kill, os.getpid(), signal.SIGINT)
sys.exit(run())
"""


def test_ctrl_c_after_the_verdict_changes_nothing():
    command = [sys.executable, "-c", INTERRUPTED_AT_THE_END, *NOTHING]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    assert (done.returncode, done.stderr) == (1, "")
    assert "No tier has a file" in done.stdout


INTERRUPTED_IN_A_WRITE = """
import os, signal, sys
from pathlib import Path
from fused_moe_configs.__main__ import run
replace, left = Path.replace, [int(sys.argv.pop(1))]

def replace_or_interrupt(self, target):
    left[0] -= 1
    if left[0] < 0:
        os.kill(os.getpid(), signal.SIGINT)
    return replace(self, target)

Path.replace = replace_or_interrupt
sys.exit(run())
"""


@pytest.mark.parametrize("files_before", range(4))
def test_ctrl_c_in_a_write_is_no_traceback_and_is_healed_by_the_next(tmp_path, files_before):
    destination = tmp_path / "d"
    arguments = ["export", str(destination), "--engine", "vllm"]
    command = [sys.executable, "-c", INTERRUPTED_IN_A_WRITE, str(files_before), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")
    assert shell(arguments, "").returncode == 0
    assert shell([*arguments[:1], str(tmp_path / "fresh"), *arguments[2:]], "").returncode == 0
    read = {path.name: path.read_bytes() for path in destination.iterdir()}
    assert read == {path.name: path.read_bytes() for path in (tmp_path / "fresh").iterdir()}


WAITING = """
import sys, time
from fused_moe_configs.cli import main
sleep = time.sleep
time.sleep = lambda seconds: (print("waiting", flush=True), sleep(seconds))
sys.exit(main(sys.argv[1:]))
"""


def test_ctrl_c_ends_an_export_that_waits_for_another(tmp_path):
    command = [sys.executable, "-c", WAITING, "export", str(tmp_path), "--engine", "vllm"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with (tmp_path / LOCK).open("w") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with subprocess.Popen(command, text=True, cwd=ROOT, **pipes) as export:
            assert export.stdout.readline() == "waiting\n"
            export.send_signal(signal.SIGINT)
            assert export.wait(30) == 130
            assert export.stderr.read() == ""


def test_an_export_that_does_not_end_is_said_in_its_own_words(store, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("fused_moe_configs.exporting.destination.LOCK_WAIT_S", 0)
    store.add(NAME)
    with (tmp_path / LOCK).open("w") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        assert main(["export", str(tmp_path), "--engine", "vllm"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: {tmp_path / LOCK}: expected no other export here")
    assert line.count("Fix: ") == 1


def test_a_store_that_can_not_be_listed_is_not_the_place_written_to(store, tmp_path, capsys, monkeypatch):
    def iterdir(path):
        raise PermissionError(errno.EACCES, "Permission denied", path)

    store.add(NAME)
    monkeypatch.setattr(Path, "iterdir", iterdir)
    assert main(["export", str(tmp_path / "d"), "--engine", "sglang"]) == 1
    assert (
        capsys.readouterr().err == f"error: {store.root}: cannot be listed: Permission denied. Fix: make it readable\n"
    )


@pytest.mark.parametrize("engine", ["vllm", "sglang"])
def test_an_overlay_that_can_not_be_read_is_not_the_place_written_to(store, tmp_path, capsys, engine):
    store.add(NAME)
    overlay = tmp_path / ("x" * 300)
    assert main(["export", str(tmp_path / "d"), "--engine", engine, "--overlay", str(overlay)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    name = {"vllm": "vLLM", "sglang": "SGLang"}[engine]
    assert line.startswith(f"error: overlay: expected the configs folder of {name}, found {overlay}, which can't be")


def test_a_users_folder_that_can_not_be_asked_is_not_a_place_written_to(store, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("VLLM_TUNED_CONFIG_FOLDER", str(tmp_path / ("x" * 300)))
    fused_moe_configs.cache_clear()
    assert main(["explain", *WORKLOAD]) == 1
    error = capsys.readouterr().err
    assert "cannot be looked for: File name too long" in error
    assert "to write there" not in error


@pytest.mark.parametrize("number", [errno.ETIMEDOUT, errno.EACCES, errno.EROFS])
def test_what_the_system_says_of_the_place_written_to_is_one_message(store, tmp_path, capsys, monkeypatch, number):
    def fail(path, data):
        raise OSError(number, os.strerror(number), str(path))

    store.add(NAME)
    monkeypatch.setattr(Path, "write_bytes", fail)
    assert main(["export", str(tmp_path / "d"), "--engine", "vllm"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert f": expected to write there, found: {os.strerror(number)}. Fix: name another place" in line
    assert "Errno" not in line


def test_a_full_disk_names_the_folder_and_not_the_output(store, tmp_path, capsys, monkeypatch):
    def full(path, data):
        raise OSError(errno.ENOSPC, "No space left on device")  # as write(2) fails: without a name

    store.add(NAME)
    monkeypatch.setattr(Path, "write_bytes", full)
    assert main(["export", str(tmp_path / "d"), "--engine", "vllm"]) == 2
    assert capsys.readouterr().err.startswith(f"error: {tmp_path / 'd'}: expected to write there, found: No space left")
