"""What engines ship for a GPU, as surveys of it found: docs/measurements/*-survey-*.json."""

from __future__ import annotations

from pathlib import Path

from tools.portfolio.survey_board import read_survey
from tools.portfolio.wanted import Shipped
from tools.registry.devices import Device, normalise_device_name
from tools.registry.sharding import Engine

PATTERN = "*-survey-*.json"


def read_shipped(folder: Path, device: Device) -> tuple[Shipped, ...]:
    """The newest survey of each engine on the device; names of files begin with the day. SurveyError: one is broken."""
    newest: dict[Engine, Shipped] = {}
    for path in sorted(folder.glob(PATTERN)):
        survey = read_survey(path)
        if normalise_device_name(survey.environment.device_name) in device.names:
            engine = Engine(survey.engine.value)
            newest[engine] = Shipped(engine, survey.loses)
    return tuple(newest[engine] for engine in Engine if engine in newest)
