"""The boards: most wanted files, largest gains, what loses, what engines ship; and what was seen under which Triton."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from tools.registry.devices import Device
from tools.site.coverage import Cell, Line
from tools.site.files import ENGINES, TunedFile
from tools.site.measurements import EnginesTimes
from tools.site.questions import State
from tools.store.record import VerifiedWith

MOST_WANTED = 40
MOST_GAINS = 40


@dataclass(frozen=True)
class Wanted:
    """A file that isn't here and would be read.

    askers: each model of a placement that asks for it, with its sizes and engines in words, and slug and anchor of its
    page. surveyed_ratio: of the file that an engine ships, over that engine's heuristic; None: not surveyed, or none.
    """

    name: str
    device: Device
    askers: tuple[tuple[str, str, str, str], ...]
    command: str
    surveyed_ratio: float | None

    @property
    def models(self) -> int:
        return len({model for model, *_ in self.askers})


def most_wanted(lines: Iterable[Line], devices: Sequence[Device]) -> list[Wanted]:
    """By how many models ask for the file, of placements that the registry knows, on GPUs of their families."""
    found: dict[tuple[str, str], list[tuple[Line, Cell]]] = {}
    known = {device.name: device for device in devices}
    for line in lines:
        for (device, _), cell in line.cells.items():
            if cell.is_hole and cell.name and cell.reads and device in known and known[device].family in line.families:
                found.setdefault((device, cell.name), []).append((line, cell))
    wanted = []
    for (device, name), asked in found.items():
        ratios = [cell.ratio for _, cell in asked if cell.ratio is not None]
        askers = tuple(_askers(asked))
        wanted.append(Wanted(name, known[device], askers, asked[0][1].command, max(ratios, default=None)))
    return sorted(wanted, key=lambda each: (-each.models, -len(each.askers), each.name))


def _askers(asked: Iterable[tuple[Line, Cell]]) -> Iterator[tuple[str, str, str, str]]:
    by_place: dict[tuple[str, str], list[tuple[Line, str]]] = {}
    for line, cell in asked:
        by_place.setdefault((line.slug, line.anchor), []).append((line, ENGINES[cell.engine]))
    for found in by_place.values():
        line = found[0][0]
        engines = [engine for _, engine in found]
        who = "both" if len(engines) == len(ENGINES) else " and ".join(engines)
        yield line.model, f"{line.sizes}, {who}", line.slug, line.anchor


def largest_gains(files: Iterable[TunedFile]) -> list[TunedFile]:
    """Of what was measured, the largest first."""
    return sorted((file for file in files if file.is_measured), key=lambda file: file.known.geomean_ratio or 1.0)


@dataclass(frozen=True)
class Negative:
    """Something that a file doesn't gain, or loses, said by its own figures."""

    file: TunedFile
    what: str


def negatives(files: Iterable[TunedFile], beside: Mapping[str, Sequence[EnginesTimes]]) -> list[Negative]:
    """Rows that may be slower than the bound, files that gain hardly anything, and engines' files that are as good."""
    found = []
    for file in files:
        if file.unbounded:
            sizes = ", ".join(map(str, file.unbounded))
            found.append(Negative(file, f"may be more than 2 % slower than a heuristic at M = {sizes}"))
        if (ratio := file.known.geomean_ratio) is not None and ratio > 0.99:
            found.append(Negative(file, f"gains {(1 - ratio) * 100:.1f} % over vLLM's heuristic: hardly anything"))
        for times in beside.get(file.path, ()):
            if times.geomean_ratio > 0.99:
                found.append(
                    Negative(file, f"gains {(1 - times.geomean_ratio) * 100:.1f} % over {times.label}: hardly anything")
                )
    return found


@dataclass(frozen=True)
class Fresh:
    """A file under each Triton: None: not seen there. own: the one that it was measured with."""

    file: TunedFile
    own: str | None
    measured: str | None
    verified: str | None
    seen: Mapping[str, VerifiedWith]


def freshness(files: Iterable[TunedFile]) -> tuple[list[str], list[Fresh]]:
    """The Tritons of all records, newest first, and a line a file, that of the oldest figures first."""
    found = []
    for file in files:
        record = file.record
        own = record.environment.triton if record and record.environment else None
        verified = record.verified.date if record and record.verified and file.known.evidence == "verified" else None
        seen = {line.triton: line for line in (record.verified_with or () if record else ())}
        found.append(Fresh(file, own, record.date if record and record.is_measured else None, verified, seen))
    versions = {version for each in found for version in (each.own, *each.seen) if version}
    newest = sorted(versions, key=_release, reverse=True)
    return newest, sorted(found, key=lambda each: (each.measured or "", each.file.path))


def _release(version: str) -> tuple[int, ...]:
    return tuple(int(part) if part.isdigit() else 0 for part in version.split("+")[0].split("."))


@dataclass(frozen=True)
class Tally:
    """Of the names that placements ask for on a GPU: how many are here, by state."""

    device: Device
    verified: int
    claimed: int
    published: int
    missing: int

    @property
    def wanted(self) -> int:
        return self.verified + self.claimed + self.published + self.missing


def tally(lines: Iterable[Line], devices: Iterable[Device]) -> list[Tally]:
    """Each name once a GPU; of GPUs on which no placement asks for one there is no tally."""
    devices, states = tuple(devices), dict[str, dict[str, State]]()
    families = {device.name: device.family for device in devices}
    for line in lines:
        for (name, _), cell in line.cells.items():
            if cell.name and cell.reads and families.get(name) in line.families:
                states.setdefault(name, {})[cell.name] = cell.state
    found = []
    for device in devices:
        of_device = list(states.get(device.name, {}).values())
        verified, claimed = of_device.count(State.VERIFIED), of_device.count(State.CLAIMED)
        published = of_device.count(State.PUBLISHED) + of_device.count(State.UNRECORDED)
        found.append(Tally(device, verified, claimed, published, len(of_device) - verified - claimed - published))
    return [each for each in found if each.wanted]
