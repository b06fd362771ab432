"""What the surveys in docs/measurements/ say of the files that engines ship.

Of any age: one that can't be used is left out, and then the site says «not surveyed».
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from fused_moe_configs.naming import ENGINE_NAMES
from kernels.problem import Flavour
from tools.portfolio.survey_board import Figures, Survey, SurveyedFile, SurveyError, figures, read_survey
from tools.portfolio.today import shipped_names, survey_paths
from tools.registry.devices import normalise_device_name


@dataclass(frozen=True)
class Surveyed:
    """A file that an engine ships, as a survey measured it on the engine's own kernel.

    name: as this project spells it. ratio, worst_ratio: its time over that of the engine's heuristic, which would run
    without it, geometric mean and worst of all rows: above 1 it costs its users. None: no row ran. ours_ratio: our
    file's time over its, as both were then; None: there was none of ours. failures: rows that don't run. Neither ratio
    nor failures: it is shipped, and no survey came to it.
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
    def is_measured(self) -> bool:
        return self.ratio is not None or self.failures > 0

    @property
    def badness(self) -> tuple[bool, float]:
        return self.failures > 0, self.ratio or 0.0


@dataclass(frozen=True)
class Whole:
    """The newest survey of an engine on a GPU.

    unreached: files that it was to measure and didn't come to. in_part: files of which it measured some shapes alone.
    """

    engine: str
    version: str
    device_name: str
    date: str
    triton: str
    figures: Figures
    unreached: int
    in_part: int


def read_surveys(folder: Path) -> tuple[tuple[Survey, ...], tuple[str, ...]]:
    """(every survey of portfolio's, the newest last; a line for each that is broken)."""
    found, faults = list[Survey](), list[str]()
    for path in survey_paths(folder):
        try:
            found.append(read_survey(path))
        except SurveyError as error:
            faults.append(f"left out: {error}")
    return tuple(found), tuple(faults)


def files_of(surveys: Iterable[Survey]) -> tuple[Surveyed, ...]:
    """What each engine ships for each device, as it was measured last, the worst first. surveys: the newest last."""
    found = list[Surveyed]()
    for group in _alike(surveys):
        names = shipped_names(group)
        found += [_surveyed(*pair) for pair in names.measured.values() if pair[1].shipped_total or pair[1].failures]
        found += [_unmeasured(group[-1], name) for name in names.unmeasured]
    return tuple(sorted(found, key=lambda each: (each.badness, each.engine, each.name), reverse=True))


def wholes(surveys: Iterable[Survey]) -> tuple[Whole, ...]:
    """By engine, in the engines' order, and GPU. surveys: the newest last."""
    found = [_whole(group[-1]) for group in _alike(surveys)]
    return tuple(sorted(found, key=lambda each: (list(ENGINE_NAMES).index(each.engine), each.device_name)))


def _alike(surveys: Iterable[Survey]) -> list[list[Survey]]:
    """Those of an engine and GPU together."""
    found: dict[tuple[Flavour, str], list[Survey]] = {}
    for each in surveys:
        found.setdefault((each.engine, _device(each)), []).append(each)
    return list(found.values())


def _device(survey: Survey) -> str:
    return normalise_device_name(survey.environment.device_name)


def _whole(survey: Survey) -> Whole:
    begun = {path for file in survey.files for path in (file.file, file.down)}
    missing = [each.file in begun for each in survey.left_out if each.is_missing]
    return Whole(
        survey.engine.value, survey.version, _device(survey), survey.date, survey.environment.triton,
        figures(survey.files), missing.count(False), missing.count(True),
    )  # fmt: skip


def _unmeasured(survey: Survey, name: str) -> Surveyed:
    return Surveyed(
        survey.engine.value, survey.version, _device(survey), survey.date, survey.environment.triton, name,
        None, None, None,
    )  # fmt: skip


def _surveyed(survey: Survey, file: SurveyedFile) -> Surveyed:
    shipped, over = file.shipped_total, file.over_shipped_total
    return Surveyed(
        survey.engine.value, survey.version, _device(survey), survey.date, survey.environment.triton, file.name,
        shipped.geomean if shipped else None, shipped.worst if shipped else None,
        over.geomean if over else None, sum(row.fails for row in file.rows),
    )  # fmt: skip
