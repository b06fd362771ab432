"""A fake GitHub for each test, and a client of it that doesn't wait between its attempts."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest

from tests.tools.github.fake_api import GitHub, serving
from tools.github.api import Api


@pytest.fixture
def github() -> Iterator[GitHub]:
    with serving(GitHub()) as github:
        yield github


@pytest.fixture
def api(github: GitHub) -> Api:
    return replace(Api.from_environment(github.environment), sleep=lambda seconds: None)
