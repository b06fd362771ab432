"""One run of the tuner at its edge: finds out what is here, starts runner and journal, writes file and record."""

from __future__ import annotations

import contextlib
import datetime
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path, PurePosixPath
from typing import Any

from tools import store
from tools.bench.figures import quantile
from tools.kernel_hash import kernel_sha256
from tools.launch_config import LaunchConfig
from tools.record_lines import with_line
from tools.strict_json import Json
from tools.tune import evidence, output
from tools.tune.evidence import Rates, Run
from tools.tune.gpu_worker import WorkerSpec
from tools.tune.journal import Entry, Header, Journal, JournalError, JournalWriter, read_journal
from tools.tune.live_runner import LiveSession
from tools.tune.model import Subject
from tools.tune.output import Existing, Place
from tools.tune.policy import Budget, Policies, PromotionPolicy, SearchPolicy
from tools.tune.progress import reporter
from tools.tune.recording import RecordingRunner
from tools.tune.replay import ReplayRunner
from tools.tune.report import Summary, lines
from tools.tune.request import Request, RequestError
from tools.tune.search import usual_strategy
from tools.tune.space import Space, candidates
from tools.tune.strategy import InOrder, Strategy
from tools.tune.tuner import Result, Task, tune, wanted_by_row

JOURNALS = store.CHECKOUT / ".tune"
"""Where journals of unfinished runs lie; ignored by git."""


@dataclass(frozen=True)
class Measured:
    """What a run measured, and where."""

    result: Result
    environment: Mapping[str, Any]
    rates: Rates | None
    seconds: float
    notes: tuple[str, ...] = ()


def tune_here(request: Request, subject: Subject) -> Summary:
    """Tunes on this machine's GPU and writes file and record.

    RequestError, OutputError, JournalError, DeviceRefused: nothing was measured or written. RunnerError, TuneError:
    the run ended early; its journal is there to resume.
    """
    triton = installed_triton()
    place, existing = _find_place(request, subject, triton)
    task = make_task(request, subject, existing)
    header = Header(subject, _settings(request), {"triton": triton, "kernel_sha256": kernel_sha256()})
    with contextlib.ExitStack() as stack:
        earlier, writers = _open_journals(request, header)
        live = stack.enter_context(
            LiveSession(WorkerSpec(subject, max(task.batch_sizes), request.routing), request.effort.jobs)
        )
        runner = stack.enter_context(RecordingRunner(live.runner, writers, earlier))
        tell = stack.enter_context(reporter(len(task.batch_sizes), task.policies.budget.search_s))
        result = tune(task, runner, tell.event, tell.row)
        report = live.supervisor.report
        for writer in writers:
            writer.report({**vars(report), "environment": dict(report.environment)})
        rates = Rates(report.copy_bytes_per_s, report.dense_per_s)
        measured = Measured(result, report.environment, rates, runner.seconds_in_all, report.notes)
    summary = write(request, subject, measured, place, existing)
    _journal_path(subject).unlink(missing_ok=True)
    return summary


def replay(request: Request, landscape_path: Path) -> Summary:
    """Tunes on a kept landscape. Writes only where --output says so. JournalError: it can't be used."""
    landscape = read_journal(landscape_path)
    subject, device = landscape.header.subject, landscape.device or {}
    environment = device.get("environment") or landscape.header.environment
    batch_sizes = _recorded(request, landscape)
    request = replace(request, batch_sizes=batch_sizes)
    triton = str(environment.get("triton", store.reference_triton()))
    place, existing = _find_place(request, subject, triton) if request.files.output else (None, None)
    task = make_task(request, subject, existing)
    runner = ReplayRunner(landscape)
    with reporter(len(batch_sizes), task.policies.budget.search_s) as tell:
        result = tune(task, runner, tell.event, tell.row)
    rates = Rates(device["copy_bytes_per_s"], device["dense_per_s"]) if "dense_per_s" in device else None
    notes = (f"replayed from {landscape_path.name}: nothing was measured, seconds are the landscape's",)
    measured = Measured(result, environment, rates, runner.clock_s, notes)
    if place is None:
        return summarise(subject, measured, ())
    return write(request, subject, measured, place, existing)


def make_task(request: Request, subject: Subject, existing: Existing | None) -> Task:
    """What to tune, by the request's effort."""
    space = candidates(subject)
    incumbent = {m: existing.nearest(m) for m in request.batch_sizes} if existing else {}
    if request.effort.exhaustive:
        policies = Policies(search=SearchPolicy.exhaustive(), budget=Budget(math.inf))
    else:
        policies = Policies(budget=Budget(request.effort.time_budget_s))
    blank = Task(subject, space, request.batch_sizes, InOrder({}), incumbent, request.separate_down, policies)
    return replace(blank, strategy=_strategy(request, blank, space))


def installed_triton() -> str:
    """RequestError: there is none."""
    try:
        return metadata.version("triton")
    except metadata.PackageNotFoundError as error:
        raise RequestError("expected Triton, found none. Fix: run `nox -s tune`, which installs it.") from error


def write(request: Request, subject: Subject, measured: Measured, place: Place, existing: Existing | None) -> Summary:
    """Writes the file and its record; a version file that gains nothing becomes a line in the default file's record."""
    result, triton = measured.result, str(measured.environment["triton"])
    if existing is not None and _is_needless(request, result, place, existing):
        line: dict[str, Json] = {
            "triton": triton,
            "date": _today(),
            "worst_loss_pct": round(_worst_loss_pct(result), 2),
        }
        store.write(
            existing.place.record_path,
            store.canonical_record(with_line(existing.record, "verified_with", line, ("triton",))),
        )
        note = f"the default file holds under Triton {triton}: no version file is written"
        return summarise(subject, replace(measured, notes=(*measured.notes, note)), (existing.place.record_path,))
    run = Run(measured.environment, _settings(request), measured.seconds, _today(), kernel_sha256(), measured.rates)
    kept = existing if existing is not None and existing.place == place and request.is_partial else None
    entries = {**(kept.entries if kept else {}), **evidence.entries(result.rows)}
    config = store.canonical_entries(entries)
    record = evidence.record(subject, result.rows, result.counts, run, config, kept.rows if kept else {})
    files: tuple[Path, ...] = output.write(place, config, record)
    down = evidence.down_entries(result.rows) if request.separate_down else None
    if down is not None:
        down_config = store.canonical_entries(down)
        document = evidence.down_record(subject, result.rows, result.counts, run, down_config)
        files = (*files, *output.write(place.down, down_config, document))
    return summarise(subject, measured, files)


def _is_needless(request: Request, result: Result, place: Place, existing: Existing) -> bool:
    """A version file exists only where the default file, which has a record, loses more than the margin."""
    is_version_file = bool(place.relative.parent.name) and existing.place.relative.parent.name == ""
    loses = _worst_loss_pct(result) > PromotionPolicy().min_improvement_pct
    return is_version_file and bool(existing.record) and not (loses or request.files.force_version_file)


def summarise(subject: Subject, measured: Measured, files: tuple[Path, ...]) -> Summary:
    shapes = tuple(f"K={s.shape.K} top_k={s.shape.top_k}" for s in subject.shapes)
    return Summary(
        subject.workload.file_name(),
        shapes,
        lines(subject, measured.result.rows, measured.rates),
        measured.seconds,
        measured.result.counts,
        tuple(store.shown(path) for path in files),
        measured.notes,
    )


def _strategy(request: Request, task: Task, space: Space) -> Strategy:
    if request.effort.exhaustive:
        return InOrder({kernel: place for place, kernel in enumerate(space.kernels)})
    wanted: Iterator[LaunchConfig] = (config for row in wanted_by_row(task).values() for config in row)
    return usual_strategy(space, wanted, task.policies.search)


def _settings(request: Request) -> dict[str, Json]:
    """What a resumed run must share, and the record tells."""
    return {
        "num_tokens": list(request.batch_sizes),
        "routing": request.routing,
        "exhaustive": request.effort.exhaustive,
        "time_budget_s": None if request.effort.exhaustive else request.effort.time_budget_s,
        "separate_down": request.separate_down,
    }


def _find_place(request: Request, subject: Subject, triton: str) -> tuple[Place, Existing | None]:
    """Where the file goes, and what an engine would read today. RequestError: the folder is of another Triton."""
    folder = (request.files.output or store.CONFIGS).absolute()
    version = store.version_of_folder(folder.name)
    if folder.name in (store.LEGACY, store.RECORDS, store.REGISTRY):
        raise RequestError(f"--output: expected a folder that holds tiers, found {store.shown(folder)}.")
    if version is not None and folder.name != store.version_folder(triton):
        raise RequestError(
            f"--output: expected {store.version_folder(triton)}/, the folder of the Triton that runs here ({triton}), "
            f"found {store.shown(folder)}. Fix: name the folder above it, or run that Triton."
        )
    root = folder.parent if version is not None else folder
    place = output.place_of(root, subject.workload, triton, store.reference_triton())
    if version is not None:
        place = Place(root, PurePosixPath(folder.name, place.relative.name))
    existing = output.find_existing(output.chain(root, subject.workload, triton))
    is_there = existing is not None and existing.place == place
    if request.is_partial and not is_there and root == store.CONFIGS:
        raise RequestError(
            f"--num-tokens: expected an existing {store.shown(place.path)} to replace rows of, found none. "
            "Fix: tune all batch sizes, or give --output DIR outside configs/."
        )
    return place, existing


def _open_journals(request: Request, header: Header) -> tuple[tuple[Entry, ...], list[JournalWriter]]:
    """(what an earlier run measured, where to write). JournalError: what is to be resumed is another run."""
    path = _journal_path(header.subject)
    earlier: Journal | None = None
    if request.effort.resume:
        earlier = read_journal(path)
        for name, expected, found in (
            ("the workload", header.subject, earlier.header.subject),
            ("the settings", header.settings, earlier.header.settings),
            ("Triton and kernel", header.environment, earlier.header.environment),
        ):
            if expected != found:
                told = f"{name}: expected {expected}, found {found}"
                raise JournalError(f"{store.shown(path)}: {told}. Fix: without --resume.")
    elif path.exists():
        path.replace(path.with_suffix(".previous.jsonl"))
    writers = [JournalWriter(path, None if earlier else header)]
    if request.files.record_landscape:
        landscape = JournalWriter(request.files.record_landscape, header)
        for entry in earlier.entries if earlier else ():
            landscape.append(entry.event, entry.clock_s)
        writers.append(landscape)
    return earlier.entries if earlier else (), writers


def _journal_path(subject: Subject) -> Path:
    return JOURNALS / f"{Path(subject.workload.file_name()).stem}.jsonl"


def _recorded(request: Request, landscape: Journal) -> tuple[int, ...]:
    """The batch sizes asked for that the landscape holds. JournalError: none of them."""
    known = {entry.event.job.num_tokens for entry in landscape.entries if hasattr(entry.event.job, "num_tokens")}
    both = tuple(m for m in request.batch_sizes if m in known)
    if not both:
        asked = list(request.batch_sizes)
        raise JournalError(f"--replay: expected one of the batch sizes {sorted(known)}, found {asked}.")
    return both


def _worst_loss_pct(result: Result) -> float:
    """Of the incumbent against what was chosen, in its worst row. Infinite: there is none, or it doesn't run."""
    losses = [
        100.0 * (_median(row.incumbent[row.shape].total_us) / _median(row.chosen[row.shape].total_us) - 1.0)
        if row.incumbent
        else math.inf
        for row in result.rows
    ]
    return max(losses)


def _median(samples: tuple[float, ...]) -> float:
    return quantile(samples, 0.5)


def _today() -> str:
    return datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d")
