"""From a request to the files it leaves: where they go, what stands in their way, what is written. The edge to files.

All that can be refused is refused before anything is measured.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath

from tools import cli
from tools.checkout import CONFIGS, reference_triton
from tools.dates import today
from tools.errors import UserError
from tools.launch.engine_package import KERNEL_FILES
from tools.launch.heuristic_version import MeasuredHeuristics, measured_heuristics, outdated
from tools.launch.kernel_hash import kernel_sha256
from tools.measure.panel import PromotionPolicy
from tools.registry.sharding import Engine
from tools.store.existing import (
    Existing,
    ExistingError,
    Place,
    Step,
    bytes_at,
    existing_at,
    hidden_down,
    place_of,
    served_today,
    write_all,
)
from tools.store.files import (
    canonical_entries,
    lock,
    version_folder,
    write_file,
)
from tools.store.record import Environment, Record, ShapeOfModels, VerifiedWith
from tools.store.tiers import LEGACY, RECORDS, REGISTRY, version_of_folder
from tools.store.workload import parse_file_name
from tools.text import printable, shown_path
from tools.tune import evidence
from tools.tune.evidence import Provenance, Rates
from tools.tune.protocol import Subject
from tools.tune.report import TuneSummary, betweens, lines
from tools.tune.request import TuneRequest
from tools.tune.tuner import TuneResult


@dataclass(frozen=True)
class Origin:
    """What a run's figures come from besides the workload: rows of another origin don't go into one record."""

    triton: str
    kernel_sha256: str


def find_destination(request: TuneRequest, subject: Subject, origin: Origin) -> tuple[Place, Existing | None]:
    """Where the file goes, and what an engine would read today.

    UserError: the folder is none, or of another Triton; rows or a twin would be left without what they need.
    ExistingError: what an engine would read is broken.
    """
    triton = origin.triton
    folder = folder_of_tiers(request.files.output)
    version, reference = version_of_folder(folder.name), version_folder(reference_triton())
    own = version_folder(triton)
    if version is not None and (folder.name != own or own == reference):
        is_default = own == reference
        expected = "a folder that holds tiers" if is_default else f"{own}/"
        why = "as the default tier is of" if is_default else "the folder of"
        other = "" if folder.name == reference else ", or run that Triton"
        raise UserError(
            f"--output: expected {expected}, {why} the Triton that runs here ({triton}), found {shown_path(folder)}. "
            f"Fix: name the folder above it{other}."
        )
    root = folder.parent if version is not None else folder
    is_of_configs = root == CONFIGS.resolve()
    if request.files.replay and is_of_configs:
        raise UserError(
            f"--replay: expected --output outside {shown_path(root)}, found {shown_path(folder)}: a replay measures "
            "nothing, so it is no evidence."
        )
    place = place_of(root, subject.workload, triton, reference_triton())
    if version is not None:
        place = Place(root, PurePosixPath(folder.name, place.relative.name))
    _check_writable(place)
    existing = served_today(root, subject.workload, triton)
    there = existing if existing is not None and existing.place == place else None
    if request.is_partial:
        if is_of_configs:
            _check_evidence(request, place, there)
        if existing is not None:
            _check_nothing_is_hidden(request, place, existing)
        if there is not None:
            check_origin(there, request.batch_sizes, subject, origin)
    _check_down(request, place, there)
    if request.is_partial and request.separate_down and (twin := existing_at(place.down)):
        check_origin(twin, request.batch_sizes, subject, origin)
    return place, existing


def folder_of_tiers(wanted: Path | None) -> Path:
    """The folder that `--output` names (None: configs/), links followed: one that holds tiers, or a version's own.

    UserError: it is neither, or no folder.
    """
    try:
        folder = (wanted or CONFIGS).resolve()
        is_none = folder.exists() and not folder.is_dir()
    except (OSError, RuntimeError) as error:  # a name too long, links in a circle
        raise UserError(f"--output: expected a folder, found: {printable(str(error))}.") from error
    is_version = version_of_folder(folder.name) is not None
    above = folder.parents
    is_inside_a_tier = any(f.name == LEGACY or version_of_folder(f.name) is not None for f in above)
    configs = CONFIGS.resolve()
    is_lost_in_configs = configs in above and not (is_version and folder.parent == configs)
    is_special = folder.name in (LEGACY, RECORDS, REGISTRY)
    if is_none or is_special or is_inside_a_tier or is_lost_in_configs:
        raise UserError(f"--output: expected a folder that holds tiers, found {shown_path(folder)}.")
    return folder


def check_origin(standing: Existing, batch_sizes: Sequence[int], subject: Subject, origin: Origin) -> None:
    """UserError: rows that stay would pass as measured under shapes, Triton, kernel or heuristics that they weren't."""
    record = standing.record
    if record is None or set(standing.entries) <= set(batch_sizes):
        return
    triton = record.environment.triton if record.environment else None
    for name, expected, found in (
        ("shapes", _sizes(subject.shapes), _sizes(record.shapes)),
        ("Triton", origin.triton, triton),
        ("kernel_sha256", origin.kernel_sha256, record.kernel_sha256),
    ):
        if expected != found:
            raise UserError(
                f"--num-tokens: expected the rows that stay, in {shown_path(standing.place.record_path)}, to be of "
                f"this run's {name}, {expected}, found {found}. Fix: tune all batch sizes."
            )
    if engines := outdated(record):
        raise UserError(
            f"--num-tokens: expected the rows that stay, in {shown_path(standing.place.record_path)}, to be measured "
            f"against this run's heuristic of {' and '.join(engines)}, found an older one. Fix: tune all batch sizes."
        )


def _sizes(shapes: Sequence[ShapeOfModels]) -> str:
    return "; ".join(sorted(str(named.shape) for named in shapes))


def _check_writable(place: Place) -> None:
    """Now, not after a minute on the GPU."""
    for path in (place.path, place.record_path):
        cli.check_folder(path.parent, "--output")
        if os.path.isdir(path):  # noqa: PTH112 (never raises)
            raise UserError(f"--output: expected a file or none at {shown_path(path)}, found a folder.")


def _check_evidence(request: TuneRequest, place: Place, there: Existing | None) -> None:
    """In configs/ every row has its evidence, those that stay as well."""
    if there is None:
        raise UserError(
            f"--num-tokens: expected an existing {shown_path(place.path)} to replace rows of, found none. "
            "Fix: tune all batch sizes, or give --output DIR outside configs/."
        )
    unmeasured = [m for m in there.entries if m not in request.batch_sizes and m not in there.rows]
    if unmeasured:
        raise UserError(
            f"--num-tokens: expected measured rows in {shown_path(place.record_path)}, found none for "
            f"{', '.join(map(str, unmeasured))}, which would stay. Fix: tune all batch sizes."
        )


def _check_nothing_is_hidden(request: TuneRequest, place: Place, existing: Existing) -> None:
    """The first file that exists wins whole: one of a few rows in a tier before hides all others of the one behind."""
    hidden = [m for m in existing.entries if m not in request.batch_sizes]
    if existing.place != place and hidden:
        raise UserError(
            f"--num-tokens: expected an existing {shown_path(place.path)} to replace rows of, found "
            f"{shown_path(existing.place.path)}, which a file of these rows alone would hide. "
            "Fix: tune all batch sizes."
        )


def why_refused(request: TuneRequest, subject: Subject) -> str | None:
    """Why a run would be refused for what stands where its files go; by the reference Triton, or that of the folder."""
    version = version_of_folder(folder_of_tiers(request.files.output).name)
    triton = reference_triton() if version is None else ".".join(map(str, version))
    try:
        find_destination(request, subject, Origin(triton, kernel_sha256()))
    except UserError as error:
        return str(error)
    return None


def _check_down(request: TuneRequest, place: Place, there: Existing | None) -> None:
    """UserError: the run would leave a `_down` file without what it was tuned for, hide one, or need one."""
    if place.down.path.exists():
        _check_tried_apart(request, place.down, "this file belongs to the one to be tuned")
    elif request.is_partial and there is not None:  # its other rows stay, and whatever they hide
        if request.separate_down:
            raise UserError(
                f"--separate-down: expected an existing {shown_path(place.down.path)} to replace rows of, found none. "
                "Fix: tune all batch sizes."
            )
    elif (hidden := hidden_down(place)) is not None:
        why = f"SGLang would read it no longer, where {shown_path(place.path)} has no _down file"
        _check_tried_apart(request, hidden, why)


def _check_tried_apart(request: TuneRequest, down: Place, why: str) -> None:
    """UserError, with all that the run lacks, which replaces a `_down` file's rows or hides them.

    ExistingError: it, or its record, is broken: nobody knows what would be lost.
    """
    twin = existing_at(down)
    replaced = request.batch_sizes if request.is_partial else (twin.entries if twin else ())
    has_descriptors = twin is not None and any(twin.entries[m].USE_TMA for m in replaced if m in twin.entries)
    flags, reasons = [], []
    if not request.separate_down:
        flags.append("--separate-down")
        reasons.append(why)
    if request.down_kernel is None and has_descriptors:
        flags.append(f"--kernel {Engine.SGLANG}=PATH/{KERNEL_FILES[Engine.SGLANG]}")
        reasons.append("entries of this file say USE_TMA, which is tried on that kernel alone")
    if flags:
        asked = " and ".join(flags)
        fix = "name another --output" if request.files.replay else f"give {asked}"
        raise UserError(f"{shown_path(down.path)}: expected {asked}, since {', and '.join(reasons)}. Fix: {fix}.")


# ---------------------------------------------------------------
# What a run leaves: the tuned file, its record and `_down` twin, or a line in the default file's record.


@dataclass(frozen=True)
class MeasuredRun:
    """What a run measured, on which kernel, and against which heuristics."""

    result: TuneResult
    rates: Rates | None
    seconds: float
    notes: tuple[str, ...] = ()
    kernel_sha256: str = field(default_factory=kernel_sha256)
    heuristics: MeasuredHeuristics = field(default_factory=measured_heuristics)


def deliver(
    request: TuneRequest,
    subject: Subject,
    measured: MeasuredRun,
    environment: Environment,
    place: Place,
    existing: Existing | None,
) -> TuneSummary:
    """Writes the file and its record; a version file that gains nothing becomes a line in the served file's record.

    environment: where it was measured. existing: what the rows were compared with. What stands there by now, which
    another run may have written, is read again. UserError, ExistingError: rows of it that would stay can't. OSError.
    """
    with lock(place.root):
        return _deliver(request, subject, measured, environment, place, existing)


def _deliver(
    request: TuneRequest,
    subject: Subject,
    measured: MeasuredRun,
    environment: Environment,
    place: Place,
    existing: Existing | None,
) -> TuneSummary:
    result, triton = measured.result, environment.triton
    if existing is not None and (now := _as_compared(existing)) and _is_needless(request, result, place, now):
        assert now.record is not None
        line = VerifiedWith(triton, today().isoformat(), round(_worst_loss_pct(result), 2))
        record = now.record.with_verified_with(line)
        write_file(now.place.record_path, record.to_bytes())
        tier = now.place.relative.parent.name
        holds = f"the file of {tier}/" if tier else "the default file"
        note = f"{holds} holds under Triton {triton}: no version file is written"
        return summarise(subject, replace(measured, notes=(*measured.notes, note)), (now.place.record_path,))
    origin = Origin(triton, measured.kernel_sha256)
    standing = _standing(place, is_partial=request.is_partial)
    kept = standing if request.is_partial else None
    if kept is not None:
        check_origin(kept, request.batch_sizes, subject, origin)
    run = Provenance(
        environment,
        request.settings,
        measured.seconds,
        today().isoformat(),
        measured.kernel_sha256,
        measured.heuristics.versions,
        measured.rates,
        result.is_cut_short,
    )
    entries = {**(kept.entries if kept else {}), **evidence.entries(result.rows)}
    config = canonical_entries(entries)
    between = () if request.is_partial else result.between
    record = evidence.record(subject, result.rows, result.counts, run, config, kept.record if kept else None, between)
    down = _down_steps(subject, measured, run, place.down, is_whole=kept is None) if request.separate_down else []
    was = standing.record if standing else None
    said = _of_this_down(was, place.down.path, down)
    # A kill leaves the first of these. What was said of another `_down` file goes before that one does. Then the file:
    # no `_down` file is there without it, and the old record says nothing of other bytes. Its new record comes last:
    # what that says was tuned is there.
    steps: list[Step] = [
        *([(place.record_path, said.to_bytes())] if said is not None and said != was else []),
        (place.path, config),
        *down,
        (place.record_path, _with_lines(record, said).to_bytes()),
    ]
    write_all(steps)
    removed = tuple(f"removed: {shown_path(path)}: no row gains by it" for path, data in steps if data is None)
    files = tuple(dict.fromkeys(path for path, data in steps if data is not None))
    return summarise(subject, replace(measured, notes=(*measured.notes, *removed)), files)


def _down_steps(
    subject: Subject, measured: MeasuredRun, run: Provenance, place: Place, *, is_whole: bool
) -> list[Step]:
    """Where no row gains by it there is no `_down` file, and one that was there goes.

    Its record is never there without it: such a file counts as lost. Not is_whole: only some rows of the file were
    tuned; the others stay as they are.
    """
    rows = measured.result.rows
    gaining = evidence.down_entries(rows)
    if gaining is None and is_whole:
        return [(path, None) for path in (place.record_path, place.path) if path.exists()]
    standing = _standing(place, is_partial=not is_whole)
    kept = None if is_whole else standing
    if kept is not None:
        origin = Origin(run.environment.triton, run.kernel_sha256)
        check_origin(kept, [row.num_tokens for row in rows], subject, origin)
    entries = {**(kept.entries if kept else {}), **(gaining or evidence.entries(rows))}
    config = canonical_entries(entries)
    record = evidence.down_record(subject, rows, measured.result.counts, run, config, kept.record if kept else None)
    said = standing.record if standing else None
    return [(place.path, config), (place.record_path, _with_lines(record, said).to_bytes())]


def _standing(place: Place, *, is_partial: bool) -> Existing | None:
    """What stands there at this moment. One that is broken is no matter where all of it is replaced."""
    try:
        return existing_at(place)
    except ExistingError:
        if is_partial:
            raise
        return None


def _as_compared(existing: Existing) -> Existing | None:
    """What stands in its place by now, where that still holds the same entries."""
    now = _standing(existing.place, is_partial=False)
    return now if now is not None and now.entries == existing.entries else None


def _of_this_down(record: Record | None, path: Path, steps: Sequence[Step]) -> Record | None:
    """The record with what still holds of it once these steps are done.

    SGLang was judged with the `_down` file, and a bench on our own kernel runs it in SGLang's flavour.
    """
    is_another = any(changed == path and data != bytes_at(path) for changed, data in steps)
    if record is None or not is_another:
        return record
    return replace(record.without_checks_on(Engine.SGLANG), verified_with=None)


def _with_lines(record: Record, said: Record | None) -> Record:
    """The record with what benches said of these very bytes before."""
    return record.with_lines_of(said) if said is not None else record


def _is_needless(request: TuneRequest, result: TuneResult, place: Place, existing: Existing) -> bool:
    """A version file exists only where the file that serves this Triton without it loses more than the margin, or
    lacks a `_down` file where one gains.

    That file needs a measured record to say so in, and must be of the same workload: by an alias of the device perhaps,
    but not the plain file that serves per-channel scales too.
    """
    tier, own_tier = existing.place.relative.parent.name, place.relative.parent.name
    own, other = (parse_file_name(one.relative.name).workload for one in (place, existing.place))
    is_recorded = existing.record is not None and existing.record.is_measured
    is_the_same = own is not None and other is not None and replace(other, device_name=own.device_name) == own
    could_do_without = own_tier != "" and tier not in (own_tier, LEGACY) and is_the_same and is_recorded
    loses = _worst_loss_pct(result) > PromotionPolicy().min_improvement_pct
    gains_down = any(row.down is not None and row.down.gains for row in result.rows)
    lacks_down = request.separate_down and gains_down and not existing.place.down.path.exists()
    return could_do_without and not (loses or lacks_down or request.files.force_version_file)


CUT_SHORT = "search stopped at its time limit with candidates left; a larger --time-budget tries more"


def summarise(subject: Subject, measured: MeasuredRun, files: tuple[Path, ...]) -> TuneSummary:
    """What is printed at the end. files: what was written."""
    notes = (*measured.notes, *measured.heuristics.notes, *([CUT_SHORT] if measured.result.is_cut_short else []))
    shapes = tuple(str(named.shape) for named in subject.shapes)
    return TuneSummary(
        subject.workload.file_name(),
        shapes,
        lines(subject, measured.result.rows, measured.rates),
        measured.seconds,
        measured.result.counts,
        tuple(shown_path(path) for path in files),
        notes,
        measured.result.phases,
        betweens(measured.result.between),
    )


def _worst_loss_pct(result: TuneResult) -> float:
    """Of the incumbent against what was chosen, in its worst row. Infinite: there is none, or it doesn't run."""
    losses = [
        100.0 * (row.panel.score_between(row.incumbent, row.entry).mean - 1.0)
        if row.incumbent in row.panel.configs
        else math.inf
        for row in result.rows
    ]
    return max(losses)
