"""What a run leaves: the tuned file, its record and `_down` twin, or a line in the default file's record."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from tools.dates import today
from tools.launch.heuristic_version import MeasuredHeuristics, measured_heuristics
from tools.launch.kernel_hash import kernel_sha256
from tools.measure.panel import PromotionPolicy
from tools.registry.sharding import Engine
from tools.store.existing import Existing, ExistingError, Place, Step, bytes_at, existing_at, write_all
from tools.store.files import canonical_entries, lock, write_file
from tools.store.record import Environment, Record, VerifiedWith
from tools.store.tiers import LEGACY
from tools.store.workload import parse_file_name
from tools.text import shown_path
from tools.tune import evidence
from tools.tune.destination import Origin, check_origin, check_shapes_kept
from tools.tune.evidence import Provenance, Rates
from tools.tune.protocol import Subject
from tools.tune.report import TuneSummary, betweens, lines
from tools.tune.request import TuneRequest
from tools.tune.tuner import TuneResult


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
    if standing is not None:
        check_shapes_kept(standing, subject)
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
