"""What comes near where nothing matches: other spellings of a device or a model, and files for other workloads."""

from __future__ import annotations

from pathlib import Path

from .index import tuned_files
from .lookup import device_part
from .naming import ParsedFileName, parse
from .registry import known_devices
from .spelling import like, question

PLAIN = "bf16 and fp16"


def present_files(configs: Path) -> list[ParsedFileName]:
    """What the names of the tuned files say, each workload once."""
    names = sorted({path.name for path, _ in tuned_files(configs)})
    return [parsed for parsed in map(parse, names) if parsed and not parsed.down]


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
        lines.append(f"{asked.device_name}: {question(meant)}")
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


MOST_LISTED = 6


def _listed(found: list[str]) -> str:
    """As text; of many the first ones, and how many more."""
    rest = len(found) - MOST_LISTED
    return ", ".join(found[:MOST_LISTED]) + (f" and {rest} more" if rest > 0 else "")
