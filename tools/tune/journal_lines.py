"""A journal's lines as JSON, both ways. Landscapes come from anybody: each field is checked as it is read.

Every reader raises ValueError that names the field, or KeyError where it is missing.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from kernels.launch_config import REQUIRED_KEYS, LaunchConfig
from kernels.problem import QuantMode
from tools.compile.outcome import Status
from tools.registry.devices import Target
from tools.store.files import version_folder
from tools.store.workload import MAX_DIMENSION, ParsedName, Shape, Workload, parse_file_name
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

FORMAT = 1
_ROUTINGS = ("uniform", "skew")
_MOST_TOKENS = 65536
_MOST = 1e18
"""Of anything that is counted or timed here."""
_ARCH = r"sm_[0-9]{2,3}|gfx[0-9a-f]{3,4}"
_SHA256 = r"[0-9a-f]{64}"


@dataclass(frozen=True)
class Header:
    """What a journal is of. settings: whatever changes what is measured; a resumed run must have the same."""

    subject: Subject
    settings: Mapping[str, Any]
    environment: Mapping[str, Any]


def header_to_json(header: Header) -> dict[str, Any]:
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


def header_from_json(document: Any) -> Header:
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
    return Header(subject, dict(settings), _environment(environment))


def device_from_json(document: Any) -> dict[str, Any]:
    """What the GPU's process reported. Landscapes of old call the memory's rate what it was, a copy's."""
    fields = _Fields.of(document, "device")
    for key in {"memory_bytes_per_s", "copy_bytes_per_s", "dense_per_s"} & fields.keys():
        fields.number(key, above_zero=True)
    if {"memory_bytes_per_s", "copy_bytes_per_s"} & fields.keys():
        fields["dense_per_s"]
    if "environment" in fields:
        _environment(_Fields.of(fields["environment"], "environment"))
    return dict(fields)


def event_to_json(event: Event) -> dict[str, Any]:
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


def event_from_json(document: Any, subject: Subject) -> tuple[Event, float]:
    """(the event, the run's clock in seconds)"""
    line = _Fields.of(document, "the line")
    return _event(line, subject), line.number("clock_s")


def _event(line: _Fields, subject: Subject) -> Event:
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
            f"confirmed: expected as many times up as down, of what ran, found {len(up_us)}, {len(down_us)}"
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


def _shape(fields: _Fields, workload: Workload) -> NamedShape:
    models = fields["models"]
    if not isinstance(models, list) or not all(
        isinstance(model, str) and model and model.isprintable() for model in models
    ):
        raise ValueError(f"models: expected names, found {models!r:.80}")
    shape = Shape(fields.whole("K", 1, MAX_DIMENSION), fields.whole("top_k", 1, workload.E))
    return NamedShape(shape, tuple(models))


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
            raise ValueError(f"{key}: expected a list with something in it, found {value!r:.80}")
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
