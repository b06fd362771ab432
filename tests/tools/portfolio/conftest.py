from __future__ import annotations

from pathlib import Path

import pytest

from tests.tools.portfolio.stocked import Stocked


@pytest.fixture
def stocked(tmp_path: Path) -> Stocked:
    (tmp_path / "configs").mkdir()
    return Stocked(tmp_path)
