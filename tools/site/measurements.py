"""What docs/measurements/ says of the files that engines ship: benches beside ours, and surveys of all of them.

Documents of commands, of any age: what can't be used is left out, and then the site says «not surveyed».
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fused_moe_configs.lookup import device_part
from tools.measure.statistics import geomean
from tools.portfolio.survey_board import Survey, SurveyError, read_survey
from tools.portfolio.today import PATTERN
from tools.portfolio.wanted import Shipped
from tools.registry.devices import Device, normalise_device_name
from tools.registry.sharding import Engine
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
    without it, geometric mean and worst of all rows: above 1 it costs its users. None: no row ran. ours_ratio: our
    file's time over its, as both were then; None: there was none of ours. failures: rows that don't run.
    loses: to having no file, on average or on a row beyond doubt.
    """

    engine: str
    version: str
    device_name: str
    date: str
    triton: str
    name: str
    ratio: float | None
    worst_ratio: float | None
    ours_ratio: float | None
    failures: int = 0
    loses: bool = False

    @property
    def badness(self) -> tuple[bool, float]:
        return self.failures > 0, self.ratio or 0.0


def read_surveys(folder: Path) -> tuple[Surveyed, ...]:
    """Of the newest of portfolio's surveys of each engine and device, as `read_shipped` takes it; the worst first."""
    newest: dict[tuple[str, str], Survey] = {}
    for path in sorted(folder.glob(PATTERN)):
        with contextlib.suppress(SurveyError):
            survey = read_survey(path)
            newest[survey.engine.value, normalise_device_name(survey.environment.device_name)] = survey
    found = [each for survey in newest.values() for each in _surveyed(survey)]
    return tuple(sorted(found, key=lambda each: (each.badness, each.engine, each.name), reverse=True))


def _surveyed(survey: Survey) -> Iterator[Surveyed]:
    device = normalise_device_name(survey.environment.device_name)
    for file in survey.files:
        shipped, over = file.shipped_total, file.over_shipped_total
        failing = sum(bool(row.failure) for row in file.rows)
        if shipped or failing:
            yield Surveyed(
                survey.engine.value, survey.version, device, survey.date, survey.environment.triton, file.name,
                shipped.geomean if shipped else None, shipped.worst if shipped else None,
                over.geomean if over else None, failing, survey.loses[file.name],
            )  # fmt: skip


def shipped_by(surveys: Iterable[Surveyed], device: Device) -> tuple[Shipped, ...]:
    """As portfolio ranks by it: what each engine that was surveyed on the device ships, and whether it loses."""
    of_device = [each for each in surveys if each.device_name in device.names]
    engines = [engine for engine in Engine if any(each.engine == engine for each in of_device)]
    return tuple(
        Shipped(engine, {each.name: each.loses for each in of_device if each.engine == engine}) for engine in engines
    )


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
        date, kernel = (str(environment.get(key, ""))[:60] for key in ("date", "kernel"))
        yield EnginesTimes(match[1], match[2], date, kernel, of_name, geomean(ratios[name]))


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
