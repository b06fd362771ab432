"""A task that misbehaves costs itself its status and nobody else anything."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from tools.checkout import CHECKOUT

pytest.importorskip("triton")

sys.path.insert(0, str(Path(__file__).parent))

from fake_tasks import FakeTask

from tests.tools.compile.hang_clock import LIMIT_S, let_hangs_pass
from tests.tools.processes import is_alive, pids_in, wait_until_dead
from tools.compile.outcome import CompileOutcome, Resources, Status
from tools.compile.pool import CompilePool
from tools.errors import MachineError


def run(*tasks: FakeTask, jobs: int = 1, timeout_s: float = LIMIT_S) -> list[CompileOutcome]:
    with CompilePool(jobs, timeout_s=timeout_s) as pool:
        found = dict(pool.run(tasks))
    assert sorted(found) == list(range(len(tasks)))
    return [found[i] for i in range(len(tasks))]


def test_children_may_start_before_there_is_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tools.child_process.usable_cores", lambda: 2)
    with CompilePool(3) as pool:
        pool.start()
        started = {worker._child.process.pid for worker in pool._workers}
        assert len(started) == 2
        outcomes = dict(pool.run([FakeTask("ok", tmp_path / name) for name in "ab"]))
        assert [outcome.status for outcome in outcomes.values()] == [Status.OK] * 2
        assert {int((tmp_path / name).read_text()) for name in "ab"} <= started
    assert pool._workers == []


def test_what_compiles_is_ok_with_its_resources() -> None:
    (outcome,) = run(FakeTask("ok"))
    assert (outcome.status, outcome.resources) == (Status.OK, Resources(98304))


@pytest.mark.parametrize(
    ("kind", "status", "message"),
    [
        ("refuse", Status.COMPILE, "RuntimeError: PassManager::run failed"),
        ("exit", Status.CRASH, "the compiler's process ended: exit code 7."),
        ("segfault", Status.CRASH, "the compiler's process ended: killed by signal 11."),
    ],
)
def test_a_failure_has_its_status_and_the_next_task_runs(kind: str, status: Status, message: str) -> None:
    failed, following = run(FakeTask(kind), FakeTask("ok"))
    assert (failed.status, failed.message) == (status, message)
    assert following.status is Status.OK


def test_a_process_that_hangs_behind_the_end_of_its_pipe_is_the_tasks_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    """We kill it: that is no system without memory, for which the task would be tried again."""
    monkeypatch.setattr("tools.child_process.END_LIMIT_S", 0.2)
    failed, following = run(FakeTask("hang up"), FakeTask("ok"))
    told = "the compiler's process ended: killed, since it hung for 0.2 s behind the end of its pipe."
    assert (failed.status, failed.message) == (Status.CRASH, told)
    assert following.status is Status.OK


@pytest.mark.parametrize(
    ("kind", "found", "fix"),
    [
        ("disk full", "No space left on device at /cache/of/triton", "TRITON_CACHE_DIR"),
        ("read-only", "Read-only file system at /cache/of/triton", "TRITON_CACHE_DIR"),
        ("no permission", "Permission denied at /cache/of/triton", "TRITON_CACHE_DIR"),
        ("over quota", "Disk quota exceeded at /cache/of/triton", "TRITON_CACHE_DIR"),
        ("out of memory", "no memory left", "--jobs"),
        ("assembler killed", "no memory left (`ptxas` failed with error code -9)", "--jobs"),
        ("killed", "the compiler's process killed by signal 9", "--jobs"),
    ],
)
def test_what_the_machine_fails_at_is_no_tasks_fault(kind: str, found: str, fix: str) -> None:
    with pytest.raises(MachineError) as error:
        run(FakeTask(kind), FakeTask("ok"))
    message = str(error.value)
    assert f"found: {found}" in message
    assert fix in message.partition("Fix: ")[2]
    assert "\n" not in message


def test_what_fails_once_only_costs_nobody_anything(tmp_path: Path) -> None:
    outcomes = run(FakeTask("killed once", tmp_path / "pid"), FakeTask("ok"))
    assert [outcome.status for outcome in outcomes] == [Status.OK, Status.OK]


def test_a_file_without_end_is_the_tasks_fault() -> None:
    (outcome,) = run(FakeTask("endless file"))
    assert outcome.status is Status.COMPILE


def test_a_queued_task_that_the_machine_fails_at_ends_the_run() -> None:
    def collect_for_ever(pool: CompilePool) -> None:
        while True:
            pool.collect()
            time.sleep(0.05)

    with CompilePool(1) as pool:
        pool.submit(FakeTask("disk full"))
        with pytest.raises(MachineError):
            collect_for_ever(pool)


def test_no_room_for_the_childrens_output_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(prefix: str) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), prefix)

    monkeypatch.setattr(tempfile, "TemporaryDirectory", refuse)
    with pytest.raises(MachineError, match="No space left on device"):
        CompilePool(1)


def test_what_fills_the_screen_is_kept_off_it_but_for_its_end(capfd: pytest.CaptureFixture[str]) -> None:
    (outcome,) = run(FakeTask("print"))
    assert outcome.status is Status.CRASH
    assert outcome.message.endswith("the last words")
    assert len(outcome.message) < 3000
    assert capfd.readouterr() == ("", "")


def test_a_hang_ends_at_the_limit_with_the_compilers_own_children(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "hangs"
    folder.mkdir()
    let_hangs_pass(monkeypatch, folder)
    hung, following = run(FakeTask("hang", folder / "pids"), FakeTask("ok"), timeout_s=LIMIT_S)
    assert (hung.status, following.status) == (Status.TIMEOUT, Status.OK)
    assert hung.message.startswith("no answer within 600 s.")
    wait_until_dead(pids_in(folder / "pids", 2))


def test_children_work_side_by_side_and_are_used_again(tmp_path: Path) -> None:
    tasks = [FakeTask("ok", tmp_path / str(i)) for i in range(12)]
    assert {outcome.status for outcome in run(*tasks, jobs=2)} == {Status.OK}
    assert 1 <= len({(tmp_path / str(i)).read_text("utf-8") for i in range(12)}) <= 2


def test_leaving_in_the_middle_leaves_no_child(tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    with CompilePool(2) as pool:
        for index, _ in pool.run([FakeTask("hang", pids), FakeTask("ok")]):
            assert index == 1
            started = pids_in(pids, 2)
            break
    wait_until_dead(started)


@pytest.mark.parametrize("how", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_a_stopped_command_leaves_neither_children_nor_folders(tmp_path: Path, how: str) -> None:
    """Nor what a compiler had put there: its own temporary files are left for whoever finds them."""
    pids, folders = tmp_path / "pids", tmp_path / "folders"
    folders.mkdir()
    code = (
        f"import sys; sys.path[:0] = [{str(CHECKOUT)!r}, {str(Path(__file__).parent)!r}]\n"
        "from pathlib import Path\nfrom fake_tasks import FakeTask\n"
        "from tools.cli import run\nfrom tools.compile.pool import CompilePool\n"
        "def main():\n"
        f"    with CompilePool(1) as pool: list(pool.run([FakeTask('hang', Path({str(pids)!r}))]))\n"
        "if __name__ == '__main__': run(main, 'compile')\n"
    )
    env = {**os.environ, "TMPDIR": str(folders)}
    parent = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE, env=env)
    started = pids_in(pids, 2)
    (log,) = folders.rglob("*.log")
    assert list(log.parent.glob("*.ptx")) != []
    parent.send_signal(getattr(signal, how))
    assert parent.communicate(timeout=30) == (None, b"")
    assert parent.returncode == 128 + getattr(signal, how)
    wait_until_dead(started)
    assert list(folders.iterdir()) == []


def test_what_a_kill_left_in_the_temporary_folder_goes_with_the_next_pool(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pids, folders = tmp_path / "pids", tmp_path / "folders"
    folders.mkdir()
    code = (
        f"import sys; sys.path[:0] = [{str(CHECKOUT)!r}, {str(Path(__file__).parent)!r}]\n"
        "from pathlib import Path\nfrom fake_tasks import FakeTask\nfrom tools.compile.pool import CompilePool\n"
        "if __name__ == '__main__':\n"
        f"    with CompilePool(1) as pool: list(pool.run([FakeTask('hang', Path({str(pids)!r}))]))\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", code], env={**os.environ, "TMPDIR": str(folders)})
    child, grandchild = pids_in(pids, 2)
    parent.kill()
    parent.wait(30)
    wait_until_dead([child])
    os.kill(grandchild, signal.SIGKILL)  # the compiler's own children had nobody left to kill them
    assert [path.name.startswith("compile-pool-") for path in folders.iterdir()] == [True]
    monkeypatch.setattr(tempfile, "tempdir", str(folders))
    with CompilePool(1):
        assert len(list(folders.iterdir())) == 1
    assert list(folders.iterdir()) == []


@pytest.mark.parametrize("how", ["SIGINT", "SIGKILL"])
def test_a_stopped_parent_leaves_no_worker(tmp_path: Path, how: str) -> None:
    pid = tmp_path / "pid"
    code = (
        f"import sys; sys.path[:0] = [{str(CHECKOUT)!r}, {str(Path(__file__).parent)!r}]\n"
        "from pathlib import Path\nfrom fake_tasks import FakeTask\nfrom tools.compile.pool import CompilePool\n"
        f"with CompilePool(1) as pool: list(pool.run([FakeTask('hang', Path({str(pid)!r}))]))\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.DEVNULL)
    worker, compiler = pids_in(pid, 2)
    parent.send_signal(getattr(signal, how))
    parent.wait(30)
    # The compiler's own child outlives a parent that had no chance to act; it is the test's to remove.
    wait_until_dead([worker] if how == "SIGKILL" else [worker, compiler])
    if how == "SIGKILL" and is_alive(compiler):
        os.kill(compiler, signal.SIGKILL)


def test_no_jobs_are_refused() -> None:
    with pytest.raises(ValueError, match="jobs: expected at least 1, found 0"):
        CompilePool(0)


def test_the_pool_imports_neither_torch_nor_triton() -> None:
    code = "import sys, tools.compile.pool; print({'torch', 'triton'} & set(sys.modules))"
    found = subprocess.run([sys.executable, "-c", code], cwd=CHECKOUT, capture_output=True, text=True, check=True)
    assert found.stdout == "set()\n"
