"""A world a test: main as it stands here, a fake GitHub, and act between them."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import ModuleType

import pytest

from tests.tools.pull_request.git_repository import GitRepository
from tests.workflows.act import World
from tests.workflows.fake_github import FakeGitHub, serving
from tests.workflows.repository import TUNED, git, snapshot
from tools.checkout import CHECKOUT

LANDSCAPE = CHECKOUT / "tests" / "tools" / "tune" / "landscape.jsonl.gz"


@pytest.fixture(scope="session")
def main(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkout of main."""
    return snapshot(tmp_path_factory.mktemp("main"))


@pytest.fixture(scope="session")
def tuned(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, bytes]:
    """What an honest contributor brings: the tuner's file and record, by path in the repository."""
    folder = tmp_path_factory.mktemp("tuned")
    command = [sys.executable, "-m", "tools.tune", "--replay", str(LANDSCAPE), "--output", str(folder)]
    subprocess.run(command, cwd=CHECKOUT, check=True, capture_output=True)
    paths = [path for path in folder.rglob("*") if path.is_file()]
    return {f"configs/{path.relative_to(folder).as_posix()}": path.read_bytes() for path in paths}


@pytest.fixture
def github() -> Iterator[FakeGitHub]:
    with serving() as fake:
        yield fake


@pytest.fixture(scope="session")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Triton's cache: what one run compiles, the next finds."""
    return tmp_path_factory.mktemp("compiled")


@pytest.fixture
def world(main: Path, github: FakeGitHub, compiled: Path, tmp_path: Path) -> World:
    remote = tmp_path / "remote.git"
    git(main, "clone", "--quiet", "--bare", str(main), str(remote))
    (tmp_path / "landscapes").mkdir()
    shutil.copy(LANDSCAPE, tmp_path / "landscapes" / TUNED.replace(".json", ".jsonl.gz"))
    return World(tmp_path, main, remote, github.url, compiled)


@pytest.fixture
def remote(world: World) -> GitRepository:
    return GitRepository(world.remote)


@pytest.fixture(scope="session")
def loaded() -> ModuleType:
    """Once: nox registers sessions by name."""
    spec = importlib.util.spec_from_file_location("noxfile", CHECKOUT / "noxfile.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(CHECKOUT)
        spec.loader.exec_module(module)
    return module


@pytest.fixture
def noxfile(loaded: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> ModuleType:
    """On Linux, without a GPU. AMD's driver and ROCm are paths below tmp_path."""
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(shutil, "which", lambda program: None)
    monkeypatch.setattr(loaded, "AMD_DRIVER", tmp_path / "kfd")
    monkeypatch.setattr(loaded, "ROCM", tmp_path / "rocm")
    monkeypatch.setattr(loaded, "interpreters", {})
    return loaded
