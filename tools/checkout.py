"""Where this checkout lies, what its pyproject.toml settles for all tools, and which Triton is there."""

from __future__ import annotations

import functools
from importlib import metadata
from pathlib import Path
from typing import Any

import tomllib

CHECKOUT = Path(__file__).resolve().parent.parent
CONFIGS = CHECKOUT / "configs"
MEASUREMENTS = CHECKOUT / "docs" / "measurements"
"""Where benches and surveys leave their reports."""


@functools.cache
def reference_triton() -> str:
    """The Triton that the default tier is tuned with, from pyproject.toml."""
    return str(_settings()["reference-triton"])


def installed_triton() -> str | None:
    """The Triton that this Python would import, which this doesn't. None: there is none."""
    try:
        return metadata.version("triton")
    except metadata.PackageNotFoundError:
        return None


@functools.cache
def triton_releases() -> tuple[str, ...]:
    """The releases of Triton that a version folder may be of, from pyproject.toml."""
    return tuple(map(str, _settings()["triton-releases"]))


def _settings() -> dict[str, Any]:
    project = tomllib.loads((CHECKOUT / "pyproject.toml").read_text("utf-8"))
    settings: dict[str, Any] = project["tool"]["fused-moe-configs"]
    return settings
