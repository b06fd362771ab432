from __future__ import annotations

import sys
import threading

import pytest

from tests import builders
from tests.tools.processes import PATIENCE_S, wait_until, wait_until_dead
from tools.portfolio.pool import MOST_FAILURES, Children, LastLine, Pool, PoolGpu, Say

H100 = builders.devices().find(builders.H100)
H200 = builders.devices().find("NVIDIA_H200")
NAMES = {H100.name: ["a", "b", "c", "d"], H200.name: ["e"]}


def gpus(*devices: object) -> list[PoolGpu]:
    return [PoolGpu(str(place), device, 4) for place, device in enumerate(devices)]  # type: ignore[arg-type]


class Log:
    def __init__(self) -> None:
        self.done: list[tuple[str, str]] = []
        self.said: list[str] = []

    def work(self, task: str, gpu: PoolGpu, say: Say) -> bool:
        self.done.append((gpu.id, task))
        say(task)
        return True


class TestPool:
    def test_one_gpu_keeps_the_order(self) -> None:
        log = Log()
        assert Pool[str](gpus(H100), log.said.append).run(NAMES, log.work) == []
        assert log.done == [("0", "a"), ("0", "b"), ("0", "c"), ("0", "d")]
        assert log.said == ["a", "b", "c", "d"]

    def test_two_gpus_share_a_list_and_say_which_they_are(self) -> None:
        both = threading.Barrier(2, timeout=PATIENCE_S)
        log = Log()

        def work(task: str, gpu: PoolGpu, say: Say) -> bool:
            both.wait()  # neither could go on alone
            return log.work(task, gpu, say)

        Pool[str](gpus(H100, H100), log.said.append).run(NAMES, work)
        assert sorted(task for _, task in log.done) == ["a", "b", "c", "d"]
        assert {gpu for gpu, _ in log.done} == {"0", "1"}
        assert all(line.startswith(("GPU 0: ", "GPU 1: ")) for line in log.said)

    def test_gpus_of_two_kinds_each_have_their_own_list(self) -> None:
        log = Log()
        Pool[str](gpus(H100, H200), log.said.append).run(NAMES, log.work)
        assert ("1", "e") in log.done
        assert [task for gpu, task in log.done if gpu == "0"] == ["a", "b", "c", "d"]

    def test_what_there_is_no_time_for_is_left_in_order(self) -> None:
        log = Log()
        assert Pool[str](gpus(H100), log.said.append).run(NAMES, log.work, lambda task: task < "c") == ["c", "d"]

    def test_a_gpu_on_which_all_fails_is_left_alone(self) -> None:
        log = Log()

        def fail(task: str, gpu: PoolGpu, say: Say) -> bool:
            log.work(task, gpu, say)
            return False

        left = Pool[str](gpus(H100), log.said.append).run(NAMES, fail)
        assert len(log.done) == MOST_FAILURES
        assert left == ["d"]
        assert log.said[-1] == "GPU 0 is left alone: 3 in a row failed on it"

    def test_a_success_between_counts(self) -> None:
        log = Log()

        def work(task: str, gpu: PoolGpu, say: Say) -> bool:
            return log.work(task, gpu, say) and task == "b"

        assert Pool[str](gpus(H100), log.said.append).run(NAMES, work) == []

    def test_what_work_raises_ends_the_run(self) -> None:
        def full(task: str, gpu: PoolGpu, say: Say) -> bool:
            raise OSError(28, "No space left on device")

        with pytest.raises(OSError, match="No space left"):
            Pool[str](gpus(H100), print).run(NAMES, full)

    def test_once_stopped_nothing_is_begun(self) -> None:
        log = Log()
        pool: Pool[str] = Pool(gpus(H100), log.said.append)

        def work(task: str, gpu: PoolGpu, say: Say) -> bool:
            pool.stop()
            return log.work(task, gpu, say)

        assert pool.run(NAMES, work) == ["b", "c", "d"]


class TestChildren:
    GPU = PoolGpu("GPU-5a1e", H100, 4)

    def test_a_child_sees_its_gpu_alone(self) -> None:
        ended = Children().run(
            [sys.executable, "-c", "import os; print(os.environ['CUDA_VISIBLE_DEVICES'])"], self.GPU, print
        )
        assert (ended.code, ended.printed) == (0, "GPU-5a1e\n")

    def test_what_it_says_is_heard_line_by_line(self) -> None:
        heard: list[str] = []
        code = (
            "import sys; print('a', file=sys.stderr); print(file=sys.stderr); print('b', file=sys.stderr); sys.exit(3)"
        )
        ended = Children().run([sys.executable, "-c", code], self.GPU, heard.append)
        assert (ended.code, ended.said, ended.how) == (3, "b", "exit code 3")
        assert heard == ["a", "b"]

    def test_one_that_is_killed_says_by_what(self) -> None:
        code = "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"
        assert Children().run([sys.executable, "-c", code], self.GPU, print).how == "killed by signal 9"

    def test_stopping_ends_them_with_what_they_started(self) -> None:
        code = (
            "import subprocess, sys; p = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)']);"
            "print(p.pid, file=sys.stderr, flush=True); p.wait()"
        )
        children, heard = Children(), list[str]()
        thread = threading.Thread(target=children.run, args=([sys.executable, "-c", code], self.GPU, heard.append))
        thread.start()
        wait_until(lambda: heard != [], "the child's word")
        children.stop(grace_s=5.0)
        wait_until(lambda: not thread.is_alive(), "the end of the child")
        wait_until_dead([int(heard[0])])


class TestLastLine:
    @pytest.mark.parametrize(
        ("pieces", "last"),
        [
            ([], ""),
            (["a\n", "b\n"], "b"),
            (["a", "b\n"], "ab"),
            (["a\n", " \n", "\n"], "a"),
            (["a\n", "killed whi"], "killed whi"),
        ],
    )
    def test_it_is_the_last_that_says_something_however_it_comes(self, pieces: list[str], last: str) -> None:
        handed_on: list[str] = []
        heard = LastLine(handed_on.append)
        heard.writelines(pieces)
        assert (heard.last, handed_on) == (last, pieces)
