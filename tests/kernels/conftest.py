"""Runs the kernels on a GPU where there is one, else under Triton's interpreter on the CPU."""

from __future__ import annotations

import os

import pytest
import torch

# Triton decides at import, of itself and of each JIT function, so this comes first.
if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"

from tests.kernels.interpreter import repair_interpreter

repair_interpreter()


@pytest.fixture(scope="session")
def device() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"


@pytest.fixture(autouse=True)
def _one_draw() -> None:
    """The same inputs in each run, also where a test names no generator of its own."""
    torch.manual_seed(0)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if torch.cuda.is_available():
        return
    skip = pytest.mark.skip(reason="needs a GPU: torch.cuda.is_available() is False here")
    for item in items:
        if item.get_closest_marker("gpu") and "tests/kernels" in item.path.as_posix():
            item.add_marker(skip)
