"""Which measured files a night visits, and the plan that a GPU runner measures them by.

There is no state: the date decides. The files stand in a circle and each night takes the next ones, so that over any
number of nights the visits of two files differ by one at most.
"""

from __future__ import annotations

import datetime
import hashlib
import os
import subprocess
import sys
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from kernels.launch_config import LaunchConfig
from tools.checkout import CHECKOUT
from tools.errors import UserError
from tools.git import CommitError, Repository
from tools.pull_request.documents import MAX_LEG_FILES, MERGED, FileId, Leg, Plan, PlannedFile
from tools.pull_request.plan import planned_shapes
from tools.registry.devices import DeviceRegistry
from tools.registry.models import ModelRegistry, load_models
from tools.registry.shapes import MOST_SHAPES, why_not_measured
from tools.store import config_file, schemas
from tools.store.config_file import ConfigFile
from tools.store.files import RECORD, discover, read_file, record_path
from tools.store.record import Record, RecordError, as_record
from tools.store.tiers import DEFAULT_TIER, REGISTRY, Found, Role, version_of_folder
from tools.store.workload import Layout, Workload
from tools.text import shown_path


def is_new(newest: tuple[int, ...], reference: tuple[int, ...], folders: Iterable[tuple[int, ...]]) -> bool:
    """Whether a Triton release is newer than any that a tier was tuned with: then every file is to be measured.

    A folder of a still newer one is of a release that isn't known to exist, and keeps no night from it.
    """
    return newest > max([reference, *(folder for folder in folders if folder <= newest)])


def measurable(
    files: Iterable[PlannedFile], devices: DeviceRegistry, with_runner: Collection[str]
) -> list[PlannedFile]:
    """The files whose device is among those with a runner, which are named as the registry names them."""
    return [
        file
        for file in files
        if (device := devices.get(file.id.workload.device_name)) is not None and device.name in with_runner
    ]


def of_night(files: Sequence[PlannedFile], day: datetime.date, count: int) -> tuple[PlannedFile, ...]:
    """The files that are due on that day, `count` of them or all there are; those of another day come first then."""
    # Shuffled the same way every night, so that a night's files are of many models and devices.
    circle = sorted(files, key=lambda file: hashlib.sha256(str(file.id.relative).encode()).digest())
    start = day.toordinal() * (count if count < len(circle) else MAX_LEG_FILES)
    return tuple(circle[(start + step) % len(circle)] for step in range(min(count, len(circle))))


def plan(files: Iterable[PlannedFile], commit: str, devices: DeviceRegistry) -> tuple[Plan, tuple[PlannedFile, ...]]:
    """The plan of a night, and of the files those that it has no room for. commit: main's head, 40 hexadecimal digits.

    Too many are no reason to measure none: the first ones of each device are taken.
    """
    legs: defaultdict[str, list[PlannedFile]] = defaultdict(list)
    for file in files:
        device = devices.get(file.id.workload.device_name)
        legs[device.name if device else file.id.workload.device_name].append(file)
    found, left_out = Plan(
        MERGED, commit, commit, tuple(Leg(name, tuple(legs[name])) for name in sorted(legs))
    ).fitting()
    by_path = (Leg(leg.device_name, tuple(sorted(leg.files, key=_path))) for leg in found.legs)
    return replace(found, legs=tuple(by_path)), left_out


def _path(file: PlannedFile) -> str:
    return str(file.id.relative)


def planned(
    workload: Workload, folder: str, entries: Mapping[int, LaunchConfig], record: Record, models: ModelRegistry
) -> PlannedFile:
    """A file with figures, as a night measures it: claimed as it is, and main has none beside it.

    So it is measured against the heuristic, not itself. folder: of its tier, empty for the default.
    """
    recorded = [served.shape for served in record.shapes]
    return PlannedFile(
        FileId(workload, folder or DEFAULT_TIER),
        planned_shapes(workload, recorded, models)[:MOST_SHAPES],
        claimed=entries,
        main={},
        claims_us={m: float(row.on_benchs_kernel.latency_us.median) for m, row in record.rows.items()},
    )


# The edge: tuned files and records of the checkout, its commit, and Triton's newest release.

_FIX = "Fix: nox -s validate says what is wrong."


class NightlyError(UserError):
    """What was asked can't be done here."""


@dataclass(frozen=True)
class UnvisitedFile:
    """A file that no night visits as long as it lies there so. path: the file's or its record's."""

    path: Path
    reason: str

    def __str__(self) -> str:
        return f"left out: {shown_path(self.path)}: {self.reason}. {_FIX}"


@dataclass(frozen=True)
class Stock:
    """What a configs folder holds for the nights. folders: the Triton versions that have one."""

    files: tuple[PlannedFile, ...]
    left_out: tuple[UnvisitedFile, ...]
    folders: frozenset[tuple[int, int, int]]


def measured_files(configs: Path) -> Stock:
    """Files with figures; one that is broken, or that no plan can hold, costs no other its night.

    NightlyError: the folder can't be read.
    """
    try:
        found = [file for file in discover([configs], Layout.REPO) if file.role is Role.CONFIG]
    except OSError as error:
        what = error.strerror or "none"
        raise NightlyError(
            f"{shown_path(configs)}: expected the configs folder, found {what}. Fix: correct --configs, or leave it "
            "out."
        ) from error
    folders = frozenset(version for file in found if (version := version_of_folder(file.folder)) is not None)
    models = load_models(configs / REGISTRY / "models.json")
    tree = config_file.load(found, Layout.REPO)
    outcomes = [outcome for file in tree.configs if (outcome := _measured(file, models)) is not None]
    files = tuple(outcome for outcome in outcomes if isinstance(outcome, PlannedFile))
    return Stock(files, tuple(outcome for outcome in outcomes if isinstance(outcome, UnvisitedFile)), folders)


def why_unplannable(file: PlannedFile) -> str | None:
    """What the plan's schema has against it, which would refuse the whole plan and so every file of a night."""
    alone = Plan(MERGED, "0" * 40, "0" * 40, (Leg(file.id.workload.device_name, (file,)),))
    faults = schemas.faults("plan", alone.to_json())
    return f"{faults[0].where.removeprefix('legs / 0 / workloads / 0 / ')}: {faults[0].message}" if faults else None


def _measured(file: ConfigFile, models: ModelRegistry) -> PlannedFile | UnvisitedFile | None:
    """None: it has no figures."""
    try:
        record = _record(file.found)
    except RecordError as error:
        path = record_path(file.found.root, file.found.relative)
        return UnvisitedFile(path, f"expected a record, found a broken one ({str(error).partition('. Fix: ')[0]})")
    if record is None or not record.is_measured or not record.rows:
        return None
    if file.content.faults or file.workload is None or not schemas.is_valid("tuned_config", file.document):
        return UnvisitedFile(file.found.path, "expected a tuned file, found a broken one")
    if why := why_not_measured(file.workload, models):
        return UnvisitedFile(file.found.path, why)
    found = planned(file.workload, file.found.folder, file.launch_configs, record, models)
    reason = why_unplannable(found)
    return found if reason is None else UnvisitedFile(file.found.path, f"no plan can hold it: {reason}")


def _record(found: Found) -> Record | None:
    """None where the file has none. RecordError: it is broken."""
    path = record_path(found.root, found.relative)
    return as_record(read_file(path, RECORD)) if os.path.lexists(path) else None


def records_of(plan: Plan, configs: Path) -> Mapping[FileId, Record]:
    """The records of the plan's files as the checkout has them now, as far as there are any. NightlyError: one is
    broken, which it wasn't when the plan was made."""
    found = {}
    for file in (file for leg in plan.legs for file in leg.files):
        relative = file.id.relative
        try:
            record = _record(Found(configs / relative, configs, relative, Role.CONFIG))
        except RecordError as error:
            where = shown_path(record_path(configs, relative))
            raise NightlyError(f"{where}: expected a record, found a broken one. {_FIX}") from error
        if record is not None:
            found[file.id] = record
    return found


def head_commit(checkout: Path = CHECKOUT) -> str:
    """The commit that is checked out. NightlyError: none is."""
    try:
        return Repository(checkout).commit("HEAD")
    except CommitError as error:
        raise NightlyError("expected a git checkout with a commit, found none. Fix: run it in a clone.") from error


REST = datetime.timedelta(days=7)
"""How long a release must have been out before it runs on our GPUs: a hijacked one is usually found within days."""


def newest_triton(day: datetime.date) -> str:
    """The newest release that has rested on that day, as pip's first line has it: «triton (3.9.0)».

    NightlyError: pip finds none, or is older than 26 and can't ask for a release's age, or its index doesn't tell it.
    """
    rested = f"{day - REST}T00:00:00Z"
    command = [sys.executable, "-m", "pip", "index", "versions", "--uploaded-prior-to", rested, "triton"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    except (OSError, subprocess.SubprocessError) as error:
        raise NightlyError(
            f"--newest: expected pip 26 or newer to know Triton's releases before {rested[:10]}, found none. "
            "Fix: give X.Y.Z."
        ) from error
    return done.stdout.partition("\n")[0]
