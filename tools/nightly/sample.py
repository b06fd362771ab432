"""Which measured files a night visits, and the plan that a GPU runner measures them by. Pure.

There is no state: the date decides. The files stand in a circle and each night takes the next ones, so that over any
number of nights the visits of two files differ by one at most.
"""

from __future__ import annotations

import datetime
import hashlib
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from kernels.launch_config import LaunchConfig
from tools.pull_request.documents import DEFAULT_TIER, FileId, workload_json
from tools.registry.devices import DeviceRegistry
from tools.registry.models import ModelRegistry
from tools.registry.sharding import explain_pair
from tools.store.strict_json import Json
from tools.store.workload import Shape, Workload

MOST_SHAPES = 16
"""Shapes of one file that are measured; schema/plan.schema.json takes no more."""


@dataclass(frozen=True)
class MeasuredFile:
    """A tuned file with figures. median_us: what its record says, by batch size."""

    id: FileId
    entries: Mapping[int, LaunchConfig]
    shapes: tuple[Shape, ...]
    median_us: Mapping[int, float]


def is_new(newest: tuple[int, ...], reference: tuple[int, ...], folders: Iterable[tuple[int, ...]]) -> bool:
    """Whether a Triton release is newer than any that a tier was tuned with: then every file is to be measured."""
    return newest > max([reference, *folders])


def measurable(
    files: Iterable[MeasuredFile], devices: DeviceRegistry, with_runner: Collection[str]
) -> list[MeasuredFile]:
    """The files whose device is among those with a runner, which are named as the registry names them."""
    return [
        file
        for file in files
        if (device := devices.get(file.id.workload.device_name)) is not None and device.name in with_runner
    ]


def of_night(files: Sequence[MeasuredFile], day: datetime.date, count: int) -> tuple[MeasuredFile, ...]:
    """The files that are due on that day, `count` of them or all there are."""
    # Shuffled the same way every night, so that a night's files are of many models and devices.
    circle = sorted(files, key=lambda file: hashlib.sha256(str(file.id.relative).encode()).digest())
    start = day.toordinal() * count
    return tuple(circle[(start + step) % len(circle)] for step in range(min(count, len(circle))))


def plan(
    files: Iterable[MeasuredFile], commit: str, devices: DeviceRegistry, models: ModelRegistry
) -> Mapping[str, Json]:
    """The plan as schema/plan.schema.json has it, number 0. commit: main's head, 40 hexadecimal digits.

    A file is claimed as it is and main has none beside it: so it is measured against the heuristic, not itself.
    """
    legs: dict[str, list[Json]] = {}
    for file in sorted(files, key=lambda file: str(file.id.relative)):
        device = devices.get(file.id.workload.device_name)
        name = device.name if device else file.id.workload.device_name
        legs.setdefault(name, []).append(_planned(file, models))
    return {
        "schema_version": 1,
        "number": 0,
        "head_sha": commit,
        "base_sha": commit,
        "legs": [{"device_name": name, "workloads": legs[name]} for name in sorted(legs)],
    }


def _planned(file: MeasuredFile, models: ModelRegistry) -> Mapping[str, Json]:
    known = _registered(file.id.workload, models)
    return {
        "workload": workload_json(file.id.workload),
        "tier": file.id.tier,
        "down": file.id.workload.down,
        "shapes": [
            {"K": shape.K, "top_k": shape.top_k, "registered": shape in known} for shape in file.shapes[:MOST_SHAPES]
        ],
        "claimed": {str(size): file.entries[size].to_entry() for size in sorted(file.entries)},
        "main": None,
        "record": {"median_us": {str(size): file.median_us[size] for size in sorted(file.median_us)}},
    }


def _registered(workload: Workload, models: ModelRegistry) -> frozenset[Shape]:
    return frozenset(
        Shape(models.find(found.model_id).K, models.find(found.model_id).top_k + found.fused_shared_experts)
        for found in explain_pair(workload.E, workload.N, models)
    )


def measured_file(workload: Workload, folder: str, entries: Mapping[int, LaunchConfig], record: Json) -> MeasuredFile:
    """folder: of its tier, empty for the default. record: measured, as schema/record.schema.json has it."""
    shapes = tuple(dict.fromkeys(Shape(shape["K"], shape["top_k"]) for shape in record["shapes"]))
    medians = {int(size): float(row["latency_us"]["median"]) for size, row in record["rows"].items()}
    return MeasuredFile(FileId(workload, folder or DEFAULT_TIER), entries, shapes, medians)
