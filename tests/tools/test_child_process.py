"""Children that hang, crash, are killed or talk too much harm nobody but themselves."""

from __future__ import annotations

import functools
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.tools import children
from tests.tools.processes import PATIENCE_S, wait_until, wait_until_dead
from tools.checkout import CHECKOUT
from tools.child_process import MAX_LOG_BYTES, Child, read_log, start, tail, usable_cores, workers

Start = Callable[..., Child]


@pytest.fixture
def begin() -> Iterator[Start]:
    """Starts children, and kills those that are left."""
    started: list[Child] = []

    def run(*arguments: Any) -> Child:
        started.append(start(*arguments))
        return started[-1]

    yield run
    for child in started:
        child.kill()


@pytest.fixture
def log(tmp_path: Path) -> str:
    return str(tmp_path / "child.log")


def test_a_child_answers_over_its_pipe_and_ends_with_it(begin: Start, log: str) -> None:
    child = begin(children.echo, log)
    assert child.connection.recv() == "ready"
    child.connection.send({"a": 1})
    assert child.connection.recv() == {"a": 1}
    child.connection.close()
    assert str(child.how_it_ended()) == "exit code 0"


@pytest.mark.parametrize(
    ("how", "told"),
    [
        ("0", "exit code 0"),
        ("3", "exit code 3"),
        ("SIGSEGV", "killed by signal 11"),
        ("SIGKILL", "killed by signal 9"),
    ],
)
def test_how_it_ended_is_said(begin: Start, how: str, told: str) -> None:
    found = begin(children.end, how).how_it_ended()
    assert (str(found), found.was_killed) == (told, how == "SIGKILL")


def test_one_that_hangs_behind_the_end_of_its_pipe_is_killed_with_its_own_children(
    begin: Start, log: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was waited for without end. No other killed it, as a system without memory does."""
    monkeypatch.setattr("tools.child_process.END_LIMIT_S", 0.2)
    child = begin(children.hang_up, log)
    pids = child.connection.recv()
    found = child.how_it_ended()
    wait_until_dead(pids)
    told = "killed, since it hung for 0.2 s behind the end of its pipe"
    assert (str(found), found.was_killed) == (told, False)


def test_a_childs_end_shows_in_its_pipe(begin: Start) -> None:
    child = begin(children.end, "SIGKILL")
    with pytest.raises((EOFError, ConnectionResetError)):
        child.connection.recv()


def test_a_settled_child_leads_a_group_has_limits_and_leaves_ctrl_c_to_its_parent(begin: Start, log: str) -> None:
    child = begin(children.report, log)
    assert child.connection.recv() == {
        "group": child.process.pid,
        "pid": child.process.pid,
        "core_bytes": 0,
        "file_bytes": MAX_LOG_BYTES,
        "interrupt_is_blocked": True,
    }
    assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, [])


def test_whatever_it_prints_lands_in_its_log(begin: Start, log: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert str(begin(children.speak, log).how_it_ended()) == "exit code 0"
    assert read_log(log).split("\n") == ["by Python", "in error", "by descriptor", "by a child"]
    assert capfd.readouterr() == ("", "")
    assert Path(log).stat().st_mode & 0o777 == 0o600


def test_output_without_end_fails_in_the_child(begin: Start, log: str) -> None:
    child = begin(children.flood, log)
    assert child.connection.recv() == "OSError"
    assert str(child.how_it_ended()) == "exit code 0"
    assert Path(log).stat().st_size == 1000


class TestKill:
    def test_a_hang_ends_with_its_own_children(self, begin: Start, log: str) -> None:
        child = begin(children.hang, log)
        pids = child.connection.recv()
        child.kill()
        wait_until_dead(pids)
        assert child.connection.closed

    def test_before_the_child_has_a_group(self, begin: Start) -> None:
        child = begin(children.end, "0")
        child.kill()
        assert not child.process.is_alive()

    def test_twice_is_once(self, begin: Start, log: str) -> None:
        child = begin(children.echo, log)
        child.kill()
        child.kill()


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a child of its parent's death")
def test_a_hanging_child_does_not_outlive_a_killed_parent(tmp_path: Path, log: str) -> None:
    code = (
        f"import sys; sys.path.insert(0, {str(CHECKOUT)!r})\n"
        "from tests.tools import children\nfrom tools.child_process import start\n"
        f"child = start(children.hang, {log!r})\n"
        "print(*child.connection.recv(), flush=True)\nchild.connection.recv()\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    child, grandchild = map(int, parent.stdout.readline().split())
    parent.kill()
    parent.wait(30)
    parent.stdout.close()
    wait_until_dead([child])
    # Its own children had nobody left to kill them.
    os.kill(grandchild, signal.SIGKILL)


class TestReadLog:
    def test_no_log_is_no_words(self, tmp_path: Path) -> None:
        assert read_log(str(tmp_path / "none")) == ""

    def test_the_end_of_a_long_one(self, tmp_path: Path) -> None:
        path = tmp_path / "log"
        path.write_text("first words" + "x" * 10_000 + "last words\n", "utf-8")
        found = read_log(str(path))
        assert found.startswith("… x")
        assert found.endswith("xlast words")
        assert len(found) == 2002

    def test_bytes_that_are_no_text_are_shown(self, tmp_path: Path) -> None:
        path = tmp_path / "log"
        path.write_bytes(b"\xff" + "ü".encode() * 2048)
        assert read_log(str(path)).strip("…� ü") == ""


@pytest.mark.parametrize(
    ("text", "limit", "expected"),
    [("", 3, ""), (" abc\n", 3, "abc"), ("abcd", 3, "… bcd"), ("a" * 2000, 2000, "a" * 2000)],
)
def test_the_tail_of_a_text(text: str, limit: int, expected: str) -> None:
    assert tail(text, limit) == expected


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="a system without affinities")
def test_only_the_cores_of_its_share_are_usable() -> None:
    """`taskset`, Slurm and the like give a process a part of the machine; compilers on more would only wait."""
    program = "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))}); from tools import child_process as c"
    answer = subprocess.run(
        [sys.executable, "-c", f"{program}; print(c.usable_cores())"],
        capture_output=True,
        text=True,
        check=True,
        cwd=CHECKOUT,
    )
    assert answer.stdout == "1\n"
    assert usable_cores() == len(os.sched_getaffinity(0))


BUSY = """
import functools, sys
from tests.tools.children import work
from tools.child_process import workers
from tools.cli import run

def main():
    with workers(2) as each:
        # More than a pipe holds, so that some of it is on its way when the signal comes.
        list(each(functools.partial(work, sys.argv[1]), [bytes(1 << 20)] * 9999))

if __name__ == "__main__":
    run(main, "busy")
"""


AMID = """
import os, signal
from tools.child_process import workers

handed_out = []

def items():
    for number in range(9):
        if number == 4:
            os.kill(os.getpid(), signal.SIGINT)
        handed_out.append(number)
        yield number

if __name__ == "__main__":
    try:
        with workers(2) as each:
            each(abs, items())
    except KeyboardInterrupt:
        print("interrupted after", len(handed_out))
"""


class TestWorkers:
    @pytest.fixture
    def busy(self, tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
        """A command whose two workers have begun, in a group of its own."""
        command = [sys.executable, "-c", BUSY, str(tmp_path)]
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=CHECKOUT, start_new_session=True
        )
        wait_until(lambda: len(list(tmp_path.iterdir())) == 2 or process.poll() is not None, "two workers at work")
        yield process
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()

    @pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
    def test_a_signal_to_all_of_them_ends_the_command_without_a_word(
        self, busy: subprocess.Popen[str], tmp_path: Path, number: signal.Signals, code: int
    ) -> None:
        os.killpg(busy.pid, number)
        assert busy.communicate(timeout=PATIENCE_S) == ("", "")
        assert busy.returncode == code
        assert sum(len(path.read_text("utf-8").splitlines()) for path in tmp_path.iterdir()) < 9999, "it went on"
        wait_until_dead([int(path.name) for path in tmp_path.iterdir()])

    @pytest.mark.skipif(sys.platform != "linux", reason="elsewhere they go on")
    def test_they_end_with_a_parent_that_is_killed(self, busy: subprocess.Popen[str], tmp_path: Path) -> None:
        busy.kill()
        wait_until_dead([int(path.name) for path in tmp_path.iterdir()])

    def test_what_fails_in_one_is_the_callers(self) -> None:
        with pytest.raises(ZeroDivisionError), workers(2) as each:
            list(each(functools.partial(divmod, 1), [0] * 9))

    def test_a_signal_amid_handing_out_is_heard_once_all_is_handed_out(self) -> None:
        """Amid it, a lock of the pool's could stay taken, and the pool's end would wait for it forever."""
        command = [sys.executable, "-c", AMID]
        answer = subprocess.run(command, capture_output=True, text=True, cwd=CHECKOUT, check=False)
        assert (answer.stdout, answer.stderr) == ("interrupted after 9\n", "")


LEAVING = """
import atexit, os, sys
from tools.child_process import leave

class Torch:
    def __del__(self): os.write(1, b"taken apart")

kept = Torch()
atexit.register(os.write, 1, b" and cleared away")
sys.stdout.write("the answer")
sys.stderr.write("said")
leave(3)
"""


def test_who_leaves_clears_away_and_is_not_taken_apart() -> None:
    answer = subprocess.run([sys.executable, "-c", LEAVING], capture_output=True, text=True, cwd=CHECKOUT, check=False)
    assert (answer.returncode, answer.stdout, answer.stderr) == (3, "the answer and cleared away", "said")
