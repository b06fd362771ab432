"""kill -9 in mid-run, then --resume: nothing is measured twice, and the file is the one of a run that nobody killed.

A real process is killed, at moments from the first line of its journal to the last row; only the GPU is a recording.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.tools.processes import PATIENCE_S, wait_until
from tests.tools.tune.killable_tuner import described, num_lines
from tools.checkout import CHECKOUT
from tools.tune.journal import Journal, JournalEntry
from tools.tune.protocol import Compiled

pytestmark = pytest.mark.slow  # each test starts the tuner several times

LANDSCAPE = Path(__file__).with_name("landscape.jsonl.gz")
NAME = "E=256,N=128,device_name=NVIDIA_H100_80GB_HBM3,dtype=fp8_w8a8,block_shape=[128,128].json"
FLAGS = ["--model", "deepseek-ai/DeepSeek-V3", "--tp", "16", "--num-tokens", "1", "64", "4096"]
SHARES = (0.0, 0.1, 0.4, 0.7, 0.9, 0.99)
"""Of the journal's lines, when a run is killed."""


@dataclass(frozen=True)
class Provenance:
    """A tuner in a folder of its own."""

    folder: Path

    @property
    def journal(self) -> Path:
        return self.folder / "journals" / f"{Path(NAME).stem}.jsonl"

    @property
    def output(self) -> Path:
        return self.folder / "out"

    def start(self, *flags: str, held_at: int = 0, asked: str = "asked") -> subprocess.Popen[bytes]:
        """held_at: lines of the journal at which it waits, for a kill or for `go_on`; 0: it doesn't."""
        program = Path(__file__).with_name("killable_tuner.py")
        arguments = [self.journal, self.folder / asked, held_at, LANDSCAPE, *FLAGS, "--output", self.output]
        return subprocess.Popen(
            [sys.executable, program, *map(str, arguments), *flags],
            cwd=CHECKOUT,
            env={**os.environ, "PYTHONPATH": str(CHECKOUT)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )

    def wait_for(self, process: subprocess.Popen[bytes], lines: int) -> None:
        """Until it waits at as many lines."""

        def is_there() -> bool:
            assert process.poll() is None, f"ended before line {lines}: {process.communicate()[1].decode()}"
            return num_lines(self.journal) >= lines

        wait_until(is_there, f"{lines} lines in the journal")

    def kill_at(self, lines: int, *flags: str) -> None:
        """kill -9 of a run once the journal has as many lines."""
        process = self.start(*flags, held_at=lines)
        self.wait_for(process, lines)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        assert process.returncode == -signal.SIGKILL

    def go_on(self, asked: str = "asked") -> None:
        (self.folder / f"{asked}.go").touch()

    def finish(self, *flags: str, asked: str = "asked") -> None:
        process = self.start(*flags, asked=asked)
        told = process.communicate(timeout=PATIENCE_S)[1].decode()
        assert process.returncode == 0, told

    def asked(self, name: str = "asked") -> Counter[str]:
        """What reached the GPU, as often as it did."""
        path = self.folder / name
        return Counter(path.read_text("utf-8").splitlines() if path.exists() else [])

    def measured(self) -> Counter[str]:
        """What the journal holds."""
        return Counter(json.dumps(described(entry.event.job)) for entry in self.entries() if is_measured(entry))

    def entries(self) -> tuple[JournalEntry, ...]:
        return Journal.read(self.journal).entries

    def written(self) -> Any:
        return json.loads((self.output / NAME).read_bytes())

    def rows(self) -> Any:
        return json.loads((self.output / "records" / NAME).read_bytes())["rows"]


def is_measured(entry: JournalEntry) -> bool:
    return not isinstance(entry.event, Compiled)


@dataclass(frozen=True)
class Whole:
    """What a run that nobody kills comes to. journal: a copy of it."""

    file: Any
    rows: Any
    asked: Counter[str]
    journal: Path


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Whole:
    run = Provenance(tmp_path_factory.mktemp("whole"))
    copy = run.folder / "landscape.jsonl"
    run.finish("--record-landscape", str(copy))
    assert not run.journal.exists()
    return Whole(run.written(), run.rows(), run.asked(), copy)


@pytest.mark.parametrize("share", SHARES)
def test_a_killed_run_resumes_and_measures_nothing_twice(share: float, whole: Whole, tmp_path: Path) -> None:
    run = Provenance(tmp_path)
    run.kill_at(1 + int(share * (num_lines(whole.journal) - 2)))
    before = run.measured()
    assert not run.output.exists()
    assert before <= run.asked()

    run.finish("--resume", asked="asked again")

    assert (run.written(), run.rows()) == (whole.file, whole.rows)
    assert before + run.asked("asked again") == whole.asked
    assert not run.journal.exists()


def test_the_last_of_these_moments_lies_among_the_blocks(whole: Whole) -> None:
    lines = whole.journal.read_text("utf-8").splitlines()
    assert '"measured"' in lines[1 + int(SHARES[-1] * (len(lines) - 2))]


def test_a_run_that_is_killed_again_and_again_comes_to_its_end(whole: Whole, tmp_path: Path) -> None:
    run, chance = Provenance(tmp_path), random.Random(7)
    flags: tuple[str, ...] = ()
    lines = 1
    for _ in range(4):
        lines += chance.randrange(10, 40)
        run.kill_at(lines, *flags)
        # What was being written when the power went.
        with run.journal.open("ab") as file:
            file.write(b'{"screened":{"BLOCK')
        flags = ("--resume",)
        lines = num_lines(run.journal)
    assert run.measured() <= whole.asked
    run.finish(*flags)
    assert (run.written(), run.rows()) == (whole.file, whole.rows)


def test_rows_that_can_not_be_written_at_the_end_are_printed_and_kept(whole: Whole, tmp_path: Path) -> None:
    run = Provenance(tmp_path)
    half = num_lines(whole.journal) // 2
    process = run.start(held_at=half)
    run.wait_for(process, half)
    run.output.write_text("a file where the folder was to be")
    run.go_on()
    out, told = (stream.decode() for stream in process.communicate(timeout=PATIENCE_S))
    assert process.returncode == 2
    assert [line.split()[0] for line in out.splitlines()[2:5]] == ["1", "64", "4096"]
    partial = run.journal.parent / "partial" / NAME
    assert told.splitlines()[-1] == (
        f"tune: {run.output}: expected to write it, found: a file stands where a folder is needed. "
        f"The rows lie in {partial}, and --resume writes them without measuring."
    )
    assert json.loads(partial.read_bytes()) == whole.file

    run.output.unlink()
    run.finish("--resume", asked="asked again")
    assert (run.written(), run.rows()) == (whole.file, whole.rows)
    assert run.asked("asked again").total() == 0
    assert not partial.exists()


def test_a_kill_between_the_last_row_and_the_file_costs_no_gpu_time(whole: Whole, tmp_path: Path) -> None:
    run = Provenance(tmp_path)
    run.journal.parent.mkdir()
    run.journal.write_bytes(whole.journal.read_bytes())
    run.finish("--resume")
    assert (run.written(), run.rows()) == (whole.file, whole.rows)
    assert run.asked().total() == 0
