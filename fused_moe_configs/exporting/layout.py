"""Which files an engine reads, under which names, with which bytes. Names are paths below the destination."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from fused_moe_configs.gains import BesideShipped
from fused_moe_configs.lookup import (
    INDEX,
    REFERENCE_TRITON,
    VERSION_FOLDER,
    Chain,
    ConfigEntry,
    counted,
    device_in,
    is_down,
    printable,
    release,
    renamed,
    up_of,
    version_folders,
    version_in,
)
from fused_moe_configs.naming import ENGINE_NAMES, for_channels, spelled
from fused_moe_configs.serving import driver_name

from .notes import Notes
from .overlay import EnginesFile

Tiers = dict[Path, str]
DEAD_PARTS = {
    "vllm": {
        "dtype=int8_w8a8": "",
        "per_channel_quant=True": " (SGLang's scales per channel)",
        "_down.json": " (SGLang's down projection)",
    },
    "sglang": {"dtype=fp8_w8a16": ""},
}
"""Parts of a name that the engine never asks for, and whose they are."""
_WORKLOAD = re.compile(r"E=[1-9]\d*,N=[1-9]\d*,device_name=[^,=]", re.ASCII)


@dataclass(frozen=True)
class Served:
    """What an engine gets under one name. source: the shipped file that it is of. device: whose name it has there."""

    data: bytes
    source: Path
    device: str
    is_siblings: bool


def chains_answers(
    chain: Chain, engine: str, triton_version: str | None, device: str | None, siblings: bool, notes: Notes
) -> dict[str, Served]:
    """Name → the file that serves the engine. device: only those under this name. What is left out is noted.

    ConfigError: a file is broken. ValueError: no version.
    """
    files = {}
    for folder, tiers in _folders(chain, engine, triton_version, notes).items():
        there = {path.name for tier in tiers for path in tier.glob("[!.]*.json")} - {INDEX}
        stand_ins = {for_channels(name) for name in there} - there if engine == "sglang" else set()
        for name in sorted(there | stand_ins):
            if not _WORKLOAD.match(name):
                notes.say_of(name, "left out: no workload has this name")
                continue
            readers = _readers(chain, engine, name, device, siblings)
            spelled = _spelled(engine, name, notes) if readers else ""
            for reader, asked in readers.items() if spelled else ():
                for device_name in (asked, reader):  # the folded name may be unknown to the registry
                    lookup, entries = chain.look_up(renamed(name, device_name), tiers, siblings=siblings)
                    if entries:
                        break
                if entries and lookup.winner and is_down(lookup.winner.name) == is_down(name):
                    data = _content(engine, name, entries, notes)
                    of_its_own = {*chain.devices(asked), *chain.devices(reader)}
                    is_siblings = device_in(lookup.winner.name) not in of_its_own
                    files[folder + renamed(spelled, asked)] = Served(data, lookup.winner, asked, is_siblings)
                elif name in there:
                    notes.say_of(name, "left out: no up file wins beside it")
    # SGLang searches all folders: what stands in must not come before the device's own, or that for channels.
    own = {_file_name(path) for path, served in files.items() if not _stands_in(path, served)}
    return {
        path: served
        for path, served in files.items()
        if not (_stands_in(path, served) and up_of(_file_name(path)) in own)
    }


def _stands_in(path: str, served: Served) -> bool:
    return served.is_siblings or is_plain(path, served)


def is_plain(path: str, served: Served) -> bool:
    """Whether a file for a scale for each tensor stands in for one with scales for each channel."""
    return for_channels(served.source.name) != served.source.name and "per_channel_quant=True" in path


def only_with_a_version(chain: Chain, engine: str, device: str | None, siblings: bool) -> list[str]:
    """A line a version folder with files for the engine that an export without a Triton version can't hold.

    device: only of this one. SGLang's layout holds them all.
    """
    lines = []
    for version, folder in version_folders(chain.configs).items() if engine == "vllm" else ():
        names = [path.name for path in folder.glob("[!.]*.json") if _WORKLOAD.match(path.name)]
        asked = [name for name in names if _readers(chain, engine, name, device, siblings) and not _dead(engine, name)]
        why = f"{ENGINE_NAMES[engine]}'s folder is flat. Fix: pass a Triton version"
        why += f" (--triton-version {'.'.join(map(str, version))})"
        if version == release(REFERENCE_TRITON):
            why = "the default tier is this Triton's. Fix: move its files"
        lines += [f"{printable(folder)}: {counted(len(asked), 'file')} left out: {why}"] if asked else []
    return lines


def tuned_for_another(chain: Chain, triton_version: str, served: Mapping[str, Served]) -> list[str]:
    """A line a tier that answers for this Triton with files that were tuned for another one; first, where all do."""
    asked = release(triton_version)
    ours = f"Triton {'.'.join(map(str, asked))}"
    tuned_for = {folder: version for version, folder in version_folders(chain.configs).items()}
    tuned_for[chain.configs] = release(REFERENCE_TRITON)
    lines, others = [], 0
    for folder, tier in chain.tiers(triton_version).items():
        number = sum(each.source.parent == folder for each in served.values())
        if number and tuned_for.get(folder) != asked:
            theirs = f"Triton {'.'.join(map(str, tuned_for[folder]))}" if folder in tuned_for else "an older Triton"
            said = tier.partition(" (")[0]
            files = "1 file comes" if number == 1 else f"{number} files come"
            lines.append(f"{ours}: {files} from {said}, tuned for {theirs}")
            others += number
    return [f"{ours}: no file here was tuned for it", *lines] if others and others == len(served) else lines


def laid_over(
    own: Mapping[str, EnginesFile], files: Mapping[str, Served], beside: Mapping[Path, BesideShipped], notes: Notes
) -> dict[str, Served]:
    """Those that go over the engine's own files.

    Left out are a sibling's where the engine has one of the device itself, one that stands in for scales per channel
    where it has one of that name, and, with a note, those of a name whose very file of the engine's was measured to be
    faster. beside: by our file, how it compares with the one that it ships.
    """
    theirs, names, faster = _read_there(own), {_file_name(path) for path in own}, dict[str, BesideShipped]()
    for path, served in files.items():
        known = beside.get(served.source)
        if known is not None and known.is_slower and theirs.get(_file_name(path)) == known.sha256:
            faster[_file_name(path)] = known
    for name, known in sorted(faster.items()):
        notes.say(f"{name}: the engine's own file stays: ours takes {known.geomean:.2f} of its time")
    return {
        path: served
        for path, served in files.items()
        if not (_stands_in(path, served) and up_of(_file_name(path)) in names) and up_of(_file_name(path)) not in faster
    }


def _read_there(own: Mapping[str, EnginesFile]) -> dict[str, str]:
    """By name, the sha256 of the file that the engine would read of its own under the reference Triton, with which ours
    were compared: that of its own folder, else of the newest."""
    reference = release(REFERENCE_TRITON)

    def order(path: str) -> tuple[bool, tuple[int, ...]]:
        version = version_in(Path(path).parent.name) or ()
        return version == reference, version

    return {_file_name(path): own[path].sha256 for path in sorted(own, key=order)}


def _readers(chain: Chain, engine: str, name: str, asked: str | None, siblings: bool) -> dict[str, str]:
    """The devices that read a file of this name, each with its name in the engine. asked: only those of the same name
    as this one there, which the registry may not name."""
    own, readers = device_in(name), [*chain.devices(device_in(name))]
    if siblings:
        readers += [name for device in chain.carried_to(own) for name in chain.devices(device)]
    if asked is not None and own in (*chain.devices(asked), *(chain.siblings(asked) if siblings else ())):
        readers.append(asked)
    only = None if asked is None else driver_name(engine, asked)
    named = {reader: driver_name(engine, reader) for reader in readers}
    return {reader: there for reader, there in named.items() if only in (None, there)}


def _file_name(path: str) -> str:
    return path.rpartition("/")[2]


def with_twins(files: dict[str, bytes]) -> dict[str, bytes]:
    """Beside an up file that stands alone its copy, where another folder has a `_down` file.

    SGLang looks for each of the two through all folders, and would pair an up file with another version's down file.
    """
    places = [path.rpartition("/") for path in files]
    ups = {up_of(name): name for _, _, name in places if is_down(name)}
    alone = ((folder + slash, name) for folder, slash, name in places if name in ups)
    twins = {folder + ups[name]: files[folder + name] for folder, name in alone}
    return twins | files


def _folders(chain: Chain, engine: str, triton_version: str | None, notes: Notes) -> dict[str, Tiers]:
    """Folder below the destination → the tiers whose answers it holds."""
    if triton_version is not None:
        folder = _below(release(triton_version)) if engine == "sglang" else ""
        return {folder: chain.tiers(triton_version)}
    versions = version_folders(chain.configs)
    if engine == "vllm":
        return {"": chain.tiers(None)}
    default, legacy = ({folder: tier} for folder, tier in chain.tiers(None).items())
    folders: dict[tuple[int, ...], Tiers] = {v: {folder: "a version folder"} for v, folder in versions.items()}
    tiers = {release(REFERENCE_TRITON): default, (0, 0, 0): legacy}
    for version in tiers.keys() & versions.keys():
        wish = "left out: another tier is exported as this version. Fix: move its files"
        notes.say(f"{printable(versions[version])}: {wish}")
    folders |= tiers
    return {_below(version): tiers for version, tiers in folders.items()}


def _below(version: tuple[int, ...]) -> str:
    """Where SGLang looks for the files of a Triton version."""
    return f"configs/{VERSION_FOLDER.format(*version)}/"


def _spelled(engine: str, name: str, notes: Notes) -> str:
    """The engine's own spelling of a name; empty, with a note, where the engine never asks for it."""
    if part := _dead(engine, name):
        notes.say_of(name, f"left out: {engine} never asks for {part}{DEAD_PARTS[engine][part]}")
        return ""
    try:
        return spelled(name, engine)
    except ValueError as error:
        notes.say_of(name, f"left out: {error}")
        return ""


def _dead(engine: str, name: str) -> str:
    """The part of the name for which the engine never asks for it; empty: none."""
    return next((part for part in DEAD_PARTS[engine] if part in name), "")


def _content(engine: str, name: str, entries: Mapping[int, ConfigEntry], notes: Notes) -> bytes:
    rows = {size: dict(entry) for size, entry in entries.items()}
    if engine == "vllm" and any("USE_TMA" in row for row in rows.values()):
        notes.say_of(name, "USE_TMA left out: vllm's kernel does not take it")
        rows = {size: {key: value for key, value in row.items() if key != "USE_TMA"} for size, row in rows.items()}
    return f"{json.dumps(rows, indent=4)}\n".encode()
