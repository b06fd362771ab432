"""Where this checkout lies, and what its pyproject.toml settles for all tools."""

from __future__ import annotations

import functools
from pathlib import Path

import tomllib

CHECKOUT = Path(__file__).resolve().parent.parent
CONFIGS = CHECKOUT / "configs"


@functools.cache
def reference_triton() -> str:
    """The Triton that the default tier is tuned with, from pyproject.toml."""
    project = tomllib.loads((CHECKOUT / "pyproject.toml").read_text("utf-8"))
    return str(project["tool"]["fused-moe-configs"]["reference-triton"])
