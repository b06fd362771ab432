"""What engines ship for a GPU, as surveys of it found: docs/measurements/*-survey-*.json.

A survey may end before it comes to every file. What the newest one says goes; of a file that it lists and didn't
measure, the last one before it that did.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from tools.portfolio.survey_board import Survey, SurveyedFile, read_survey
from tools.portfolio.wanted import Shipped
from tools.registry.devices import Device, normalise_device_name
from tools.registry.sharding import Engine

PATTERN = "*-survey-*.json"


def survey_paths(folder: Path) -> list[Path]:
    """The oldest first: names begin with the day, and a later one of the day ends in -2, -3 and so on."""
    stems = {path: path.name.removesuffix(".json") for path in folder.glob(PATTERN)}
    return sorted(stems, key=lambda path: (stems[path][:10], len(stems[path]), stems[path]))


@dataclass(frozen=True)
class ShippedNames:
    """By names as this store spells them. measured: with the survey that did. unmeasured: shipped, and none has."""

    measured: Mapping[str, tuple[Survey, SurveyedFile]] = field(default_factory=dict)
    unmeasured: frozenset[str] = frozenset()

    def then(self, survey: Survey) -> ShippedNames:
        """By a newer survey. A name that it doesn't list isn't shipped any more."""
        kept = {name: self.measured[name] for name in survey.unmeasured if name in self.measured}
        measured = {file.name: (survey, file) for file in survey.files}
        return ShippedNames({**kept, **measured}, survey.unmeasured - kept.keys())


def shipped_names(surveys: Iterable[Survey]) -> ShippedNames:
    """surveys: of one engine and GPU, the newest last."""
    found = ShippedNames()
    for survey in surveys:
        found = found.then(survey)
    return found


def read_shipped(folder: Path, device: Device) -> tuple[Shipped, ...]:
    """As `shipped_by`, of all surveys in a folder. SurveyError: one is broken."""
    return shipped_by(map(read_survey, survey_paths(folder)), device)


def shipped_by(surveys: Iterable[Survey], device: Device) -> tuple[Shipped, ...]:
    """For each engine that was surveyed on the device. surveys: the newest last."""
    by_engine: dict[Engine, list[Survey]] = {}
    for survey in surveys:
        if normalise_device_name(survey.environment.device_name) in device.names:
            by_engine.setdefault(Engine(survey.engine.value), []).append(survey)
    return tuple(_shipped(engine, by_engine[engine]) for engine in Engine if engine in by_engine)


def _shipped(engine: Engine, surveys: Iterable[Survey]) -> Shipped:
    found = shipped_names(surveys)
    return Shipped(engine, {name: file.loses for name, (_, file) in found.measured.items()}, found.unmeasured)
