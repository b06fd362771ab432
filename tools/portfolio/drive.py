"""Works a list of names off on all GPUs at hand, a process a name, in the list's order. Knows no command line.

A thread a GPU takes the next name for its device as soon as it is free, so several GPUs keep the order too. Whatever
becomes of a name is written down before the next one is taken.
"""

from __future__ import annotations

import contextlib
import datetime
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol

from tools.checkout import CHECKOUT
from tools.findings import Severity
from tools.portfolio.child import MODULE, Answer, command_line
from tools.portfolio.jobs import Job, Skip, weight_of
from tools.portfolio.progress import Judged, Line, Outcome, append, checked
from tools.portfolio.stock import GOOD, Item, Method, look_up
from tools.registry.devices import Device, DeviceRegistry
from tools.registry.models import ModelRegistry
from tools.store.files import record_path
from tools.store.workload import Layout
from tools.tune.policy import PromotionPolicy
from tools.validate import runner
from tools.validate.exceptions import Exceptions
from tools.validate.model import Context
from tools.with_parent import bound

Say = Callable[[str], None]

MOST_FAILURES = 3
"""In a row, of one GPU: then it, not the names, is what is wrong."""

SECONDS_AT_FIRST = 110.0
"""What a name of one (K, top_k) is taken to last before any was measured."""


@dataclass(frozen=True)
class Gpu:
    """id: as CUDA_VISIBLE_DEVICES takes it. jobs: compiling processes, its share of the cores."""

    id: str
    device: Device
    jobs: int

    def __str__(self) -> str:
        return f"GPU {self.id}"


class Launch(Protocol):
    """Does a job on a GPU, in a process of its own. NoAnswerError: it ended without one."""

    def __call__(self, job: Job, gpu: Gpu, output: Path, say: Say) -> Answer: ...


class NoAnswerError(RuntimeError):
    """A process that ended without saying what came of its name. One line."""


@dataclass(frozen=True)
class Task:
    """A name and what is to be done for it."""

    item: Item
    job: Job


@dataclass(frozen=True)
class Places:
    """configs: the folder of tiers. progress: of a device. collect: where a copy of all that is written goes; None: no
    copy. checkout: below which the copies' paths begin."""

    configs: Path
    progress: Callable[[Device], Path]
    collect: Path | None = None
    checkout: Path = CHECKOUT


@dataclass
class Clock:
    """When to stop taking names. limit_s: None: never."""

    limit_s: float | None = None
    now: Callable[[], float] = time.monotonic
    _started: float = field(init=False)
    _rate_s: float = field(init=False, default=SECONDS_AT_FIRST)
    _measured: bool = field(init=False, default=False)

    def __post_init__(self) -> None:
        self._started = self.now()

    def has_time_for(self, task: Task) -> bool:
        """As long as the longest so far, by number of (K, top_k)."""
        if self.limit_s is None:
            return True
        return self.now() - self._started + self._rate_s * weight_of(task.item.wanted) <= self.limit_s

    def took(self, task: Task, seconds: float) -> None:
        rate_s = seconds / weight_of(task.item.wanted)
        self._rate_s = max(self._rate_s, rate_s) if self._measured else rate_s
        self._measured = True


@dataclass(frozen=True)
class Finished:
    """A name that a run has come to. item: what the store has of it now."""

    item: Item
    line: Line

    @property
    def is_good(self) -> bool:
        return self.item.standing in GOOD


@dataclass
class Driver:
    """One run. method: of today."""

    places: Places
    method: Method
    launch: Launch
    clock: Clock
    models: ModelRegistry
    devices: DeviceRegistry
    say: Say

    def __post_init__(self) -> None:
        self._lock = threading.Lock()
        self._is_stopped = False
        self._error: BaseException | None = None
        self.finished: list[Finished] = []
        self.left: list[Task] = []

    def skip(self, item: Item, skip: Skip, device: Device) -> None:
        """Writes down why a name is passed over, unless that is what was said of it last."""
        line = replace(self._line(item), outcome=Outcome.SKIPPED, reason=skip.reason)
        if item.line is None or (item.line.outcome, item.line.reason) != (line.outcome, line.reason):
            self._write(item, line, device)

    def stop(self) -> None:
        """No further name is taken, and nothing is written of those that are being worked on."""
        self._is_stopped = True

    def run(self, tasks: Sequence[Task], gpus: Sequence[Gpu]) -> None:
        """All of them, each on a GPU of its device. What no time was left for is in `left`."""
        queues = {gpu.device.name: [t for t in tasks if t.job.device_name == gpu.device.name] for gpu in gpus}
        threads = [
            threading.Thread(target=self._serve, args=(gpu, queues[gpu.device.name], len(gpus) > 1), daemon=True)
            for gpu in gpus
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            while thread.is_alive():
                thread.join(0.2)  # so that Ctrl-C is heard
        if self._error is not None:
            raise self._error
        self.left += [task for queue in queues.values() for task in queue]

    def _serve(self, gpu: Gpu, queue: list[Task], is_one_of_several: bool) -> None:
        try:
            self._work(gpu, queue, is_one_of_several)
        except BaseException as error:  # what can't be written down, or a fault of ours: the whole run ends with it
            self._error = error
            self.stop()

    def _work(self, gpu: Gpu, queue: list[Task], is_one_of_several: bool) -> None:
        prefix = f"{gpu}: " if is_one_of_several else ""
        failures = 0
        while (task := self._take(queue)) is not None:
            self.say(f"{prefix}{task.item.name}: {task.job.order}")
            done = self._do(task, gpu, lambda line: self.say(f"{prefix}{line}"))
            if done is None:
                return
            self.say(f"{prefix}{_told(done)}")
            failures = failures + 1 if done.line.outcome is Outcome.FAILED else 0
            if failures == MOST_FAILURES:
                self.say(f"{gpu}: left alone: {MOST_FAILURES} names in a row failed on it")
                return

    def _take(self, queue: list[Task]) -> Task | None:
        with self._lock:
            is_over = self._is_stopped or not queue or not self.clock.has_time_for(queue[0])
            return None if is_over else queue.pop(0)

    def _do(self, task: Task, gpu: Gpu, say: Say) -> Finished | None:
        """One name, from its process to its line. None: the run was stopped meanwhile."""
        started = time.monotonic()
        try:
            answer = self.launch(task.job, gpu, self.places.configs, say)
        except NoAnswerError as error:
            answer = Answer(Outcome.FAILED, str(error))
        if self._is_stopped:
            return None
        return self.write(task, answer, gpu.device, f"{gpu.id}: {gpu.device.name}", time.monotonic() - started)

    def write(self, task: Task, answer: Answer, device: Device, gpu: str, seconds: float) -> Finished:
        """Looks at what a process left, and writes down what came of the name."""
        fault = self._fault(task.item) if answer.outcome is not Outcome.FAILED else ""
        line = replace(
            self._line(task.item),
            outcome=Outcome.FAILED if fault else answer.outcome,
            reason=fault or answer.reason,
            seconds=round(seconds, 1),
            overhead_s=round(max(0.0, seconds - answer.seconds), 2),
            gpu=gpu,
        )
        self.clock.took(task, seconds)
        return self._write(task.item, line, device, answer)

    def _line(self, item: Item) -> Line:
        today = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d")
        return Line(item.name, Outcome.FAILED, today, *vars(self.method).values())

    def _fault(self, item: Item) -> str:
        """What the validator has against what was written. Empty: nothing."""
        config = self.places.configs / item.name
        if not config.exists():
            return "the tuner wrote no file"
        context = Context(Layout.REPO, self.devices, self.models)
        found = runner.validate([config], context, Exceptions.load()).findings
        errors = [finding for finding in found if finding.severity is Severity.ERROR]
        return f"{errors[0].rule}: {errors[0].message}" if errors else ""

    def _write(self, item: Item, line: Line, device: Device, answer: Answer | None = None) -> Finished:
        found = look_up(item.rank, item.wanted, self.places.configs, line, self.method)
        line = replace(line, config_sha256=found.config_sha256, judged=tuple(_judged(found, item.line, answer)))
        now = look_up(item.rank, item.wanted, self.places.configs, line, self.method)
        if not line.reason:
            line = replace(line, reason="; ".join(_remarks(now, answer)))
        with self._lock:
            progress = self.places.progress(device)
            append(progress, line)
            self._collect(item, progress)
            self.finished.append(Finished(now, line))
            return self.finished[-1]

    def _collect(self, item: Item, progress: Path) -> None:
        """Copies what there is of a name; files of version folders and `_down` twins too."""
        if self.places.collect is None:
            return
        stem = item.name.removesuffix(".json")
        names = (item.name, f"{stem}_down.json")
        tiers = [Path(), *(path.relative_to(self.places.configs) for path in self.places.configs.glob("triton_*"))]
        files = [progress]
        for relative in (tier / name for tier in tiers for name in names):
            files += [self.places.configs / relative, record_path(self.places.configs, relative)]  # type: ignore[arg-type]
        for path in files:
            if path.exists():
                target = self.places.collect / path.relative_to(self.places.checkout)
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(path, target)


def _judged(item: Item, before: Line | None, answer: Answer | None) -> Iterator[Judged]:
    """What the record says, with what only a bench's report tells; of an earlier run where the file is the same."""
    is_same = before is not None and before.config_sha256 == item.config_sha256
    earlier = {each.engine: each for each in before.judged} if before is not None and is_same else {}
    for engine, line in item.judged.items():
        name = engine.value
        if answer is not None and (name in answer.best or name in answer.shipped):
            yield checked(line, answer.shipped.get(name), answer.best.get(name))
        elif name in earlier and (told := earlier[name]).heuristic is not None:
            yield checked(line, told.shipped, told.heuristic.best)
        else:
            yield checked(line)


def _remarks(item: Item, answer: Answer | None) -> Iterator[str]:
    """What is to be known of a name that was worked off."""
    if item.standing not in GOOD:
        yield from item.why
    if answer is not None and answer.slower_on:
        yield f"a row is slower than without the file on the kernel of {' and '.join(answer.slower_on)}"
    least = 1.0 - PromotionPolicy().min_improvement_pct / 100.0
    if item.judged and all(line.geomean_ratio > least for line in item.judged.values()):
        yield "nothing to gain: on the whole within a margin of what runs without a file"


def _told(done: Finished) -> str:
    line = done.line
    judged = ", ".join(f"{each.engine} {each.heuristic.geomean:.3f}" for each in line.judged if each.heuristic)
    parts = [f"{line.outcome} in {line.seconds:.0f} s", *([f"of no file's time: {judged}"] if judged else [])]
    return f"{line.name}: {'; '.join([*parts, *([line.reason] if line.reason else [])])}"


# ---------------------------------------------------------------
# A child process a name


class Children:
    """Starts the children, and ends those that still run."""

    def __init__(self, python: Sequence[str] = (sys.executable, "-m", MODULE)) -> None:
        self._python = tuple(python)
        self._running: set[subprocess.Popen[str]] = set()
        self._lock = threading.Lock()

    def launch(self, job: Job, gpu: Gpu, output: Path, say: Say) -> Answer:
        """NoAnswerError: it crashed, or was killed."""
        command = [*self._python, *command_line(job), "--output", str(output), "--jobs", str(gpu.jobs)]
        environment: Mapping[str, str] = {**os.environ, "CUDA_VISIBLE_DEVICES": gpu.id}
        process = subprocess.Popen(
            bound(command),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            stdin=subprocess.DEVNULL,
            text=True,
            errors="backslashreplace",
            cwd=CHECKOUT,
            env=environment,
            start_new_session=True,
        )
        with self._lock:
            self._running.add(process)
        try:
            said = _Listener(process, say)
            assert process.stdout is not None
            printed = process.stdout.read()
            code = process.wait()
            said.join()
        finally:
            with self._lock:
                self._running.discard(process)
        try:
            return Answer.read(printed.strip().splitlines()[-1])
        except (IndexError, KeyError, TypeError, ValueError) as error:
            ended = f"killed by signal {-code}" if code < 0 else f"exit code {code}"
            raise NoAnswerError(f"its process ended without an answer ({ended}): {said.last or 'silent'}") from error

    def stop(self, grace_s: float = 15.0) -> None:
        """Ends all that run, with what they started; tuners keep their journals."""
        with self._lock:
            running = list(self._running)
        for number, limit_s in ((signal.SIGTERM, grace_s), (signal.SIGKILL, grace_s)):
            for process in running:
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.killpg(process.pid, number)
            for process in running:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(limit_s)


class _Listener(threading.Thread):
    """Hands on what a child says, and remembers the last line."""

    def __init__(self, process: subprocess.Popen[str], say: Say) -> None:
        super().__init__(daemon=True)
        self._process, self._say, self.last = process, say, ""
        self.start()

    def run(self) -> None:
        assert self._process.stderr is not None
        for line in self._process.stderr:
            if line.strip():
                self.last = line.strip()
                self._say(self.last)
