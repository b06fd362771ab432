"""What the surveys in docs/measurements/ say of the files that engines ship.

Of any age: one that can't be used is left out, and then the site says «not surveyed».
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from tools.portfolio.survey_board import Survey, SurveyError, read_survey
from tools.portfolio.today import PATTERN
from tools.portfolio.wanted import Shipped
from tools.registry.devices import Device, normalise_device_name
from tools.registry.sharding import Engine


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
    """Of every survey of portfolio's, the newest of an engine, device and name; the worst first."""
    found: dict[tuple[str, str, str], Surveyed] = {}
    for path in sorted(folder.glob(PATTERN)):
        with contextlib.suppress(SurveyError):
            for each in _surveyed(read_survey(path)):
                key = each.engine, each.device_name, each.name
                if key not in found or found[key].date <= each.date:
                    found[key] = each
    return tuple(sorted(found.values(), key=lambda each: (each.badness, each.engine, each.name), reverse=True))


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
