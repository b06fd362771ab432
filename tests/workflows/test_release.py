"""release.yml, run: what is published is what was built and tested."""

from __future__ import annotations

import re
import shutil
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.tools.pull_request.git_repository import GitRepository
from tests.workflows.act import World
from tools.dates import today

ALL = {"plan", "build", "test", "wheel", "publish", "attest", "announce"}
ON_MAIN: dict[str, Any] = {"ref": "refs/heads/main"}


def released(world: World, name: str) -> Path:
    return world.folder / "run-0" / name


def version_of_today() -> str:
    day = today()
    return f"{day.year}.{day.month}.{day.day}"


def test_a_maintainers_go_publishes_the_tested_wheel(world: World, remote: GitRepository) -> None:
    before = version_of_today()
    run = world.act("release", "workflow_dispatch", ON_MAIN)
    assert run.jobs == dict.fromkeys(ALL, "success"), run
    asked = released(world, "gh.log").read_text("utf-8").split("\n")
    assert asked[:2] == ["release", "create"]
    version = asked[2].removeprefix("v")
    assert version in {before, version_of_today()}, "the day on which it began, also where midnight fell into it"
    first, second = re.findall(r"(\d+) passed", run.log)  # on each Python of the tools
    assert int(first) == int(second) > 0
    assert run.log.count(" files loaded by Python ") == 4, "on each Python of the loader"
    published = sorted(path.name for path in released(world, "index").iterdir())
    assert published == [f"fused_moe_configs-{version}-py3-none-any.whl", f"fused_moe_configs-{version}.tar.gz"]
    with zipfile.ZipFile(released(world, "index") / published[0]) as wheel:
        assert f'__version__ = "{version}"' in wheel.read("fused_moe_configs/__init__.py").decode()
    data = [
        "SHA256SUMS",
        *(f"fused_moe_configs-{version}-{engine}.tar.gz" for engine in ("sglang", "vllm")),
        "index.json",
    ]
    attested = dict(line.split()[::-1] for line in released(world, "attested").read_text("utf-8").splitlines())
    assert sorted(attested) == sorted([*(f"dist/{name}" for name in published), *(f"data/{name}" for name in data)])
    sums = (released(world, "artifacts") / "data" / "SHA256SUMS").read_text("utf-8").splitlines()
    digests = {Path(path).name: sha256 for path, sha256 in attested.items()}
    assert dict(line.split()[::-1] for line in sums) == {n: d for n, d in digests.items() if n != "SHA256SUMS"}
    assert asked[asked.index("--target") + 1] == remote.git("rev-parse", "main")
    assert "notes.md" in asked
    assert {path for path in asked if path.startswith(("dist/", "data/"))} == {*attested}


def test_a_week_without_changes_publishes_nothing(world: World, remote: GitRepository) -> None:
    remote.git("tag", "v2026.1.1", "main")
    run = world.act("release", "schedule", ON_MAIN)
    assert run.jobs == {"plan": "success"}, run
    assert "nothing that the wheel holds changed since v2026.1.1" in run.log


@pytest.mark.parametrize(
    ("job", "other", "outcome"), [("publish", "dist/other.whl", "index"), ("attest", "data/other.tar.gz", "attested")]
)
def test_what_changed_after_it_was_built_is_not_released(
    world: World, tmp_path: Path, job: str, other: str, outcome: str
) -> None:
    """Any job of the run could do it; here it happens after the tests, and the digest tells.

    Both jobs run at one time: the other one may see the change as well.
    """
    changed = Path(shutil.copytree(world.checkout, tmp_path / "changed"))
    file = changed / ".github" / "workflows" / "release.yml"
    before, of_job, after = file.read_text("utf-8").partition(f"\n  {job}:\n")
    take = "      - name: Take what was tested\n"
    after = after.replace(take, f'      - run: touch "$FAKE_ARTIFACTS/{other}"\n{take}', 1)
    file.write_text(f"{before}{of_job}{after}", "utf-8")
    run = replace(world, checkout=changed).act("release", "workflow_dispatch", ON_MAIN)
    assert {"build": "success", "test": "success", "wheel": "success", job: "failure"}.items() <= run.jobs.items(), run
    assert "announce" not in run.jobs, run
    assert {*run.failed_steps} == {"Check that it is what was handed on"}, run
    assert not released(world, outcome).exists()
