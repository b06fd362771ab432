"""The child process that benches or tunes one planned file: what hangs or crashes in it takes no other file with it.

This module is both ends. `bench_in_child` and `tune_in_child` start `python -m tools.pull_request.child`; the job goes
in on its stdin, the answer comes out of its stdout, both JSON, and what people read goes to stderr. The child calls
bench and tuner with the entries and shapes of the plan; only there are they imported, since torch takes seconds.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kernels.launch_config import LaunchConfig
from kernels.problem import Flavour
from tools.checkout import CHECKOUT
from tools.child_process import usable_cores
from tools.cli import run, say
from tools.errors import MachineError, UserError
from tools.findings import emit
from tools.launch.heuristics import clamped
from tools.measure.judgement import Duel, PartVerdict, RowVerdict, worst_beside
from tools.measure.panel import DRAWN_KINDS, Part, Ratio, RoutingKind
from tools.measure.statistics import NOISE_PCT
from tools.pull_request.documents import PlannedFile
from tools.pull_request.judge import BenchedPart, BenchedRow
from tools.registry.devices import Device, load_devices
from tools.registry.models import Asked, load_models
from tools.registry.shapes import engines_reading, quant_mode_of, registered_shapes
from tools.store.record import Environment, ShapeOfModels
from tools.store.strict_json import Json, parse
from tools.text import printable
from tools.with_parent import bound

if TYPE_CHECKING:
    from tools.bench.candidates import FileComparison
    from tools.tune.journal import Journal
    from tools.tune.protocol import Subject

MODULE = "tools.pull_request.child"
MAX_OUTPUT_BYTES = 16 << 20
_IMPOSSIBLE = 2

BENCH, TUNE = "bench", "tune"
MAIN = "main"
"""What the bench calls main's file."""


class NotMeasuredError(Exception):
    """reason: a member of schema/results.schema.json's enumeration."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(frozen=True)
class BenchedFile:
    """A planned file beside main's and the heuristic, by batch size, and where it was measured."""

    rows: Mapping[int, BenchedRow]
    environment: Environment

    def to_json(self) -> dict[str, Json]:
        rows = {str(num_tokens): row.to_json() for num_tokens, row in self.rows.items()}
        return {"environment": self.environment.to_json(), "rows": rows}

    @classmethod
    def read(cls, document: Mapping[str, Json]) -> BenchedFile:
        """Inverse of `to_json`. KeyError, TypeError, ValueError, AttributeError: it is something else."""
        rows = {int(num_tokens): BenchedRow.read(row) for num_tokens, row in document["rows"].items()}
        return cls(rows, Environment.read(document["environment"]))


# ---------------------------------------------------------------
# The parent's end. landscape: a recording that stands in for the GPU, None: this machine's GPU.


def bench_in_child(file: PlannedFile, landscape: Path | None, limit_s: float) -> BenchedFile:
    """Claimed beside main's beside the heuristic, in shared blocks; main's alone where the claim is its removal.

    NotMeasuredError: as of `run_child`.
    """
    document = run_child(MODULE, _job(BENCH, file, landscape), limit_s)
    try:
        return BenchedFile.read(document)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise NotMeasuredError("crashed") from error


def tune_in_child(
    file: PlannedFile, landscape: Path | None, output: Path, time_budget_s: float, limit_s: float
) -> dict[int, float]:
    """The new entries' times in µs, by batch size. output: folder of tiers; an incumbent in it is the one to beat.

    NotMeasuredError: as of `run_child`.
    """
    job = {**_job(TUNE, file, landscape), "output": str(output), "time_budget_s": time_budget_s}
    document = run_child(MODULE, job, limit_s)
    try:
        return {int(num_tokens): float(us) for num_tokens, us in document["new_us"].items()}
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise NotMeasuredError("crashed") from error


def run_child(module: str, job: Mapping[str, Json], limit_s: float) -> Any:
    """The JSON that `python -m MODULE` answers to the job; what it says to people goes to our stderr.

    NotMeasuredError: «timeout» after limit_s, with everything it started; «unsupported» where it says impossible here
    (exit 2); «crashed» for any other end, and where it printed no JSON.
    """
    with tempfile.TemporaryFile() as question, tempfile.TemporaryFile() as output:
        question.write(json.dumps(job, allow_nan=False).encode())
        question.seek(0)
        process = subprocess.Popen(
            bound([sys.executable, "-m", module]), stdin=question, stdout=output, cwd=CHECKOUT, start_new_session=True
        )
        try:
            code = process.wait(max(0.0, limit_s))
        except subprocess.TimeoutExpired as error:
            raise NotMeasuredError("timeout") from error
        finally:
            _end(process)
        if code:
            raise NotMeasuredError("unsupported" if code == _IMPOSSIBLE else "crashed")
        output.seek(0)
        document, faults = parse(output.read(MAX_OUTPUT_BYTES))
    if faults:
        raise NotMeasuredError("crashed")
    return document


def _job(work: str, file: PlannedFile, landscape: Path | None) -> dict[str, Json]:
    # Absolute: the child runs in the checkout.
    return {"work": work, "file": file.to_json(), "landscape": landscape and str(landscape.absolute())}


def _end(process: subprocess.Popen[bytes]) -> None:
    """With its whole group; what has a group of its own (tools.child_process) dies with its parent."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


# ---------------------------------------------------------------
# The child's end


def main(arguments: Sequence[str] | None = None) -> int:  # noqa: ARG001 (the job comes on stdin)
    """Does the job on stdin. 0: answered. 1: it went wrong. 2: impossible here."""
    from tools.tune.journal import JournalError
    from tools.tune.protocol import RunnerError
    from tools.tune.tuner import TuneError

    job = json.load(sys.stdin)
    try:
        # Whatever a library prints would otherwise stand in the answer.
        with contextlib.redirect_stdout(sys.stderr):
            answer = _answer(job)
    except (JournalError, MachineError, RunnerError, TuneError) as error:
        say(f"{job['work']}: {printable(str(error))}")
        return 1
    except UserError as error:
        say(f"{job['work']}: {printable(str(error))}")
        return _IMPOSSIBLE
    emit(json.dumps(answer, allow_nan=False))
    return 0


def _answer(job: Mapping[str, Json]) -> dict[str, Json]:
    file = PlannedFile.read(job["file"])
    landscape = None if job["landscape"] is None else Path(job["landscape"])
    if job["work"] == TUNE:
        new_us = tune(file, landscape, Path(job["output"]), job["time_budget_s"])
        return {"new_us": {str(num_tokens): us for num_tokens, us in new_us.items()}}
    return (bench_here(file) if landscape is None else bench_recorded(file, landscape)).to_json()


def bench_here(file: PlannedFile) -> BenchedFile:
    """In every engine's flavour that reads the name, on draws of CI's own. UserError: impossible here."""
    from tools.bench.candidates import Judging
    from tools.bench.compare_files import compare
    from tools.bench.session import Gpu
    from tools.compile.pool import CompilePool
    from tools.measure.gpu import check_memory
    from tools.measure.seeds import Purpose

    with CompilePool(usable_cores()) as pool:
        pool.start()
        gpu = Gpu.here()
        comparison = comparison_of(file, gpu.device)
        for note in check_memory(gpu.torch, [(comparison.name, comparison.shapes, max(file.batch_sizes))]):
            _say(note)
        # All that a record says of draws: main's word covers each of its parts.
        judging = Judging(DRAWN_KINDS, purpose=Purpose.CI)
        report = compare(gpu, [comparison], None, judging, pool, _say)
    return BenchedFile({row.num_tokens: benched_row(row) for row in report.files[0].rows}, report.environment)


def _say(line: str) -> None:
    say(f"{BENCH}: {printable(line)}")


def comparison_of(file: PlannedFile, device: Device) -> FileComparison:
    """What the bench compares: the file first, the heuristic, and main's file beside a claimed one.

    UserError: there is no kernel or heuristic for it.
    """
    from tools.bench.candidates import THIS_FILE, Candidate, FileComparison, heuristic
    from tools.measure.layer import LayerShape

    workload, models = file.id.workload, load_models()
    quant = quant_mode_of(workload)
    if quant is None:
        raise UserError(f"{file.id.relative}: expected a dtype that this kernel runs, found {workload.dtype}.")
    own = Candidate.alike(THIS_FILE, file.claimed or file.main)
    candidates = [own, heuristic(workload, file.batch_sizes, device)]
    if file.claimed and file.main:
        candidates.append(Candidate.alike(MAIN, file.main))
    shapes = tuple(LayerShape.of(workload, planned.shape, quant) for planned in file.shapes)
    engines = tuple(engines_reading(workload, planned.shape, models) for planned in file.shapes)
    return FileComparison(str(file.id.relative), workload, shapes, tuple(candidates), file.batch_sizes, engines)


def benched_row(row: RowVerdict) -> BenchedRow:
    """The row of a comparison as `comparison_of` makes it; of an engine and routing the shape that does worst first."""
    from tools.bench.candidates import NO_FILE

    found: dict[tuple[Flavour, RoutingKind], list[PartVerdict]] = {}
    for part in row.parts:
        found.setdefault((part.part.engine, part.part.routing), []).append(part)
    parts: list[PartVerdict] = []
    for shapes in found.values():
        worst = worst_beside(shapes, NO_FILE)
        parts += [worst, *(part for part in shapes if part is not worst)]
    return BenchedRow(tuple(map(_benched_part, parts)), _over_main(row))


def _benched_part(verdict: PartVerdict) -> BenchedPart:
    from tools.bench.candidates import NO_FILE, THIS_FILE

    part, us = verdict.part, {name: measured.us for name, measured in verdict.measured.items()}
    times, duels = (us[THIS_FILE], us.get(MAIN), us[NO_FILE]), (verdict.duels.get(MAIN), verdict.duels[NO_FILE])
    mains = verdict.ratio_between(MAIN, NO_FILE)
    return BenchedPart(part.engine, part.routing, *times, *duels, mains, part.placement)


def _over_main(row: RowVerdict) -> Ratio | None:
    """The file's score over main's."""
    from tools.bench.candidates import THIS_FILE

    found = [[part.measured[name] for name in (THIS_FILE, MAIN) if name in part.measured] for part in row.parts]
    if any(len(pair) < 2 or None in [measured.us for measured in pair] for pair in found):
        return None
    return row.panel.score_between(THIS_FILE, MAIN)


def tune(file: PlannedFile, landscape: Path | None, output: Path, time_budget_s: float) -> dict[int, float]:
    """The new entries' times in µs, by batch size; file and record lie below `output`. UserError: impossible here."""
    from tools.tune import session
    from tools.tune.request import Effort, Files, TuneRequest

    request = TuneRequest(
        sources=(),
        batch_sizes=file.batch_sizes,
        files=Files(output=output, replay=landscape),
        effort=Effort(time_budget_s),
        recorded=None,
        separate_down=False,
        all_shapes=False,
        ray=None,
        as_json=True,
    )
    if landscape is not None:
        summary = session.replay(request, landscape)
    else:
        summary = session.tune_here(request, subject_of(file))
    return {line.num_tokens: line.new_us for line in summary.lines}


def subject_of(file: PlannedFile) -> Subject:
    """What the tuner tunes: the plan's workload and shapes. UserError: no kernel or heuristic covers it."""
    from tools.tune.subject import SizesSource, make_subject, with_shapes

    workload, first, models = file.id.workload, file.shapes[0].shape, load_models()
    sizes = (workload.E, workload.N, first.K, first.top_k)
    source = SizesSource(*sizes, Asked(workload.dtype, workload.block_shape, workload.per_channel_quant))
    subject = make_subject(source, workload.device_name, models, load_devices())
    served = {known.shape: known.models for known in registered_shapes(workload, models)}
    shapes = [planned.shape for planned in file.shapes]
    return with_shapes(subject, [ShapeOfModels(shape, served.get(shape, ())) for shape in shapes], models)


# ---------------------------------------------------------------
# A bench on a landscape: what an entry took when it was recorded is what it takes now. For tests and dry runs.

TimesUs = Mapping[tuple[int, Part, LaunchConfig], float]
"""By batch size, part and entry."""


def bench_recorded(file: PlannedFile, landscape: Path) -> BenchedFile:
    """What the landscape holds of claimed, main's and the heuristic's entries; the rest is not known.

    JournalError: it can't be used.
    """
    from tools.tune.journal import Journal, JournalError

    journal = Journal.read(landscape)
    if journal.device is None or not journal.device.environment:
        raise JournalError(f"{landscape}: expected the landscape of a finished run, found one without its GPU's report")
    times_us = recorded_times(journal)
    rows = {
        num_tokens: _recorded_row(file, journal.header.subject, times_us, num_tokens) for num_tokens in file.batch_sizes
    }
    return BenchedFile(rows, journal.device.environment)


def recorded_times(journal: Journal) -> TimesUs:
    """Up and down together: the median of a part's first blocks, else what screening saw."""
    from tools.compile.outcome import Status
    from tools.tune.protocol import Measured, Screened

    screened: dict[tuple[int, Part, LaunchConfig], float] = {}
    measured: dict[tuple[int, Part, LaunchConfig], float] = {}
    for entry in journal.entries:
        match entry.event:
            case Screened(job, Status.OK) as event:
                screened[job.num_tokens, job.part, job.config] = event.total_us
            case Measured(job, all_series) if job.up is None:
                for series in all_series:
                    if series.us:
                        key = job.num_tokens, job.part, series.config
                        measured.setdefault(key, statistics.median(series.us))
    return {**screened, **measured}


def _recorded_row(file: PlannedFile, subject: Subject, times_us: TimesUs, num_tokens: int) -> BenchedRow:
    """The first engine's parts under uniform routing, the shape where the file does worst first; then the others that
    the landscape has anything of."""
    from tools.tune.tuner import heuristics_of

    heuristics = heuristics_of(subject, num_tokens)
    own = _entry(file, file.claimed or file.main, num_tokens)
    main = _entry(file, file.main, num_tokens) if file.claimed else None

    def benched(part: Part) -> BenchedPart:
        configs = own, main, heuristics[part.engine]
        own_us, main_us, heuristic_us = (times_us.get((num_tokens, part, c)) if c else None for c in configs)
        duels = _recorded_duel(own_us, main_us), _recorded_duel(own_us, heuristic_us)
        over = _ratio_of(main_us, heuristic_us)
        return BenchedPart(part.engine, part.routing, own_us, main_us, heuristic_us, *duels, over, part.placement)

    shapes = range(len(subject.shapes))
    usual = [Part(subject.first_engine(shape), shape, RoutingKind.UNIFORM) for shape in shapes]
    first = sorted(map(benched, usual), key=_worst_ratio, reverse=True)
    known = {part for at, part, config in times_us if at == num_tokens and config == own}
    others = [
        benched(part)
        for part in itertools.starmap(Part, itertools.product(heuristics, shapes, DRAWN_KINDS))
        if part in known and part not in usual
    ]
    return BenchedRow((*first, *others), first[0].against_main.ratio if first[0].against_main else None)


def _entry(file: PlannedFile, entries: Mapping[int, LaunchConfig], num_tokens: int) -> LaunchConfig | None:
    from tools.bench.candidates import Candidate

    return clamped(Candidate.alike("", entries).entry(num_tokens), file.id.workload) if entries else None


def _recorded_duel(own_us: float | None, other_us: float | None) -> Duel | None:
    ratio = _ratio_of(own_us, other_us)
    return None if ratio is None else Duel.of(ratio)


def _ratio_of(own_us: float | None, other_us: float | None) -> Ratio | None:
    """Of two medians, which is all that is known: as sure as two captures of one launch config agree."""
    if own_us is None or other_us is None:
        return None
    ratio, noise = own_us / other_us, NOISE_PCT / 100.0
    return Ratio(ratio * (1.0 - noise), ratio, ratio * (1.0 + noise), 0)


def _worst_ratio(part: BenchedPart) -> float:
    ratios = [duel.ratio.mean for duel in (part.against_main, part.against_heuristic) if duel and duel.ratio]
    return max(ratios, default=0.0)


if __name__ == "__main__":
    run(main, "pull_request")
