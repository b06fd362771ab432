"""`verify`: after the merge, writes `verified` into the records whose figures main's own run has confirmed.

The only writer of that field. A file is verified whole: every row runs, loses to nothing, and holds its claim, in time
and in gain. Where one doesn't, an older `verified` goes; it also goes where it names other evidence than the record's.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path

from tools.checkout import CONFIGS
from tools.cli import command, path_argument, say
from tools.dates import today
from tools.measure.panel import RoutingKind
from tools.pull_request.documents import (
    MERGED,
    DocumentError,
    MeasuredFile,
    MeasuredPart,
    MeasuredRow,
    PlannedFile,
    read_plan,
    results_of,
    shortened,
)
from tools.pull_request.judge import CLAIM_TOLERANCE_PCT, has_lost, why_unverified
from tools.pull_request.plan import with_runner
from tools.pull_request.report import check_plan
from tools.registry.devices import load_devices
from tools.registry.models import ModelRegistry, load_models
from tools.registry.shapes import registered_shapes
from tools.store import schemas
from tools.store.files import RECORD, TUNED_FILE, lock, read_file, record_path, write_file
from tools.store.record import Compared, Record, RecordedRow, RecordError, RowOfShape, Verified, as_record

UNSIGNED = "0" * 64
"""Until the line is written: each record signs it with its own evidence."""


def parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m tools.pull_request verify",
        description="Writes `verified` into the record of every merged file that held on main's own runners, and "
        "takes it out of those that did not, or that it never spoke of.",
        epilog="Exit 0: done; each file that was not verified is named with its reason. 2: bad use, nothing written.",
    )
    parser.add_argument("--plan", type=path_argument, required=True, metavar="FILE", help="what was to be measured")
    parser.add_argument("--results", type=path_argument, required=True, metavar="DIR", help="of main's own run")
    parser.add_argument(
        "--runners",
        default="",
        metavar="NAMES",
        help="as `plan` had them: results of other devices are refused; default: every device",
    )
    parser.add_argument("--commit", required=True, metavar="SHA", help="the commit of main that was measured")
    parser.add_argument("--runner", required=True, metavar="LABEL", help="on whose runner")
    parser.add_argument("--run-url", required=True, metavar="URL", help="of the workflow's run")
    parser.add_argument("--date", default=today().isoformat(), metavar="YYYY-MM-DD", help="default: today (UTC)")
    parser.add_argument("--configs", type=path_argument, default=CONFIGS, metavar="DIR", help="default: configs/")
    return parser


@command("verify")
def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code."""
    options = parser().parse_args(arguments)
    line = Verified(options.runner, options.run_url, options.commit, options.date, UNSIGNED)
    _check(line)
    plan = read_plan(options.plan)
    check_plan(plan, MERGED, options.commit)
    results = results_of(plan, options.results, with_runner(options.runners, load_devices()))
    models = load_models()
    for leg in plan.legs:
        for planned, file in zip(leg.files, results[leg.device_name].files, strict=True):
            outcome = _write(options.configs, planned, file, models, line)
            say(f"verify: {file.id.relative}: {outcome}")
    return 0


def why_unknown(planned: PlannedFile, models: ModelRegistry) -> str | None:
    """The first shape that no registered model has behind the name: measured, but of nothing that is served."""
    known = [served.shape for served in registered_shapes(planned.id.workload, models)]
    strange = [shape for shape in planned.shapes if shape.shape not in known]
    if not strange:
        return None
    return f"no registered model has its shape {strange[0].shape}: add the model, then re-run"


def why_other(record: Record, config: bytes, planned: PlannedFile, file: MeasuredFile) -> str | None:
    """What shows that file or record aren't the ones that were measured. None: they are."""
    if not record.speaks_of(config):
        return "its record describes other bytes"
    recorded = {served.shape for served in record.shapes}
    if recorded and recorded != {shape.shape for shape in planned.shapes}:
        return "its record speaks of other shapes than were measured"
    claimed = {num_tokens: row.on_benchs_kernel.latency_us.median for num_tokens, row in record.rows.items()}
    if any(row.claimed_us != claimed.get(num_tokens) for num_tokens, row in file.rows.items()):
        return "its record claims other times than were checked"
    return None


def why_overstated(record: Record, planned: PlannedFile, file: MeasuredFile) -> str | None:
    """The row whose gain over the heuristic is farthest below what its record says; None: every gain holds.

    Both times in one ratio: what is told of a file is the gain, and a heuristic that was written down too slow would
    make any of them. A heuristic that doesn't run here gains nothing less.
    """
    worst, told = 1.0 + CLAIM_TOLERANCE_PCT / 100.0, None
    for num_tokens, row in sorted(file.rows.items()):
        for where, here, said in _gains(row, record, planned, num_tokens):
            if here / said > worst:
                worst = here / said
                told = f"M={num_tokens}: {here:.3f} of the heuristic's time{where}, recorded as {said:.3f}"
    return told


def why_uncovered(record: Record, planned: PlannedFile, file: MeasuredFile) -> str | None:
    """The first part that the record tells of and main's run doesn't: its word would cover what nobody measured."""
    for num_tokens, recorded in record.rows.items():
        row = file.rows.get(num_tokens)
        here = {(part.engine, part.routing, part.shape) for part in row.parts} if row else set()
        for part in recorded.parts:
            if (part.engine, part.routing, _place(record, planned, part.shape)) not in here:
                return f"M={num_tokens}: its record tells of a part that wasn't measured here: {part}"
    return None


def _place(record: Record, planned: PlannedFile, shape: int) -> int | None:
    """Of a record's shape among the plan's. None: it has no such shape."""
    if shape >= len(record.shapes):
        return None
    places = (place for place, each in enumerate(planned.shapes) if each.shape == record.shapes[shape].shape)
    return next(places, None)


def _gains(
    row: MeasuredRow, record: Record, planned: PlannedFile, num_tokens: int
) -> Iterator[tuple[str, float, float]]:
    """(where, time over the heuristic's here, the same as recorded).

    Of parts what is beyond doubt, since a skew's few draws differ; records say them since rows have parts.
    """
    recorded = record.rows.get(num_tokens)
    if recorded is None:
        return
    if row.measured_us is not None and row.heuristic_us is not None:
        yield "", row.measured_us / row.heuristic_us, _worst_ratio(recorded)
    said = {(known.engine, known.routing, _place(record, planned, known.shape)): known for known in recorded.parts}
    for part in row.parts:
        known = said.get((part.engine, part.routing, part.shape))
        if known is not None and part.over_heuristic is not None:
            yield f" ({part})", part.over_heuristic.low, known.ratio
    yield from _summed_up(row, recorded, record, planned)


def _summed_up(
    row: MeasuredRow, recorded: RecordedRow, record: Record, planned: PlannedFile
) -> Iterator[tuple[str, float, float]]:
    """As `_gains`: the times that are told of an engine, a routing or a shape, each of the part that gains least."""
    uniform = [part for part in row.parts if part.routing is RoutingKind.UNIFORM]
    told: list[tuple[str, Compared | RowOfShape, list[MeasuredPart]]] = [
        *((name, of, [part for part in uniform if part.engine == name]) for name, of in recorded.by_engine.items()),
        *((name, of, [part for part in row.parts if part.routing == name]) for name, of in recorded.by_routing.items()),
    ]
    shapes = [served.shape for served in record.shapes]
    for of_shape in recorded.by_shape:
        place = _place(record, planned, shapes.index(of_shape.shape)) if of_shape.shape in shapes else None
        told.append((str(of_shape.shape), of_shape, [part for part in uniform if part.shape == place]))
    for name, of, parts in told:
        lows = [part.over_heuristic.low for part in parts if part.over_heuristic is not None]
        if lows:
            yield f" ({name})", max(lows), of.latency_us.median / of.baseline_us.median


def _worst_ratio(row: RecordedRow) -> float:
    """Time over the heuristic's, of the shape where it gains least: main's run tells of that one."""
    head = row.on_benchs_kernel
    times = [(head.latency_us, head.baseline_us)]
    if not row.by_engine:  # each of which is of its worst shape
        times += [(each.latency_us, each.baseline_us) for each in row.by_shape]
    return max(own.median / heuristic.median for own, heuristic in times)


def _check(line: Verified) -> None:
    """DocumentError: a line that no record may hold."""
    # Alone it lacks the rest of a record; what counts is what is said of the line itself.
    if any(fault.where.startswith("verified") for fault in schemas.faults("record", {"verified": line.to_json()})):
        found = shortened(" ".join(vars(line).values()), 200)
        expected = "expected a runner, an https:// address, 40 hex digits and a day"
        raise DocumentError(f"verified: {expected}, found {found}. Fix: correct the options.")


def _write(configs: Path, planned: PlannedFile, file: MeasuredFile, models: ModelRegistry, line: Verified) -> str:
    """Writes what the measurement comes to into the record, where it changes; says it."""
    with lock(configs):
        return _write_alone(configs, planned, file, models, line)


def _write_alone(configs: Path, planned: PlannedFile, file: MeasuredFile, models: ModelRegistry, line: Verified) -> str:
    path = record_path(configs, file.id.relative)
    content, config = read_file(path, RECORD), read_file(configs / file.id.relative, TUNED_FILE)
    reason = why_unverified(file)
    if config.data is None or not isinstance(content.document, dict):
        return f"not verified, {reason or 'the file or its record is not there'}"
    try:
        record = as_record(content)
    except RecordError:
        return f"not verified, {reason or 'its record is not valid'}"
    other = why_other(record, config.data, planned, file)
    overstated = why_overstated(record, planned, file)
    uncovered = why_uncovered(record, planned, file)
    why = reason or other or overstated or uncovered or why_unknown(planned, models)
    if why is None:
        write_file(path, record.with_verified(line).to_bytes())
        return "verified"
    # Unmeasured, main's earlier word stands as long as it names what lies here.
    has_failed = other is None and (has_lost(file) or overstated is not None)
    if record.verified is None or (record.is_verified(config.data) and not has_failed):
        return f"not verified, {why}"
    write_file(path, record.with_verified(None).to_bytes())
    return f"verified no more, {why}"
