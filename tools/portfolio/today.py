"""What engines ship for a GPU, as surveys of it found: docs/measurements/*-survey-*.json."""

from __future__ import annotations

from pathlib import Path

from tools.portfolio.survey_board import read_survey
from tools.portfolio.wanted import Shipped
from tools.registry.devices import Device, normalise_device_name
from tools.registry.sharding import Engine

PATTERN = "*-survey-*.json"


def survey_paths(folder: Path) -> list[Path]:
    """The oldest first: names begin with the day, and a later one of the day ends in -2, -3 and so on."""
    stems = {path: path.name.removesuffix(".json") for path in folder.glob(PATTERN)}
    return sorted(stems, key=lambda path: (stems[path][:10], len(stems[path]), stems[path]))


def read_shipped(folder: Path, device: Device) -> tuple[Shipped, ...]:
    """The newest survey of each engine on the device; names of files begin with the day. SurveyError: one is broken."""
    newest: dict[Engine, Shipped] = {}
    for path in survey_paths(folder):
        survey = read_survey(path)
        if normalise_device_name(survey.environment.device_name) in device.names:
            engine = Engine(survey.engine.value)
            newest[engine] = Shipped(engine, survey.loses)
    return tuple(newest[engine] for engine in Engine if engine in newest)
