"""docs/self-hosted-runners.md, «Without GitHub Enterprise»: its commands, typed as they stand there.

A recorded landscape stands in for the GPU, and what nox would install is there already: tests/workflows/stubs/bin/nox.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.tools.pull_request.git_repository import GitRepository
from tests.workflows.act import STUBS, World
from tests.workflows.repository import TUNED, git, propose
from tools.checkout import CHECKOUT

GUIDE = (CHECKOUT / "docs" / "self-hosted-runners.md").read_text("utf-8")
GOLDEN = Path(__file__).parent / "comment.golden.md"
NUMBER = 12


def commands() -> str:
    section = GUIDE.split("\n## Without GitHub Enterprise\n")[1].split("\n## ")[0]
    (block,) = re.findall(r"^```sh\n(.*?)^```$", section, re.DOTALL | re.MULTILINE)
    assert block.count("./nox ") == 3
    return block.replace("./nox ", "nox ")


def typed(folder: Path, world: World, head: str) -> subprocess.CompletedProcess[str]:
    path = f"{STUBS / 'bin'}:{Path(sys.executable).parent}:{os.environ['PATH']}"
    environment = {
        "PATH": path,
        "HOME": str(world.folder),
        "FAKE_PYTHON": sys.executable,
        "FAKE_RUNNER": "",
        "FAKE_LANDSCAPES": str(world.folder / "landscapes"),
        "GIT_CONFIG_GLOBAL": os.devnull,
        "NUMBER": str(NUMBER),
        "HEAD_SHA": head,
        "DEVICE": "NVIDIA_H100_80GB_HBM3",
    }
    shell = ["bash", "-euo", "pipefail", "-c", commands()]
    return subprocess.run(shell, cwd=folder, env=environment, capture_output=True, text=True, check=False)


@pytest.fixture
def clone(world: World) -> Path:
    """A maintainer's clone of main."""
    git(world.folder, "clone", "--quiet", str(world.remote), "clone")
    return world.folder / "clone"


@pytest.fixture
def head(remote: GitRepository, tuned: Mapping[str, bytes]) -> str:
    made = remote.commit(tuned, remote.git("rev-parse", "main"))
    propose(remote, NUMBER, made)
    return made


def test_what_a_maintainer_types_ends_in_the_same_report(world: World, clone: Path, head: str) -> None:
    done = typed(clone, world, head)
    assert done.returncode == 0, done.stdout + done.stderr
    marker, _, body = GOLDEN.read_text("utf-8").partition("\n")
    assert marker.startswith("<!--")
    assert (clone / "report.md").read_text("utf-8").replace(head, "HEAD_SHA").strip() == body.strip()
    assert not (clone / "configs" / TUNED).exists(), "nothing of the pull request is checked out"


def test_a_head_that_moved_on_is_not_measured(
    world: World, clone: Path, remote: GitRepository, head: str, tuned: Mapping[str, bytes]
) -> None:
    propose(remote, NUMBER, remote.commit(dict.fromkeys(tuned, None), head))
    done = typed(clone, world, head)
    assert done.returncode == 1
    assert "it was pushed to since: review the new commit" in done.stdout
    assert not (clone / "results").exists()


def test_the_smoke_test_asks_for_what_there_is() -> None:
    """Without a GPU it says so, which it does only once the model, its placement and every flag are known."""
    (line,) = re.findall(r"^\./nox -s tune -- (.*)$", GUIDE, re.MULTILINE)
    command = [sys.executable, "-m", "tools.tune", *line.split()]
    done = subprocess.run(
        command,
        cwd=CHECKOUT,
        env={**os.environ, "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr.startswith("tune: expected a GPU, found none.")


def test_a_repository_without_runners_says_none() -> None:
    """An empty variable would mean that every device has one."""
    assert "set the variable `GPU_DEVICES` to `none`" in " ".join(GUIDE.split())
