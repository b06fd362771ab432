"""One run of the tuner at its edge: finds out what is here, starts runner and journal, writes file and record."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from kernels.launch_config import LaunchConfig
from kernels.problem import Flavour
from tools.checkout import installed_triton
from tools.errors import UserError, reason_of
from tools.launch.heuristics import clamped
from tools.launch.kernel_hash import kernel_sha256
from tools.measure.engine_kernel import cut, engine_version
from tools.measure.kernels import EngineKernel
from tools.measure.panel import DRAWN_KINDS, RoutingKind
from tools.measure.recorded_routing import read_recorded_routing
from tools.registry.devices import normalise_device_name
from tools.store import schemas
from tools.store.existing import Existing
from tools.store.files import canonical_entries, write_file
from tools.store.record import Environment
from tools.text import counted, printable, shown_path
from tools.tune import evidence
from tools.tune.destination import Origin, find_destination
from tools.tune.evidence import Rates
from tools.tune.journal import Journal, JournalError, JournalHeader
from tools.tune.live import LiveSession, Supervisor
from tools.tune.policy import Budget, PanelPolicy, Policies, SearchPolicy
from tools.tune.protocol import Compiled, DeviceReport, Event, Measured, Screened, Subject, WorkerSpec
from tools.tune.regret import regrets
from tools.tune.replay import RecordingRunner, ReplayRunner
from tools.tune.report import Progress, TuneSummary, progress
from tools.tune.request import UNIFORM_ALONE, DownKernel, TuneRequest
from tools.tune.run_journals import journal_path, open_journals, partial_path
from tools.tune.search import InOrder, Strategy, usual_strategy
from tools.tune.space import Space, candidates, why_no_descriptors
from tools.tune.tuner import SIZES_BETWEEN, RowResult, Task, TuneError, tune, wanted_by_row
from tools.tune.write import MeasuredRun, deliver, summarise


class NotWrittenError(UserError):
    """All is tuned, but can't be written. summary: what was found."""

    def __init__(self, reason: OSError | UserError, summary: TuneSummary, way_on: str = "") -> None:
        if isinstance(reason, OSError):
            where = shown_path(Path(reason.filename)) if reason.filename else "--output"
            told = f"{where}: expected to write it, found: {reason_of(reason)}."
        else:
            told = str(reason)
        super().__init__(f"{told}{way_on}")
        self.summary = summary


class IncompleteLandscapeError(UserError):
    """A replay came to its end on a landscape that lacks a part. summary: what was found on the rest."""

    def __init__(self, path: Path, gaps: Sequence[str], summary: TuneSummary) -> None:
        super().__init__(
            f"{shown_path(path)}: expected a whole landscape, found one without {' and '.join(gaps)}: what the replay "
            "found holds for the rest alone, and nothing was written. Fix: give the file as the tuner wrote it."
        )
        self.summary = summary


def resumes(request: TuneRequest, subject: Subject) -> bool:
    """Whether the workload goes on where a killed run was: of several, those that it hadn't begun start anew."""
    is_begun = journal_path(subject.workload.file_name()).exists()
    return request.effort.resume and (is_begun or len(request.sources) == 1)


def tune_here(request: TuneRequest, subject: Subject) -> TuneSummary:
    """Tunes on this machine's GPU and writes file and record.

    UserError, ExistingError, JournalError, DeviceRefused: nothing was measured or written. RunnerError, TuneError,
    MachineError: the run ended early; its journal is there to resume. NotWrittenError: it came to its end.
    """
    request = with_down_kernel(with_recorded(request, subject))
    recorded, down_kernel = (each.path if each else None for each in (request.recorded, request.down_kernel))
    origin = origin_here()
    place, existing = find_destination(request, subject, origin)
    task = make_task(request, subject, existing)
    header = JournalHeader(subject, request.settings, dict(vars(origin)))
    landscape = request.files.record_landscape
    with open_journals(header, landscape, resume=resumes(request, subject)) as journals:
        with (
            LiveSession(
                WorkerSpec(subject, max(task.batch_sizes), recorded, down_kernel),
                request.effort.jobs,
            ) as live,
            RecordingRunner(live.runner, journals.writers, journals.earlier) as runner,
            progress(len(task.batch_sizes), task.policies.budget.search_s) as tell,
        ):
            keep = _row_keeper(tell, partial_path(subject))
            result = tune(task, runner, _observer(tell, live.supervisor), keep)
            report = live.supervisor.report
            for writer in journals.writers:
                writer.report(report)
            rates = Rates(report.memory_bytes_per_s, report.dense_per_s)
            notes = (*report.notes, *untried(request, subject))
            measured = MeasuredRun(result, rates, runner.seconds_in_all, notes)
        assert report.environment is not None  # a process that is up tells all of it
        try:
            summary = deliver(request, subject, measured, report.environment, place, existing)
        except (OSError, UserError) as error:
            kept = f"The rows lie in {shown_path(partial_path(subject))}, and --resume writes them without measuring"
            raise NotWrittenError(error, summarise(subject, measured, ()), f" {kept}.") from error
        journals.forget()
        partial_path(subject).unlink(missing_ok=True)
    return summary


def with_recorded(request: TuneRequest, subject: Subject) -> TuneRequest:
    """With the hash of the recorded routing, where one is given. UserError: it is none of this subject's."""
    if request.recorded is None:
        return request
    recorded = read_recorded_routing(request.recorded.path)
    for layer in subject.layers:
        recorded.check(layer)
    return replace(request, recorded=replace(request.recorded, sha256=recorded.sha256))


def with_down_kernel(request: TuneRequest) -> TuneRequest:
    """With version and hash of SGLang's kernel, where one is given.

    EngineKernelError: it can't be launched; without Triton, where nothing is launched, that it can't be cut out.
    """
    if request.down_kernel is None or request.down_kernel.path is None:
        return request
    # realpath: Path.resolve raises where links lead in a circle; what isn't there the check says.
    path = Path(os.path.realpath(request.down_kernel.path))
    kernel, source = EngineKernel(path, Flavour.SGLANG), cut(path)
    if installed_triton() is not None:
        kernel.check()
    return replace(request, down_kernel=DownKernel(path, engine_version(path, kernel.name), source.sha256))


def untried(request: TuneRequest, subject: Subject) -> list[str]:
    """A line where SGLang's kernel was given for nothing."""
    why = None if request.down_kernel is None else why_no_descriptors(subject)
    return [] if why is None else [f"down isn't tried with USE_TMA: {why}"]


def replay(request: TuneRequest, landscape_path: Path) -> TuneSummary:
    """Tunes on a recorded landscape. Writes only where --output says so.

    JournalError: it can't be used, or lacks a part and was to be written from. IncompleteLandscapeError: it lacks a
    part. NotWrittenError: it came to its end.
    """
    landscape = Journal.read(landscape_path)
    header, device = landscape.header, landscape.device
    subject = header.subject
    environment = _environment(landscape_path, subject, device) if request.files.output else None
    gaps = landscape.gaps()
    if environment is not None and gaps:
        raise JournalError(
            f"{shown_path(landscape_path)}: expected a whole landscape to write from, found one without "
            f"{' and '.join(gaps)}. Fix: give the file as the tuner wrote it, or leave out --output."
        )
    batch_sizes = _recorded(request, landscape, landscape_path)
    missing = [m for m in request.batch_sizes if m not in batch_sizes]
    # What was measured under one routing stays so, and on what runs down apart.
    down_kernel = DownKernel.of_settings(header.settings) if request.separate_down else None
    routing = header.settings.get("routing", UNIFORM_ALONE)
    request = replace(request, batch_sizes=batch_sizes, routing=routing, down_kernel=down_kernel)
    kernel = header.environment.get("kernel_sha256", kernel_sha256())
    place = existing = None
    if environment is not None:
        place, existing = find_destination(request, subject, Origin(environment.triton, kernel))
    task, left_out = _as_recorded(make_task(request, subject, existing), landscape)
    runner = ReplayRunner(landscape)
    with progress(len(batch_sizes), task.policies.budget.search_s) as tell:
        try:
            result = tune(task, runner, tell.event, tell.row)
        except TuneError as error:
            if lost := [*gaps, *([_unrecorded(runner)] if runner.unrecorded else [])]:
                raise JournalError(
                    f"{shown_path(landscape_path)}: expected a whole landscape, found one without "
                    f"{' and '.join(lost)}: {error}"
                ) from error
            raise
    rates = Rates(device.memory_bytes_per_s, device.dense_per_s) if device else None
    notes = (
        f"replayed from {printable(landscape_path.name)}: nothing was measured; times and seconds are the recording's",
        *([f"not in the landscape: batch sizes {', '.join(map(str, missing))}"] if missing else []),
        *([f"not in the landscape: {', '.join(left_out)}; rows are chosen without"] if left_out else []),
    )
    is_exhaustive = header.settings.get("exhaustive") is True
    if unrecorded := _unrecorded(runner):
        # Of one that measured everything, all must be there; another strategy asks for more than a short run measured.
        # With USE_TMA down was tried behind the recording's own entries alone, which another strategy needn't choose.
        if is_exhaustive and any(not config.USE_TMA for config, _ in runner.unrecorded):
            gaps.append(unrecorded)
        notes = (*notes, f"not in the landscape: {unrecorded}")
    against = regrets(landscape, result.rows) if is_exhaustive and not request.effort.exhaustive else ()
    measured = MeasuredRun(result, rates, runner.clock_s, notes, kernel)
    if gaps:
        raise IncompleteLandscapeError(landscape_path, gaps, summarise(subject, measured, ()))
    if environment is None or place is None:
        return replace(summarise(subject, measured, ()), regrets=against)
    try:
        return replace(deliver(request, subject, measured, environment, place, existing), regrets=against)
    except (OSError, UserError) as error:
        raise NotWrittenError(error, summarise(subject, measured, ())) from error


def make_task(request: TuneRequest, subject: Subject, existing: Existing | None) -> Task:
    """What to tune, by the request's effort. UserError: no launch config passes the constraints."""
    space = candidates(subject)
    if not space.kernels:
        raise UserError(f"the workload: expected launch configs to try, found none. {space.rejected[0].message}")
    # As vLLM launches it: that is what an engine runs today.
    incumbent = {m: clamped(existing.nearest(m), subject.workload) for m in request.batch_sizes} if existing else {}
    if request.effort.exhaustive:
        policies = Policies(SearchPolicy.exhaustive(), PanelPolicy.exhaustive(), budget=Budget(math.inf))
    else:
        policies = Policies(budget=Budget(request.effort.time_budget_s).of_shapes(len(subject.shapes)))
    recorded = (RoutingKind.RECORDED,) if request.recorded else ()
    decides = request.recorded is not None and request.recorded.decides
    blank = Task(
        subject,
        space,
        request.batch_sizes,
        InOrder({}),
        incumbent,
        request.separate_down,
        policies,
        (*DRAWN_KINDS, *(recorded if decides else ())),
        () if decides else recorded,
        () if request.is_partial else SIZES_BETWEEN,
        request.down_kernel is not None,
    )
    return replace(blank, strategy=_strategy(request, blank, space))


def _as_recorded(task: Task, landscape: Journal) -> tuple[Task, list[str]]:
    """(the task as far as the landscape goes, the routings and the batch sizes between that it doesn't have).

    An older one has one routing, and the engines that its header names.
    """
    parts = [event.job.part for entry in landscape.entries if isinstance(event := entry.event, Measured)]
    parts += [event.job.part for entry in landscape.entries if isinstance(event := entry.event, Screened)]
    there = {part.routing for part in parts}
    measured = {e.event.job.num_tokens for e in landscape.entries if isinstance(e.event, Measured)}
    kinds = tuple(kind for kind in RoutingKind if kind in there and kind is not RoutingKind.RECORDED)
    between = tuple(m for m in task.sizes_between if m in measured)
    settings = landscape.header.settings
    told = (RoutingKind.RECORDED,) if RoutingKind.RECORDED in there else ()
    if settings.get("decide_by_recorded") is True:
        kinds, told = (*kinds, *told), ()
    left_out = [kind.value for kind in task.kinds if kind not in kinds]
    return replace(task, kinds=kinds, told=told, sizes_between=between), left_out


def origin_here() -> Origin:
    """The Triton that is installed, and this checkout's kernel. UserError: there is no Triton."""
    triton = installed_triton()
    if triton is None:
        raise UserError("expected Triton, found none. Fix: run `nox -s tune`, which installs it.")
    return Origin(triton, kernel_sha256())


def _strategy(request: TuneRequest, task: Task, space: Space) -> Strategy:
    if request.effort.exhaustive:
        return InOrder({kernel: place for place, kernel in enumerate(space.kernels)})
    wanted: Iterator[LaunchConfig] = (config for row in wanted_by_row(task).values() for config in row)
    return usual_strategy(space, wanted, task.policies.search)


def _environment(landscape_path: Path, subject: Subject, device: DeviceReport | None) -> Environment:
    """Where it was measured. JournalError: a record of this landscape would be none of a machine."""
    if device is None or device.environment is None:
        raise JournalError(
            f"{shown_path(landscape_path)}: expected the landscape of a finished run, found one without the GPU's own "
            "report, which a record needs. Fix: leave out --output."
        )
    environment = device.environment
    faults = schemas.faults("record", {"environment": environment.to_json()})
    problems = [f"{fault.where}: {fault.message}" for fault in faults if fault.where.startswith("environment")]
    if not problems and normalise_device_name(environment.device_name) != subject.workload.device_name:
        problems = [f"device_name: {environment.device_name}, but the workload is for {subject.workload.device_name}"]
    if problems:
        raise JournalError(
            f"{shown_path(landscape_path)}: expected a GPU's report that a record can hold, found {problems[0]}. "
            "Fix: leave out --output."
        )
    return environment


def _recorded(request: TuneRequest, landscape: Journal, path: Path) -> tuple[int, ...]:
    """The batch sizes asked for that the landscape holds, read from path. JournalError: none of them."""
    known = {entry.event.job.num_tokens for entry in landscape.entries if not isinstance(entry.event, Compiled)}
    both = tuple(m for m in request.batch_sizes if m in known)
    if not known:
        raise JournalError(
            f"{shown_path(path)}: expected a landscape with measurements, found none: its run ended early, or it was "
            "cut. Fix: give the file as the tuner wrote it."
        )
    if not both:
        there, asked = (", ".join(map(str, each)) for each in (sorted(known), request.batch_sizes))
        raise JournalError(
            f"{shown_path(path)}: expected measurements of batch size {asked}, found those of {there}. "
            f"Fix: --num-tokens {min(known)}, say."
        )
    return both


def _unrecorded(runner: ReplayRunner) -> str:
    """What the search asked for and the landscape doesn't hold, in words; empty where it holds all."""
    configs = {config for config, _ in runner.unrecorded}
    if not configs:
        return ""
    batch_sizes = sorted({num_tokens for _, num_tokens in runner.unrecorded if num_tokens is not None})
    at = f", measured at batch sizes {', '.join(map(str, batch_sizes))}" if batch_sizes else ""
    return f"{counted(len(configs), 'launch config')} that the search asked for{at}"


def _row_keeper(tell: Progress, path: Path) -> Callable[[RowResult], None]:
    rows: list[RowResult] = []

    def keep(row: RowResult) -> None:
        rows.append(row)
        write_file(path, canonical_entries(evidence.entries(rows)))
        tell.row(row)

    return keep


def _observer(tell: Progress, supervisor: Supervisor) -> Callable[[Event], None]:
    """Tells what the GPU's process noticed (a busy GPU) as soon as it has reported, not with the results."""
    is_told = False

    def observe(event: Event) -> None:
        nonlocal is_told
        if not is_told and isinstance(event, Screened):
            is_told = True
            for note in supervisor.report.notes:
                tell.say(note)
        tell.event(event)

    return observe
