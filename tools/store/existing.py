"""Where a workload's tuned file and its record lie below a folder of tiers, what stands there already, and how files
that belong together are written."""

from __future__ import annotations

import contextlib
import itertools
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from fused_moe_configs.lookup import REFERENCE_TRITON, Chain, ConfigError, down_of, is_down
from kernels.launch_config import LaunchConfig
from tools.errors import UserError
from tools.store import schemas
from tools.store.config_file import ConfigFile, nearest_batch_size
from tools.store.files import RECORD, TUNED_FILE, read_file, record_path, version_folder, write_file
from tools.store.record import Record, RecordedRow
from tools.store.tiers import REGISTRY, Found, Role, version_of_folder
from tools.store.workload import Workload, parse_file_name
from tools.text import printable, shown_path


class ExistingError(UserError):
    """A file that stands there, or its record, can't be read. One line for a person."""


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
        return Place(self.root, self.relative.with_name(down_of(self.relative.name)))


@dataclass(frozen=True)
class Existing:
    """A file that stands in the chain, and its record, where there is one. data: the file's bytes as they were read."""

    place: Place
    entries: Mapping[int, LaunchConfig]
    record: Record | None
    data: bytes

    @property
    def rows(self) -> Mapping[int, RecordedRow]:
        """That were measured; none without a record."""
        return self.record.rows if self.record else {}

    def nearest(self, num_tokens: int) -> LaunchConfig:
        """As engines choose: the nearest batch size, ties to the smaller."""
        return self.entries[nearest_batch_size(self.entries, num_tokens)]


def place_of(root: Path, workload: Workload, triton: str, reference: str) -> Place:
    """The default tier for the reference Triton, else that version's folder."""
    name = workload.file_name()
    folder = "" if version_folder(triton) == version_folder(reference) else version_folder(triton)
    return Place(root, PurePosixPath(folder, name))


def served_today(root: Path, workload: Workload, triton: str) -> Existing | None:
    """What the loader would read with `root` for its configs folder and no folder of the user's own. None: no file.

    ExistingError: that file or its record can't be read, so that it can't be improved on either.
    """
    chain = Chain(root)
    tiers = chain.tiers("{}.{}.{}".format(*version_of_folder(version_folder(triton)) or ()))
    try:
        winner = chain.look_up(workload.file_name(), tiers)[0].winner
    except ConfigError as error:
        broken = Path(error.path)
        if REGISTRY not in broken.relative_to(root).parts:
            _read(_place_at(root, broken))  # names the fault and the way out
        raise ExistingError(
            f"{shown_path(broken)}: {error.reason}. Fix: mend it (nox -s validate says more)."
        ) from error
    return None if winner is None else _read(_place_at(root, winner))


def hidden_down(place: Place) -> Place | None:
    """The `_down` file that a look-up would read, if there were no file at `place`, and doesn't where one is.

    The first file of a look-up serves both projections where no `_down` file lies beside it. None: nothing is hidden,
    or what lies behind can't be read, which other checks say.
    """
    if os.path.exists(place.down.path):  # noqa: PTH110 (never raises)
        return None
    chain, version = Chain(place.root), version_of_folder(place.relative.parent.name)
    is_default = place.path.parent == place.root
    release = ".".join(map(str, version)) if version is not None else REFERENCE_TRITON if is_default else None
    try:
        tiers = chain.tiers(release)
        behind = dict(itertools.islice(tiers.items(), [*tiers].index(place.path.parent) + 1, None))
        winner = chain.look_up(place.down.relative.name, behind)[0].winner
    except (ConfigError, OSError, ValueError):  # or no look-up reads this folder
        return None
    return _place_at(place.root, winner) if winner is not None and is_down(winner.name) else None


def untried_down(place: Place) -> Place | None:
    """The `_down` file that the file at `place` hides, unless its record says that none gains beside it.

    Where the hidden one says `USE_TMA` the key was to be tried, which takes SGLang's kernel.
    """
    hidden = hidden_down(place)
    if hidden is None:
        return None
    own = _existing_or_none(place)
    record = own.record if own is not None else None
    tuner = record.tuner if own is not None and record is not None and record.speaks_of(own.data) else None
    settings = tuner.settings if tuner is not None else {}
    was_tried = settings.get("separate_down") is True and ("down_kernel" in settings or not has_descriptors(hidden))
    return None if was_tried else hidden


def has_descriptors(down: Place) -> bool:
    """Whether an entry of the `_down` file says `USE_TMA`; of one that can't be read none does."""
    found = _existing_or_none(down)
    return found is not None and any(entry.USE_TMA for entry in found.entries.values())


def _existing_or_none(place: Place) -> Existing | None:
    try:
        return existing_at(place)
    except (ExistingError, OSError):
        return None


def existing_at(place: Place) -> Existing | None:
    """The file of this very place. Errors as `served_today`."""
    return _read(place) if place.path.exists() else None


def _place_at(root: Path, path: Path) -> Place:
    return Place(root, PurePosixPath(path.relative_to(root).as_posix()))


Step = tuple[Path, bytes | None]
"""A file and what is written into it; None: it goes."""


def write_all(steps: Iterable[Step]) -> None:
    """All in this order, or none: where one can't be done, what was done before it is undone. OSError.

    A kill leaves the steps that were done until then: which of them must not be alone, the order says.
    """
    begun: list[Step] = []
    try:
        for path, data in steps:
            begun.append((path, bytes_at(path)))
            _do(path, data)
    except BaseException:  # Ctrl-C too
        with contextlib.suppress(OSError):  # as after a kill then
            for path, before in reversed(begun):
                if bytes_at(path) != before:
                    _do(path, before)
        raise


def bytes_at(path: Path) -> bytes | None:
    """The file's bytes. None: there is none. OSError."""
    return path.read_bytes() if path.exists() else None


def _do(path: Path, data: bytes | None) -> None:
    if data is None:
        path.unlink(missing_ok=True)
    else:
        write_file(path, data)


def _read(place: Place) -> Existing:
    content = read_file(place.path, TUNED_FILE)
    file = ConfigFile(
        Found(place.path, place.root, place.relative, Role.CONFIG), parse_file_name(place.path.name), content
    )
    if (fault := _fault(file)) is not None:
        raise ExistingError(
            f"{shown_path(place.path)}: expected a tuned file to start from, found {fault}. "
            "Fix: mend it (nox -s validate says more), or move it away."
        )
    assert content.data is not None  # what wasn't read is a fault
    return Existing(place, file.launch_configs, _record(place.record_path), content.data)


def _record(path: Path) -> Record | None:
    """None where there is none. ExistingError: a broken one, whose evidence would be lost."""
    if not os.path.lexists(path):
        return None
    content = read_file(path, RECORD)
    faults = [str(fault) for fault in content.faults]
    faults = faults or [f"{fault.where}: {fault.message}" for fault in schemas.faults("record", content.document)]
    if faults:
        raise ExistingError(
            f"{shown_path(path)}: expected a record to keep the evidence of, found {printable(faults[0])}. "
            "Fix: mend it (nox -s validate says more), or move it away."
        )
    return Record.read(content.document)


def _fault(file: ConfigFile) -> str | None:
    if file.content.faults:
        return file.content.faults[0].message
    broken = [key for key in file.document or {} if key not in map(str, file.launch_configs)]
    if broken:
        return f"no launch config at {', '.join(map(repr, broken))}"
    return None if file.launch_configs else "no launch config in it"
