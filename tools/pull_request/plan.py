"""The plan: what a GPU runner may measure of a pull request, as numbers and members of enumerations. Pure.

Every launch config is read with the core and written anew. Shapes come from main's registry; one that only the pull
request's record names is taken within bounds and marked so.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from tools.findings import Finding
from tools.pull_request.changes import config_path, records_path, refused
from tools.pull_request.files import Version
from tools.pull_request.gate import unearned, writes_verified
from tools.registry.devices import Device, DeviceRegistry
from tools.registry.models import ModelRegistry
from tools.registry.sharding import explain_pair
from tools.store.launch_config import LaunchConfig
from tools.store.strict_json import Json
from tools.store.workload import Shape, Workload

ASSUMED_SHAPE = Shape(K=4096, top_k=2)
"""Mixtral 8x7B's, where neither main's registry nor the record says it."""

HIDDEN_SIZES = range(256, 16384 + 1, 64)
"""The hidden sizes that are measured though no registered model has them; those of the registry lie inside."""

MOST_EXPERTS_PER_TOKEN = 64

MOST_SHAPES = 16
"""Shapes of one workload. Of the registry's (E, N) none stands for more than 12."""

MEMORY_SHARE = 0.8
UNKNOWN_MEMORY_GIB = 32
"""Of a device whose memory the registry doesn't tell."""

LONGEST_US = 1e9

_BYTES_OF_WEIGHT = {None: 2, "float32": 4}
_BYTES_OF_ACTIVATION = 2


@dataclass(frozen=True)
class Registries:
    """Main's, whatever the pull request does to them."""

    devices: DeviceRegistry
    models: ModelRegistry


@dataclass(frozen=True)
class Changed:
    """One tuned file as the pull request would leave it on main, and as main has it."""

    claimed: Version
    main: Version

    @property
    def workload(self) -> Workload | None:
        return self.claimed.workload

    @property
    def is_there(self) -> bool:
        """Whether there is anything to measure: a file on either side that isn't main's already, to the byte."""
        same = (self.claimed.data, self.claimed.record_data) == (self.main.data, self.main.record_data)
        return not same and (self.claimed.exists or self.main.exists)


@dataclass(frozen=True)
class NamedShape:
    """A shape to measure; registered: a model of main's registry has it with the file's E and N."""

    shape: Shape
    registered: bool


@dataclass(frozen=True)
class PlannedFile:
    """One file of a leg. None in claimed or main: there is no such file."""

    workload: Workload
    tier: str
    shapes: tuple[NamedShape, ...]
    claimed: Mapping[int, LaunchConfig] | None
    main: Mapping[int, LaunchConfig] | None
    claimed_us: Mapping[int, float]

    def to_json(self) -> dict[str, Json]:
        return {
            "workload": described(self.workload),
            "tier": self.tier,
            "down": self.workload.down,
            "shapes": [
                {"K": named.shape.K, "top_k": named.shape.top_k, "registered": named.registered}
                for named in self.shapes
            ],
            "claimed": _entries(self.claimed),
            "main": _entries(self.main),
            "record": {"median_us": _by_batch_size(self.claimed_us)} if self.claimed_us else None,
        }


@dataclass(frozen=True)
class Plan:
    """Files to measure by the device that measures them."""

    number: int
    head_sha: str
    base_sha: str
    legs: Mapping[str, tuple[PlannedFile, ...]]

    def to_json(self) -> dict[str, Json]:
        """As schema/plan.schema.json describes it."""
        legs = [
            {"device_name": name, "workloads": [file.to_json() for file in self.legs[name]]}
            for name in sorted(self.legs)
        ]
        return {
            "schema_version": 1,
            "number": self.number,
            "head_sha": self.head_sha,
            "base_sha": self.base_sha,
            "legs": legs,
        }


def described(workload: Workload) -> dict[str, Any]:
    """The workload as records and plans spell it."""
    return {**asdict(workload), "block_shape": workload.block_shape and list(workload.block_shape)}


def legs(files: Iterable[Changed], registries: Registries) -> Mapping[str, tuple[PlannedFile, ...]]:
    """The files by device. They have passed `plan_refusals`."""
    by_device: defaultdict[str, list[PlannedFile]] = defaultdict(list)
    for file in files:
        device = _device(file, registries)
        if file.workload is None or device is None or not file.is_there:
            continue
        by_device[device.name].append(
            PlannedFile(
                workload=file.workload,
                tier=file.claimed.tier,
                shapes=shapes_of(file.workload, _recorded(file.claimed), registries.models),
                claimed=file.claimed.entries if file.claimed.exists else None,
                main=file.main.entries if file.main.exists else None,
                claimed_us=file.claimed.medians_us() if file.claimed.exists else {},
            )
        )
    return {name: tuple(planned) for name, planned in by_device.items()}


def plan_refusals(files: Iterable[Changed], registries: Registries) -> list[Finding]:
    """Why files that the validator accepts are still not measured. Empty: every one of them may be."""
    return [finding for file in files if file.is_there for finding in _faults(file, registries)]


def shapes_of(workload: Workload, recorded: Sequence[Shape], models: ModelRegistry) -> tuple[NamedShape, ...]:
    """The shapes that the record speaks of, so that its figures can be compared; else the registry's; else one."""
    known = registered_shapes(workload, models)
    chosen = tuple(dict.fromkeys(recorded)) or known
    assumed = Shape(ASSUMED_SHAPE.K, min(ASSUMED_SHAPE.top_k, workload.E))
    return tuple(NamedShape(shape, shape in known) for shape in chosen or (assumed,))


def registered_shapes(workload: Workload, models: ModelRegistry) -> tuple[Shape, ...]:
    """Those of every registered model with this E and N, of the model that needs the fewest ranks first."""
    N = workload.N // 2 if workload.dtype == "int4_w4a16" else workload.N
    shapes: dict[Shape, None] = {}
    for explanation in explain_pair(workload.E, N, models):
        model = models.find(explanation.model_id)
        shapes[Shape(model.K, model.top_k + explanation.fused_shared_experts)] = None
    return tuple(shapes)


def needed_bytes(workload: Workload, shape: Shape, num_tokens: int) -> int:
    """Memory of one layer's weights, and of the largest batch's activations between its two launches."""
    E, N, K = workload.E, workload.N, shape.K
    weights = 3 * E * N * K * _BYTES_OF_WEIGHT.get(workload.dtype, 1)
    return weights + num_tokens * (K + shape.top_k * (3 * N + K)) * _BYTES_OF_ACTIVATION


def _faults(file: Changed, registries: Registries) -> Iterator[Finding]:
    workload, device = file.workload, _device(file, registries)
    path = config_path(file.claimed.relative)
    if workload is None or device is None:
        message = "expected a workload on a device of main's registry, found another name"
        yield refused(path, "device", message, "add the device in a pull request of its own first")
        return
    if found := list(_record_faults(file, workload, registries.models)):
        yield from found  # shapes out of bounds say nothing about memory
        return
    most = int(MEMORY_SHARE * (device.memory_gib or UNKNOWN_MEMORY_GIB) * 2**30)
    largest = max([*file.claimed.entries, *file.main.entries], default=1)
    shapes = shapes_of(workload, _recorded(file.claimed), registries.models)
    needed = max(needed_bytes(workload, named.shape, largest) for named in shapes)
    if needed > most:
        message = (
            f"expected weights and activations of at most {_gib(most)} ({MEMORY_SHARE:.0%} of {device.name}), "
            f"found {_gib(needed)} at batch size {largest}"
        )
        yield refused(path, "memory", message, "correct E and N in the name, or leave the largest batch sizes out")


def _record_faults(file: Changed, workload: Workload, models: ModelRegistry) -> Iterator[Finding]:
    path = records_path(file.claimed.relative)
    if writes_verified(file.main, file.claimed):
        yield unearned(path)
    if any(median > LONGEST_US for median in file.claimed.medians_us().values()):
        yield refused(
            path, "record", f"rows: expected medians of at most {LONGEST_US:.0e} µs, found more", "tune again"
        )
    shapes = _recorded(file.claimed)
    if len(shapes) > MOST_SHAPES:
        message = f"shapes: expected at most {MOST_SHAPES}, found {len(shapes)}"
        yield refused(path, "shape", message, "name those that were measured")
    known = registered_shapes(workload, models)
    most = min(workload.E, MOST_EXPERTS_PER_TOKEN)
    for shape in shapes[:MOST_SHAPES]:
        if shape not in known and (shape.K not in HIDDEN_SIZES or not 1 <= shape.top_k <= most):
            message = (
                f"shapes: expected one of main's registry, or K from {HIDDEN_SIZES[0]} to {HIDDEN_SIZES[-1]} in steps "
                f"of {HIDDEN_SIZES.step} and top_k up to {most}, found K={shape.K}, top_k={shape.top_k}"
            )
            yield refused(path, "shape", message, "correct the record, or add the model to the registry first")


def _recorded(version: Version) -> tuple[Shape, ...]:
    """The record's shapes; what has none that can be read is refused by the validator."""
    shapes = version.record.get("shapes") if version.exists else None
    sizes = [(s.get("K"), s.get("top_k")) for s in shapes if isinstance(s, dict)] if isinstance(shapes, list) else []
    return tuple(Shape(K, top_k) for K, top_k in sizes if isinstance(K, int) and isinstance(top_k, int))


def _device(file: Changed, registries: Registries) -> Device | None:
    return None if file.workload is None else registries.devices.get(file.workload.device_name)


def _entries(entries: Mapping[int, LaunchConfig] | None) -> Json:
    return None if entries is None else _by_batch_size({m: config.to_entry() for m, config in entries.items()})


def _by_batch_size(rows: Mapping[int, Json]) -> dict[str, Json]:
    return {str(num_tokens): rows[num_tokens] for num_tokens in sorted(rows)}


def _gib(num_bytes: int) -> str:
    return f"{num_bytes / 2**30:,.1f} GiB" if num_bytes < 2**70 else "over 2^40 GiB"
