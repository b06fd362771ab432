"""Settings that stand in two places agree."""

from __future__ import annotations

import re

import tomllib

from fused_moe_configs.lookup import REFERENCE_TRITON
from tools.checkout import CHECKOUT

PROJECT = tomllib.loads((CHECKOUT / "pyproject.toml").read_text("utf-8"))


def test_loader_knows_the_reference_triton() -> None:
    assert PROJECT["tool"]["fused-moe-configs"]["reference-triton"] == REFERENCE_TRITON


def test_version_is_a_date() -> None:
    source = (CHECKOUT / "fused_moe_configs" / "__init__.py").read_text("utf-8")
    assert re.search(r'^__version__ = "20\d\d\.([1-9]|1[0-2])\.([1-9]|[12]\d|3[01])"$', source, re.MULTILINE)
