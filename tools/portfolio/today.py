"""What engines ship for a GPU, as surveys of it found: docs/measurements/*-survey-*.json."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from tools.portfolio.survey_board import Survey, read_survey
from tools.portfolio.wanted import Shipped
from tools.registry.devices import Device, normalise_device_name
from tools.registry.sharding import Engine

PATTERN = "*-survey-*.json"


def survey_paths(folder: Path) -> list[Path]:
    """The oldest first: names begin with the day, and a later one of the day ends in -2, -3 and so on."""
    stems = {path: path.name.removesuffix(".json") for path in folder.glob(PATTERN)}
    return sorted(stems, key=lambda path: (stems[path][:10], len(stems[path]), stems[path]))


def read_shipped(folder: Path, device: Device) -> tuple[Shipped, ...]:
    """As `shipped_by`, of all surveys in a folder. SurveyError: one is broken."""
    return shipped_by(map(read_survey, survey_paths(folder)), device)


def shipped_by(surveys: Iterable[Survey], device: Device) -> tuple[Shipped, ...]:
    """By the newest survey of each engine on the device. surveys: the newest last."""
    newest: dict[Engine, Shipped] = {}
    for survey in surveys:
        if normalise_device_name(survey.environment.device_name) in device.names:
            engine = Engine(survey.engine.value)
            newest[engine] = Shipped(engine, survey.loses)
    return tuple(newest[engine] for engine in Engine if engine in newest)
