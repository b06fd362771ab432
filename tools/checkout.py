"""Where this checkout lies, what its pyproject.toml settles for all tools, and which Triton is there."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path
from typing import Any

import tomllib

from tools.errors import MachineError, reason_of

CHECKOUT = Path(__file__).resolve().parent.parent
PYPROJECT = "pyproject.toml"
CONFIGS = CHECKOUT / "configs"
MEASUREMENTS = CHECKOUT / "docs" / "measurements"
"""Where benches and surveys leave their reports."""


@functools.cache
def reference_triton() -> str:
    """The Triton that the default tier is tuned with, from pyproject.toml. MachineError: that is damaged."""
    (reference,) = _releases([_setting("reference-triton")])
    return reference


def installed_triton() -> str | None:
    """The Triton that this Python would import, which this doesn't. None: there is none."""
    try:
        return metadata.version("triton")
    except metadata.PackageNotFoundError:
        return None


@functools.cache
def triton_releases() -> tuple[str, ...]:
    """The releases of Triton that a version folder may be of, from pyproject.toml. MachineError: that is damaged."""
    found = _setting("triton-releases")
    return _releases(found if isinstance(found, list) else [found])


def damaged(path: Path, error: Exception) -> MachineError:
    """A file of the project's own, such as a schema, can't be read: nothing is to be said of anybody's file."""
    said, *_ = reason_of(error).split("\n")
    reason = f"found no key {error}" if isinstance(error, KeyError) else f"found: {said}"
    where = path.relative_to(CHECKOUT)
    return MachineError(f"{path}: expected what belongs to the checkout, {reason}. Fix: git checkout HEAD -- {where}")


def _setting(key: str) -> Any:
    path = CHECKOUT / PYPROJECT
    try:
        return tomllib.loads(path.read_text("utf-8"))["tool"]["fused-moe-configs"][key]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise damaged(path, error) from error


def _releases(found: Iterable[object]) -> tuple[str, ...]:
    releases = tuple(map(str, found))
    for release in releases:
        if not re.fullmatch(r"\d{1,4}\.\d{1,4}\.\d{1,4}", release, re.ASCII):
            raise damaged(CHECKOUT / PYPROJECT, ValueError(f"a Triton {release!r}, which is no X.Y.Z"))
    return releases
