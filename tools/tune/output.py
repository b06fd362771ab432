"""Where a tuned file goes, what stands there already, and how both are brought together. The tuner's files' edge."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from kernels.launch_config import LaunchConfig
from tools.store import schemas
from tools.store.config_file import ConfigFile, nearest_batch_size
from tools.store.files import canonical_record, read_file, record_path, version_folder, write_file
from tools.store.strict_json import Json
from tools.store.tiers import LEGACY, Found, Role
from tools.store.workload import Workload, parse_file_name
from tools.text import printable, shown_path


class OutputError(ValueError):
    """The output folder can't take the file. One line for a person."""


@dataclass(frozen=True)
class Place:
    """Where a workload's file lies below a root that holds tiers."""

    root: Path
    relative: PurePosixPath

    @property
    def path(self) -> Path:
        return self.root / self.relative

    @property
    def record_path(self) -> Path:
        return record_path(self.root, self.relative)

    @property
    def down(self) -> Place:
        """Of the `_down` file beside it."""
        return Place(self.root, self.relative.with_name(f"{self.relative.stem}_down.json"))


@dataclass(frozen=True)
class Existing:
    """A file that stands in the chain: its entries, and the rows of its record (none where there is no record)."""

    place: Place
    entries: Mapping[int, LaunchConfig]
    record: Mapping[str, Json]

    @property
    def rows(self) -> Mapping[str, Json]:
        rows = self.record.get("rows")
        return rows if isinstance(rows, dict) else {}

    def nearest(self, num_tokens: int) -> LaunchConfig:
        """The entry that serves num_tokens, as engines choose."""
        return self.entries[nearest_batch_size(self.entries, num_tokens)]


def place_of(root: Path, workload: Workload, triton: str, reference: str) -> Place:
    """The default tier for the reference Triton, else that version's folder."""
    name = workload.file_name()
    folder = "" if version_folder(triton) == version_folder(reference) else version_folder(triton)
    return Place(root, PurePosixPath(folder, name))


def chain(root: Path, workload: Workload, triton: str) -> tuple[Place, ...]:
    """What the loader would look at, in its order."""
    name = workload.file_name()
    return tuple(Place(root, PurePosixPath(tier, name)) for tier in (version_folder(triton), "", LEGACY))


def find_existing(places: tuple[Place, ...]) -> Existing | None:
    """The first that exists. OutputError: it or its record can't be read, so that it can't be improved on either."""
    for place in places:
        if place.path.exists():
            return _read(place)
    return None


def write(place: Place, config: bytes, record: Mapping[str, Json]) -> tuple[Path, Path]:
    """File and record, both or neither: where the second can't be written, the first is as it was. OSError."""
    before = place.record_path.read_bytes() if place.record_path.exists() else None
    write_file(place.record_path, canonical_record(record))
    try:
        write_file(place.path, config)
    except BaseException:  # Ctrl-C too
        if before is None:
            place.record_path.unlink()
        else:
            write_file(place.record_path, before)
        raise
    return place.path, place.record_path


def _read(place: Place) -> Existing:
    content = read_file(place.path)
    file = ConfigFile(
        Found(place.path, place.root, place.relative, Role.CONFIG), parse_file_name(place.path.name), content
    )
    if (fault := _fault(file)) is not None:
        raise OutputError(
            f"{shown_path(place.path)}: expected a tuned file to start from, found {fault}. "
            "Fix: mend it (nox -s validate says more), or move it away."
        )
    return Existing(place, file.launch_configs, _record(place.record_path))


def _record(path: Path) -> Mapping[str, Json]:
    """Empty where there is none. OutputError: a broken one, whose evidence would be lost."""
    if not os.path.lexists(path):
        return {}
    content = read_file(path)
    faults = [str(fault) for fault in content.faults]
    faults = faults or [f"{fault.where}: {fault.message}" for fault in schemas.faults("record", content.document)]
    if faults:
        raise OutputError(
            f"{shown_path(path)}: expected a record to keep the evidence of, found {printable(faults[0])}. "
            "Fix: mend it (nox -s validate says more), or move it away."
        )
    assert isinstance(content.document, dict)  # the schema says so
    return content.document


def _fault(file: ConfigFile) -> str | None:
    if file.content.faults:
        return file.content.faults[0].message
    broken = [key for key in file.document or {} if key not in map(str, file.launch_configs)]
    if broken:
        return f"no launch config at {', '.join(map(repr, broken))}"
    return None if file.launch_configs else "no launch config in it"
