"""What a run leaves: the tuned file, its record and `_down` twin, or a line in the default file's record."""

from __future__ import annotations

import datetime
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from tools.launch.kernel_hash import kernel_sha256
from tools.measure.statistics import quantile
from tools.store.files import canonical_entries, canonical_record, write_file
from tools.store.record import with_line
from tools.store.strict_json import Json
from tools.text import shown_path
from tools.tune import evidence, output
from tools.tune.destination import Origin, check_origin
from tools.tune.evidence import Rates, Run
from tools.tune.model import Subject
from tools.tune.output import Existing, OutputError, Place
from tools.tune.policy import PromotionPolicy
from tools.tune.report import Summary, lines
from tools.tune.request import Request
from tools.tune.tuner import Result


@dataclass(frozen=True)
class Measured:
    """What a run measured, where, and on which kernel."""

    result: Result
    environment: Mapping[str, Any]
    rates: Rates | None
    seconds: float
    notes: tuple[str, ...] = ()
    kernel_sha256: str = field(default_factory=kernel_sha256)


def write(request: Request, subject: Subject, measured: Measured, place: Place, existing: Existing | None) -> Summary:
    """Writes the file and its record; a version file that gains nothing becomes a line in the default file's record.

    existing: what the rows were compared with. What stands there by now, which another run may have written, is read
    again. RequestError, OutputError: rows of it that would stay can't.
    """
    result, triton = measured.result, str(measured.environment["triton"])
    if existing is not None and (now := _as_compared(existing)) and _is_needless(request, result, place, now):
        line: dict[str, Json] = {
            "triton": triton,
            "date": _today(),
            "worst_loss_pct": round(_worst_loss_pct(result), 2),
        }
        write_file(
            now.place.record_path,
            canonical_record(with_line(now.record, "verified_with", line, ("triton",))),
        )
        note = f"the default file holds under Triton {triton}: no version file is written"
        return summarise(subject, replace(measured, notes=(*measured.notes, note)), (now.place.record_path,))
    run = Run(
        measured.environment, request.settings, measured.seconds, _today(), measured.kernel_sha256, measured.rates
    )
    origin = Origin(triton, measured.kernel_sha256)
    standing = _standing(place, is_partial=request.is_partial)
    kept = standing if request.is_partial else None
    if kept is not None:
        check_origin(kept, request.batch_sizes, subject, origin)
    entries = {**(kept.entries if kept else {}), **evidence.entries(result.rows)}
    config = canonical_entries(entries)
    record = evidence.record(subject, result.rows, result.counts, run, config, kept.rows if kept else {})
    files: tuple[Path, ...] = output.write(place, config, _with_lines(record, standing))
    if request.separate_down:
        down_files, notes = _write_down(subject, measured, run, place.down, is_whole=kept is None)
        files, measured = (*files, *down_files), replace(measured, notes=(*measured.notes, *notes))
    return summarise(subject, measured, files)


def _write_down(
    subject: Subject, measured: Measured, run: Run, place: Place, *, is_whole: bool
) -> tuple[tuple[Path, ...], tuple[str, ...]]:
    """(files, notes). Where no row gains by it there is no `_down` file, and one that was there goes.

    Not is_whole: only some rows of the file were tuned; the others stay as they are.
    """
    rows = measured.result.rows
    gaining = evidence.down_entries(rows)
    if gaining is None and is_whole:
        stale = [path for path in (place.path, place.record_path) if path.exists()]
        for path in stale:
            path.unlink()
        return (), tuple(f"removed: {shown_path(path)}: no row gains by it" for path in stale)
    standing = _standing(place, is_partial=not is_whole)
    kept = None if is_whole else standing
    if kept is not None:
        origin = Origin(str(run.environment["triton"]), run.kernel_sha256)
        check_origin(kept, [row.num_tokens for row in rows], subject, origin)
    entries = {**(kept.entries if kept else {}), **(gaining or evidence.entries(rows))}
    config = canonical_entries(entries)
    document = evidence.down_record(subject, rows, measured.result.counts, run, config, kept.rows if kept else {})
    return output.write(place, config, _with_lines(document, standing)), ()


def _standing(place: Place, *, is_partial: bool) -> Existing | None:
    """What stands there at this moment. One that is broken is no matter where all of it is replaced."""
    try:
        return output.find_existing((place,))
    except OutputError:
        if is_partial:
            raise
        return None


def _as_compared(existing: Existing) -> Existing | None:
    """What stands in its place by now, where that still holds the same entries."""
    now = _standing(existing.place, is_partial=False)
    return now if now is not None and now.entries == existing.entries else None


def _with_lines(record: dict[str, Json], standing: Existing | None) -> dict[str, Json]:
    """The record with what benches said of these very bytes before."""
    if standing is None or standing.record.get("config_sha256") != record["config_sha256"]:
        return record
    lines = {key: standing.record[key] for key in ("verified_with", "engine_checked") if key in standing.record}
    rest = {key: value for key, value in record.items() if key != "verified"}
    return {**rest, **lines, "verified": record["verified"]}


def _is_needless(request: Request, result: Result, place: Place, existing: Existing) -> bool:
    """A version file exists only where the default file, which has a record, loses more than the margin."""
    is_version_file = bool(place.relative.parent.name) and existing.place.relative.parent.name == ""
    loses = _worst_loss_pct(result) > PromotionPolicy().min_improvement_pct
    return is_version_file and bool(existing.record) and not (loses or request.files.force_version_file)


CUT_SHORT = "the search's time was up before its ideas were: a larger --time-budget tries more"


def summarise(subject: Subject, measured: Measured, files: tuple[Path, ...]) -> Summary:
    """What is told at the end. files: what was written."""
    notes = (*measured.notes, *([CUT_SHORT] if measured.result.is_cut_short else []))
    shapes = tuple(f"K={s.shape.K} top_k={s.shape.top_k}" for s in subject.shapes)
    return Summary(
        subject.workload.file_name(),
        shapes,
        lines(subject, measured.result.rows, measured.rates),
        measured.seconds,
        measured.result.counts,
        tuple(shown_path(path) for path in files),
        notes,
    )


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
