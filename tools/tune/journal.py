"""The journal: every event of a run, appended the moment it exists. A recorded landscape is a journal that was kept.

One JSON object a line. The first is the header: what was tuned, with what settings, where. A line that a kill cut
short is the last one, and is dropped. Files that end in .gz are read and written compressed.
"""

from __future__ import annotations

import gzip
import io
import json
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from kernels.problem import QuantMode
from tools.compile.outcome import Status
from tools.console import reason_of
from tools.launch_config import LaunchConfig
from tools.registry import Target
from tools.tune.model import (
    Compiled,
    CompileJob,
    Confirmed,
    ConfirmJob,
    Event,
    NamedShape,
    Screened,
    ScreenJob,
    Series,
    Subject,
)
from tools.workload import Shape, Workload

FORMAT = 1
MOST_CHARACTERS = 1 << 28
"""Of a journal, unpacked: an exhaustive one of the largest space has a tenth."""


_FIX = "Fix: give a file that the tuner wrote (--record-landscape FILE keeps one)"


class JournalError(ValueError):
    """A journal or landscape that can't be used. One line for a person."""


@dataclass(frozen=True)
class Header:
    """What a journal is of. settings: whatever changes what is measured; a resumed run must have the same."""

    subject: Subject
    settings: Mapping[str, Any]
    environment: Mapping[str, Any]


@dataclass(frozen=True)
class Entry:
    """An event and the run's clock when it came."""

    event: Event
    clock_s: float


@dataclass(frozen=True)
class Journal:
    """A journal as it is read. device: what the GPU's process reported, None where the run didn't come so far."""

    header: Header
    entries: tuple[Entry, ...]
    device: Mapping[str, Any] | None = None


class JournalWriter:
    """Appends to a journal. Each line is flushed: a kill loses at most the line being written."""

    def __init__(self, path: Path, header: Header | None) -> None:
        """header None: go on with a journal that has one. OSError: it can't be written."""
        path.parent.mkdir(parents=True, exist_ok=True)
        if header is None:
            _drop_torn_line(path)
        self._is_compressed = path.suffix == ".gz"
        self._file: IO[str] = _open(path, "wt" if header is not None else "at")
        if header is not None:
            self._line(_header_to_json(header))

    def append(self, event: Event, clock_s: float) -> None:
        self._line({**_to_json(event), "clock_s": round(clock_s, 4)})

    def report(self, device: Mapping[str, Any]) -> None:
        """What the GPU's process reported, which is known only once it is up."""
        self._line({"device": dict(device)})

    def close(self) -> None:
        self._file.close()

    def _line(self, document: Mapping[str, Any]) -> None:
        self._file.write(json.dumps(document, separators=(",", ":")) + "\n")
        # A landscape that is being compressed would hardly shrink line by line.
        if not self._is_compressed:
            self._file.flush()


def read_journal(path: Path) -> Journal:
    """JournalError: missing, unreadable, or no journal; names the line."""
    try:
        with _open(path, "rt") as file:
            text = file.read(MOST_CHARACTERS + 1)
    except (OSError, EOFError, UnicodeDecodeError, zlib.error) as error:
        raise JournalError(f"{path}: expected a journal of the tuner, found: {reason_of(error)}. {_FIX}") from error
    if len(text) > MOST_CHARACTERS:
        raise JournalError(f"{path}: expected a journal of at most {MOST_CHARACTERS} characters, found more. {_FIX}")
    lines = text.split("\n")
    # What follows the last newline was being written when the run ended.
    header, *entries = lines[:-1] or [""]
    try:
        first = _header_from_json(json.loads(header))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise JournalError(
            f"{path}, line 1: expected the header of a tuner's journal, found {header[:80]!r}. {_FIX}"
        ) from error
    read = [_entry(path, number, line) for number, line in enumerate(entries, start=2)]
    devices = [entry for entry in read if isinstance(entry, dict)]
    return Journal(first, tuple(e for e in read if isinstance(e, Entry)), devices[-1] if devices else None)


def _entry(path: Path, number: int, line: str) -> Entry | dict[str, Any]:
    try:
        document = json.loads(line)
        if "device" in document:
            return dict(document["device"])
        return Entry(_from_json(document), float(document["clock_s"]))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise JournalError(f"{path}, line {number}: expected an event, found {line[:80]!r}. {_FIX}") from error


def _open(path: Path, mode: str) -> IO[Any]:
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
# As JSON


def _header_to_json(header: Header) -> dict[str, Any]:
    subject = header.subject
    workload, quant = subject.workload, subject.quant
    return {
        "format": FORMAT,
        "workload": {**vars(workload), "block_shape": workload.block_shape and list(workload.block_shape)},
        "shapes": [{"K": s.shape.K, "top_k": s.shape.top_k, "models": list(s.models)} for s in subject.shapes],
        "quant": {**vars(quant), "block_shape": quant.block_shape and list(quant.block_shape)},
        "target": list(subject.target),
        "arch": subject.arch,
        "smem_bytes": subject.smem_bytes,
        "settings": dict(header.settings),
        "environment": dict(header.environment),
    }


def _header_from_json(document: Mapping[str, Any]) -> Header:
    if document["format"] != FORMAT:
        raise ValueError(f"format: expected {FORMAT}, found {document['format']}")
    workload, quant = ({**document[key]} for key in ("workload", "quant"))
    for fields in (workload, quant):
        fields["block_shape"] = fields["block_shape"] and tuple(fields["block_shape"])
    subject = Subject(
        Workload(**workload),
        tuple(NamedShape(Shape(s["K"], s["top_k"]), tuple(s["models"])) for s in document["shapes"]),
        QuantMode(**quant),
        Target(*document["target"]),
        document["arch"],
        document["smem_bytes"],
    )
    return Header(subject, document["settings"], document["environment"])


def _to_json(event: Event) -> dict[str, Any]:
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


def _from_json(line: Mapping[str, Any]) -> Event:
    shape, seconds = line["shape"], float(line["seconds"])
    if "compiled" in line:
        compile_job = CompileJob(LaunchConfig.from_entry(line["compiled"]), shape, line["naive"])
        return Compiled(compile_job, Status(line["status"]), seconds, line["kernels"], line.get("message", ""))
    if "screened" in line:
        config = LaunchConfig.from_entry(line["screened"])
        screen_job = ScreenJob(line["num_tokens"], shape, config, line["give_up_us"])
        times = float(line["up_us"]), float(line["down_us"])
        return Screened(screen_job, Status(line["status"]), seconds, *times, line.get("message", ""))
    series = tuple(
        Series(
            LaunchConfig.from_entry(row["config"]),
            Status(row["status"]),
            tuple(row["up_us"]),
            tuple(row["down_us"]),
            row["message"],
        )
        for row in line["confirmed"]
    )
    job = ConfirmJob(line["num_tokens"], shape, tuple(row.config for row in series), line["rounds"])
    active_experts = line.get("active_experts")
    return Confirmed(job, series, seconds, None if active_experts is None else float(active_experts))
