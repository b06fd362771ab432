"""`portfolio survey`: every file that an engine ships for the GPU at hand, beside that engine's heuristic and our file.

On the engine's own kernel, each file as the engine reads and runs it, under uniform routing.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol

from kernels.problem import Flavour
from tools import cli
from tools.bench import session
from tools.bench.request import MAX_JOBS, EngineFile, check_counts
from tools.bench.session import Gpu
from tools.checkout import reference_triton
from tools.child_process import usable_cores
from tools.errors import UserError
from tools.launch.heuristic_version import measured_heuristics
from tools.launch.layer_config import LayerConfig
from tools.measure.layer import LayerShape
from tools.measure.panel import Ratio
from tools.measure.statistics import geomean
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
from tools.portfolio.survey_plan import BATCH_SIZES, Contest, RowConfigs, SurveyPlan, listed, plan
from tools.registry.devices import normalise_device_name
from tools.store.record import Environment
from tools.text import printable, shown_path

MOST_SHAPES = 32
MOST_MINUTES = 600

Say = Callable[[str], None]


@dataclass(frozen=True)
class SurveyRequest:
    """path: as `find_engine` takes it. output: the board's folder. device_name: only list what would be measured there.

    shapes: at most so many behind a name. minutes: of GPU time, after which no further file is begun.
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
        metavar="vllm=PATH|sglang=PATH",
        help="the engine as it is installed or unpacked, or the file with its kernel",
    )
    parser.add_argument("--output", type=cli.path_argument, default=Path("docs/measurements"), metavar="DIR")
    parser.add_argument(
        "--device-name", metavar="NAME", help="only list what would be measured on this GPU; none is needed here"
    )
    parser.add_argument(
        "--shapes", type=int, default=2, metavar="N", help="of (K, top_k) behind a name, at most so many (2)"
    )
    parser.add_argument(
        "--minutes", type=float, default=3.0, metavar="M", help="of GPU time; then no further file is begun (3)"
    )
    parser.add_argument("--jobs", type=int, default=usable_cores(), help="compiling processes (one a core)")


def request_of(options: argparse.Namespace) -> SurveyRequest:
    """UserError: a value that can't be."""
    name, _, path = options.engine.partition("=")
    if name not in list(Flavour) or not path:
        raise UserError(f"--engine: expected vllm=PATH or sglang=PATH, found {printable(options.engine)!r}.")
    check_counts("--shapes", [options.shapes], MOST_SHAPES)
    check_counts("--jobs", [options.jobs], MAX_JOBS)
    if not 0 < options.minutes <= MOST_MINUTES:
        raise UserError(f"--minutes: expected more than 0 and at most {MOST_MINUTES}, found {options.minutes}.")
    return SurveyRequest(
        Flavour(name), Path(path), options.output, options.device_name, options.shapes, options.minutes, options.jobs
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


@dataclass(frozen=True)
class TimedRow:
    """us: by launch configs, a value a block. failures: why others have none."""

    num_tokens: int
    us: Mapping[LayerConfig, Sequence[float]]
    failures: Mapping[LayerConfig, str]


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
class Progress:
    """What is known by now of a plan's contests, by their places in it. unreached: why a shape isn't measured."""

    found: SurveyPlan
    shapes: dict[int, list[SurveyedShape]] = field(default_factory=dict)
    unreached: dict[int, list[str]] = field(default_factory=dict)

    def add(self, index: int, shape: SurveyedShape) -> None:
        self.shapes.setdefault(index, []).append(shape)

    def leave_out(self, index: int, why: str) -> None:
        """One of the contest's shapes."""
        self.unreached.setdefault(index, []).append(why)

    @property
    def files(self) -> tuple[SurveyedFile, ...]:
        return tuple(
            _surveyed(self.found.contests[index], tuple(shapes), len(self.unreached.get(index, ())))
            for index, shapes in sorted(self.shapes.items())
        )

    @property
    def left_out(self) -> tuple[LeftOut, ...]:
        """What the plan leaves out, and the files of which nothing was measured, though they could be."""
        missing = [(index, why[0]) for index, why in sorted(self.unreached.items()) if index not in self.shapes]
        names = [each.file.name for each in self.found.contests]
        return (*self.found.left_out, *(LeftOut(names[index], why, is_missing=True) for index, why in missing))


def _surveyed(contest: Contest, shapes: tuple[SurveyedShape, ...], unreached: int) -> SurveyedFile:
    file = contest.file
    down = None if file.down is None else file.down.found.relative.as_posix()
    name = file.workload.file_name()
    return SurveyedFile(name, file.name, down, contest.ours_path, shapes, contest.unmeasured + unreached)


# ---------------------------------------------------------------
# The run


class NotMeasuredError(UserError):
    """Why a shape can't be measured here. The message goes into the board."""


class GpuLostError(UserError):
    """A launch broke the GPU's context: nothing more can be measured in this process."""


Launched = tuple[LayerShape, int, LayerConfig]
"""A layer, a batch size, and what runs there."""


class Timer(Protocol):
    """The GPU half, `survey_gpu.Surveyor`."""

    @property
    def environment(self) -> Environment: ...

    def compile(self, contests: Sequence[Contest], jobs: int, say: Say) -> Mapping[Launched, str]:
        """What can't be launched, and why."""

    def measure(
        self, layer: LayerShape, rows: Mapping[int, RowConfigs], failures: Mapping[Launched, str]
    ) -> Sequence[TimedRow]:
        """rows: by batch size. NotMeasuredError, GpuLostError."""


def _on_the_gpu(engine: EnginePackage) -> Timer:
    """UserError: no GPU that is known here, or no kernel that can be cut out of the engine."""
    gpu = Gpu.here()
    kernel = session.engine_kernel(EngineFile(engine.flavour, engine.kernel))
    from tools.portfolio.survey_gpu import Surveyor

    return Surveyor.here(gpu, kernel)


def run(request: SurveyRequest, say: Say) -> tuple[bool, str]:
    """(whether nothing is missing, what goes to stdout). The board is written anew after each shape.

    UserError: nothing was measured.
    """
    engine = find_engine(request.engine, request.path)
    if request.device_name is not None:
        found = plan(engine, request.device_name, reference_triton(), request.shapes)
        return True, listed(engine, found, request.device_name, reference_triton())
    cli.check_folder(request.output, "--output")
    timer = _on_the_gpu(engine)
    here = timer.environment
    found = plan(engine, here.device_name, here.triton, request.shapes)
    if not found.contests:
        raise UserError(f"{engine.flavour}: expected files for {here.device_name} that can be measured, found none.")
    for note in found.notes:
        say(note)
    done = _survey(request, engine, found, timer, say)
    return done.is_whole, to_markdown(done)


def _survey(request: SurveyRequest, engine: EnginePackage, found: SurveyPlan, timer: Timer, say: Say) -> Survey:
    heuristics = measured_heuristics(lambda name: engine.package if name == engine.flavour else None)
    for note in heuristics.notes:
        say(note)
    failures = timer.compile(found.contests, request.jobs, say)
    progress, environment, started = Progress(found), timer.environment, time.monotonic()

    def board() -> Survey:
        return Survey(
            engine.flavour,
            engine.package.version,
            session.today(),
            environment,
            heuristics.versions[engine.flavour],
            BATCH_SIZES,
            round(time.monotonic() - started, 1),
            progress.files,
            progress.left_out,
        )

    device = normalise_device_name(environment.device_name)
    stem = f"{session.today()}-survey-{engine.flavour}-{device}-triton-{environment.triton}"
    path, why_not = None, ""
    for index, place in in_turn(found.contests):
        contest = found.contests[index]
        shape, layer = contest.shapes[place]
        if not why_not and time.monotonic() - started > 60.0 * request.minutes:
            why_not = f"not reached within {request.minutes:g} minutes"
        if why_not:
            progress.leave_out(index, why_not)
            continue
        rows = {num_tokens: contest.configs(num_tokens, engine.flavour) for num_tokens in BATCH_SIZES}
        try:
            timed = timer.measure(layer, rows, failures)
        except NotMeasuredError as error:
            progress.leave_out(index, str(error))
            continue
        except GpuLostError as error:
            why_not = str(error)
            progress.leave_out(index, why_not)
            continue
        surveyed = SurveyedShape(shape, tuple(survey_row(rows[row.num_tokens], row) for row in timed))
        progress.add(index, surveyed)
        path = path or session.claim(request.output, stem)
        session.write(path, to_markdown(board()), to_text(board()))
        say(f"{contest.file.name}, {shape.shape}: {_said(surveyed)}")
    whole = board()
    for written in session.write(path or session.claim(request.output, stem), to_markdown(whole), to_text(whole)):
        say(f"written: {shown_path(written)}")
    return whole


def in_turn(contests: Sequence[Contest]) -> Iterator[tuple[int, int]]:
    """(contest, shape) by their places: every name's first shape, then the second ones: time may not last for all."""
    for place in range(max((len(contest.shapes) for contest in contests), default=0)):
        yield from ((index, place) for index, contest in enumerate(contests) if place < len(contest.shapes))


def _said(shape: SurveyedShape) -> str:
    ratios = [row.shipped.mean for row in shape.rows if row.shipped is not None]
    if not ratios:
        return f"failed: {next(row.failure for row in shape.rows)}"
    return f"{geomean(ratios):.3f} of no file's time, worst row {max(ratios):.3f}"
