"""What engines ship for a GPU, as surveys of it found: docs/measurements/*-survey-*.json."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from tools.portfolio.survey_board import Survey, read_survey
from tools.portfolio.wanted import Shipped
from tools.registry.devices import Device, normalise_device_name
from tools.registry.sharding import Engine

PATTERN = "*-survey-*.json"
"""Names of surveys begin with the day: sorted, the newest is the last."""


def read_shipped(folder: Path, device: Device) -> tuple[Shipped, ...]:
    """As `shipped_by`, of all surveys in a folder. SurveyError: one is broken."""
    return shipped_by(map(read_survey, sorted(folder.glob(PATTERN))), device)


def shipped_by(surveys: Iterable[Survey], device: Device) -> tuple[Shipped, ...]:
    """By the newest survey of each engine on the device. surveys: the newest last."""
    newest: dict[Engine, Shipped] = {}
    for survey in surveys:
        if normalise_device_name(survey.environment.device_name) in device.names:
            engine = Engine(survey.engine.value)
            newest[engine] = Shipped(engine, survey.loses)
    return tuple(newest[engine] for engine in Engine if engine in newest)
