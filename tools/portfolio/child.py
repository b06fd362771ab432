"""The process that tunes and judges one name on one GPU: what hangs or crashes in it takes no other name with it.

`python -m tools.portfolio.child JOB --output DIR --jobs N`: the job is JSON, as `Job.to_text` writes it; the result
comes out of stdout, as `JobResult.to_text` writes it; what tuner and bench say to people goes to stderr. Exit 0
whatever came of the name, 2 where the result can't be given. Only here are tuner and bench imported; torch is imported
once for all engines' kernels, and after tuning, while which no context of this process may disturb the GPU.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tools.child_process import leave, usable_cores
from tools.cli import command, path_argument, run
from tools.findings import emit
from tools.portfolio.bench_report import BenchReport
from tools.portfolio.jobs import Job, JudgeOn, Order, bench_arguments
from tools.portfolio.pool import LastLine
from tools.portfolio.progress import Outcome, Step

MODULE = "tools.portfolio.child"
CRASHED = 70
"""The exit code of a step that ended with a fault of ours."""


@dataclass(frozen=True)
class JobResult:
    """What came of a name; what benches found is in its record."""

    outcome: Outcome
    reason: str = ""
    steps: tuple[Step, ...] = ()

    @property
    def seconds(self) -> float:
        """In tuner and bench."""
        return sum(step.seconds for step in self.steps)

    @classmethod
    def read(cls, printed: str) -> JobResult:
        """What `to_text` wrote into the last line that a process printed. ValueError: it is something else."""
        try:
            document: dict[str, Any] = json.loads(printed.strip().split("\n")[-1])
            steps = tuple(Step(**step) for step in document["steps"])
            return cls(Outcome(document["outcome"]), document["reason"], steps)
        except (IndexError, KeyError, TypeError) as error:
            raise ValueError("no answer") from error

    def to_text(self) -> str:
        """One line."""
        return json.dumps(asdict(self), ensure_ascii=False)


@dataclass(frozen=True)
class Done:
    """A step and what it printed."""

    step: Step
    output: str


Tool = Callable[[Sequence[str]], int]


@dataclass(frozen=True)
class Tools:
    """Tuner and bench, as command lines. journal: of a killed run of the name, which can be resumed; None: none."""

    tune: Tool
    bench: Tool
    journal: Callable[[str], Path | None]

    @classmethod
    def here(cls) -> Tools:
        """Those of this checkout, imported when they are called."""

        def tune(arguments: Sequence[str]) -> int:
            from tools.tune.__main__ import main

            return main(arguments)

        def bench(arguments: Sequence[str]) -> int:
            from tools.bench.__main__ import main

            return main(arguments)

        return cls(tune, bench, _journal)


def _journal(name: str) -> Path | None:
    from tools.tune.journal import Journal, JournalError
    from tools.tune.run_journals import journal_path

    path = journal_path(name)
    try:
        Journal.read(path)
    except JournalError:  # none, or one that nobody can go on with, as a kill in mid-header leaves it
        return None
    return path


def work(job: Job, output: Path, jobs: int, tools: Tools) -> JobResult:
    """Does the job. output: the folder of tiers. jobs: compiling processes."""
    steps: tuple[Step, ...] = ()
    config = output / job.name
    if job.order is not Order.TUNE:
        is_first = job.order is Order.WHERE_IT_LOSES
        judged = [_judge(config, each, jobs, tools, with_shipped=not is_first) for each in job.judges]
        steps = tuple(done.step for done in judged)
        is_lost = is_first and any(map(_loses, judged))
        if reason := _why_unjudged(judged, is_noted=not is_lost):  # what is lost goes, and its record with it
            return JobResult(Outcome.FAILED, reason, steps)
        if not is_lost:
            return JobResult(Outcome.HELD if is_first else Outcome.JUDGED, steps=steps)
    tuned = _tune(job, output, jobs, tools)
    steps += tuple(done.step for done in tuned)
    if tuned[-1].step.code != 0:
        return JobResult(Outcome.FAILED, tuned[-1].step.said or "the tuner failed", steps)
    judged = [_judge(config, each, jobs, tools, with_shipped=True) for each in job.judges]
    reason = _why_unjudged(judged)
    steps += tuple(done.step for done in judged)
    return JobResult(Outcome.FAILED if reason else Outcome.TUNED, reason, steps)


def _tune(job: Job, output: Path, jobs: int, tools: Tools) -> list[Done]:
    """One run, or two where a killed run's journal turns out to be of another one.

    Whatever else a resumed run ends with is the answer: anew, it would measure again what the journal keeps.
    """
    arguments = [*job.tune, "--output", str(output), "--jobs", str(jobs)]
    done = []
    if tools.journal(job.name) is not None:
        done.append(_step(None, tools.tune, [*arguments, "--resume"]))
        if not _is_of_another_run(done[-1].step):
            return done
    return [*done, _step(None, tools.tune, arguments)]


def _is_of_another_run(resumed: Step) -> bool:
    """Whether the tuner refused the journal as that of another run."""
    from tools.tune.run_journals import OF_ANOTHER_RUN

    return resumed.said.endswith(OF_ANOTHER_RUN)


def _judge(config: Path, judge: JudgeOn, jobs: int, tools: Tools, *, with_shipped: bool) -> Done:
    return _step(judge.engine, tools.bench, bench_arguments(config, judge, jobs, with_shipped=with_shipped))


def _loses(judged: Done) -> bool:
    report = BenchReport.read(judged.output)
    return report is not None and report.is_slower


def _why_unjudged(judged: Sequence[Done], *, is_noted: bool = True) -> str:
    """Empty: each bench said what it found. is_noted: and noted it in the record."""
    faults = ((done.step.engine, _fault(done, is_noted=is_noted)) for done in judged)
    return "; ".join(f"{engine}: {fault}" for engine, fault in faults if fault)


def _fault(judged: Done, *, is_noted: bool) -> str:
    step, report = judged.step, BenchReport.read(judged.output)
    if report is None or step.code not in (0, 1):  # 1: a row is slower, or something isn't written
        return step.said or "the bench failed"
    return f"not written: {'; '.join(report.not_written)}" if is_noted and report.not_written else ""


# ---------------------------------------------------------------
# One step


def _step(engine: str | None, tool: Tool, arguments: Sequence[str]) -> Done:
    """Runs the tool; whatever it ends with is an exit code."""
    output, heard, started = io.StringIO(), LastLine(sys.stderr.write), time.monotonic()
    crash = ""
    with contextlib.redirect_stdout(output), contextlib.redirect_stderr(heard):
        try:
            code = tool(arguments)
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else 2
            if code >= 128:  # a signal, which ends us too
                raise
        except Exception as error:
            traceback.print_exc()
            code, crash = CRASHED, f"{type(error).__name__}: {error}".split("\n")[0]
    said = crash or heard.last.removeprefix("tune: ").removeprefix("bench: ")
    return Done(Step(engine, code, round(time.monotonic() - started, 2), said), output.getvalue())


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=f"python -m {MODULE}", description="Tunes and judges one name.")
    parser.add_argument("job", type=Job.read, metavar="JOB")
    parser.add_argument("--output", type=path_argument, required=True, metavar="DIR")
    parser.add_argument("--jobs", type=int, default=usable_cores(), metavar="N")
    return parser


@command("portfolio")
def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code."""
    options = parser().parse_args(sys.argv[1:] if arguments is None else arguments)
    emit(work(options.job, options.output, options.jobs, Tools.here()).to_text())
    return 0


if __name__ == "__main__":
    run(main, "portfolio", end=leave)  # the GPU waits for its end
