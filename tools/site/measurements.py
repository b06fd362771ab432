"""What docs/measurements/ says of the files that engines ship: benches beside ours, and surveys of all of them.

Documents of commands, of any age: what can't be used is left out, and then the site says «not surveyed».
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fused_moe_configs.lookup import device_part
from tools.site.files import ENGINES, TunedFile
from tools.store.files import ANY_FILE, Limits, read_file

_LIMITS = Limits(num_bytes=8 * ANY_FILE.num_bytes, lists=200_000)
_SHIPPED = re.compile(r"(vllm|sglang)-(\d[\w.]{0,20})", re.ASCII)


@dataclass(frozen=True)
class EnginesTimes:
    """A shipped file timed beside one of ours, by batch size, in µs; rows alone in which ours is the store's today.

    geomean_ratio: our time over its.
    """

    engine: str
    version: str
    date: str
    kernel: str
    times_us: Mapping[int, float]
    geomean_ratio: float

    @property
    def label(self) -> str:
        return f"{ENGINES[self.engine]} {self.version}'s file"


@dataclass(frozen=True)
class Surveyed:
    """A file that an engine ships, as a survey measured it on the engine's own kernel.

    name: as this project spells it. ratio, worst_ratio: its time over that of the engine's heuristic, which would run
    without it: above 1 it costs its users. ours_ratio: our file's time over its; None: we have none there.
    """

    engine: str
    version: str
    device_name: str
    date: str
    triton: str
    name: str
    ratio: float
    worst_ratio: float
    ours_ratio: float | None


def read_surveys(folder: Path) -> tuple[Surveyed, ...]:
    """Of every `*-survey-*.json`, the newest of an engine, device and name.

    Each has `engine`, `version`, `environment` with date, device and triton, and `files`: `name`, `over_heuristic`
    with `geomean_ratio` and `worst_ratio`, and `ours_over`, the same of our file over this one, or null.
    """
    found: dict[tuple[str, str, str], Surveyed] = {}
    for document in _documents(folder, "*-survey-*.json"):
        for each in _surveyed(document):
            key = each.engine, each.device_name, each.name
            if key not in found or found[key].date <= each.date:
                found[key] = each
    return tuple(sorted(found.values(), key=lambda each: (-each.ratio, each.engine, each.name)))


def _surveyed(document: Mapping[str, Any]) -> Iterator[Surveyed]:
    engine, where = document.get("engine"), _mapping(document.get("environment"))
    if engine not in ENGINES:
        return
    about = [str(text)[:80] for text in (document.get("version", ""), where.get("device", ""), where.get("date", ""))]
    for each in map(_mapping, _list(document.get("files"))):
        over, ours = _mapping(each.get("over_heuristic")), _mapping(each.get("ours_over"))
        ratio, worst = _positive(over.get("geomean_ratio")), _positive(over.get("worst_ratio"))
        name = each.get("name")
        if ratio is None or not isinstance(name, str):
            continue
        try:
            device = device_part(about[1])
        except ValueError:
            continue
        triton = str(where.get("triton", ""))[:20]
        yield Surveyed(
            str(engine), about[0], device, about[2], triton, name, ratio, worst or ratio,
            _positive(ours.get("geomean_ratio")),
        )  # fmt: skip


def engines_times(folder: Path, files: Sequence[TunedFile]) -> dict[str, tuple[EnginesTimes, ...]]:
    """By path of our file: the shipped ones that a bench put beside it, the newest of each."""
    by_name = {file.name: file for file in files if file.entries and "/" not in file.path}
    found: dict[tuple[str, str], EnginesTimes] = {}
    for document in _documents(folder, "*-bench-*.json"):
        where = _mapping(document.get("environment"))
        for each in map(_mapping, _list(document.get("files"))):
            ours = by_name.get(str(each.get("name")))
            if ours is None or not _is_of(where, ours):
                continue
            for times in _beside(each, where, ours):
                key = ours.path, times.engine
                if key not in found or found[key].date <= times.date:
                    found[key] = times
    by_path: dict[str, tuple[EnginesTimes, ...]] = {}
    for (path, _), times in sorted(found.items()):
        by_path[path] = (*by_path.get(path, ()), times)
    return by_path


def _is_of(environment: Mapping[str, Any], file: TunedFile) -> bool:
    try:
        return device_part(environment.get("device")) == file.device_name
    except ValueError:
        return False


def _beside(bench: Mapping[str, Any], environment: Mapping[str, Any], ours: TunedFile) -> Iterator[EnginesTimes]:
    times: dict[str, dict[int, float]] = {}
    ratios: dict[str, list[float]] = {}
    for row in map(_mapping, _list(bench.get("rows"))):
        measured, num_tokens = _mapping(row.get("measured")), row.get("num_tokens")
        own = _mapping(measured.get("this file"))
        own_us = _positive(_mapping(own.get("us")).get("median"))
        if own_us is None or not isinstance(num_tokens, int) or own.get("config") != ours.entries.get(num_tokens):
            continue
        for name, other in measured.items():
            other_us = _positive(_mapping(_mapping(other).get("us")).get("median"))
            if _SHIPPED.fullmatch(name) and other_us is not None:
                times.setdefault(name, {})[num_tokens] = other_us
                ratios.setdefault(name, []).append(own_us / other_us)
    for name, of_name in times.items():
        match = _SHIPPED.fullmatch(name)
        assert match is not None
        geomean = math.exp(sum(map(math.log, ratios[name])) / len(ratios[name]))
        date, kernel = (str(environment.get(key, ""))[:60] for key in ("date", "kernel"))
        yield EnginesTimes(match[1], match[2], date, kernel, of_name, geomean)


def _documents(folder: Path, pattern: str) -> Iterator[Mapping[str, Any]]:
    for path in sorted(folder.glob(pattern)):
        document = read_file(path, _LIMITS).document
        if isinstance(document, dict):
            yield document


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _positive(value: Any) -> float | None:
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return float(value) if is_number and 0 < value < 1e12 else None
