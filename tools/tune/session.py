"""One run of the tuner at its edge: finds out what is here, starts runner and journal, writes file and record."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from typing import Any

from kernels.launch_config import LaunchConfig
from tools.checkout import reference_triton
from tools.launch.heuristics import clamped
from tools.launch.kernel_hash import kernel_sha256
from tools.registry.devices import normalise_device_name
from tools.store import schemas
from tools.store.files import canonical_entries, write_file
from tools.text import printable, shown_path
from tools.tune import evidence
from tools.tune.delivery import Measured, summarise, write
from tools.tune.destination import Origin, find_destination
from tools.tune.evidence import Rates
from tools.tune.gpu_worker import WorkerSpec
from tools.tune.journal import Journal, JournalError, read_journal
from tools.tune.journal_lines import Header
from tools.tune.live_runner import LiveSession
from tools.tune.model import Event, Screened, Subject
from tools.tune.output import Existing
from tools.tune.policy import Budget, Policies, SearchPolicy
from tools.tune.progress import Reporter, reporter
from tools.tune.recording import RecordingRunner
from tools.tune.replay import ReplayRunner
from tools.tune.report import Summary
from tools.tune.request import Request, RequestError
from tools.tune.run_journals import open_journals, partial_path
from tools.tune.search import usual_strategy
from tools.tune.space import Space, candidates
from tools.tune.strategy import InOrder, Strategy
from tools.tune.supervisor import Supervisor
from tools.tune.tuner import RowResult, Task, tune, wanted_by_row


def tune_here(request: Request, subject: Subject) -> Summary:
    """Tunes on this machine's GPU and writes file and record.

    RequestError, OutputError, JournalError, DeviceRefused: nothing was measured or written. RunnerError, TuneError:
    the run ended early; its journal is there to resume.
    """
    origin = origin_here()
    place, existing = find_destination(request, subject, origin)
    task = make_task(request, subject, existing)
    header = Header(subject, request.settings, dict(vars(origin)))
    resume, landscape = request.effort.resume, request.files.record_landscape
    with open_journals(header, landscape, resume=resume) as journals:
        with (
            LiveSession(WorkerSpec(subject, max(task.batch_sizes), request.routing), request.effort.jobs) as live,
            RecordingRunner(live.runner, journals.writers, journals.earlier) as runner,
            reporter(len(task.batch_sizes), task.policies.budget.search_s) as tell,
        ):
            keep = _row_keeper(tell, partial_path(subject))
            result = tune(task, runner, _observer(tell, live.supervisor), keep)
            report = live.supervisor.report
            for writer in journals.writers:
                writer.report({**vars(report), "environment": dict(report.environment)})
            rates = Rates(report.memory_bytes_per_s, report.dense_per_s)
            measured = Measured(result, report.environment, rates, runner.seconds_in_all, report.notes)
        summary = write(request, subject, measured, place, existing)
        journals.forget()
        partial_path(subject).unlink(missing_ok=True)
    return summary


def replay(request: Request, landscape_path: Path) -> Summary:
    """Tunes on a kept landscape. Writes only where --output says so. JournalError: it can't be used."""
    landscape = read_journal(landscape_path)
    header, device = landscape.header, landscape.device or {}
    subject, environment = header.subject, device.get("environment") or header.environment
    if request.files.output:
        _check_machine(landscape_path, subject, device.get("environment"))
    batch_sizes = _recorded(request, landscape)
    missing = [m for m in request.batch_sizes if m not in batch_sizes]
    # What was measured under another routing stays so.
    request = replace(request, batch_sizes=batch_sizes, routing=header.settings.get("routing", request.routing))
    triton = str(environment.get("triton", reference_triton()))
    kernel = header.environment.get("kernel_sha256", kernel_sha256())
    origin = Origin(triton, kernel)
    place, existing = find_destination(request, subject, origin) if request.files.output else (None, None)
    task = make_task(request, subject, existing)
    runner = ReplayRunner(landscape)
    with reporter(len(batch_sizes), task.policies.budget.search_s) as tell:
        result = tune(task, runner, tell.event, tell.row)
    rates = _recorded_rates(device)
    notes = (
        f"replayed from {printable(landscape_path.name)}: nothing was measured, seconds are the landscape's",
        *([f"not in the landscape: batch sizes {', '.join(map(str, missing))}"] if missing else []),
    )
    measured = Measured(result, environment, rates, runner.clock_s, notes, kernel)
    if place is None:
        return summarise(subject, measured, ())
    return write(request, subject, measured, place, existing)


def make_task(request: Request, subject: Subject, existing: Existing | None) -> Task:
    """What to tune, by the request's effort. RequestError: no launch config passes the constraints."""
    space = candidates(subject)
    if not space.kernels:
        raise RequestError(f"the workload: expected launch configs to try, found none. {space.rejected[0].message}")
    # As vLLM launches it: that is what an engine runs today.
    incumbent = {m: clamped(existing.nearest(m), subject.workload) for m in request.batch_sizes} if existing else {}
    if request.effort.exhaustive:
        policies = Policies(search=SearchPolicy.exhaustive(), budget=Budget(math.inf))
    else:
        policies = Policies(budget=Budget(request.effort.time_budget_s))
    blank = Task(subject, space, request.batch_sizes, InOrder({}), incumbent, request.separate_down, policies)
    return replace(blank, strategy=_strategy(request, blank, space))


def origin_here() -> Origin:
    """The Triton that is installed, and this checkout's kernel. RequestError: there is no Triton."""
    try:
        return Origin(metadata.version("triton"), kernel_sha256())
    except metadata.PackageNotFoundError as error:
        raise RequestError("expected Triton, found none. Fix: run `nox -s tune`, which installs it.") from error


def _strategy(request: Request, task: Task, space: Space) -> Strategy:
    if request.effort.exhaustive:
        return InOrder({kernel: place for place, kernel in enumerate(space.kernels)})
    wanted: Iterator[LaunchConfig] = (config for row in wanted_by_row(task).values() for config in row)
    return usual_strategy(space, wanted, task.policies.search)


def _check_machine(landscape_path: Path, subject: Subject, environment: Mapping[str, Any] | None) -> None:
    """JournalError: a record of this landscape would be none of a machine."""
    if environment is None:
        raise JournalError(
            f"{shown_path(landscape_path)}: expected the landscape of a run that came to its end, found one without "
            "the GPU's own report, which a record needs. Fix: without --output."
        )
    faults = schemas.faults("record", {"environment": environment})
    told = [f"{fault.where}: {fault.message}" for fault in faults if fault.where.startswith("environment")]
    if not told and normalise_device_name(environment["device_name"]) != subject.workload.device_name:
        told = [f"device_name: {environment['device_name']}, which the workload's isn't"]
    if told:
        raise JournalError(
            f"{shown_path(landscape_path)}: expected a GPU's report that a record can hold, found {told[0]}. "
            "Fix: without --output."
        )


def _recorded_rates(device: Mapping[str, Any]) -> Rates | None:
    """None: the run was killed before its end. Older landscapes call the first what it was: a copy's."""
    memory = device.get("memory_bytes_per_s", device.get("copy_bytes_per_s"))
    return Rates(memory, device["dense_per_s"]) if memory is not None else None


def _recorded(request: Request, landscape: Journal) -> tuple[int, ...]:
    """The batch sizes asked for that the landscape holds. JournalError: none of them."""
    known = {entry.event.job.num_tokens for entry in landscape.entries if hasattr(entry.event.job, "num_tokens")}
    both = tuple(m for m in request.batch_sizes if m in known)
    if not both:
        asked = list(request.batch_sizes)
        raise JournalError(f"--replay: expected one of the batch sizes {sorted(known)}, found {asked}.")
    return both


def _row_keeper(tell: Reporter, path: Path) -> Callable[[RowResult], None]:
    rows: list[RowResult] = []

    def keep(row: RowResult) -> None:
        rows.append(row)
        write_file(path, canonical_entries(evidence.entries(rows)))
        tell.row(row)

    return keep


def _observer(tell: Reporter, supervisor: Supervisor) -> Callable[[Event], None]:
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
