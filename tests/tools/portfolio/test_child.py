from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from tests.tools.portfolio.stocked import bench_json
from tools.checkout import CHECKOUT
from tools.cli import say
from tools.findings import emit
from tools.portfolio.child import CRASHED, MODULE, JobResult, Tools, work
from tools.portfolio.jobs import Job, JudgeOn, Order
from tools.portfolio.progress import Outcome, Step
from tools.text import printable
from tools.tune.journal import Journal, JournalError, JournalHeader, JournalWriter
from tools.tune.run_journals import journal_path, open_journals

HEADER = Journal.read(CHECKOUT / "tests" / "tools" / "tune" / "landscape.jsonl.gz").header
NAME = HEADER.subject.workload.file_name()


def report(*not_written: str, is_slower: bool = False) -> str:
    """As `bench --format json` prints it."""
    return bench_json({"a.json": {"heuristic": (0.7, 1.0)}}, is_slower, not_written=not_written)


@pytest.fixture
def header(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> JournalHeader:
    """Of a run of `NAME`, whose journal lies below tmp_path."""
    monkeypatch.setattr("tools.tune.run_journals.JOURNALS", tmp_path / "journals")
    return HEADER


@dataclass
class Fakes:
    """Tools that answer from lists: (exit code, what is printed, what is said), the last for ever."""

    tune: list[tuple[int, str, str]] = field(default_factory=lambda: [(0, "{}", "")])
    bench: list[tuple[int, str, str]] = field(default_factory=lambda: [(0, report(), "")])
    has_journal: bool = False
    calls: list[tuple[str, ...]] = field(default_factory=list)

    def tools(self) -> Tools:
        return Tools(self._tool("tune", self.tune), self._tool("bench", self.bench), self._journal)

    def _journal(self, name: str) -> Path | None:
        return Path("/journal") if self.has_journal else None

    def _tool(self, name: str, answers: list[tuple[int, str, str]]) -> Callable[[Sequence[str]], int]:
        def run(arguments: Sequence[str]) -> int:
            self.calls.append((name, *arguments))
            code, printed, said = answers.pop(0) if len(answers) > 1 else answers[0]
            emit(printed)
            if said:
                say(said)
            return code

        return run

    @property
    def order(self) -> list[str]:
        """Which tool, and on which engine's kernel."""
        return [
            call[0] if call[0] == "tune" else f"bench {call[call.index('--kernel') + 1].partition('=')[0]}"
            for call in self.calls
        ]


def do(fakes: Fakes, order: Order = Order.TUNE, judges: tuple[str, ...] = ("vllm", "sglang")) -> JobResult:
    on = tuple(JudgeOn(engine, f"/site/{engine}.py", f"/site/{engine}/a.json") for engine in judges)
    return work(Job("a.json", "D", order, ("--model", "m"), on), Path("/configs"), 4, fakes.tools())


class TestTuneThenJudge:
    def test_each_engine_judges_what_the_tuner_left(self) -> None:
        fakes = Fakes()
        answer = do(fakes)
        assert fakes.order == ["tune", "bench vllm", "bench sglang"]
        assert fakes.calls[0] == ("tune", "--model", "m", "--output", "/configs", "--jobs", "4")
        assert fakes.calls[1][2] == "/configs/a.json"
        assert answer.outcome is Outcome.TUNED
        assert [(step.engine, step.code) for step in answer.steps] == [(None, 0), ("vllm", 0), ("sglang", 0)]

    def test_the_file_that_the_engine_ships_is_met_too(self) -> None:
        fakes = Fakes()
        do(fakes)
        assert all(
            f"/site/{engine}/a.json" in call for engine, call in zip(("vllm", "sglang"), fakes.calls[1:], strict=True)
        )

    def test_a_file_that_loses_is_tuned_all_the_same(self) -> None:
        answer = do(Fakes(bench=[(1, report(is_slower=True), "")]), judges=("vllm",))
        assert answer.outcome is Outcome.TUNED  # it is what it is: the row says that it isn't bounded

    def test_a_tuner_that_fails_ends_the_name_with_its_last_line(self) -> None:
        fakes = Fakes(tune=[(1, "", "tune: M=1: expected vLLM's heuristic to run, found timeout.")])
        answer = do(fakes)
        assert fakes.order == ["tune"]
        assert answer.outcome is Outcome.FAILED
        assert answer.reason == "M=1: expected vLLM's heuristic to run, found timeout."

    def test_a_bench_that_fails_leaves_the_other_engines_word(self) -> None:
        fakes = Fakes(bench=[(2, "", "bench: expected enough GPU memory, found none left."), (0, report(), "")])
        answer = do(fakes)
        assert answer.outcome is Outcome.FAILED
        assert answer.reason == "vllm: expected enough GPU memory, found none left."
        assert fakes.order[-1] == "bench sglang"

    @pytest.mark.parametrize("is_slower", [False, True])
    @pytest.mark.parametrize("order", [Order.TUNE, Order.JUDGE])
    def test_a_record_that_cannot_be_written_is_no_verdict(self, order: Order, is_slower: bool) -> None:
        printed = report("a.json: No space left", is_slower=is_slower)
        answer = do(Fakes(bench=[(1, printed, "bench: written: report.md")]), order, judges=("vllm",))
        assert (answer.outcome, answer.reason) == (Outcome.FAILED, "vllm: not written: a.json: No space left")

    def test_a_fault_of_ours_is_an_exit_code_too(self) -> None:
        def broken(arguments: Sequence[str]) -> int:
            raise KeyError("rows")

        answer = work(
            Job("a.json", "D", Order.TUNE, (), ()), Path("/configs"), 1, Tools(broken, broken, lambda name: None)
        )
        assert (answer.outcome, answer.reason) == (Outcome.FAILED, "KeyError: 'rows'")
        assert answer.steps[0].code == CRASHED

    def test_bad_use_as_argparse_ends_it_is_an_exit_code(self) -> None:
        def refuse(arguments: Sequence[str]) -> int:
            say("tune: usage")
            sys.exit(2)

        answer = work(
            Job("a.json", "D", Order.TUNE, (), ()), Path("/configs"), 1, Tools(refuse, refuse, lambda n: None)
        )
        assert answer.steps[0].code == 2


class TestAKilledRun:
    def test_goes_on_where_it_was(self) -> None:
        fakes = Fakes(has_journal=True)
        do(fakes, judges=())
        assert [call[-1] for call in fakes.calls] == ["--resume"]

    @pytest.mark.parametrize(
        "changes",
        [{"settings": {"num_tokens": [1]}}, {"environment": {"triton": "3.6.0"}}, {"subject": {"smem_bytes": 1}}],
        ids=lambda changes: next(iter(changes)),
    )
    def test_of_another_run_starts_anew(self, header: JournalHeader, changes: dict[str, Any]) -> None:
        JournalWriter(journal_path(NAME), header).close()
        if "subject" in changes:
            changes = {"subject": replace(header.subject, **changes["subject"])}
        with pytest.raises(JournalError) as refusal, open_journals(replace(header, **changes), None, resume=True):
            pass
        fakes = Fakes(tune=[(2, "", f"tune: {printable(str(refusal.value))}"), (0, "{}", "")], has_journal=True)
        assert do(fakes, judges=()).outcome is Outcome.TUNED
        assert [call[-1] for call in fakes.calls] == ["--resume", "4"]

    @pytest.mark.parametrize(
        "said",
        [
            "a.json: expected to write it, found: No space left on device. The rows lie in .tune/partial/a.json, and "
            "--resume writes them without measuring.",
            "the GPU: it fell off the bus. The measurements are kept: --resume continues with them.",
            "a.jsonl: expected no other run of this file, found one at work. Fix: wait until it ends.",
        ],
        ids=["not written", "machine", "locked"],
    )
    def test_that_fails_once_more_keeps_its_journal(self, said: str) -> None:
        fakes = Fakes(tune=[(2, "", f"tune: {said}"), (0, "{}", "")], has_journal=True)
        answer = do(fakes, judges=())
        assert (answer.outcome, answer.reason) == (Outcome.FAILED, said)
        assert [call[-1] for call in fakes.calls] == ["--resume"]

    def test_is_one_whose_journal_can_be_read(self, header: JournalHeader) -> None:
        path = journal_path(NAME)
        assert Tools.here().journal(NAME) is None
        JournalWriter(path, header).close()
        whole = path.read_bytes()
        assert Tools.here().journal(NAME) == path
        for torn in (b"", whole[:-1]):  # killed between the lock and the end of the header
            path.write_bytes(torn)
            assert Tools.here().journal(NAME) is None


class TestJudgeFirst:
    def test_what_loses_nowhere_stays(self) -> None:
        fakes = Fakes()
        assert do(fakes, Order.WHERE_IT_LOSES).outcome is Outcome.HELD
        assert fakes.order == ["bench vllm", "bench sglang"]

    def test_only_the_heuristic_counts(self) -> None:
        fakes = Fakes()
        do(fakes, Order.WHERE_IT_LOSES)
        assert not any("/site/vllm/a.json" in call for call in fakes.calls)

    def test_what_loses_on_one_engine_is_tuned_and_judged_on_all(self) -> None:
        fakes = Fakes(bench=[(0, report(), ""), (1, report(is_slower=True), ""), (0, report(), "")])
        answer = do(fakes, Order.WHERE_IT_LOSES)
        assert fakes.order == ["bench vllm", "bench sglang", "tune", "bench vllm", "bench sglang"]
        assert answer.outcome is Outcome.TUNED
        assert len(answer.steps) == 5

    def test_what_loses_is_tuned_though_its_old_record_takes_no_line(self) -> None:
        """A file with a row that fails takes none, and is what has to be tuned."""
        fakes = Fakes(bench=[(1, report("a.json: M=8 failed", is_slower=True), ""), (0, report(), "")])
        assert do(fakes, Order.WHERE_IT_LOSES, ("vllm",)).outcome is Outcome.TUNED
        assert fakes.order == ["bench vllm", "tune", "bench vllm"]

    def test_what_holds_and_is_not_noted_is_not_held(self) -> None:
        answer = do(Fakes(bench=[(1, report("a.json: No space left"), "")]), Order.WHERE_IT_LOSES, ("vllm",))
        assert (answer.outcome, answer.reason) == (Outcome.FAILED, "vllm: not written: a.json: No space left")

    def test_where_the_bench_fails_nothing_is_concluded(self) -> None:
        fakes = Fakes(bench=[(2, "", "bench: no GPU")])
        assert do(fakes, Order.WHERE_IT_LOSES).outcome is Outcome.FAILED
        assert "tune" not in fakes.order


def test_judging_alone_tunes_nothing() -> None:
    fakes = Fakes()
    assert do(fakes, Order.JUDGE, ("sglang",)).outcome is Outcome.JUDGED
    assert fakes.order == ["bench sglang"]


def test_an_answer_is_read_as_it_was_written_behind_whatever_else_was_printed() -> None:
    answer = JobResult(Outcome.TUNED, "why", (Step(None, 0, 1.0, "x"), Step("vllm", 0, 0.5)))
    assert JobResult.read(answer.to_text()) == answer
    assert JobResult.read(f"a warning\n{answer.to_text()}\n") == answer
    of_another_alphabet = JobResult(Outcome.FAILED, "a line\u2028separator")
    assert JobResult.read(of_another_alphabet.to_text()) == of_another_alphabet
    assert answer.seconds == 1.5


@pytest.mark.parametrize("printed", ["", "\n", "Segmentation fault", "[]", "{}", '{"outcome": "tuned", "steps": [1]}'])
def test_what_is_no_answer_is_said(printed: str) -> None:
    with pytest.raises(ValueError, match=r"no answer|Expecting value"):
        JobResult.read(printed)


def test_the_process_gives_its_answer_and_ends_without_being_taken_apart(tmp_path: Path) -> None:
    """Its end is what the GPU waits for, and with torch Python takes its time over that."""
    job = Job("a.json", "D", Order.TUNE, ("--no-such-option",), ())
    code = f"import runpy, torchlike; runpy.run_module({MODULE!r}, run_name='__main__')"
    (tmp_path / "torchlike.py").write_text(
        "import os\nclass Torch:\n    def __del__(self): os.write(1, b'taken apart')\nkept = Torch()\n", "utf-8"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, job.to_text(), "--output", str(tmp_path)],
        cwd=CHECKOUT, env={**os.environ, "PYTHONPATH": str(tmp_path)}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    answer = JobResult.read(done.stdout)
    assert (done.returncode, answer.outcome) == (0, Outcome.FAILED)
    assert "--no-such-option" in answer.reason
