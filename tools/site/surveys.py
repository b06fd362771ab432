"""What the surveys in docs/measurements/ say of the files that engines ship.

Of any age: one that can't be used is left out, and then the site says «not surveyed».
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from kernels.problem import Flavour
from tools.portfolio.survey_board import Survey, SurveyedFile, SurveyError, read_survey
from tools.portfolio.today import shipped_names, survey_paths
from tools.registry.devices import normalise_device_name


@dataclass(frozen=True)
class Surveyed:
    """A file that an engine ships, as a survey measured it on the engine's own kernel.

    name: as this project spells it. ratio, worst_ratio: its time over that of the engine's heuristic, which would run
    without it, geometric mean and worst of all rows: above 1 it costs its users. None: no row ran. ours_ratio: our
    file's time over its, as both were then; None: there was none of ours. failures: rows that don't run.
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

    @property
    def badness(self) -> tuple[bool, float]:
        return self.failures > 0, self.ratio or 0.0


def read_surveys(folder: Path) -> tuple[Survey, ...]:
    """Of every survey of portfolio's, the newest last."""
    found: list[Survey] = []
    for path in survey_paths(folder):
        with contextlib.suppress(SurveyError):
            found.append(read_survey(path))
    return tuple(found)


def files_of(surveys: Iterable[Survey]) -> tuple[Surveyed, ...]:
    """What each engine ships for each device, as it was measured last, the worst first. surveys: the newest last."""
    alike: dict[tuple[Flavour, str], list[Survey]] = {}
    for each in surveys:
        alike.setdefault((each.engine, normalise_device_name(each.environment.device_name)), []).append(each)
    measured = (pair for group in alike.values() for pair in shipped_names(group).measured.values())
    found = [_surveyed(survey, file) for survey, file in measured if file.shipped_total or file.failures]
    return tuple(sorted(found, key=lambda each: (each.badness, each.engine, each.name), reverse=True))


def _surveyed(survey: Survey, file: SurveyedFile) -> Surveyed:
    shipped, over, environment = file.shipped_total, file.over_shipped_total, survey.environment
    device = normalise_device_name(environment.device_name)
    return Surveyed(
        survey.engine.value, survey.version, device, survey.date, environment.triton, file.name,
        shipped.geomean if shipped else None, shipped.worst if shipped else None,
        over.geomean if over else None, sum(bool(row.failure) for row in file.rows),
    )  # fmt: skip
