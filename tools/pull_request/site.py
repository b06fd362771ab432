"""Where a planned file is measured: what every such place offers, and how it says that it can't."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from tools.pull_request.documents import PlannedFile
from tools.pull_request.judgement import BenchedRow
from tools.store.strict_json import Json


class NotMeasuredError(Exception):
    """reason: a member of schema/results.schema.json's enumeration."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(frozen=True)
class BenchedFile:
    """The file beside main's and the heuristic, by batch size; environment as a record has it."""

    rows: Mapping[int, BenchedRow]
    environment: Mapping[str, Json]


class Backend(Protocol):
    """A GPU, or recorded landscapes that stand in for one."""

    def bench(self, file: PlannedFile, limit_s: float) -> BenchedFile:
        """NotMeasuredError: there is no telling."""

    def tune_arguments(self, file: PlannedFile) -> tuple[str, ...]:
        """What names the workload to `tools.tune` here. NotMeasuredError: it can't be tuned here."""
