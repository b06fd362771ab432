"""The semantic diff: what became of workloads, rows and launch keys between two commits, and of coverage.

200 files that changed alike are one group, so that a person reads one line.
"""

from __future__ import annotations

import enum
import statistics
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import PurePosixPath

from kernels.launch_config import EntryValue, LaunchConfig
from tools.git import REGULAR, Entry
from tools.pull_request.changes import (
    ROOT,
    Change,
    Version,
    below_root,
    tier_of,
)
from tools.pull_request.commit_range import CommitRange
from tools.pull_request.served import Hiding
from tools.registry.devices import DeviceRegistry
from tools.registry.models import ModelRegistry
from tools.registry.shapes import readers
from tools.store.strict_json import Json
from tools.store.tiers import Role, role_in_repo
from tools.store.workload import Workload, parse_file_name
from tools.text import dumped, shown

MOST_EDITS = 3
"""Up to so many distinct changes of a value are shown with their values, more only with their keys."""

BATCH_SIZES = "batch sizes"
"""The key of an edit that adds or takes away rows; its values are their numbers."""


class Kind(enum.StrEnum):
    """What became of a tuned file."""

    ADDED = "added"
    RETUNED = "re-tuned"
    MOVED = "moved"
    REMOVED = "removed"
    UNVERIFIED = "unverified"  # the record lost main's own word, for the same launch configs
    RECORDED = "recorded"  # the record alone changed
    UNREADABLE = "unreadable"  # no tuned file that could be compared: the validator says why


RECORD_ONLY = frozenset({Kind.UNVERIFIED, Kind.RECORDED})
"""Of these the record's keys that changed are named."""

BENCH_LINES = ("engine_checked", "verified_with")
"""The record's lists that benches append to."""

LONGEST_LINE = 500
"""Characters of such a line, which may hold anything."""


@dataclass(frozen=True)
class Edit:
    """A launch key and the values it had and has, as text; None: the key isn't written."""

    key: str
    before: str | None
    after: str | None


@dataclass(frozen=True)
class FileChange:
    """One tuned file. rows: batch sizes whose entry changed, came or went. moved_from: the tier that it left.

    gain_pct: the median over rows of the time saved, as the record claims it: against the heuristic for an added
    file, against the earlier entry for the changed rows of another. None: the record doesn't give it.
    record_keys: the record's top-level keys that differ. bench_lines: what it has more in `BENCH_LINES`, as text.
    loses_word: main's own run had measured the file as it was, and nothing says so of what takes its place.
    """

    kind: Kind
    relative: PurePosixPath
    rows: tuple[int, ...] = ()
    edits: frozenset[Edit] = frozenset()
    gain_pct: float | None = None
    moved_from: str | None = None
    record_keys: tuple[str, ...] = ()
    bench_lines: tuple[str, ...] = ()
    loses_word: bool = False

    @property
    def tier(self) -> str:
        return tier_of(self.relative)

    @property
    def device_name(self) -> str:
        workload = parse_file_name(self.relative.name).workload
        return "" if workload is None else workload.device_name

    @property
    def likeness(self) -> tuple[object, ...]:
        """Files with the same one changed alike. Added and removed ones are grouped by device."""
        if self.kind in (Kind.ADDED, Kind.REMOVED):
            return self.kind, self.tier, self.device_name, self.loses_word
        if self.kind in RECORD_ONLY or self.kind is Kind.UNREADABLE:
            return self.kind, self.record_keys
        alike = self.edits if len(self.edits) <= MOST_EDITS else frozenset(edit.key for edit in self.edits)
        return self.kind, self.moved_from and (self.moved_from, self.tier), alike, self.loses_word


@dataclass(frozen=True)
class Group:
    """Files that changed alike, in the order of their paths."""

    files: tuple[FileChange, ...]

    @property
    def kind(self) -> Kind:
        return self.files[0].kind

    @property
    def num_rows(self) -> int:
        return sum(len(file.rows) for file in self.files)

    @property
    def devices(self) -> tuple[str, ...]:
        return tuple(sorted({file.device_name for file in self.files} - {""}))

    @property
    def gain_pct(self) -> float | None:
        """The median of the files' own."""
        gains = [file.gain_pct for file in self.files if file.gain_pct is not None]
        return statistics.median(gains) if gains else None


@dataclass(frozen=True, order=True)
class CoveredModel:
    """A registered model that has a tuned file on a device, at whatever parallel size and dtype."""

    model_id: str
    device_name: str


@dataclass(frozen=True)
class ModeChange:
    """A path below configs/ whose mode changed, or came as another than a plain file's. before None: it is new."""

    path: str
    before: str | None
    after: str


class EvidenceKind(enum.StrEnum):
    """What speaks for a tuned file on main."""

    VERIFIED = "verified"
    CLAIMED = "claimed"
    PUBLISHED = "published"  # or without any record


@dataclass(frozen=True, order=True)
class Hidden:
    """An added file, the one that it hides as main has it, and from whom: readers of these releases of Triton."""

    by: PurePosixPath
    hidden: PurePosixPath
    standing: EvidenceKind
    releases: tuple[str, ...]


@dataclass(frozen=True)
class Diff:
    """base and head: the commits compared. others: changed paths that are no tuned file and no record."""

    base: str
    head: str
    groups: tuple[Group, ...]
    gained: tuple[CoveredModel, ...]
    lost: tuple[CoveredModel, ...]
    covered: int
    others: tuple[str, ...]
    modes: tuple[ModeChange, ...] = ()
    hidden: tuple[Hidden, ...] = ()

    def of(self, kind: Kind) -> tuple[Group, ...]:
        """The groups of one kind."""
        return tuple(group for group in self.groups if group.kind is kind)


def file_changes(pairs: Iterable[tuple[Version, Version]]) -> tuple[FileChange, ...]:
    """What became of each file, from both sides of every path that changed. A file that left one tier for another is
    one change, as long as only one tier lost it and only one gained it."""
    before_after = list(pairs)
    came = _by_name(after for before, after in before_after if after.exists and not before.exists)
    went = _by_name(before for before, after in before_after if before.exists and not after.exists)
    moved = {name: went[name][0] for name in came if len(came[name]) == len(went.get(name, ())) == 1}
    found = []
    for before, after in before_after:
        name = after.relative.name
        if name in moved and not after.exists and before.exists:
            continue
        origin = moved.get(name) if after.exists and not before.exists else None
        found.append(_change(origin or before, after, moved_from=None if origin is None else origin.tier))
    return tuple(change for change in found if change is not None)


def grouped(files: Iterable[FileChange]) -> tuple[Group, ...]:
    """Files that changed alike, by kind, the largest groups first."""
    by_likeness: defaultdict[tuple[object, ...], list[FileChange]] = defaultdict(list)
    for file in sorted(files, key=lambda file: str(file.relative)):
        by_likeness[file.likeness].append(file)
    order = list(Kind)
    groups = [Group(tuple(alike)) for alike in by_likeness.values()]
    return tuple(sorted(groups, key=lambda g: (order.index(g.kind), -len(g.files), str(g.files[0].relative))))


def coverage(paths: Iterable[PurePosixPath], models: ModelRegistry, devices: DeviceRegistry) -> frozenset[CoveredModel]:
    """The models that a tuned file serves on a device, from the files' names. Names of one device count as one."""
    served: dict[Workload, frozenset[str]] = {}
    cells = set()
    for path in paths:
        workload = parse_file_name(path.name).workload
        if workload is None:
            continue
        on_any_device = replace(workload, device_name="")
        if on_any_device not in served:
            served[on_any_device] = frozenset(reader.model.id for reader in readers(workload, models))
        device = devices.get(workload.device_name)
        device_name = workload.device_name if device is None else device.name
        cells |= {CoveredModel(model_id, device_name) for model_id in served[on_any_device]}
    return frozenset(cells)


def _by_name(versions: Iterable[Version]) -> Mapping[str, Sequence[Version]]:
    found: defaultdict[str, list[Version]] = defaultdict(list)
    for version in versions:
        found[version.relative.name].append(version)
    return found


def _change(before: Version, after: Version, moved_from: str | None) -> FileChange | None:
    """None: neither side has the file, as with a record alone, or neither its bytes nor its record's changed."""
    here = after.relative
    is_same = moved_from is None and (before.data, before.record_data) == (after.data, after.record_data)
    if is_same or not (before.exists or after.exists):
        return None
    if not after.exists:
        return FileChange(Kind.REMOVED, here, loses_word=before.is_signed)
    if not after.entries or after.file.content.faults or after.workload is None:
        return FileChange(Kind.UNREADABLE, here)
    keys, lines = _record_keys(before, after), _new_bench_lines(before, after)
    if not before.exists:
        gain_pct = _gain_over_heuristic(after)
        return FileChange(Kind.ADDED, here, tuple(after.entries), gain_pct=gain_pct, bench_lines=lines)
    rows = _changed_rows(before.entries, after.entries)
    edits = frozenset(_edits(before.entries, after.entries))
    loses_word = before.is_signed and not after.is_signed
    recorded = Kind.UNVERIFIED if before.is_signed and after.record.get("verified") is None else Kind.RECORDED
    kind = Kind.MOVED if moved_from else Kind.RETUNED if rows else recorded
    return FileChange(kind, here, rows, edits, _gain(before, after, rows), moved_from, keys, lines, loses_word)


def _record_keys(before: Version, after: Version) -> tuple[str, ...]:
    """Also where 1 became true, which Python takes for the same."""
    old, new = ({key: dumped(value) for key, value in side.record.items()} for side in (before, after))
    return tuple(sorted(key for key in old.keys() | new.keys() if old.get(key) != new.get(key)))


def _new_bench_lines(before: Version, after: Version) -> tuple[str, ...]:
    known, new = (
        dict.fromkeys(line for name in BENCH_LINES for line in _lines(side, name)) for side in (before, after)
    )
    return tuple(line for line in new if line not in known)


def _lines(version: Version, name: str) -> list[str]:
    """Each line of the list as a text; whatever else is there as one."""
    found = version.record.get(name, [])
    items = found if isinstance(found, list) else [found]
    return [f"{name}: {_fields(item)}" for item in items]


def _fields(item: Json) -> str:
    fields = item.items() if isinstance(item, dict) else [("", item)]
    return shown(", ".join(f"{key} {value}".strip() for key, value in fields), LONGEST_LINE)


def _changed_rows(before: Mapping[int, LaunchConfig], after: Mapping[int, LaunchConfig]) -> tuple[int, ...]:
    return tuple(sorted(m for m in before.keys() | after.keys() if before.get(m) != after.get(m)))


def _edits(before: Mapping[int, LaunchConfig], after: Mapping[int, LaunchConfig]) -> Iterator[Edit]:
    """The distinct changes of a key's value, of rows on both sides; a row that came or went is one of its own."""
    for num_tokens in before.keys() & after.keys():
        old, new = before[num_tokens].to_entry(), after[num_tokens].to_entry()
        for key in old.keys() | new.keys():
            if old.get(key) != new.get(key):
                yield Edit(key, _text(old.get(key)), _text(new.get(key)))
    if came := after.keys() - before.keys():
        yield Edit(BATCH_SIZES, None, str(len(came)))
    if went := before.keys() - after.keys():
        yield Edit(BATCH_SIZES, str(len(went)), None)


def _text(value: EntryValue | None) -> str | None:
    return None if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def _gain_over_heuristic(after: Version) -> float | None:
    return _median_gain_pct(after.medians_us("baseline_us"), after.medians_us(), after.entries)


def _gain(before: Version, after: Version, rows: Iterable[int]) -> float | None:
    """Against the incumbent that was measured beside the new entry, else against the earlier record."""
    return _median_gain_pct({**before.medians_us(), **after.medians_us("incumbent_us")}, after.medians_us(), rows)


def _median_gain_pct(
    before_us: Mapping[int, float], after_us: Mapping[int, float], rows: Iterable[int]
) -> float | None:
    gains = [(1 - after_us[m] / before_us[m]) * 100 for m in rows if m in before_us and m in after_us]
    return statistics.median(gains) if gains else None


def make_diff(
    found: CommitRange,
    models: ModelRegistry,
    devices: DeviceRegistry,
    hidden: Iterable[tuple[Hiding, Version]] = (),
) -> Diff:
    """Pure. hidden: as `look_beside` found it."""
    before, after = (coverage(_tuned(tree), models, devices) for tree in found.trees)
    return Diff(
        base=found.base,
        head=found.head,
        groups=grouped(file_changes(found.versions)),
        gained=tuple(sorted(after - before)),
        lost=tuple(sorted(before - after)),
        covered=len(after),
        others=tuple(change.path for change in found.changed if not _is_told(change)),
        modes=tuple(filter(None, map(_mode, below_root(found.changed)))),
        hidden=tuple(Hidden(one.by, one.hidden, _standing(version), one.releases) for one, version in hidden),
    )


def _standing(version: Version) -> EvidenceKind:
    if version.is_signed:
        return EvidenceKind.VERIFIED
    return EvidenceKind.CLAIMED if version.is_measured else EvidenceKind.PUBLISHED


def _mode(change: Change) -> ModeChange | None:
    """None: it is a plain file as it was, or is none any more."""
    before, after = (None if side is None else side.mode for side in (change.before, change.after))
    return None if after is None or (before or REGULAR) == after else ModeChange(change.path, before, after)


def _is_told(change: Change) -> bool:
    return change.role in (Role.CONFIG, Role.RECORD)


def _tuned(tree: Mapping[str, Entry]) -> list[PurePosixPath]:
    places = (Change(path, None, entry) for path, entry in tree.items() if path.startswith(f"{ROOT}/"))
    return [place.relative for place in places if place.relative and role_in_repo(place.relative) is Role.CONFIG]
