"""The plan and the results as these commands hand them on: read as if they were hostile, checked, then frozen.

Both travel as artifacts between machines that trust each other little. What leaves this module is numbers, members of
enumerations and strings of a narrow pattern.
"""

from __future__ import annotations

import json
import stat
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from kernels.launch_config import LaunchConfig
from tools.measure.statistics import Verdict
from tools.store import schemas
from tools.store.record import Decision
from tools.store.strict_json import Json, parse
from tools.store.workload import Workload
from tools.text import printable, shown_path

MAX_BYTES: Mapping[str, int] = {"plan": 4 << 20, "results": 8 << 20}
"""What readers take. 256 files of 18 rows are a plan of 1.2 MiB and results of 0.8; where a file has little to be
planned (main has none, and no record), its results are up to half as large again."""

MAX_FILES = 256
"""Of one leg, as both schemas have it."""

DEFAULT_TIER = "default"

MERGED = 0
"""A plan's number where there is no pull request: main has merged it already."""

RESULTS = "results.json"
CONFIGS = "configs"
"""In a leg's artifact: the results, and the folder of re-tuned files."""


_FIXES: Mapping[str, str] = {
    "plan": "Fix: make the plan anew.",
    "results": "Fix: run that leg again, on a machine made anew.",
}


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
    """number `MERGED`: no pull request."""

    number: int
    head_sha: str
    legs: tuple[Leg, ...]

    def leg(self, device_name: str) -> Leg:
        """DocumentError: the plan has none for it."""
        for leg in self.legs:
            if leg.device_name == device_name:
                return leg
        known = ", ".join(leg.device_name for leg in self.legs) or "none"
        found = f"found {shortened(device_name)}. Fix: name one of them."
        raise DocumentError(f"--device: expected one of the plan's ({known}), {found}")


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
    _check_unique(path, "plan", [leg.device_name for leg in legs])
    for leg in legs:
        _check_unique(path, "plan", [str(file.id.relative) for file in leg.files])
    return Plan(document["number"], document["head_sha"], legs)


def read_results(path: Path) -> Results:
    """DocumentError: unreadable, too large, or no results."""
    document = _read(path, "results")
    files = tuple(map(_measured, document["workloads"]))
    _check_unique(path, "results", [str(file.id.relative) for file in files])
    return Results(document["number"], document["head_sha"], document["device_name"], document["environment"], files)


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
        told = f"{shortened(wrong[0].where)}: {shortened(wrong[0].message, 240)}{others}"
        raise DocumentError(f"{shown}: {told}; see schema/{schema}.schema.json. {_FIXES[schema]}")
    return document


def _check_unique(path: Path, schema: str, names: list[str]) -> None:
    repeated = [name for name, count in Counter(names).items() if count > 1]
    if repeated:
        found = f"expected {shortened(repeated[0])} once, found it again"
        raise DocumentError(f"{shown_path(path)}: {found}. {_FIXES[schema]}")


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


def plan_json(plan: Mapping[str, Any]) -> bytes:
    """A plan as schema/plan.schema.json has it, as it is handed on."""
    return _written(plan)


def why_too_large(plan: Mapping[str, Any]) -> str | None:
    """What a plan has more of than its readers, or those of its results, take. None: they take it."""
    for leg in plan["legs"]:
        if (files := len(leg["workloads"])) > MAX_FILES:
            return f"expected at most {MAX_FILES} tuned files on {leg['device_name']}, found {files}"
    if (size := len(plan_json(plan))) > MAX_BYTES["plan"]:
        return f"expected a plan of at most {MAX_BYTES['plan']} bytes, found {size}"
    return None


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
    return _written(document)


def workload_json(workload: Workload) -> dict[str, Json]:
    """As schema/workload.schema.json has it."""
    return {**vars(workload), "block_shape": workload.block_shape and list(workload.block_shape)}


def _written(document: Mapping[str, Json]) -> bytes:
    """Without spaces: these files are read by programs, and the limits are theirs."""
    return (json.dumps(document, separators=(",", ":"), allow_nan=False) + "\n").encode()
