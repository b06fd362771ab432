"""The journal: every event of a run, appended the moment it exists. A recorded landscape is a journal that was kept.

One JSON object a line. The first is the header: what was tuned, with what settings, where. A line that a kill cut
short is the last one, and is dropped. Files that end in .gz are read and written compressed.
"""

from __future__ import annotations

import gzip
import io
import json
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import IO, Any

from kernels.launch_config import LaunchConfig
from kernels.problem import Flavour, QuantMode
from tools import cli
from tools.compile.outcome import Status
from tools.errors import MachineError, UserError, reason_of
from tools.measure.panel import Part, RoutingKind
from tools.registry.devices import Target
from tools.store import schemas
from tools.store.record import Environment, ShapeOfModels
from tools.store.strict_json import Json, parse
from tools.store.workload import ParsedName, Workload, parse_file_name
from tools.tune.protocol import (
    COMMON_NUM_TOKENS,
    BlockJob,
    Compiled,
    CompileJob,
    DeviceReport,
    Event,
    Measured,
    Screened,
    ScreenJob,
    Series,
    Subject,
)

MOST_CHARACTERS = 1 << 28
"""Of a journal, unpacked: an exhaustive one of the largest space has a tenth."""
FORMAT = 1

_FIX = "Fix: give a file that the tuner wrote (--record-landscape FILE keeps one)"


class JournalError(UserError):
    """A journal or landscape that can't be used. One line for a person."""


@dataclass(frozen=True)
class JournalHeader:
    """What a journal is of. settings: whatever changes what is measured; a resumed run must have the same.

    environment: Triton and kernel.
    """

    subject: Subject
    settings: Mapping[str, Any]
    environment: Mapping[str, Any]

    @classmethod
    def from_json(cls, document: Json) -> JournalHeader:
        """Of a document that is valid by the schema. ValueError: it is of no workload that a run tunes."""
        workload = _workload(document)
        quant, target = document["quant"], document["target"]
        subject = Subject(
            workload,
            tuple(_shape(shape, workload) for shape in document["shapes"]),
            _quant(quant, workload),
            _target(target, document["arch"]),
            document["arch"],
            document["smem_bytes"],
            tuple(tuple(map(Flavour, engines)) for engines in document.get("engines", ())),
        )
        if subject.engines and len(subject.engines) != len(subject.shapes):
            raise ValueError(f"engines: expected those of {len(subject.shapes)} shapes, found {len(subject.engines)}")
        _check_printable(document["environment"])
        return cls(subject, document["settings"], document["environment"])

    def to_json(self) -> dict[str, Any]:
        subject = self.subject
        workload, quant = subject.workload, subject.quant
        return {
            "format": FORMAT,
            "workload": workload.to_json(),
            "shapes": [named.to_json() for named in subject.shapes],
            "quant": {**vars(quant), "block_shape": quant.block_shape and list(quant.block_shape)},
            "target": list(subject.target),
            "arch": subject.arch,
            "smem_bytes": subject.smem_bytes,
            **({"engines": [[*engines] for engines in subject.engines]} if subject.engines else {}),
            "settings": dict(self.settings),
            "environment": dict(self.environment),
        }


@dataclass(frozen=True)
class JournalEntry:
    """An event and the run's clock when it came."""

    event: Event
    clock_s: float

    @classmethod
    def from_json(cls, document: Json, header: JournalHeader) -> JournalEntry:
        """Of a document that is valid by the schema. ValueError: it is none of this subject's events."""
        return cls(_event_from_json(document, header), float(document["clock_s"]))

    def to_json(self) -> dict[str, Any]:
        return {**_event_to_json(self.event), "clock_s": round(self.clock_s, 4)}


@dataclass(frozen=True)
class Journal:
    """A journal as it is read. device: what the GPU's process reported, None where the run didn't come so far.

    events: how many there were when it did, None where that isn't told. is_torn: the last line has no end.
    """

    header: JournalHeader
    entries: tuple[JournalEntry, ...]
    device: DeviceReport | None = None
    events: int | None = None
    is_torn: bool = False

    @classmethod
    def read(cls, path: Path) -> Journal:
        """JournalError: missing, unreadable, or no journal; names the line."""
        try:
            with _open(path, "rt") as file:
                text = file.read(MOST_CHARACTERS + 1)
        except (OSError, EOFError, UnicodeDecodeError, zlib.error) as error:
            raise JournalError(f"{path}: expected a journal of the tuner, found: {reason_of(error)}. {_FIX}") from error
        if len(text) > MOST_CHARACTERS:
            raise JournalError(
                f"{path}: expected a journal of at most {MOST_CHARACTERS} characters, found more. {_FIX}"
            )
        *lines, rest = text.split("\n")
        # What follows the last newline was being written when the run ended.
        first, *others = lines or [""]
        header = _header(path, first)
        read = [_line(path, number, line, header) for number, line in enumerate(others, start=2)]
        reports = [line for line in read if isinstance(line, _LastLine)]
        entries = tuple(line for line in read if isinstance(line, JournalEntry))
        device, events = (reports[-1].device, reports[-1].events) if reports else (None, None)
        return cls(header, entries, device, events, bool(rest))

    def to_json(self) -> list[dict[str, Any]]:
        """A document a line, as a run writes them."""
        device = [] if self.device is None else [_LastLine(self.device, self.events).to_json()]
        return [self.header.to_json(), *(entry.to_json() for entry in self.entries), *device]

    def gaps(self) -> list[str]:
        """What a finished run's journal has and this one lacks, in words; empty where nothing is known to be missing.

        Of one that goes on after a kill, and of older ones, the number of events isn't told.
        """
        found = ["the end of its last line"] if self.is_torn else []
        if self.device is None:
            found.append("the GPU's own report, with which a finished run ends")
        if self.events is not None and self.events != len(self.entries):
            found.append(f"the {self.events} events that its report counts ({len(self.entries)} are there)")
        there = {e.event.job.num_tokens for e in self.entries if not isinstance(e.event, Compiled)}
        tuned = self.header.settings.get("num_tokens")
        lost = [m for m in tuned if isinstance(m, int) and m not in there] if isinstance(tuned, list) else []
        if lost:
            found.append(f"measurements of batch sizes {', '.join(map(str, lost))}")
        return found


@dataclass(frozen=True)
class _LastLine:
    """The GPU's report, once all events are written; and their number, where it is known."""

    device: DeviceReport
    events: int | None

    @classmethod
    def from_json(cls, document: Json) -> _LastLine:
        """Of a document that is valid by the schema. Older landscapes call the memory's rate what it was, a copy's."""
        device = document["device"]
        rate = device["copy_bytes_per_s"] if "copy_bytes_per_s" in device else device["memory_bytes_per_s"]
        _check_printable(device["environment"])
        report = DeviceReport(
            _whole(device["environment"]), float(rate), float(device["dense_per_s"]), tuple(device.get("notes", ()))
        )
        return cls(report, device.get("events"))

    def to_json(self) -> dict[str, Any]:
        device = self.device
        environment = device.environment.to_json() if device.environment else {}
        counted = {} if self.events is None else {"events": self.events}
        return {"device": {**vars(device), "environment": environment, "notes": list(device.notes), **counted}}


class JournalWriter:
    """Appends to a journal. Each line is flushed: a kill loses at most the line being written."""

    def __init__(self, path: Path, header: JournalHeader | None, *, is_new: bool = False) -> None:
        """header None: go on with a journal that has one. is_new: the file mustn't be there. OSError: can't write."""
        path.parent.mkdir(parents=True, exist_ok=True)
        if header is None:
            _drop_torn_line(path)
        self._events = None if header is None else 0  # of one that goes on, nobody counts those that were there
        self._is_compressed = path.suffix == ".gz"
        self._file: IO[str] = _open(path, "at" if header is None else "xt" if is_new else "wt")
        if header is not None:
            self._line(header.to_json())
            # Also of a compressed one: after a kill it must still show whose landscape it is.
            self._file.flush()

    def append(self, event: Event, clock_s: float) -> None:
        self._line(JournalEntry(event, clock_s).to_json())
        if self._events is not None:
            self._events += 1

    def report(self, device: DeviceReport) -> None:
        """What the GPU's process reported, as the last line: with it a journal is whole."""
        self._line(_LastLine(device, self._events).to_json())

    def close(self) -> None:
        self._file.close()

    def _line(self, document: Mapping[str, Any]) -> None:
        self._file.write(json.dumps(document, separators=(",", ":")) + "\n")
        # A landscape that is being compressed would hardly shrink line by line.
        if not self._is_compressed:
            self._file.flush()


def read_header(path: Path) -> JournalHeader | None:
    """Of a journal that may be cut short anywhere behind it. None: it has none that can be read."""
    try:
        with _open(path, "rt") as file:
            return _header(path, file.readline(MOST_CHARACTERS))
    except (OSError, EOFError, UnicodeDecodeError, zlib.error, JournalError):
        return None


def _header(path: Path, line: str) -> JournalHeader:
    try:
        document = _document(line)
        if "format" not in document:
            raise ValueError("format is missing")
        return JournalHeader.from_json(document)
    except MachineError:  # this checkout's schema, say
        raise
    except ValueError as error:
        raise _refused(path, 1, "the header of a tuner's journal", line, error) from error


def _line(path: Path, number: int, line: str, header: JournalHeader) -> JournalEntry | _LastLine:
    try:
        document = _document(line)
        if "format" in document:
            raise ValueError("a header, which only the first line is")
        return _LastLine.from_json(document) if "device" in document else JournalEntry.from_json(document, header)
    except MachineError:
        raise
    except ValueError as error:
        raise _refused(path, number, "an event", line, error) from error


def _document(line: str) -> Json:
    """What the line holds, valid by the schema. ValueError says what is wrong."""
    document, broken = parse(line.encode())
    for fault in broken:
        raise ValueError(fault.message)
    for violation in schemas.faults("landscape", document):
        raise ValueError(f"{violation.where}: {violation.message}")
    return document


def _refused(path: Path, number: int, expected: str, line: str, error: ValueError) -> JournalError:
    return JournalError(f"{path}, line {number}: expected {expected}, found {line[:80]!r}: {error}. {_FIX}")


def _open(path: Path, mode: str) -> IO[Any]:
    if mode == "rt":
        cli.check_file(path, MOST_CHARACTERS)
    if path.suffix == ".gz":
        return io.TextIOWrapper(gzip.GzipFile(path, mode.replace("t", "")), encoding="utf-8")
    return path.open(mode.replace("t", ""), encoding="utf-8")


def _drop_torn_line(path: Path) -> None:
    if path.suffix == ".gz":
        found = "found a compressed one. Fix: unpack it"
        raise JournalError(f"{path}: expected an uncompressed journal to go on with, {found}")
    data = path.read_bytes()
    end = data.rfind(b"\n") + 1
    if end != len(data):
        with path.open("r+b") as file:
            file.truncate(end)


# ---------------------------------------------------------------
# Lines as JSON, both ways. Anyone may write a landscape: what its schema can't say is checked as it is read.


def _event_to_json(event: Event) -> dict[str, Any]:
    match event:
        case Compiled(job, status, seconds, kernels, message):
            body = {"compiled": job.config.to_entry(), "shape": job.shape, "naive": job.is_naive, "kernels": kernels}
            body |= _unless(engine=(job.engine, Flavour.VLLM), num_tokens=(job.num_tokens, COMMON_NUM_TOKENS))
            body |= _up(job.up)
        case Screened(job, status, seconds, up_us, down_us, message):
            body = {
                "screened": job.config.to_entry(),
                "shape": job.shape,
                "num_tokens": job.num_tokens,
                "give_up_us": job.give_up_us,
                "up_us": up_us,
                "down_us": down_us,
            }
            body |= _unless(engine=(job.engine, Flavour.VLLM), routing=(job.routing, RoutingKind.UNIFORM))
        case Measured(job, series, seconds, active_experts, draws):
            head = {
                "measured": [_series_to_json(one) for one in series],
                "engine": job.part.engine.value,
                "shape": job.part.placement,
                "routing": job.part.routing.value,
                "num_tokens": job.num_tokens,
                "block": job.first,
                "blocks": job.count,
                "apart": job.is_apart,
                "draws": draws,
            }
            counted = {} if active_experts is None else {"active_experts": active_experts}
            return {**head, **_up(job.up), "seconds": seconds, **counted}
    return {**body, "status": status.value, "seconds": seconds} | ({"message": message} if message else {})


def _up(config: LaunchConfig | None) -> dict[str, Any]:
    return {} if config is None else {"up": config.to_entry()}


def _up_from_json(line: Json, configs: Iterable[LaunchConfig]) -> LaunchConfig | None:
    """ValueError: down can't run behind it."""
    up = LaunchConfig(**line["up"]) if "up" in line else None
    if up is not None and {config.BLOCK_SIZE_M for config in configs} != {up.BLOCK_SIZE_M}:
        raise ValueError(f"up: expected the BLOCK_SIZE_M of every config that runs down, found {up.BLOCK_SIZE_M}")
    return up


def _unless(**values: tuple[Any, Any]) -> dict[str, Any]:
    """The values that aren't the usual ones."""
    return {key: value for key, (value, usual) in values.items() if value != usual}


def _series_to_json(series: Series) -> dict[str, Any]:
    apart = {"up_us": list(series.up_us), "down_us": list(series.down_us)} if series.up_us else {}
    head = {"config": series.config.to_entry(), "status": series.status.value}
    return {**head, "us": list(series.us), **apart, "message": series.message}


def _event_from_json(line: Json, header: JournalHeader) -> Event:
    shape, seconds, shapes = line["shape"], float(line["seconds"]), header.subject.shapes
    if shape >= len(shapes):
        raise ValueError(f"shape: expected one of the header's {len(shapes)}, counted from 0, found {shape}")
    engine = Flavour(line.get("engine", Flavour.VLLM))
    if "compiled" in line:
        config = LaunchConfig(**line["compiled"])
        num_tokens, up = line.get("num_tokens", COMMON_NUM_TOKENS), _up_from_json(line, [config])
        compile_job = CompileJob(config, shape, line["naive"], engine, num_tokens, up)
        return Compiled(compile_job, Status(line["status"]), seconds, line["kernels"], line.get("message", ""))
    num_tokens = line["num_tokens"]
    if "screened" in line:
        give_up_us = None if line["give_up_us"] is None else float(line["give_up_us"])
        routing = RoutingKind(line.get("routing", RoutingKind.UNIFORM))
        screen_job = ScreenJob(num_tokens, shape, LaunchConfig(**line["screened"]), give_up_us, engine, routing)
        up_us, down_us = float(line["up_us"]), float(line["down_us"])
        return Screened(screen_job, Status(line["status"]), seconds, up_us, down_us, line.get("message", ""))
    active_experts = None if line.get("active_experts") is None else float(line["active_experts"])
    if "confirmed" in line:
        return _of_rounds(line, header, active_experts)
    series = tuple(map(_series, line["measured"]))
    part = Part(engine, shape, RoutingKind(line["routing"]))
    configs = tuple(one.config for one in series)
    up = _up_from_json(line, configs)
    job = BlockJob(num_tokens, part, configs, line["block"], line["blocks"], line["apart"], up)
    for one in series:
        if one.status is Status.OK and len(one.us) != job.count:
            raise ValueError(f"measured: expected {job.count} times, one a block, found {len(one.us)}")
    return Measured(job, series, seconds, active_experts, line["draws"])


def _of_rounds(line: Json, header: JournalHeader, active_experts: float | None) -> Measured:
    """Older landscapes replayed one set of draws, round by round, up and down apart: each round counts as a block."""
    told = header.settings.get("routing", RoutingKind.UNIFORM)
    kind = RoutingKind.SKEW_1 if told == "skew" else RoutingKind(told)
    series = tuple(map(_series, line["confirmed"]))
    configs = tuple(one.config for one in series)
    part = Part(Flavour.VLLM, line["shape"], kind)
    job = BlockJob(line["num_tokens"], part, configs, 0, line["rounds"], is_apart=True)
    return Measured(job, series, float(line["seconds"]), active_experts)


def _series(row: Json) -> Series:
    config, status, message = LaunchConfig(**row["config"]), Status(row["status"]), row.get("message", "")
    up_us, down_us = (tuple(map(float, row.get(key, ()))) for key in ("up_us", "down_us"))
    if len(up_us) != len(down_us):
        raise ValueError(f"expected as many times for up as for down, found {len(up_us)} and {len(down_us)}")
    if not up_us:
        return Series(config, status, tuple(map(float, row.get("us", ()))), message=message)
    return Series.apart(config, up_us, down_us)


# ---------------------------------------------------------------
# Parts


def _workload(document: Json) -> Workload:
    """One that its own file name stands for: what is written goes by that name."""
    workload = Workload.read(document["workload"])
    found = parse_file_name(workload.file_name())
    if found != ParsedName(workload, ()):
        reason = found.faults[0].message if found.faults else "no file of its own"
        raise ValueError(f"workload: expected one that a file can be named after, found: {reason}")
    return workload


def _shape(document: Json, workload: Workload) -> ShapeOfModels:
    named = ShapeOfModels.read(document)
    if fault := named.shape.fault(workload.E):
        raise ValueError(fault)
    if not all(map(str.isprintable, named.models)):
        raise ValueError(f"models: expected names that can be printed, found {list(named.models)!r:.80}")
    return named


def _quant(document: Json, workload: Workload) -> QuantMode:
    block_shape = document["block_shape"] and tuple(document["block_shape"])
    quant = QuantMode(document["dtype"], document["compute_type"], document["per_channel"], block_shape)
    if (quant.dtype, quant.block_shape) != (workload.dtype, workload.block_shape):
        raise ValueError(f"quant: expected the workload's dtype and block_shape, found {quant.dtype}, {block_shape}")
    return quant


def _target(parts: Sequence[Any], arch: str) -> Target:
    kind, _, number = arch.partition("_")
    expected = ("cuda", int(number), 32) if kind == "sm" else ("hip", arch, 64 if arch.startswith("gfx9") else 32)
    if tuple(parts) != expected:
        raise ValueError(f"target: expected {expected}, found {parts!r:.80}")
    return Target(*expected)


def _check_printable(environment: Mapping[str, Json]) -> None:
    for key, value in environment.items():
        if isinstance(value, str) and not value.isprintable():
            raise ValueError(f"{key!r:.40}: expected a text that can be printed, found {value!r:.80}")


def _whole(environment: Mapping[str, Json]) -> Environment | None:
    """None where some of it is missing. What else it tells is left alone."""
    names = [field.name for field in fields(Environment)]
    known = {name: environment[name] for name in names if name in environment}
    return Environment.read(known) if len(known) == len(names) else None
