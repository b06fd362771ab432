"""The journal: every event of a run, appended the moment it exists. A recorded landscape is a journal that was kept.

One JSON object a line. The first is the header: what was tuned, with what settings, where. A line that a kill cut
short is the last one, and is dropped. Files that end in .gz are read and written compressed.
"""

from __future__ import annotations

import contextlib
import fcntl
import gzip
import io
import json
import os
import re
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import IO, Any

from kernels.launch_config import REQUIRED_KEYS, LaunchConfig
from kernels.problem import QuantMode
from tools import cli
from tools.checkout import CHECKOUT
from tools.compile.outcome import Status
from tools.errors import UserError, reason_of
from tools.registry.devices import Target
from tools.store.files import version_folder, write_file
from tools.store.record import Environment, ShapeOfModels
from tools.store.workload import MAX_DIMENSION, ParsedName, Shape, Workload, parse_file_name
from tools.text import shown_path
from tools.tune.protocol import (
    Compiled,
    CompileJob,
    Confirmed,
    ConfirmJob,
    DeviceRefused,
    DeviceReport,
    Event,
    Screened,
    ScreenJob,
    Series,
    Subject,
)

MOST_CHARACTERS = 1 << 28
"""Of a journal, unpacked: an exhaustive one of the largest space has a tenth."""
FORMAT = 1
_ROUTINGS = ("uniform", "skew")
_MOST_TOKENS = 65536
_MOST = 1e18
"""Of anything that is counted or timed here."""
_ARCH = r"sm_[0-9]{2,3}|gfx[0-9a-f]{3,4}"
_SHA256 = r"[0-9a-f]{64}"

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
    def from_json(cls, document: Any) -> JournalHeader:
        """ValueError names the field, KeyError is of a missing one."""
        fields = _Fields.of(document, "the header")
        if fields["format"] != FORMAT:
            raise ValueError(f"format: expected {FORMAT}, found {fields['format']!r}")
        workload = _workload(_Fields.of(fields["workload"], "workload"))
        shapes = tuple(_shape(_Fields.of(shape, "shapes"), workload) for shape in fields.list("shapes"))
        arch = fields.text("arch", _ARCH)
        subject = Subject(
            workload,
            shapes,
            _quant(_Fields.of(fields["quant"], "quant"), workload),
            _target(fields.list("target"), arch),
            arch,
            fields.whole("smem_bytes", 1, 1 << 30),
        )
        settings, environment = (_Fields.of(fields[key], key) for key in ("settings", "environment"))
        if settings.get("routing", "uniform") not in _ROUTINGS:
            raise ValueError(f"routing: expected one of {_ROUTINGS}, found {settings['routing']!r}")
        if "kernel_sha256" in environment:
            environment.text("kernel_sha256", _SHA256)
        return cls(subject, dict(settings), _environment(environment))

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
            "settings": dict(self.settings),
            "environment": dict(self.environment),
        }


@dataclass(frozen=True)
class JournalEntry:
    """An event and the run's clock when it came."""

    event: Event
    clock_s: float

    @classmethod
    def from_json(cls, document: Any, subject: Subject) -> JournalEntry:
        """Errors as `JournalHeader.from_json`."""
        line = _Fields.of(document, "the line")
        return cls(_event_from_json(line, subject), line.number("clock_s"))

    def to_json(self) -> dict[str, Any]:
        return {**_event_to_json(self.event), "clock_s": round(self.clock_s, 4)}


@dataclass(frozen=True)
class Journal:
    """A journal as it is read. device: what the GPU's process reported, None where the run didn't come so far."""

    header: JournalHeader
    entries: tuple[JournalEntry, ...]
    device: DeviceReport | None = None

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
        lines = text.split("\n")
        # What follows the last newline was being written when the run ended.
        first, *others = lines[:-1] or [""]
        header = _header(path, first)
        read = [_line(path, number, line, header.subject) for number, line in enumerate(others, start=2)]
        reports = [line for line in read if isinstance(line, DeviceReport)]
        entries = tuple(line for line in read if isinstance(line, JournalEntry))
        return cls(header, entries, reports[-1] if reports else None)

    def to_json(self) -> list[dict[str, Any]]:
        """A document a line, as a run writes them."""
        device = [] if self.device is None else [_device_to_json(self.device)]
        return [self.header.to_json(), *(entry.to_json() for entry in self.entries), *device]


class JournalWriter:
    """Appends to a journal. Each line is flushed: a kill loses at most the line being written."""

    def __init__(self, path: Path, header: JournalHeader | None, *, is_new: bool = False) -> None:
        """header None: go on with a journal that has one. is_new: the file mustn't be there. OSError: can't write."""
        path.parent.mkdir(parents=True, exist_ok=True)
        if header is None:
            _drop_torn_line(path)
        self._is_compressed = path.suffix == ".gz"
        self._file: IO[str] = _open(path, "at" if header is None else "xt" if is_new else "wt")
        if header is not None:
            self._line(header.to_json())
            # Also of a compressed one: after a kill it must still show whose landscape it is.
            self._file.flush()

    def append(self, event: Event, clock_s: float) -> None:
        self._line(JournalEntry(event, clock_s).to_json())

    def report(self, device: DeviceReport) -> None:
        """What the GPU's process reported, which is known only once it is up."""
        self._line(_device_to_json(device))

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


_DAMAGE = (ValueError, KeyError, TypeError, AttributeError, RecursionError)


def _header(path: Path, line: str) -> JournalHeader:
    try:
        return JournalHeader.from_json(json.loads(line))
    except _DAMAGE as error:
        raise JournalError(
            f"{path}, line 1: expected the header of a tuner's journal, found {_described(line, error)}. {_FIX}"
        ) from error


def _line(path: Path, number: int, line: str, subject: Subject) -> JournalEntry | DeviceReport:
    try:
        document = json.loads(line)
        return _device_from_json(document) if "device" in document else JournalEntry.from_json(document, subject)
    except _DAMAGE as error:
        raise JournalError(
            f"{path}, line {number}: expected an event, found {_described(line, error)}. {_FIX}"
        ) from error


def _described(line: str, error: Exception) -> str:
    reason = f"no {error.args[0]}" if isinstance(error, KeyError) else str(error)
    return f"{line[:80]!r}: {reason}"


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
# Lines as JSON, both ways. Anyone may write a landscape: each field is checked as it is read. Every reader raises
# ValueError that names the field, or KeyError where it is missing.


def _device_to_json(device: DeviceReport) -> dict[str, Any]:
    environment = device.environment.to_json() if device.environment else {}
    return {"device": {**vars(device), "environment": environment, "notes": list(device.notes)}}


def _device_from_json(document: Any) -> DeviceReport:
    """Older landscapes call the memory's rate what it was, a copy's."""
    fields = _Fields.of(document["device"], "device")
    rate = "copy_bytes_per_s" if "copy_bytes_per_s" in fields else "memory_bytes_per_s"
    return DeviceReport(
        _whole(_environment(_Fields.of(fields["environment"], "environment"))),
        fields.number(rate, above_zero=True),
        fields.number("dense_per_s", above_zero=True),
        tuple(map(str, fields.get("notes", ()))),
    )


def _event_to_json(event: Event) -> dict[str, Any]:
    match event:
        case Compiled(job, status, seconds, kernels, message):
            body = {"compiled": job.config.to_entry(), "shape": job.shape, "naive": job.is_naive, "kernels": kernels}
        case Screened(job, status, seconds, up_us, down_us, message):
            body = {
                "screened": job.config.to_entry(),
                "shape": job.shape,
                "num_tokens": job.num_tokens,
                "give_up_us": job.give_up_us,
                "up_us": up_us,
                "down_us": down_us,
            }
        case Confirmed(job, series, seconds, active_experts):
            rows = [
                {
                    "config": s.config.to_entry(),
                    "status": s.status.value,
                    "up_us": list(s.up_us),
                    "down_us": list(s.down_us),
                    "message": s.message,
                }
                for s in series
            ]
            head = {"confirmed": rows, "shape": job.shape, "num_tokens": job.num_tokens, "rounds": job.rounds}
            counted = {} if active_experts is None else {"active_experts": active_experts}
            return {**head, "seconds": seconds, **counted}
    return {**body, "status": status.value, "seconds": seconds} | ({"message": message} if message else {})


def _event_from_json(line: _Fields, subject: Subject) -> Event:
    shape, seconds = line.whole("shape", 0, len(subject.shapes) - 1), line.number("seconds")
    if "compiled" in line:
        compile_job = CompileJob(_config(line["compiled"]), shape, line.flag("naive"))
        return Compiled(compile_job, Status(line["status"]), seconds, line.whole("kernels", 0, 1000), line.message())
    num_tokens = line.whole("num_tokens", 1, _MOST_TOKENS)
    if "screened" in line:
        status = Status(line["status"])
        give_up_us = None if line["give_up_us"] is None else line.number("give_up_us", above_zero=True)
        screen_job = ScreenJob(num_tokens, shape, _config(line["screened"]), give_up_us)
        is_ok = status is Status.OK
        up_us, down_us = (line.number(key, above_zero=is_ok) for key in ("up_us", "down_us"))
        return Screened(screen_job, status, seconds, up_us, down_us, line.message())
    series = tuple(_series(_Fields.of(row, "confirmed")) for row in line.list("confirmed"))
    job = ConfirmJob(num_tokens, shape, tuple(row.config for row in series), line.whole("rounds", 1, 10_000))
    counted = line.get("active_experts") is not None
    return Confirmed(job, series, seconds, line.number("active_experts", above_zero=True) if counted else None)


def _series(row: _Fields) -> Series:
    status = Status(row["status"])
    up_us, down_us = row.times("up_us"), row.times("down_us")
    if len(up_us) != len(down_us) or bool(up_us) != (status is Status.OK):
        raise ValueError(
            "confirmed: expected as many times for up as for down, and none unless ok, "
            f"found {len(up_us)} and {len(down_us)}"
        )
    return Series(_config(row["config"]), status, up_us, down_us, row.message())


# ---------------------------------------------------------------
# Parts


def _workload(fields: _Fields) -> Workload:
    """One that its own file name stands for: what is written goes by that name."""
    workload = Workload(
        fields.whole("E", 1, MAX_DIMENSION),
        fields.whole("N", 1, MAX_DIMENSION),
        fields.text("device_name"),
        None if fields["dtype"] is None else fields.text("dtype"),
        fields.block_shape(),
        fields.flag("per_channel_quant"),
        fields.flag("down"),
    )
    found = parse_file_name(workload.file_name())
    if found != ParsedName(workload, ()) or workload.down:
        reason = found.faults[0].message if found.faults else "no file of its own"
        raise ValueError(f"workload: expected one that a file can be named after, found: {reason}")
    return workload


def _shape(fields: _Fields, workload: Workload) -> ShapeOfModels:
    models = fields["models"]
    if not isinstance(models, list) or not all(
        isinstance(model, str) and model and model.isprintable() for model in models
    ):
        raise ValueError(f"models: expected names, found {models!r:.80}")
    shape = Shape(fields.whole("K", 1, MAX_DIMENSION), fields.whole("top_k", 1, workload.E))
    return ShapeOfModels(shape, tuple(models))


def _quant(fields: _Fields, workload: Workload) -> QuantMode:
    dtype = None if fields["dtype"] is None else fields.text("dtype")
    quant = QuantMode(dtype, fields.text("compute_type"), fields.flag("per_channel"), fields.block_shape())
    if (quant.dtype, quant.block_shape) != (workload.dtype, workload.block_shape):
        raise ValueError(f"quant: expected the workload's dtype and block_shape, found {dtype}, {quant.block_shape}")
    return quant


def _target(parts: Sequence[Any], arch: str) -> Target:
    kind, _, number = arch.partition("_")
    expected = ("cuda", int(number), 32) if kind == "sm" else ("hip", arch, 64 if arch.startswith("gfx9") else 32)
    if tuple(parts) != expected:
        raise ValueError(f"target: expected {expected}, found {parts!r:.80}")
    return Target(*expected)


def _environment(fields: _Fields) -> dict[str, Any]:
    """What a record tells of a machine: plain values, and a Triton that a folder can be named after."""
    for key, value in fields.items():
        if not isinstance(value, int | None) and not (isinstance(value, str) and value.isprintable()):
            raise ValueError(f"{key!r:.40}: expected a text or a number, found {value!r:.80}")
    if "triton" in fields:
        version_folder(fields.text("triton"))
    return dict(fields)


def _whole(environment: Mapping[str, Any]) -> Environment | None:
    """None where some of it is missing. What else it tells is left alone."""
    names = [field.name for field in fields(Environment)]
    known = {name: environment[name] for name in names if name in environment}
    return Environment.read(known) if len(known) == len(names) else None


def _config(entry: Any) -> LaunchConfig:
    config = LaunchConfig.from_entry(_Fields.of(entry, "launch config"))
    wrong = [key for key in REQUIRED_KEYS if not 1 <= getattr(config, key) <= 1 << 16]
    if wrong:
        raise ValueError(f"launch config: expected from 1 to {1 << 16}, found {entry!r:.80}")
    return config


class _Fields(dict[str, Any]):
    """A JSON object whose fields are asked for by type and range."""

    @classmethod
    def of(cls, value: Any, what: str) -> _Fields:
        if not isinstance(value, dict):
            raise ValueError(f"{what}: expected an object, found {value!r:.80}")
        return cls(value)

    def whole(self, key: str, least: int, most: int) -> int:
        value = self[key]
        if type(value) is not int or not least <= value <= most:
            raise ValueError(f"{key}: expected a whole number from {least} to {most}, found {value!r:.80}")
        return value

    def number(self, key: str, *, above_zero: bool = False) -> float:
        return _number(key, self[key], above_zero=above_zero)

    def times(self, key: str) -> tuple[float, ...]:
        values = self[key]
        if not isinstance(values, list):
            raise ValueError(f"{key}: expected times, found {values!r:.80}")
        return tuple(_number(key, value, above_zero=True) for value in values)

    def text(self, key: str, pattern: str = r".{1,200}") -> str:
        value = self[key]
        if not isinstance(value, str) or not value.isprintable() or not re.fullmatch(pattern, value):
            raise ValueError(f"{key}: expected a text like {pattern}, found {value!r:.80}")
        return value

    def message(self) -> str:
        """May be left out, and may hold anything."""
        return str(self.get("message", ""))

    def flag(self, key: str) -> bool:
        value = self[key]
        if not isinstance(value, bool):
            raise ValueError(f"{key}: expected true or false, found {value!r:.80}")
        return value

    def list(self, key: str) -> Sequence[Any]:
        value = self[key]
        if not isinstance(value, list) or not value:
            raise ValueError(f"{key}: expected a list that isn't empty, found {value!r:.80}")
        return value

    def block_shape(self) -> tuple[int, int] | None:
        value = self["block_shape"]
        if value is None:
            return None
        if not isinstance(value, list) or len(value) != 2 or any(type(n) is not int or n < 1 for n in value):
            raise ValueError(f"block_shape: expected two numbers or null, found {value!r:.80}")
        return value[0], value[1]


def _number(key: str, value: Any, *, above_zero: bool) -> float:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not (value > 0 if above_zero else value >= 0) or not value <= _MOST:
        least = "above 0" if above_zero else "from 0"
        raise ValueError(f"{key}: expected a finite number {least}, found {value!r:.80}")
    return float(value)


# ---------------------------------------------------------------
# The journals of one run: opened all before the one of a killed run makes room, and locked as long as it runs.

JOURNALS = CHECKOUT / ".tune"
"""Where journals of unfinished runs lie; ignored by git."""


@dataclass(frozen=True)
class RunJournals:
    """earlier: what the run that is resumed had measured. writers: the journal, and the landscape where one is kept."""

    earlier: tuple[JournalEntry, ...]
    writers: tuple[JournalWriter, ...]
    path: Path

    def forget(self) -> None:
        """The run has come to its end: nothing is left to resume."""
        self.path.unlink(missing_ok=True)


@contextlib.contextmanager
def open_journals(header: JournalHeader, landscape_path: Path | None, *, resume: bool) -> Iterator[RunJournals]:
    """JournalError: another run has the journal, what is to be resumed is another run, or a file can't be taken.

    Where the device then refuses, everything is as it was: nothing was measured.
    """
    path = journal_path(header.subject)
    if landscape_path:
        _check_landscape(landscape_path, path, header, resume=resume)
    if resume and not path.exists():
        raise JournalError(f"--resume: expected a killed run's journal, found no {shown_path(path)}.")
    with _locked(path) as is_ours, contextlib.ExitStack() as undo:
        if is_ours:
            undo.callback(path.unlink, missing_ok=True)
        earlier = _read_earlier(path, header) if resume else None
        writers: list[JournalWriter] = []
        if landscape_path:
            is_new = not landscape_path.exists()
            writers.append(_open_landscape(landscape_path, header, earlier or (), is_new=is_new))
            undo.callback(writers[0].close)
            if is_new:
                undo.callback(landscape_path.unlink, missing_ok=True)
        previous = _previous(path)
        if not resume and path.stat().st_size:
            # A copy, since the lock is on the file itself.
            write_file(previous, path.read_bytes())
            undo.callback(previous.replace, path)
        writers.insert(0, JournalWriter(path, None if resume else header))
        undo.callback(writers[0].close)
        try:
            yield RunJournals(earlier or (), tuple(writers), path)
        except DeviceRefused:
            raise
        except BaseException:
            undo.pop_all()  # what was measured is kept
            raise
        undo.pop_all()


def journal_path(subject: Subject) -> Path:
    """One a file name, whatever the settings: two runs of it would overwrite each other's file too."""
    return JOURNALS / f"{Path(subject.workload.file_name()).stem}.jsonl"


def partial_path(subject: Subject) -> Path:
    """The rows decided so far, as a file that engines can read: its folder can be the loader's user folder."""
    return JOURNALS / "partial" / subject.workload.file_name()


def _previous(path: Path) -> Path:
    """Where the journal of the run before is kept."""
    return path.with_suffix(".previous.jsonl")


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[bool]:
    """Holds the journal for this run; says whether it wasn't there. JournalError: another run holds it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    while True:
        is_new = not path.exists()
        with path.open("ab") as file:
            _lock(file, path)
            # Who came just before may have ended in between, and taken its journal away.
            if path.exists() and os.path.samestat(os.fstat(file.fileno()), path.stat()):
                yield is_new
                return


def _lock(file: IO[bytes], path: Path) -> None:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise JournalError(
            f"{shown_path(path)}: expected no other run of this file, found one at work. Fix: wait until it ends."
        ) from error


def _read_earlier(path: Path, header: JournalHeader) -> tuple[JournalEntry, ...]:
    earlier = Journal.read(path)
    for name, expected, found in (
        ("the workload", header.subject, earlier.header.subject),
        ("the settings", header.settings, earlier.header.settings),
        ("Triton and kernel", header.environment, earlier.header.environment),
    ):
        if expected != found:
            difference = f"{name}: expected {expected}, found {found}"
            raise JournalError(f"{shown_path(path)}: {difference}. Fix: leave out --resume.")
    return earlier.entries


def _check_landscape(landscape: Path, journal: Path, header: JournalHeader, *, resume: bool) -> None:
    """Written over is only the same run's own, whose events all lie in the journal."""
    if landscape.resolve() == journal.resolve():
        raise JournalError(
            f"--record-landscape: expected another file than the journal, found {shown_path(landscape)}."
        )
    if os.path.lexists(landscape) and not (resume and read_header(landscape) == header):
        expected = "a new file, or this very run's own" if resume else "a new file"
        raise JournalError(
            f"--record-landscape: expected {expected}, found {shown_path(landscape)}. Fix: name another, or remove it."
        )


def _open_landscape(
    path: Path, header: JournalHeader, earlier: tuple[JournalEntry, ...], *, is_new: bool
) -> JournalWriter:
    try:
        writer = JournalWriter(path, header, is_new=is_new)
    except OSError as error:
        raise JournalError(
            f"--record-landscape: expected a file that can be written, found {shown_path(path)}: "
            f"{reason_of(error)}. Fix: name another."
        ) from error
    for entry in earlier:
        writer.append(entry.event, entry.clock_s)
    return writer
