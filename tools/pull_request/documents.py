"""The plan and the results as these commands hand them on: read as if they were hostile, checked, then frozen.

Both travel as artifacts between machines that trust each other little. What leaves this module is numbers, members of
enumerations and strings of a narrow pattern.
"""

from __future__ import annotations

import json
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from tools import schemas, store
from tools.bench.verdict import Verdict
from tools.launch_config import LaunchConfig
from tools.strict_json import Json, parse
from tools.tune.policy import Decision
from tools.workload import Workload

MAX_BYTES = 4 << 20
"""256 workloads of 18 rows take a third of it."""

DEFAULT_TIER = "default"

RESULTS = "results.json"
CONFIGS = "configs"
"""In a leg's artifact: the results, and the folder of re-tuned files."""


class DocumentError(ValueError):
    """A document that can't be used. One line for a person."""


@dataclass(frozen=True)
class PlannedShape:
    """K and top_k; registered: a model of main's registry has them behind this name."""

    K: int
    top_k: int
    registered: bool


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


@dataclass(frozen=True)
class Leg:
    """What one device measures."""

    device_name: str
    files: tuple[PlannedFile, ...]


@dataclass(frozen=True)
class Plan:
    """number 0: no pull request."""

    number: int
    head_sha: str
    legs: tuple[Leg, ...]

    def leg(self, device_name: str) -> Leg:
        """DocumentError: the plan has none for it."""
        for leg in self.legs:
            if leg.device_name == device_name:
                return leg
        known = ", ".join(leg.device_name for leg in self.legs) or "none"
        raise DocumentError(f"--device: expected one of the plan's ({known}), found {shortened(device_name)}.")


@dataclass(frozen=True)
class Row:
    """One batch size, times in µs; fields as in schema/results.schema.json."""

    claimed_us: float | None = None
    measured_us: float | None = None
    main_us: float | None = None
    heuristic_us: float | None = None
    retuned_us: float | None = None
    verdict: Verdict | None = None
    decision: Decision | None = None


@dataclass(frozen=True)
class MeasuredFile:
    """reason: why there are no rows, or of a measured file, why it was not re-tuned."""

    id: FileId
    rows: Mapping[int, Row]
    reason: str | None = None
    retuned_file: bool = False
    is_measured: bool = True


@dataclass(frozen=True)
class Results:
    """One leg's outcome. environment None: nothing was measured."""

    number: int
    head_sha: str
    device_name: str
    environment: Mapping[str, Json] | None
    files: tuple[MeasuredFile, ...]


# ---------------------------------------------------------------
# Reading


def read_plan(path: Path) -> Plan:
    """DocumentError: unreadable, too large, or not a plan."""
    document = _read(path, "plan")
    legs = tuple(Leg(leg["device_name"], tuple(map(_planned, leg["workloads"]))) for leg in document["legs"])
    _check_unique(path, [leg.device_name for leg in legs])
    for leg in legs:
        _check_unique(path, [str(file.id.relative) for file in leg.files])
    return Plan(document["number"], document["head_sha"], legs)


def read_results(path: Path) -> Results:
    """DocumentError: unreadable, too large, or no results."""
    document = _read(path, "results")
    files = tuple(map(_measured, document["workloads"]))
    _check_unique(path, [str(file.id.relative) for file in files])
    return Results(document["number"], document["head_sha"], document["device_name"], document["environment"], files)


def shortened(text: str, limit: int = 80) -> str:
    """For an error's one line: control characters escaped, the rest of a long text cut off."""
    shown = store.printable(text[:limit])
    return shown if len(text) <= limit else f"{shown}…"


def _read(path: Path, schema: str) -> Any:
    shown = shortened(store.shown(path), 200)
    try:
        mode = path.lstat().st_mode
        if not stat.S_ISREG(mode):
            raise DocumentError(f"{shown}: expected a regular file, found something else (a link or a folder).")
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise DocumentError(f"{shown}: expected a readable file, found: {error.strerror or 'an error'}.") from error
    if len(data) > MAX_BYTES:
        raise DocumentError(f"{shown}: expected at most {MAX_BYTES} bytes, found more.")
    document, faults = parse(data)
    if faults:
        raise DocumentError(f"{shown}: expected strict JSON, found: {shortened(str(faults[0]))}.")
    wrong = schemas.faults(schema, document)
    if wrong:
        others = f" (and {len(wrong) - 1} more)" if len(wrong) > 1 else ""
        told = f"{shortened(wrong[0].where)}: {shortened(wrong[0].message)}"
        raise DocumentError(f"{shown}: expected schema/{schema}.schema.json, found {told}{others}.")
    return document


def _check_unique(path: Path, names: list[str]) -> None:
    repeated = [name for name in dict.fromkeys(names) if names.count(name) > 1]
    if repeated:
        raise DocumentError(f"{store.shown(path)}: expected {shortened(repeated[0])} once, found it again.")


def _id(document: Mapping[str, Json]) -> FileId:
    workload = document["workload"]
    block_shape = workload["block_shape"]
    return FileId(Workload(**{**workload, "block_shape": block_shape and tuple(block_shape)}), document["tier"])


def _planned(document: Mapping[str, Json]) -> PlannedFile:
    return PlannedFile(
        _id(document),
        tuple(PlannedShape(**shape) for shape in document["shapes"]),
        _entries(document["claimed"]),
        _entries(document["main"]),
        {int(key): float(us) for key, us in (document["record"] or {"median_us": {}})["median_us"].items()},
    )


def _entries(config: Mapping[str, Any] | None) -> dict[int, LaunchConfig]:
    return {int(key): LaunchConfig.from_entry(entry) for key, entry in (config or {}).items()}


def _measured(document: Mapping[str, Json]) -> MeasuredFile:
    rows = {int(key): _row(row) for key, row in document["rows"].items()}
    is_measured = document["status"] == "measured"
    return MeasuredFile(_id(document), rows, document["reason"], document["retuned_file"], is_measured)


def _row(document: Mapping[str, Json]) -> Row:
    verdict, decision = document["verdict"], document["decision"]
    return Row(**{**document, "verdict": verdict and Verdict(verdict), "decision": decision and Decision(decision)})


# ---------------------------------------------------------------
# Writing


def results_json(results: Results) -> bytes:
    """As schema/results.schema.json has it."""
    document = {
        "schema_version": 1,
        "number": results.number,
        "head_sha": results.head_sha,
        "device_name": results.device_name,
        "environment": None if results.environment is None else dict(results.environment),
        "workloads": [
            {
                "workload": workload_json(file.id.workload),
                "tier": file.id.tier,
                "status": "measured" if file.is_measured else "failed",
                "reason": file.reason,
                "retuned_file": file.retuned_file,
                "rows": {str(num_tokens): vars(row) for num_tokens, row in sorted(file.rows.items())},
            }
            for file in results.files
        ],
    }
    return (json.dumps(document, indent=1, allow_nan=False) + "\n").encode()


def workload_json(workload: Workload) -> dict[str, Json]:
    """As schema/workload.schema.json has it."""
    return {**vars(workload), "block_shape": workload.block_shape and list(workload.block_shape)}
