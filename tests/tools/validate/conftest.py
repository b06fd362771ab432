"""An empty store for each test. Its path holds a space and letters outside ASCII, as users' paths do."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.builders import Store


@pytest.fixture
def store(tmp_path: Path) -> Store:
    root = tmp_path / "größe und 形" / "configs"
    root.mkdir(parents=True)
    return Store(root)
