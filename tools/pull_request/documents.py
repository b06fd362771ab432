"""The plan and the results as these commands hand them on: read as if they were hostile, checked, then frozen.

Both travel as artifacts between machines that trust each other little. What leaves this module is numbers, members of
enumerations and strings of a narrow pattern.
"""

from __future__ import annotations

import json
import os
import stat
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

from kernels.launch_config import LaunchConfig
from kernels.problem import Flavour
from tools.errors import UserError
from tools.measure.floor import least_us
from tools.measure.judgement import Verdict
from tools.measure.panel import Ratio, RoutingKind
from tools.registry.devices import DeviceRegistry, load_devices
from tools.store import schemas
from tools.store.files import version_folder
from tools.store.record import Decision, Environment
from tools.store.strict_json import Json, parse
from tools.store.tiers import DEFAULT_TIER, LEGACY
from tools.store.workload import Shape, Workload
from tools.text import printable, shown_path

MAX_BYTES: Mapping[str, int] = {"plan": 4 << 20, "results": 32 << 20}
"""What readers take. 256 files of 18 rows are a plan of 1.2 MiB and results of 3.5; where a file has little to be
planned (main has none, and no record), its results are up to seven times as large."""

MAX_LEG_FILES = 256
"""Of one leg, as both schemas have it."""

MERGED = 0
"""A plan's number where there is no pull request: main has merged it already."""

RESULTS = "results.json"
CONFIGS = "configs"
"""In a leg's artifact: the results, and the folder of re-tuned files."""


_FIXES: Mapping[str, str] = {
    "plan": "Fix: run `plan` again.",
    "results": "Fix: run that leg again on a fresh machine.",
}


class DocumentError(UserError):
    """A document that can't be used."""


@dataclass(frozen=True)
class PlannedShape:
    """registered: a model of main's registry has the shape behind this name."""

    shape: Shape
    registered: bool

    @classmethod
    def read(cls, document: Mapping[str, Json]) -> PlannedShape:
        return cls(Shape.read(document), document["registered"])

    def to_json(self) -> dict[str, Json]:
        return {**self.shape.to_json(), "registered": self.registered}


@dataclass(frozen=True)
class FileId:
    """Which tuned file: its workload, and its tier as `default` or the folder's name."""

    workload: Workload
    tier: str

    @property
    def relative(self) -> PurePosixPath:
        """Below configs/."""
        folder = "" if self.tier == DEFAULT_TIER else self.tier
        return PurePosixPath(folder, self.workload.file_name())

    def triton_folder(self, wanted: str) -> str | None:
        """As in `triton_3_8_0`: the Triton whose figures speak for the file. None: any, of a legacy file.

        wanted: the Triton that default files are to be measured under. ValueError: it is no version.
        """
        if self.tier == LEGACY:
            return None
        return version_folder(wanted) if self.tier == DEFAULT_TIER else self.tier


@dataclass(frozen=True)
class PlannedFile:
    """One tuned file to measure. claimed and main: entries by batch size, empty where there is no such file.

    claims_us: the medians that the pull request's record claims, by batch size.
    """

    id: FileId
    shapes: tuple[PlannedShape, ...]
    claimed: Mapping[int, LaunchConfig]
    main: Mapping[int, LaunchConfig]
    claims_us: Mapping[int, float]

    @property
    def batch_sizes(self) -> tuple[int, ...]:
        """The claimed file's; main's where the file is removed."""
        return tuple(sorted(self.claimed or self.main))

    def to_json(self) -> dict[str, Json]:
        return {
            "workload": self.id.workload.to_json(),
            "tier": self.id.tier,
            "down": self.id.workload.down,
            "shapes": [shape.to_json() for shape in self.shapes],
            "claimed": _config_json(self.claimed),
            "main": _config_json(self.main),
            "record": {"median_us": _by_batch_size(self.claims_us)} if self.claims_us else None,
        }

    @classmethod
    def read(cls, document: Mapping[str, Json]) -> PlannedFile:
        """A file of a document that is valid by schema/plan.schema.json."""
        return cls(
            _id(document),
            tuple(map(PlannedShape.read, document["shapes"])),
            _entries(document["claimed"]),
            _entries(document["main"]),
            {int(key): float(us) for key, us in (document["record"] or {"median_us": {}})["median_us"].items()},
        )


@dataclass(frozen=True)
class Leg:
    """What one device measures."""

    device_name: str
    files: tuple[PlannedFile, ...]


@dataclass(frozen=True)
class Plan:
    """What is to be measured of the commit `head_sha` against main at `base_sha`. number `MERGED`: no pull request."""

    number: int
    head_sha: str
    base_sha: str
    legs: tuple[Leg, ...]

    def leg(self, device_name: str) -> Leg:
        """DocumentError: the plan has none for it."""
        for leg in self.legs:
            if leg.device_name == device_name:
                return leg
        known = ", ".join(leg.device_name for leg in self.legs) or "none"
        found = f"found {shortened(device_name)}. Fix: name one of them."
        raise DocumentError(f"--device: expected one of the plan's ({known}), {found}")

    @classmethod
    def read(cls, document: Mapping[str, Json]) -> Plan:
        """A document that is valid by schema/plan.schema.json."""
        legs = (Leg(leg["device_name"], tuple(map(PlannedFile.read, leg["workloads"]))) for leg in document["legs"])
        return cls(document["number"], document["head_sha"], document["base_sha"], tuple(legs))

    def to_json(self) -> dict[str, Json]:
        """Inverse of `read`."""
        return {
            "schema_version": 1,
            "number": self.number,
            "head_sha": self.head_sha,
            "base_sha": self.base_sha,
            "legs": [
                {"device_name": leg.device_name, "workloads": [file.to_json() for file in leg.files]}
                for leg in self.legs
            ],
        }

    def to_bytes(self) -> bytes:
        """As it is handed on."""
        return _written(self.to_json())

    @property
    def why_too_large(self) -> str | None:
        """What it has more of than its readers, or those of its results, take. None: they take it."""
        for leg in self.legs:
            if len(leg.files) > MAX_LEG_FILES:
                return f"expected at most {MAX_LEG_FILES} tuned files on {leg.device_name}, found {len(leg.files)}"
        if (size := len(self.to_bytes())) > MAX_BYTES["plan"]:
            return f"expected a plan of at most {MAX_BYTES['plan']} bytes, found {size}"
        return None

    def fitting(self) -> tuple[Plan, tuple[PlannedFile, ...]]:
        """As much of it as its readers take, of every leg alike in its files' order, and what is left out."""
        empty = replace(self, legs=tuple(Leg(leg.device_name, ()) for leg in self.legs))
        room = MAX_BYTES["plan"] - len(empty.to_bytes())
        kept: dict[str, list[PlannedFile]] = {leg.device_name: [] for leg in self.legs}
        left_out = [file for leg in self.legs for file in leg.files[MAX_LEG_FILES:]]
        for place in range(MAX_LEG_FILES):
            for leg in self.legs:
                for file in leg.files[place : place + 1]:
                    size = len(_written(file.to_json()))  # the line's end stands for the comma
                    taken = size <= room
                    (kept[leg.device_name] if taken else left_out).append(file)
                    room -= size if taken else 0
        legs = tuple(Leg(name, tuple(files)) for name, files in kept.items() if files)
        return replace(self, legs=legs), tuple(left_out)


@dataclass(frozen=True)
class MeasuredPart:
    """The claimed entry in one engine's flavour under one routing, in one of the plan's shapes, by its place there.

    runs: else it failed. Ratios of its time: over the engine's heuristic, over main's entry; None: that one doesn't run
    or isn't there.
    """

    engine: Flavour
    routing: RoutingKind
    runs: bool
    over_heuristic: Ratio | None = None
    over_main: Ratio | None = None
    shape: int = 0

    def __str__(self) -> str:
        return f"{self.engine}, {self.routing}" + f", shape {self.shape + 1}" * (self.shape > 0)

    @property
    def is_slower(self) -> bool:
        """Than having no file, or than main's; or it doesn't run."""
        return not self.runs or any(ratio.is_slower for ratio in (self.over_heuristic, self.over_main) if ratio)

    @classmethod
    def read(cls, document: Mapping[str, Json]) -> MeasuredPart:
        ratios = {name: document[name] and Ratio(**document[name]) for name in ("over_heuristic", "over_main")}
        words = {"engine": Flavour(document["engine"]), "routing": RoutingKind(document["routing"])}
        return cls(**{**document, **words, **ratios})

    def to_json(self) -> dict[str, Json]:
        ratios = {"over_heuristic": self.over_heuristic, "over_main": self.over_main}
        return {**vars(self), **{name: ratio and dict(vars(ratio)) for name, ratio in ratios.items()}}


@dataclass(frozen=True)
class MeasuredRow:
    """One batch size, times in µs; fields as in schema/results.schema.json.

    Times are of the engine that comes first, under uniform routing; verdict and decision of all parts.
    """

    claimed_us: float | None = None
    measured_us: float | None = None
    main_us: float | None = None
    heuristic_us: float | None = None
    retuned_us: float | None = None
    verdict: Verdict | None = None
    decision: Decision | None = None
    parts: tuple[MeasuredPart, ...] = ()

    @property
    def measured_times_us(self) -> tuple[float | None, ...]:
        """All but what the record claims."""
        return self.measured_us, self.main_us, self.heuristic_us, self.retuned_us

    @classmethod
    def read(cls, document: Mapping[str, Json]) -> MeasuredRow:
        verdict, decision = document["verdict"], document["decision"]
        words = {"verdict": verdict and Verdict(verdict), "decision": decision and Decision(decision)}
        return cls(**{**document, **words, "parts": tuple(map(MeasuredPart.read, document["parts"]))})

    def to_json(self) -> dict[str, Json]:
        return {**vars(self), "parts": [part.to_json() for part in self.parts]}


@dataclass(frozen=True)
class MeasuredFile:
    """reason: why there are no rows, or of a measured file, why it was not re-tuned."""

    id: FileId
    rows: Mapping[int, MeasuredRow]
    reason: str | None = None
    retuned_file: bool = False
    is_measured: bool = True

    def to_json(self) -> dict[str, Json]:
        return {
            "workload": self.id.workload.to_json(),
            "tier": self.id.tier,
            "status": "measured" if self.is_measured else "failed",
            "reason": self.reason,
            "retuned_file": self.retuned_file,
            "rows": _by_batch_size({num_tokens: row.to_json() for num_tokens, row in self.rows.items()}),
        }

    @classmethod
    def read(cls, document: Mapping[str, Json]) -> MeasuredFile:
        """A file of a document that is valid by schema/results.schema.json."""
        rows = {int(key): MeasuredRow.read(row) for key, row in document["rows"].items()}
        is_measured = document["status"] == "measured"
        return cls(_id(document), rows, document["reason"], document["retuned_file"], is_measured)


@dataclass(frozen=True)
class Results:
    """One leg's outcome. environment None: nothing was measured."""

    number: int
    head_sha: str
    device_name: str
    environment: Environment | None
    files: tuple[MeasuredFile, ...]

    @classmethod
    def read(cls, document: Mapping[str, Json]) -> Results:
        """A document that is valid by schema/results.schema.json."""
        environment = document["environment"]
        return cls(
            document["number"],
            document["head_sha"],
            document["device_name"],
            Environment.read(environment) if environment else None,
            tuple(map(MeasuredFile.read, document["workloads"])),
        )

    def to_json(self) -> dict[str, Json]:
        """Inverse of `read`."""
        return {
            "schema_version": 1,
            "number": self.number,
            "head_sha": self.head_sha,
            "device_name": self.device_name,
            "environment": self.environment and self.environment.to_json(),
            "workloads": [file.to_json() for file in self.files],
        }

    def to_bytes(self) -> bytes:
        """As they are handed on."""
        return _written(self.to_json())


def read_plan(path: Path) -> Plan:
    """DocumentError: unreadable, too large, or not a plan."""
    plan = Plan.read(_read(path, "plan"))
    _check_unique(path, "plan", [leg.device_name for leg in plan.legs])
    for leg in plan.legs:
        _check_unique(path, "plan", [str(file.id.relative) for file in leg.files])
    return plan


def read_results(path: Path) -> Results:
    """DocumentError: unreadable, too large, or no results."""
    results = Results.read(_read(path, "results"))
    _check_unique(path, "results", [str(file.id.relative) for file in results.files])
    return results


def shortened(text: str, limit: int = 80) -> str:
    """For an error's one line: control characters escaped, the rest of a long text cut off."""
    shown = printable(text[:limit])
    return shown if len(text) <= limit else f"{shown}…"


def _read(path: Path, schema: str) -> Any:
    shown, most = shortened(shown_path(path), 200), MAX_BYTES[schema]
    try:
        mode = path.lstat().st_mode
        if not stat.S_ISREG(mode):
            found = "something else (a link or a folder)"
            raise DocumentError(f"{shown}: expected a regular file, found {found}. {_FIXES[schema]}")
        with path.open("rb") as file:
            data = file.read(most + 1)
    except OSError as error:
        found = error.strerror or "an error"
        raise DocumentError(f"{shown}: expected a readable file, found: {found}. {_FIXES[schema]}") from error
    if len(data) > most:
        raise DocumentError(f"{shown}: expected at most {most} bytes, found more. {_FIXES[schema]}")
    document, faults = parse(data)
    if faults:
        raise DocumentError(f"{shown}: expected strict JSON, found: {shortened(str(faults[0]))}. {_FIXES[schema]}")
    wrong = schemas.faults(schema, document)
    if wrong:
        others = f" (and {len(wrong) - 1} more)" if len(wrong) > 1 else ""
        fault = f"{shortened(wrong[0].where)}: {shortened(wrong[0].message, 240)}{others}"
        raise DocumentError(f"{shown}: {fault}; see schema/{schema}.schema.json. {_FIXES[schema]}")
    return document


def _check_unique(path: Path, schema: str, names: list[str]) -> None:
    repeated = [name for name, count in Counter(names).items() if count > 1]
    if repeated:
        found = f"expected {shortened(repeated[0])} once, found it again"
        raise DocumentError(f"{shown_path(path)}: {found}. {_FIXES[schema]}")


def _id(document: Mapping[str, Json]) -> FileId:
    return FileId(Workload.read(document["workload"]), document["tier"])


def _entries(config: Mapping[str, Any] | None) -> dict[int, LaunchConfig]:
    return {int(key): LaunchConfig.from_entry(entry) for key, entry in (config or {}).items()}


def _config_json(entries: Mapping[int, LaunchConfig]) -> dict[str, Json] | None:
    return _by_batch_size({m: config.to_entry() for m, config in entries.items()}) if entries else None


def _by_batch_size(rows: Mapping[int, Json]) -> dict[str, Json]:
    return {str(num_tokens): rows[num_tokens] for num_tokens in sorted(rows)}


def _written(document: Mapping[str, Json]) -> bytes:
    """Without spaces: these files are read by programs, and the limits are theirs."""
    return (json.dumps(document, separators=(",", ":"), allow_nan=False) + "\n").encode()


# ---------------------------------------------------------------
# The results that the runners of a plan left behind, found below a folder and held against the plan.
#
# A leg may have no results: its device has no runner, or its machine was lost. Its files say so; the other legs count
# all the same. What is there must answer this very plan.

MAX_ARTIFACT_FILES = 4096

NO_RESULTS = "its runner sent no results"
"""Why a file was not measured where nothing came from its leg. No word of a document: only what is missing says it."""

IMPOSSIBLE = "its runner sent times that its memory can't reach"
"""Why no file of a leg counts as measured where a time lies below the floor: the runner's other times are no better."""

_AGAIN = "Fix: run that leg again on a fresh machine."


def results_of(plan: Plan, folder: Path, runners: Collection[str]) -> dict[str, Results]:
    """By device, one for each leg of the plan. runners: the devices that the plan was handed on to.

    DocumentError: broken ones, an answer to another question, or of a device that nothing was handed on to.
    """
    found = [read_results(path) for path in find_results(folder)]
    by_device = check_results(plan, found)
    devices = load_devices()
    for result in found:
        if result.device_name not in runners:
            where = f"results of {shortened(result.device_name)}"
            raise DocumentError(f"{where}: expected none, its leg was handed on to no runner (GPU_DEVICES). {_AGAIN}")
        check_machine(result, devices)
    return {leg.device_name: possible(leg, by_device[leg.device_name], devices) for leg in plan.legs}


def possible(leg: Leg, result: Results, devices: DeviceRegistry) -> Results:
    """The results; without a measured file where one of their times lies below what the device can do."""
    device = devices.get(leg.device_name)
    for planned, measured in zip(leg.files, result.files, strict=True):
        shapes = [known.shape for known in planned.shapes]
        for num_tokens, row in measured.rows.items():
            times = [us for us in row.measured_times_us if us is not None]
            if times and min(times) < least_us(planned.id.workload, shapes, num_tokens, device):
                files = tuple(MeasuredFile(file.id, {}, IMPOSSIBLE, is_measured=False) for file in leg.files)
                return replace(result, files=files)
    return result


def find_results(folder: Path) -> list[Path]:
    """Every `results.json` below the folder, however deep. DocumentError: it is no folder, or holds too many files.

    No folder at all is none found: where there is no artifact, GitHub's action for downloading makes none.
    """
    if not os.path.lexists(folder):
        return []
    shown = shown_path(folder)
    found: list[Path] = []
    count = 0
    folders = [folder]
    while folders:
        try:
            with os.scandir(folders.pop()) as entries:
                for entry in entries:
                    count += 1
                    if count > MAX_ARTIFACT_FILES:
                        raise DocumentError(
                            f"{shown}: expected at most {MAX_ARTIFACT_FILES} files, found more. {_AGAIN}"
                        )
                    path = Path(entry.path)
                    if entry.is_dir(follow_symlinks=False):
                        folders.append(path)
                    elif entry.name == RESULTS:
                        found.append(path)
        except OSError as error:
            reason = error.strerror or "an error"
            raise DocumentError(f"{shown}: expected a folder, found: {reason}. Fix: correct --results.") from error
    return sorted(found)


def check_results(plan: Plan, results: Sequence[Results]) -> dict[str, Results]:
    """One for each leg, by device. DocumentError: of another pull request, commit, leg or file, or twice."""
    by_device: dict[str, Results] = {}
    legs = {leg.device_name: leg for leg in plan.legs}
    for result in results:
        where = f"results of {shortened(result.device_name)}"
        if (result.number, result.head_sha) != (plan.number, plan.head_sha):
            raise DocumentError(
                f"{where}: expected pull request {plan.number} at {plan.head_sha}, "
                f"found {result.number} at {result.head_sha}. Fix: give the results of this plan."
            )
        if result.device_name not in legs:
            raise DocumentError(f"{where}: for a device that is not in the plan (the plan has no such leg). {_AGAIN}")
        if result.device_name in by_device:
            raise DocumentError(f"{where}: expected once, found twice. {_AGAIN}")
        _check_files(legs[result.device_name], result)
        by_device[result.device_name] = result
    return {name: by_device.get(name) or _without(plan, leg) for name, leg in legs.items()}


def check_machine(result: Results, devices: DeviceRegistry) -> None:
    """DocumentError: measured times without a machine, or of another GPU than the leg's."""
    where = f"results of {shortened(result.device_name)}"
    if result.environment is None:
        if any(file.is_measured for file in result.files):
            raise DocumentError(f"{where}: expected the environment of what was measured, found none. {_AGAIN}")
        return
    reported = result.environment.device_name
    device = devices.get(reported)
    if device is None or result.device_name not in device.names:
        raise DocumentError(f"{where}: expected an environment of that GPU, found {shortened(reported)}. {_AGAIN}")


def has_results(results: Mapping[str, Results]) -> bool:
    """Whether any leg sent some."""
    return any(file.reason != NO_RESULTS for result in results.values() for file in result.files)


def _without(plan: Plan, leg: Leg) -> Results:
    files = tuple(MeasuredFile(file.id, {}, NO_RESULTS, is_measured=False) for file in leg.files)
    return Results(plan.number, plan.head_sha, leg.device_name, None, files)


def _check_files(leg: Leg, results: Results) -> None:
    """The plan's files in the plan's order, and of each no batch size or claim that the plan doesn't have."""
    where = f"results of {leg.device_name}"
    expected, found = [file.id for file in leg.files], [file.id for file in results.files]
    if expected != found:
        raise DocumentError(f"{where}: expected the plan's {len(expected)} files in its order, found others. {_AGAIN}")
    for planned, measured in zip(leg.files, results.files, strict=True):
        name = planned.id.relative
        if measured.is_measured and tuple(sorted(measured.rows)) != planned.batch_sizes:
            raise DocumentError(f"{where}: expected the batch sizes of {name}, found others. {_AGAIN}")
        claims: Mapping[int, float] = planned.claims_us if planned.claimed else {}
        if any(row.claimed_us != claims.get(num_tokens) for num_tokens, row in measured.rows.items()):
            raise DocumentError(f"{where}: expected the times that {name}'s record claims, found others. {_AGAIN}")
