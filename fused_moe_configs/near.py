"""What comes near where nothing matches: other spellings of a device or a model, and files for other workloads."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from .lookup import ConfigError, device_part, exists, read_json, version_folders
from .naming import ParsedFileName, parse

MOST_NAMED = 3
PLAIN = "bf16 and fp16"


class KnownDevice(NamedTuple):
    """A device of the registry."""

    name: str
    aliases: tuple[str, ...]

    @property
    def names(self) -> tuple[str, ...]:
        return (self.name, *self.aliases)


def known_devices(configs: Path) -> list[KnownDevice]:
    """Of the registry; none where there is no registry. ConfigError: it is broken."""
    path = configs / "registry" / "devices.json"
    if not exists(path):
        return []
    try:
        devices = [dict(device) for device in dict(read_json(path)[1])["devices"]]
        return [_device(device) for device in devices]
    except (KeyError, TypeError, ValueError) as error:
        if isinstance(error, ConfigError):
            raise
        wish = "expected devices, each with a name and aliases, found otherwise"
        raise ConfigError(path, f"{wish}. Fix: install again, or correct it") from error


def _device(fields: Mapping[str, Any]) -> KnownDevice:
    return KnownDevice(device_part(fields["name"]), tuple(map(device_part, fields.get("aliases", ()))))


def present_files(configs: Path) -> list[ParsedFileName]:
    """What the names of the tuned files say, each workload once."""
    folders = (configs, configs / "legacy_configs", *version_folders(configs).values())
    names = sorted({path.name for folder in folders for path in folder.glob("E=*.json")})
    return [parsed for parsed in map(parse, names) if parsed and not parsed.down]


def like(asked: str, known: Iterable[str], most: int = MOST_NAMED) -> list[str]:
    """Names that may be meant, the likeliest first: those that hold what was asked, then similar ones.

    Case, spaces and punctuation are no matter.
    """
    import difflib  # a match needs no near ones

    names = list(dict.fromkeys(known))
    if not (wanted := folded(asked)):
        return []
    holding = [name for name in names if wanted in folded(name)] or [name for name in names if folded(name) in wanted]
    if not holding:
        # A model's id is known by its part behind the slash too.
        by_fold = {folded(part): name for name in reversed(names) for part in (name, name.rpartition("/")[2])}
        close = difflib.get_close_matches(wanted, by_fold, 2 * most)
        holding = list(dict.fromkeys(by_fold[near] for near in close))
    # H20 is NVIDIA_H20 before it is a part of NVIDIA_H200.
    holding.sort(key=lambda name: (folded(name) != wanted, wanted not in map(folded, re.split(r"[\W_]+", name))))
    return holding[:most]


def folded(text: str) -> str:
    return re.sub(r"[\W_]+", "", text).casefold()


def did_you_mean(asked: str, names: list[str]) -> str:
    first, last = ", ".join(names[:-1]), names[-1]
    return f"{asked}: did you mean {f'{first} or {last}' if first else last}?"


def likely_devices(asked: str, configs: Path) -> list[str]:
    """Devices that may be meant, those with files first; none where the asked one is known."""
    present = list(dict.fromkeys(file.device_name for file in present_files(configs)))
    known = [*present, *(name for device in known_devices(configs) for name in device.names)]
    return [] if device_part(asked) in known else like(asked, known)


def near_misses(asked: ParsedFileName, configs: Path) -> list[str]:
    """For a workload without a file, a line each: what may be meant, and which files come near.

    ConfigError: the registry is broken.
    """
    devices, files = known_devices(configs), present_files(configs)
    own = asked._replace(device_name=device_part(asked.device_name), down=False)
    named = next((device for device in devices if own.device_name in device.names), None)
    here = named.names if named else (own.device_name,)
    lines = []
    if meant := likely_devices(own.device_name, configs):
        lines.append(did_you_mean(asked.device_name, meant))
    same = [file for file in files if file._replace(device_name=own.device_name) == own]
    others = [file.device_name for file in same]
    on_device = [file for file in files if file.device_name in here]
    workload, what = f"E={own.E},N={own.N}", own.quantisation or PLAIN
    of_shape = [file.quantisation or PLAIN for file in on_device if (file.E, file.N) == (own.E, own.N)]
    of_kind = [file for file in on_device if file.quantisation == own.quantisation]
    for found, line in (
        (others, f"{workload} for {what} is here for"),
        (of_shape, f"{workload} is here on this device for"),
        ([f"E={file.E}" for file in of_kind if file.N == own.N], f"N={own.N} for {what} is here on this device for"),
        ([f"N={file.N}" for file in of_kind if file.E == own.E], f"E={own.E} for {what} is here on this device for"),
    ):
        lines += [f"{line} {_listed(found)}"] if found else []
    return lines


def _listed(found: list[str], most: int = 6) -> str:
    """As text; of many the first ones, and how many more."""
    rest = len(found) - most
    return ", ".join(found[:most]) + (f" and {rest} more" if rest > 0 else "")
