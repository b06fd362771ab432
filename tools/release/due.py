"""When a release is due, and what it is called. Pure."""

from __future__ import annotations

import datetime
import re
from collections.abc import Iterable
from dataclasses import dataclass

_VERSION = re.compile(r"20\d\d\.(?:[1-9]|1[0-2])\.(?:[1-9]|[12]\d|3[01])")
_VERSION_LINE = re.compile(rf'(?m)^__version__ = "{_VERSION.pattern}"$')
_SHIPPED = ("configs/", "fused_moe_configs/")
_STAYS_HOME = ("configs/records/", "configs/README.md", "configs/registry/models.json")


class ReleaseError(ValueError):
    """No release can be made so. One line for a person."""


@dataclass(frozen=True)
class Due:
    """version: `YYYY.M.D`. previous: the tag or commit that the notes start from."""

    is_due: bool
    version: str
    previous: str


def decide(date: datetime.date, previous: str, changed: Iterable[str], *, is_forced: bool) -> Due:
    """Due where anything changed that the wheel holds, or where a person asks.

    previous: the last tag, `vYYYY.M.D`, or the first commit where there is none. ReleaseError: the day has a release
    already, or a later day has.
    """
    version = f"{date.year}.{date.month}.{date.day}"
    if _VERSION.fullmatch(previous[1:]) and _numbers(previous[1:]) >= _numbers(version):
        raise ReleaseError(f"--date: expected a day after the release {previous}, found {date}. Fix: wait a day.")
    is_shipped = any(path.startswith(_SHIPPED) and not path.startswith(_STAYS_HOME) for path in changed)
    return Due(is_forced or is_shipped, version, previous)


def stamped(source: str, version: str) -> str:
    """The loader's source with its version. ReleaseError: not a date, or no line for it."""
    if not _VERSION.fullmatch(version):
        raise ReleaseError(f"the version: expected a date like 2026.11.24, found {version!r}.")
    if len(_VERSION_LINE.findall(source)) != 1:
        raise ReleaseError('fused_moe_configs/__init__.py: expected one line __version__ = "YYYY.M.D", found another.')
    return _VERSION_LINE.sub(f'__version__ = "{version}"', source)


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(map(int, version.split(".")))
