"""A tuned file without its evidence is a rumour: the record says who measured what, where and against what."""

from __future__ import annotations

import datetime
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

from fused_moe_configs.lookup import down_of
from tools.checkout import reference_triton
from tools.findings import Severity
from tools.launch.heuristic_version import outdated
from tools.launch.kernel_hash import is_known, kernel_sha256
from tools.measure.floor import MOST_SPREAD_PCT, SHARE, least_us
from tools.measure.layer import LayerShape
from tools.measure.panel import LARGEST_RATIO, RoutingKind
from tools.registry.devices import Device
from tools.registry.shapes import quant_mode_of, shapes_fault
from tools.registry.sharding import named_model_has
from tools.store import schemas
from tools.store.config_file import ConfigFile
from tools.store.files import TUNED_FILE, closed_folder, read_file, record_path, sha256, version_folder
from tools.store.record import Environment, Latency, Record, RecordedRow
from tools.store.workload import Shape, Workload
from tools.validate.model import REPO_ONLY, Context, FileRule, Issue
from tools.validate.rules import canonical_bytes


def check(file: ConfigFile, context: Context) -> Iterator[Issue]:
    """The record exists, is valid, and speaks of exactly this file."""
    path = record_path(file.found.root, file.found.relative)
    if (closed := closed_folder(path)) is not None:
        yield Issue("the folder can't be read, so its files have no record", "make it readable", path=closed)
        return
    if not os.path.lexists(path):
        yield Issue(
            f"expected a record at records/{file.found.relative}, found none",
            "tune it, which writes file and record; figures from elsewhere: move the file out of configs/ and take it "
            "over with `nox -s convert`, which writes the record",
        )
        return
    content = file.record
    for fault in content.faults:
        yield Issue(str(fault), fault.fix, path=path)
    if content.faults:
        return
    faults = schemas.faults("record", content.document)
    for schema_fault in faults:
        fix = "see schema/record.schema.json; the tuner writes valid records"
        yield Issue(f"{schema_fault.where}: {schema_fault.message}", fix, path=path)
    if not faults:
        record = Record.read(content.document)
        yield from _mismatches(record, path, file)
        yield from _untimely(record, path, context.today)
        yield from _unlikely_checks(record, path)
        yield from _checks_with_another_down(record, path, file)
        if file.workload is not None:
            yield from _strange_models(record, file.workload, path, context)
        if record.is_measured and file.workload is not None:
            yield from _strange_shapes(record, file.workload, path, context)
            yield from _strange_engines(record, path)
            yield from _strange_parts(record, path)
            yield from _never_measured(record, file.workload, path, context.device_of(file))
        if record.is_measured and record.environment is not None:
            yield from _measured_mismatches(record, record.environment, path, file)
            yield from _elsewhere(record.environment, path, context.device_of(file), context)
        yield from _impossible(record, path, context.device_of(file))


def _mismatches(record: Record, path: Path, file: ConfigFile) -> Iterator[Issue]:
    if file.workload is not None:
        expected, found = asdict(file.workload), asdict(record.workload)
        for key in expected:
            if expected[key] != found[key]:
                yield Issue(
                    f"workload.{key}: expected {expected[key]!r} as in the name, found {found[key]!r}",
                    "the record is of another file: restore this file's own, or tune it again",
                    path=path,
                )
    yield from _other_bytes(record, path, file)


def _other_bytes(record: Record, path: Path, file: ConfigFile) -> Iterator[Issue]:
    """The file was changed after it was recorded, and nothing else says so.

    Of one that can't be read, or whose rows are others, that is said; what differs in form alone, --fix writes anew.
    """
    data, as_written = file.content.data, canonical_bytes.fixed(file)
    if data is None or as_written is None or record.speaks_of(data) or record.speaks_of(as_written):
        return
    if not record.is_measured or set(record.rows) == set(file.batch_sizes):
        yield Issue(
            f"config_sha256: expected the file that was recorded ({record.config_sha256[:12]}…), found another "
            f"({sha256(data)[:12]}…)",
            "restore the file as it was recorded (git restore does, where it is committed), or "
            + ("tune it again" if record.is_measured else "remove it and its record and take it over again")
            + ", which writes both anew",
            path=path,
        )


def _measured_mismatches(record: Record, environment: Environment, path: Path, file: ConfigFile) -> Iterator[Issue]:
    rows, keys = set(record.rows), set(file.batch_sizes)
    if file.document is not None and rows != keys:
        parts = {"missing": keys - rows, "not in the file": rows - keys}
        told = [f"{what} {', '.join(map(str, sorted(sizes)))}" for what, sizes in parts.items() if sizes]
        yield Issue(
            f"rows: expected the file's batch sizes, found {' and '.join(told)}",
            "restore the file as it was recorded, or tune it again with the batch sizes that it should have",
            path=path,
        )
    if file.workload is not None and not file.workload.down:
        yield from _slower_rows(record, path)
    triton = environment.triton
    folder = file.found.folder
    if folder.startswith("triton_") and version_folder(triton) != folder:
        yield Issue(
            f"environment.triton: expected the version of {folder}, found {triton}",
            "move the file to its version's folder, or tune with that version",
            path=path,
        )
    held = {version_folder(line.triton) for line in record.verified_with or ()}
    if folder == "" and version_folder(reference_triton()) not in held | {version_folder(triton)}:
        yield Issue(
            f"environment.triton: measured with {triton}, the reference is {reference_triton()}",
            "bench the file with the reference Triton",
            Severity.WARNING,
            path=path,
        )
    if record.kernel_sha256 is not None and not is_known(record.kernel_sha256):
        yield Issue(
            f"kernel_sha256: expected the hash of a kernel that this project has or had, found {record.kernel_sha256}",
            "tune it again with this checkout's kernel",
            path=path,
        )
    elif record.kernel_sha256 != kernel_sha256():
        yield Issue(
            "measured on an older kernel",
            "nothing to do until the bench shows a difference",
            Severity.INFO,
            path=path,
        )
    if engines := outdated(record):
        yield Issue(
            f"heuristics: measured against an older heuristic of {' and '.join(engines)}",
            "nothing to do until the bench shows a difference; tuning it again measures against today's",
            Severity.INFO,
            path=path,
        )


def _untimely(record: Record, path: Path, today: datetime.date) -> Iterator[Issue]:
    """Somewhere it is tomorrow already; later it is nowhere. A commit's own day proves no more: its author sets it."""
    last = today + datetime.timedelta(days=1)
    days = [("date", record.date)]
    days += [(f"verified_with.{index}.date", line.date) for index, line in enumerate(record.verified_with or ())]
    days += [(f"engine_checked.{index}.date", line.date) for index, line in enumerate(record.engine_checked or ())]
    days += [("verified.date", record.verified.date)] if record.verified else []
    for key, day in days:
        if datetime.date.fromisoformat(day) > last:
            yield Issue(
                f"{key}: expected a day until {last}, found {day}", "write the day on which it was measured", path=path
            )


def _unlikely_checks(record: Record, path: Path) -> Iterator[Issue]:
    for index, line in enumerate(record.engine_checked or ()):
        told = [("", line.worst_ratio, line.geomean_ratio)]
        told += [(f".by_routing.{kind}", of.worst_ratio, of.geomean_ratio) for kind, of in line.by_routing.items()]
        told += [(".shipped", line.shipped.worst_ratio, line.shipped.geomean_ratio)] if line.shipped else []
        for where, worst, geomean in told:
            if geomean > worst:
                yield Issue(
                    f"engine_checked.{index}{where}: expected a geomean_ratio of at most worst_ratio, {worst:g}, "
                    f"found {geomean:g}",
                    "bench it again with --write-record, or take the line out",
                    path=path,
                )


def _checks_with_another_down(record: Record, path: Path, file: ConfigFile) -> Iterator[Issue]:
    """SGLang runs a `_down` file with its up file: what was judged is the pair."""
    down = file.found.path.with_name(down_of(file.found.path.name))
    data = read_file(down, TUNED_FILE).data
    for index, line in enumerate(record.engine_checked or ()):
        if line.down_sha256 is not None and not line.ran_with(data):
            found = "none" if data is None else f"another ({sha256(data)[:12]}…)"
            yield Issue(
                f"engine_checked.{index}: expected {down.name} with which it was judged ({line.down_sha256[:12]}…), "
                f"found {found}",
                "restore that file, or take the line out and judge the file again (bench files --write-record)",
                path=path,
            )


def _strange_shapes(record: Record, workload: Workload, path: Path, context: Context) -> Iterator[Issue]:
    """Shapes set the floor and what main measures: they are not the record's to choose, nor are those of a row."""
    shapes = [served.shape for served in record.shapes]
    if fault := shapes_fault(workload, shapes, context.models):
        yield Issue(fault.message, fault.fix, path=path)
    for num_tokens, row in record.rows.items():
        if row.by_shape and Counter(of_shape.shape for of_shape in row.by_shape) != Counter(shapes):
            found = ", ".join(_sizes(of_shape.shape) for of_shape in row.by_shape)
            yield Issue(
                f"rows.{num_tokens}.by_shape: expected each of the record's shapes once, found {found}",
                "tune it again: the tuner writes what it measured",
                path=path,
            )
        elif row.by_shape and (row.latency_us, row.baseline_us) not in _times_by_shape(row):
            yield Issue(
                f"rows.{num_tokens}: expected the times of one of by_shape, found others",
                "tune it again: the tuner writes those of the shape where the entry does worst",
                path=path,
            )


def _strange_engines(record: Record, path: Path) -> Iterator[Issue]:
    """What a bench compares with is one engine's; the headline is of the one where the entry does worst."""
    for num_tokens, row in record.rows.items():
        pairs = [(pair.latency_us, pair.baseline_us) for pair in row.by_engine.values()]
        if pairs and (row.latency_us, row.baseline_us) not in pairs:
            yield Issue(
                f"rows.{num_tokens}: expected the times of one of by_engine, found others",
                "tune it again: the tuner writes those of the engine where the entry does worst",
                path=path,
            )


def _strange_parts(record: Record, path: Path) -> Iterator[Issue]:
    """Each of another engine, routing or shape of the record's, with its ratio inside its interval."""
    for num_tokens, row in record.rows.items():
        seen: set[tuple[str, int, str]] = set()
        for index, part in enumerate(row.parts):
            name = part.engine, part.shape, part.routing
            found = None
            if part.shape >= len(record.shapes):
                found = f"one of the record's {len(record.shapes)} shapes, from 0, found {part.shape}"
            elif name in seen:
                found = f"each part once, found {part} again"
            elif not part.low <= part.ratio <= part.high:
                found = f"low ≤ ratio ≤ high, found {part.low}, {part.ratio}, {part.high}"
            seen.add(name)
            if found:
                where = f"rows.{num_tokens}.parts.{index}"
                yield Issue(f"{where}: expected {found}", "tune it again: the tuner writes what it measured", path=path)


def _strange_models(record: Record, workload: Workload, path: Path, context: Context) -> Iterator[Issue]:
    """`list --model` tells their readers that the file serves them, and main's word doesn't cover the names."""
    for index, served in enumerate(record.shapes):
        for name in served.models:
            has = named_model_has(name, workload.E, workload.N, served.shape, context.models)
            if has is False:
                yield Issue(
                    f"shapes.{index}.models: expected models with E={workload.E}, N={workload.N}, "
                    f"{_sizes(served.shape)} on a rank, found {name}",
                    "take the name out, or correct its sizes",
                    path=path,
                )
            elif has is None:
                yield Issue(
                    f"shapes.{index}.models: expected models of the registry, found {name}, which nothing here checks",
                    "add the model to configs/registry/models.json in a change of its own, or take the name out",
                    Severity.WARNING,
                    path=path,
                )


def _never_measured(record: Record, workload: Workload, path: Path, device: Device | None) -> Iterator[Issue]:
    """Figures of what this project's kernel can't run, or that device can't hold."""
    quant = quant_mode_of(workload)
    if quant is None:
        yield Issue(
            f"source: expected published, as no kernel of this project runs {workload.dtype}, found measured",
            "remove file and record; figures from elsewhere: take them over with `nox -s convert`",
            path=path,
        )
        return
    if device is None or device.memory_gib is None:
        return
    for index, served in enumerate(record.shapes):
        layer = LayerShape(workload.E, workload.N, served.shape.K, served.shape.top_k, quant)
        if layer.weights_bytes > device.memory_gib * 2**30:
            yield Issue(
                f"shapes.{index}: expected weights that {device.name} holds, {device.memory_gib} GiB, found "
                f"{layer.weights_bytes / 2**30:,.1f} GiB with {_sizes(served.shape)}",
                "name the file by the E and N that were measured",
                path=path,
            )


def _sizes(shape: Shape) -> str:
    return f"K={shape.K}, top_k={shape.top_k}"


def _times_by_shape(row: RecordedRow) -> list[tuple[Latency, Latency]]:
    return [(of_shape.latency_us, of_shape.baseline_us) for of_shape in row.by_shape]


def _slower_rows(record: Record, path: Path) -> Iterator[Issue]:
    """Of a whole row. A `_down` file's entry is half of one, and may lose there what the other half gains."""
    for num_tokens, row in record.rows.items():
        fault = _beyond_bound(record, row) if row.parts else _slower_median(row)
        if fault:
            yield Issue(f"rows.{num_tokens}{fault}", "an engine is faster without the file: tune it again", path=path)


def _beyond_bound(record: Record, row: RecordedRow) -> str | None:
    """The first part that decides and whose mean ratio lies above the bound, unless the row says so of that part."""
    decides = record.tuner is not None and record.tuner.settings.get("decide_by_recorded") is True
    told = {(part.engine, part.shape, part.routing) for part in row.unbounded}
    for index, part in enumerate(row.parts):
        is_beside = part.routing == RoutingKind.RECORDED and not decides
        if part.ratio > LARGEST_RATIO and not is_beside and (part.engine, part.shape, part.routing) not in told:
            return (
                f".parts.{index}: expected at most {LARGEST_RATIO} of the heuristic's time ({part}), or bounded false "
                f"and the part under unbounded, found {part.ratio}"
            )
    return None


def _slower_median(row: RecordedRow) -> str | None:
    """Of records without parts, whose rows were chosen by medians: none may lie above the heuristic's."""
    pairs = [("", row.latency_us, row.baseline_us)]
    pairs += [(f".by_shape.{index}", *times) for index, times in enumerate(_times_by_shape(row))]
    for where, own, heuristic in pairs:
        if own.median > heuristic.median:
            return f"{where}: expected at most the heuristic's {heuristic.median} µs, found {own.median} µs"
    return None


def _impossible(record: Record, path: Path, device: Device | None) -> Iterator[Issue]:
    """Times that no measurement gives: a limit that follows from them would let any drift pass. The first of them."""
    shapes = [served.shape for served in record.shapes]
    for num_tokens, row in record.rows.items():

        def least(of: Sequence[Shape], num_tokens: int = num_tokens) -> float:
            return least_us(record.workload, of, num_tokens, device)

        faults = [(figure, _why_impossible(latency, least(of))) for figure, latency, of in _figures(row, shapes)]
        faults += _impossible_parts(row, least(shapes))
        for figure, fault in faults:
            if fault is not None:
                fix = "tune it again: the tuner writes what it measured"
                yield Issue(f"rows.{num_tokens}.{figure}: {fault}", fix, path=path)
                return


def _figures(row: RecordedRow, shapes: Sequence[Shape]) -> Iterator[tuple[str, Latency, Sequence[Shape]]]:
    """(its place in the row, the time, the shapes of which it may be)"""
    for engine, pair in row.by_engine.items():
        yield f"by_engine.{engine}.latency_us", pair.latency_us, shapes
        yield f"by_engine.{engine}.baseline_us", pair.baseline_us, shapes
    yield "latency_us", row.latency_us, shapes
    yield "baseline_us", row.baseline_us, shapes
    yield from ((f"baselines.{engine}", latency, shapes) for engine, latency in row.baselines.items())
    if row.incumbent_us is not None:
        yield "incumbent_us", row.incumbent_us, shapes
    for index, of_shape in enumerate(row.by_shape):
        yield f"by_shape.{index}.latency_us", of_shape.latency_us, [of_shape.shape]
        yield f"by_shape.{index}.baseline_us", of_shape.baseline_us, [of_shape.shape]


def _why_impossible(latency: Latency, least: float) -> str | None:
    p10, median, p90 = latency.p10, latency.median, latency.p90
    if not p10 <= median <= p90:
        return f"expected p10 ≤ median ≤ p90, found {p10:g}, {median:g} and {p90:g} µs"
    if median < least:
        return f"expected at least {least:.3g} µs, which the device takes at best, found {median:g}"
    if latency.spread_pct > MOST_SPREAD_PCT:
        return f"expected p10 and p90 within {MOST_SPREAD_PCT:g} % of the median, found {latency.spread_pct:.3g} %"
    return None


def _impossible_parts(row: RecordedRow, least: float) -> list[tuple[str, str | None]]:
    """What is told beside the times must be of the same row: its halves add up, its floor lies near it."""
    median, margin = row.latency_us.median, MOST_SPREAD_PCT / 100.0
    parts = [us for us in (row.up_us, row.down_us) if us is not None]
    faults: list[tuple[str, str | None]] = []
    if parts:
        lower = (1.0 - margin) * median if len(parts) == 2 else 0.0
        is_sound = lower <= sum(parts) <= (1.0 + margin) * median
        expected = f"expected both to add up to the row's {median:g} µs within {MOST_SPREAD_PCT:g} %"
        faults.append(("up_us and down_us", None if is_sound else f"{expected}, found {sum(parts):g}"))
    if row.floor_us is not None:
        most = median / SHARE
        is_sound = least <= row.floor_us <= most
        found = f"expected {least:.3g} to {most:.3g} µs beside the row's {median:g}, found {row.floor_us:g}"
        faults.append(("floor_us", None if is_sound else found))
    return faults


def _elsewhere(environment: Environment, path: Path, device: Device | None, context: Context) -> Iterator[Issue]:
    """Figures of another GPU say nothing of the one that the name promises."""
    if device is None:
        return
    expected = [("device_name", device.name, context.devices.get(environment.device_name) == device)]
    if device.arch is not None:
        capability = _capability(device.arch)
        expected.append(("compute_capability", capability, environment.compute_capability == capability))
    if device.sm_count is not None:  # a slice of the GPU reports its name
        expected.append(("sm_count", str(device.sm_count), environment.sm_count == device.sm_count))
    for key, wanted, agrees in expected:
        if not agrees:
            yield Issue(
                f"environment.{key}: expected {wanted} as of the name's device, found {getattr(environment, key)}",
                "tune it on that device, or name the file by the one that was measured",
                path=path,
            )


def _capability(arch: str) -> str:
    """As a driver tells it: sm_90 is 9.0, sm_120 is 12.0; AMD's architectures have no other name."""
    digits = arch.removeprefix("sm_")
    return f"{digits[:-1]}.{digits[-1]}" if digits != arch else arch


RULE = FileRule("record", "The file's record exists, is valid and matches.", check, layouts=REPO_ONLY)
