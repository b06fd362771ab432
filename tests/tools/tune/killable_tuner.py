"""The tuner's own command, with a recorded landscape for a GPU: a process that a test may kill at any moment.

    python killable_tuner.py JOURNAL ASKED HELD_AT LANDSCAPE FLAG…

Everything but the measuring is real: command line, search, journal, files. Each job that reaches the GPU is written
down in ASKED. Once the journal has HELD_AT lines (0: never), no answer comes until the file ASKED.go is there: that
moment is the tester's, however fast the machine is.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Self

from kernels.problem import Flavour
from tools.measure.panel import Part, RoutingKind
from tools.tune import __main__ as command
from tools.tune import run_journals, session
from tools.tune.journal import Journal
from tools.tune.protocol import BlockJob, Compiled, CompileJob, Event, Job, Measured, Screened, ScreenJob
from tools.tune.replay import ReplayRunner


class HeldReplay(ReplayRunner):
    """Goes on when its tester wants, and keeps what it is asked to measure."""

    def __init__(self, landscape: Journal, asked: Path, is_held: Callable[[], bool]) -> None:
        super().__init__(landscape)
        self._landscape, self._is_held = landscape, is_held
        self._asked = asked.open("a", encoding="utf-8")

    def submit(self, job: Job) -> None:
        if not isinstance(job, CompileJob):
            self._asked.write(json.dumps(described(job)) + "\n")
            self._asked.flush()
        super().submit(job)

    def wait(self) -> Event:
        while self._is_held():
            time.sleep(0.01)
        return super().wait()

    def _measure(self, job: BlockJob) -> Measured:
        """Alike whenever it is asked: a resumed run's GPU doesn't know what the killed run asked before.

        The landscape has one part; the others are as if routing and engine made no difference.
        """
        part = Part(Flavour.VLLM, job.part.placement, RoutingKind.UNIFORM)
        return replace(ReplayRunner(self._landscape)._measure(replace(job, part=part)), job=job)

    def _screen(self, job: ScreenJob) -> Screened:
        usual = replace(job, engine=Flavour.VLLM, routing=RoutingKind.UNIFORM)
        return replace(super()._screen(usual), job=job)

    def _compile(self, job: CompileJob) -> Compiled:
        usual = CompileJob(job.config, job.shape, job.is_naive)
        return replace(super()._compile(usual), job=job)


def described(job: Job) -> list[Any]:
    """What makes a measurement that one and no other. When to give up doesn't."""
    if isinstance(job, ScreenJob):
        return ["screen", job.num_tokens, str(job.part), job.config.to_entry()]
    assert not isinstance(job, CompileJob)
    configs = [config.to_entry() for config in job.configs]
    return ["blocks", job.num_tokens, str(job.part), configs, job.first, job.count]


class ReplaySession:
    """In the place of `LiveSession`."""

    def __init__(self, runner: HeldReplay, landscape: Journal) -> None:
        self.supervisor = SimpleNamespace(report=landscape.device)
        self.runner = runner

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass


def num_lines(journal_path: Path) -> int:
    return journal_path.read_bytes().count(b"\n") if journal_path.exists() else 0


def main(journal_path: str, asked: str, held_at: str, landscape_path: str, *flags: str) -> int:
    landscape = Journal.read(Path(landscape_path))
    assert landscape.device is not None
    assert landscape.device.environment is not None
    device_name = landscape.device.environment.device_name
    path, go, limit = Path(journal_path), Path(f"{asked}.go"), int(held_at)
    run_journals.JOURNALS = path.parent

    def is_held() -> bool:
        return limit > 0 and num_lines(path) >= limit and not go.exists()

    runner = HeldReplay(landscape, Path(asked), is_held)
    session.LiveSession = lambda spec, jobs: ReplaySession(runner, landscape)  # type: ignore[assignment,misc]
    command.find_gpu = lambda: device_name  # type: ignore[attr-defined]
    return command.main(flags)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
