"""`portfolio survey`: every file that an engine ships for the GPU at hand, beside that engine's heuristic and our file.

On the engine's own kernel, each file as the engine reads and runs it, under uniform routing.
"""

from __future__ import annotations

import argparse
import contextlib
import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from kernels.problem import Flavour
from tools import cli
from tools.bench import session
from tools.bench.request import EngineFile
from tools.checkout import MEASUREMENTS, reference_triton
from tools.child_process import MAX_JOBS, usable_cores
from tools.dates import today
from tools.errors import MachineError, UserError
from tools.launch.heuristic_version import measured_heuristics
from tools.measure.gpu import find_gpu
from tools.measure.panel import Ratio
from tools.measure.statistics import geomean
from tools.portfolio.engines import engine_arguments
from tools.portfolio.shipped_files import EnginePackage, find_engine
from tools.portfolio.survey_board import (
    LeftOut,
    Survey,
    SurveyedFile,
    SurveyedShape,
    SurveyRow,
    to_markdown,
    to_text,
)
from tools.portfolio.survey_plan import BATCH_SIZES, RowConfigs, ShippedContest, SurveyPlan, listed, plan
from tools.portfolio.survey_protocol import GpuLostError, Say, ShapeNotMeasuredError, TimedRow, Timer
from tools.registry.devices import normalise_device_name
from tools.text import printable

MOST_SHAPES = 32
MOST_MINUTES = 600


@dataclass(frozen=True)
class SurveyRequest:
    """path: as `find_engine` takes it. output: the board's folder. device_name: only list what would be measured there.

    shapes: at most so many behind a name. minutes: from the first compilation on, after which no further file is begun.
    """

    engine: Flavour
    path: Path
    output: Path
    device_name: str | None
    shapes: int
    minutes: float
    jobs: int


def add_survey(parser: argparse.ArgumentParser) -> None:
    """The command line of `survey`."""
    parser.description = (
        "Measures every tuned file that an engine ships for the GPU at hand, as the engine reads and runs it, on its "
        "own kernel, beside what runs without the file and beside ours."
    )
    parser.epilog = "Exit 0: all that can be measured was. 1: something is missing. 2: bad use, or impossible here."
    parser.add_argument(
        "--engine",
        required=True,
        action="append",
        metavar="vllm=PATH|sglang=PATH",
        help="the engine as it is installed or unpacked, or the file with its kernel",
    )
    parser.add_argument("--output", type=cli.path_argument, default=MEASUREMENTS, metavar="DIR")
    parser.add_argument(
        "--device-name", metavar="NAME", help="only list what would be measured on this GPU; none is needed here"
    )
    parser.add_argument(
        "--shapes", type=int, default=2, metavar="N", help="of (K, top_k) behind a name, at most so many (2)"
    )
    parser.add_argument(
        "--minutes", type=float, default=3.0, metavar="M", help="compiling included; then no further file is begun (3)"
    )
    parser.add_argument("--jobs", type=int, default=usable_cores(), help="compiling processes (one a core)")


def request_of(options: argparse.Namespace) -> SurveyRequest:
    """UserError: a value that can't be."""
    if len(options.engine) > 1:
        raise UserError(f"--engine: expected one, found {len(options.engine)}. Fix: a survey of each.")
    ((engine, path),) = engine_arguments(options.engine).items()
    cli.check_within("--shapes", [options.shapes], MOST_SHAPES)
    cli.check_within("--jobs", [options.jobs], MAX_JOBS)
    if not 0 < options.minutes <= MOST_MINUTES:
        raise UserError(f"--minutes: expected more than 0 and at most {MOST_MINUTES}, found {options.minutes}.")
    return SurveyRequest(
        Flavour(engine.value), path, options.output, options.device_name, options.shapes, options.minutes, options.jobs
    )


def survey(options: argparse.Namespace) -> int:
    """Runs the command; returns its exit code. UserError: nothing was measured."""
    is_whole, text = run(request_of(options), _say)
    sys.stdout.write(text)
    return 0 if is_whole else 1


def _say(line: str) -> None:
    cli.say(f"portfolio: {printable(line)}")


# ---------------------------------------------------------------
# From times to the board


def survey_row(configs: RowConfigs, timed: TimedRow) -> SurveyRow:
    """Where one of them failed, the ratios with it are None."""
    heuristic, shipped = timed.us.get(configs.heuristic), timed.us.get(configs.shipped)
    ours = None if configs.ours is None else timed.us.get(configs.ours)
    contestants = (("the shipped file", configs.shipped), ("the heuristic", configs.heuristic), ("ours", configs.ours))
    failures = [f"{name}: {timed.failures[c]}" for name, c in contestants if c is not None and c in timed.failures]
    return SurveyRow(
        timed.num_tokens,
        heuristic_us=_median(heuristic),
        shipped_us=_median(shipped),
        ours_us=_median(ours),
        shipped=_paired(shipped, heuristic),
        ours=_paired(ours, heuristic),
        over_shipped=_paired(ours, shipped),
        failure=f"M={timed.num_tokens}, {failures[0]}" if failures else "",
    )


def _median(series: Sequence[float] | None) -> float | None:
    return None if series is None else round(statistics.median(series), 3)


def _paired(own: Sequence[float] | None, other: Sequence[float] | None) -> Ratio | None:
    if own is None or other is None:
        return None
    ratio = Ratio.of(own, other)
    return replace(ratio, low=round(ratio.low, 4), mean=round(ratio.mean, 4), high=round(ratio.high, 4))


@dataclass
class SurveyProgress:
    """What is known by now of a plan's contests, by their places in it.

    failed: why a shape couldn't be measured. ended: why the run comes to no further one; until it says, it was killed.
    """

    found: SurveyPlan
    shapes: dict[int, list[SurveyedShape]] = field(default_factory=dict)
    failed: dict[int, list[str]] = field(default_factory=dict)
    ended: str = "not reached before the survey was killed"

    def add(self, index: int, shape: SurveyedShape) -> None:
        self.shapes.setdefault(index, []).append(shape)

    def fail(self, index: int, why: str) -> None:
        """One of the contest's shapes."""
        self.failed.setdefault(index, []).append(why)

    @property
    def files(self) -> tuple[SurveyedFile, ...]:
        return tuple(
            _surveyed(self.found.contests[index], tuple(shapes), self._without(index))
            for index, shapes in sorted(self.shapes.items())
        )

    @property
    def left_out(self) -> tuple[LeftOut, ...]:
        """What the plan leaves out, every shape that failed, and what the run didn't come to: a file, or some of its
        shapes."""
        missing = []
        for index, contest in enumerate(self.found.contests):
            failed = self.failed.get(index, [])
            reasons = [*failed, *self._unreached(index, len(contest.shapes), len(failed))]
            missing += [LeftOut(contest.file.name, why, is_missing=True) for why in reasons]
        return (*self.found.left_out, *missing)

    def _unreached(self, index: int, planned: int, failed: int) -> Iterator[str]:
        known = len(self.shapes.get(index, [])) + failed
        if known < planned:
            yield f"{planned - known} of its {planned} shapes: {self.ended}" if known else self.ended

    def _without(self, index: int) -> int:
        """How many of the contest's shapes have no times."""
        return len(self.found.contests[index].shapes) - len(self.shapes[index])


def _surveyed(contest: ShippedContest, shapes: tuple[SurveyedShape, ...], unreached: int) -> SurveyedFile:
    file = contest.file
    down = None if file.down is None else file.down.found.relative.as_posix()
    name = file.workload.file_name()
    return SurveyedFile(name, file.name, down, contest.ours_path, shapes, contest.unmeasured + unreached)


# ---------------------------------------------------------------
# The run


def _on_the_gpu(engine: EnginePackage) -> contextlib.AbstractContextManager[Timer]:
    """UserError: no GPU, or no kernel that can be cut out of the engine."""
    if find_gpu() is None:  # before what only a machine with one has
        raise UserError(
            "expected a GPU, found none. Fix: run where there is one, or list what would be measured: --device-name."
        )
    from tools.portfolio.survey_process import GpuTimer

    return GpuTimer(session.engine_kernel(EngineFile(engine.flavour, engine.kernel)))


def run(request: SurveyRequest, say: Say) -> tuple[bool, str]:
    """(whether nothing is missing and all was written, what goes to stdout).

    The board is written anew after each shape. UserError: nothing was measured.
    """
    engine = find_engine(request.engine, request.path)
    if request.device_name is not None:
        found = plan(engine, request.device_name, reference_triton(), request.shapes)
        return True, listed(engine, found, request.device_name, reference_triton())
    cli.check_folder(request.output, "--output")
    with _on_the_gpu(engine) as timer:
        here = timer.environment
        found = plan(engine, here.device_name, here.triton, request.shapes)
        if not found.contests:
            raise UserError(
                f"{engine.flavour}: expected files for {here.device_name} that can be measured, found none."
            )
        for note in (*timer.notes, *found.notes):
            say(note)
        done, is_written = _survey(request, engine, found, timer, say)
    return done.is_whole and is_written, to_markdown(done)


def _survey(
    request: SurveyRequest, engine: EnginePackage, found: SurveyPlan, timer: Timer, say: Say
) -> tuple[Survey, bool]:
    """(the whole board, whether it could be written)."""
    heuristics = measured_heuristics(lambda name: engine.package if name == engine.flavour else None)
    for note in heuristics.notes:
        say(note)
    date, begun = today().isoformat(), time.monotonic()
    failures = timer.compile(found.contests, request.jobs, say)
    progress, environment, started = SurveyProgress(found), timer.environment, time.monotonic()

    def board() -> Survey:
        return Survey(
            engine.flavour,
            engine.package.version,
            date,
            environment,
            heuristics.versions[engine.flavour],
            BATCH_SIZES,
            round(time.monotonic() - started, 1),
            progress.files,
            progress.left_out,
        )

    device = normalise_device_name(environment.device_name)
    stem = f"{date}-survey-{engine.flavour}-{device}-triton-{environment.triton}"
    growing = session.GrowingReport(request.output, stem, say)
    for index, place in in_turn(found.contests):
        contest = found.contests[index]
        shape, layer = contest.shapes[place]
        if time.monotonic() - begun > 60.0 * request.minutes:
            progress.ended = f"not reached within {request.minutes:g} minutes"
            say(f"{progress.ended}: {contest.file.name} and what comes after it")
            break
        rows = {num_tokens: contest.configs(num_tokens, engine.flavour) for num_tokens in BATCH_SIZES}
        try:
            timed = timer.measure(layer, rows, failures)
        except ShapeNotMeasuredError as error:
            progress.fail(index, str(error))
            say(f"{contest.file.name}: not measured: {error}")
            continue
        except (GpuLostError, MachineError) as error:
            progress.ended = str(error)
            say(f"{contest.file.name}: the survey ends here: {error}")
            break
        surveyed = SurveyedShape(shape, tuple(survey_row(rows[row.num_tokens], row) for row in timed))
        progress.add(index, surveyed)
        known = board()
        growing.write(to_markdown(known), to_text(known))
        say(f"{contest.file.name}, {shape.shape}: {_said(surveyed)}")
    whole = board()
    is_written = bool(growing.finish(to_markdown(whole), to_text(whole)))
    return whole, is_written


def in_turn(contests: Sequence[ShippedContest]) -> Iterator[tuple[int, int]]:
    """(contest, shape) by their places: every name's first shape, then the second ones: time may not last for all."""
    for place in range(max((len(contest.shapes) for contest in contests), default=0)):
        yield from ((index, place) for index, contest in enumerate(contests) if place < len(contest.shapes))


def _said(shape: SurveyedShape) -> str:
    ratios = [row.shipped.mean for row in shape.rows if row.shipped is not None]
    if not ratios:
        return f"failed: {next(row.failure for row in shape.rows)}"
    return f"{geomean(ratios):.3f} of no file's time, worst row {max(ratios):.3f}"
