"""A world a test: main as it stands here, a fake GitHub, and act between them."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.workflows.act import World
from tests.workflows.fake_github import FakeGitHub, serving
from tests.workflows.repository import git, snapshot


@pytest.fixture(scope="session")
def main(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return snapshot(tmp_path_factory.mktemp("main"))


@pytest.fixture
def github() -> Iterator[FakeGitHub]:
    with serving() as fake:
        yield fake


@pytest.fixture
def world(main: Path, github: FakeGitHub, tmp_path: Path) -> World:
    remote = tmp_path / "remote.git"
    git(main, "clone", "--quiet", "--bare", str(main), str(remote))
    landscapes = tmp_path / "landscapes"
    landscapes.mkdir()
    name = "E=256,N=128,device_name=NVIDIA_H100_80GB_HBM3,dtype=fp8_w8a8,block_shape=[128,128].json.jsonl.gz"
    shutil.copy(main / "tests" / "tools" / "tune" / "landscape.jsonl.gz", landscapes / name)
    return World(tmp_path, main, remote, github.url)
