"""Where a tuned file goes, what stands there already, and how both are brought together. The tuner's files' edge."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from tools import store
from tools.config_file import ConfigFile
from tools.launch_config import LaunchConfig
from tools.store import Found, Role
from tools.strict_json import Json
from tools.workload import Workload, parse_file_name


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
        return store.record_path(self.root, self.relative)

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
        """As engines choose: the nearest batch size, ties to the smaller."""
        return self.entries[min(self.entries, key=lambda m: (abs(m - num_tokens), m))]


def place_of(root: Path, workload: Workload, triton: str, reference: str) -> Place:
    """The default tier for the reference Triton, else that version's folder."""
    name = workload.file_name()
    folder = "" if store.version_folder(triton) == store.version_folder(reference) else store.version_folder(triton)
    return Place(root, PurePosixPath(folder, name))


def chain(root: Path, workload: Workload, triton: str) -> tuple[Place, ...]:
    """What the loader would look at, in its order."""
    name = workload.file_name()
    return tuple(Place(root, PurePosixPath(tier, name)) for tier in (store.version_folder(triton), "", store.LEGACY))


def find_existing(places: tuple[Place, ...]) -> Existing | None:
    """The first that exists. OutputError: it exists and can't be read, so that it can't be improved on either."""
    for place in places:
        if place.path.exists():
            return _read(place)
    return None


def write(place: Place, config: bytes, record: Mapping[str, Json]) -> tuple[Path, Path]:
    """File and record, each whole or not at all. OSError as `store.write`."""
    store.write(place.record_path, store.canonical_record(record))
    store.write(place.path, config)
    return place.path, place.record_path


def _read(place: Place) -> Existing:
    content = store.read(place.path)
    file = ConfigFile(
        Found(place.path, place.root, place.relative, Role.CONFIG), parse_file_name(place.path.name), content
    )
    if (fault := _fault(file)) is not None:
        raise OutputError(
            f"{store.shown(place.path)}: expected a tuned file to start from, found {fault}. "
            "Fix: mend it (nox -s validate says more), or move it away."
        )
    record = store.read(place.record_path).document if place.record_path.exists() else None
    return Existing(place, file.launch_configs, record if isinstance(record, dict) else {})


def _fault(file: ConfigFile) -> str | None:
    if file.content.faults:
        return file.content.faults[0].message
    broken = [key for key in file.document or {} if key not in map(str, file.launch_configs)]
    if broken:
        return f"no launch config at {', '.join(map(repr, broken))}"
    return None if file.launch_configs else "no launch config in it"
