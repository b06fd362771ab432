"""What a rule is, and what it gets to see."""

from __future__ import annotations

import datetime
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from tools.dates import today
from tools.findings import Severity
from tools.registry.devices import Device, DeviceRegistry
from tools.registry.models import ModelRegistry
from tools.store.config_file import ConfigFile, Tree
from tools.store.workload import Layout

EVERY_LAYOUT = frozenset(Layout)
REPO_ONLY = frozenset({Layout.REPO})


@dataclass(frozen=True)
class Issue:
    """What a rule says about the file at hand; the runner adds the rule's name and the path.

    `path` names another file where the fault lies there.
    """

    message: str
    fix: str
    severity: Severity = Severity.ERROR
    path: Path | None = None


@dataclass(frozen=True)
class Context:
    """What is the same for every file of a run."""

    layout: Layout
    devices: DeviceRegistry
    models: ModelRegistry
    today: datetime.date = field(default_factory=today)

    def device_of(self, file: ConfigFile) -> Device | None:
        """The registry's entry for the device that the file names."""
        return None if file.workload is None else self.devices.get(file.workload.device_name)

    def rewritten(self, fix: str) -> str:
        """A fix that changes what is in a file: in this store the record beside it signs the bytes."""
        return f"{fix}; then tune it, or take it over again: its record signs the bytes" if self.has_records else fix

    def removed(self, fix: str) -> str:
        """A fix that removes a file: in this store the record beside it goes with it."""
        return f"{fix}, its record too" if self.has_records else fix

    def renamed(self, fix: str) -> str:
        """A fix that changes a file's name, which in this store its record has and repeats."""
        return f"{fix}; rename its record too, and correct the workload in it" if self.has_records else fix

    @property
    def has_records(self) -> bool:
        return self.layout is Layout.REPO


@dataclass(frozen=True)
class FileRule:
    """A rule that looks at one tuned file at a time."""

    name: str
    description: str
    check: Callable[[ConfigFile, Context], Iterable[Issue]]
    layouts: frozenset[Layout] = EVERY_LAYOUT


@dataclass(frozen=True)
class TreeRule:
    """A rule that looks at the whole tree; its issues name their own path."""

    name: str
    description: str
    check: Callable[[Tree, Context], Iterable[Issue]]
    layouts: frozenset[Layout] = EVERY_LAYOUT


Rule = FileRule | TreeRule
