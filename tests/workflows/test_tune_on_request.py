"""tune-on-request.yml, run: what a maintainer asked for is tuned, and the file and its record are proposed."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.tools.pull_request.git_repository import GitRepository
from tests.workflows.act import REPOSITORY, Run, World
from tests.workflows.fake_github import FakeGitHub
from tests.workflows.repository import TUNED
from tools.registry.models import Asked
from tools.tune.request import parse
from tools.tune.subject import ModelSource, Parallel

MODEL, DEVICE = "deepseek-ai/DeepSeek-V3.2", "NVIDIA_H100_80GB_HBM3"
PATH, RECORD = f"configs/{TUNED}", f"configs/records/{TUNED}"
APP = f"token-of-the-{'app'}"
ALL = dict.fromkeys(("tune", "prepare", "propose"), "success")

Files = Mapping[str, bytes]


def dispatch(model: str = MODEL, ref: str = "refs/heads/main", **inputs: str) -> dict[str, Any]:
    """A maintainer's go. GitHub fills in what was left as it stands."""
    asked = {"model": model, "device": DEVICE, "tp": "16", "ep": "1", "dtype": "", "time_budget": "300", **inputs}
    return {"ref": ref, "inputs": asked}


def asked_of_the_tuner(world: World) -> list[str]:
    """The arguments that reached it, one a line."""
    (log,) = world.folder.glob("run-*/tune.log")
    return log.read_text("utf-8").splitlines()


def is_nothing_proposed(remote: GitRepository, github: FakeGitHub) -> bool:
    return github.writes == [] and remote.git("for-each-ref", "refs/heads/tune") == ""


def test_what_was_asked_for_is_proposed(world: World, remote: GitRepository, github: FakeGitHub, tuned: Files) -> None:
    main = remote.git("rev-parse", "main")
    run = world.act("tune-on-request", "workflow_dispatch", dispatch(dtype="fp8_w8a8"))
    assert run.jobs == ALL, run
    request = parse(asked_of_the_tuner(world))
    assert request.sources == (ModelSource(MODEL, Parallel(16, 1), Asked("fp8_w8a8")),)
    assert (request.effort.time_budget_s, str(request.files.output)) == (300, "tuned")
    (branch,) = remote.git("for-each-ref", "--format=%(refname:short)", "refs/heads/tune").split("\n")
    assert remote.git("rev-parse", f"{branch}^") == main
    assert set(remote.git("diff", "--name-only", main, branch).split("\n")) == {PATH, RECORD}
    for path, data in tuned.items():
        assert remote.git("show", f"{branch}:{path}") == data.decode().strip()
    assert json.loads(tuned[RECORD])["verified"] is None, "only main says so"
    (pull,) = github.pulls.values()
    assert (pull["head"], pull["base"]) == (branch, "main")
    assert pull["title"] == f"Tune {MODEL} tp=16 ep=1 for {DEVICE}" == remote.git("show", "-s", "--format=%s", branch)
    assert "### Added" in pull["body"]
    assert TUNED.removesuffix(".json") in pull["body"]
    assert github.writes == [("POST", f"/repos/{REPOSITORY}/pulls", APP)]


def test_where_main_has_it_nothing_is_proposed(
    world: World, remote: GitRepository, github: FakeGitHub, tuned: Files
) -> None:
    remote.set_ref("refs/heads/main", remote.commit(tuned, remote.git("rev-parse", "main")))
    run = world.act("tune-on-request", "workflow_dispatch", dispatch())
    assert run.jobs == {"tune": "success", "prepare": "success"}, run
    assert is_nothing_proposed(remote, github)


def test_from_another_branch_nothing_runs(world: World, remote: GitRepository, github: FakeGitHub) -> None:
    """Its own files would run; there the environments admit nothing, and here the first job does."""
    run = world.act("tune-on-request", "workflow_dispatch", dispatch(ref="refs/heads/mine"))
    assert run.jobs == {}, run
    assert is_nothing_proposed(remote, github)


COMMANDS = '$(touch was-run)`touch was-run`\'"; touch was-run; "'


def test_a_name_is_data_whatever_it_holds(world: World, remote: GitRepository, github: FakeGitHub) -> None:
    run = world.act("tune-on-request", "workflow_dispatch", dispatch(f"{MODEL}{COMMANDS}", dtype=COMMANDS))
    assert run.jobs == {"tune": "success", "prepare": "failure"}, run
    assert run.failed_steps == ["Lay the file and its record into the store, and nothing else"], run
    asked = asked_of_the_tuner(world)
    assert asked[asked.index("--model") + 1] == f"{MODEL}{COMMANDS}"
    assert asked[asked.index("--dtype") + 1] == COMMANDS
    assert not list(world.folder.rglob("was-run"))
    assert is_nothing_proposed(remote, github)


# A runner that was taken over

HOSTILE = {
    "a file more": '(tuned / "noxfile.py").write_text("")',
    "another file": "config.rename(tuned / config.name.replace('E=256', 'E=128'))",
    "a link": 'config.unlink(), config.symlink_to("/etc/hostname")',
}


@pytest.mark.parametrize("what", HOSTILE)
def test_with_anything_else_in_it_nothing_is_taken(
    world: World, remote: GitRepository, github: FakeGitHub, tuned: Files, what: str
) -> None:
    run = _run_with(world, tuned, HOSTILE[what])
    assert run.jobs == {"tune": "success", "prepare": "failure"}, run
    assert run.failed_steps == ["Lay the file and its record into the store, and nothing else"], run
    assert is_nothing_proposed(remote, github)


def _run_with(world: World, tuned: Files, program: str = "") -> Run:
    """Instead of tuning, the machine lays what was tuned before into its folder, and runs this on it."""
    kept = world.folder / "kept"
    for path, data in tuned.items():
        (kept / path).parent.mkdir(parents=True, exist_ok=True)
        (kept / path).write_bytes(data)
    lines = [
        "import pathlib, shutil",
        'tuned = pathlib.Path("tuned")',
        f"shutil.copytree({str(kept / 'configs')!r}, tuned)",
        f"config = tuned / {TUNED!r}",
        program,
    ]
    runner = world.folder / "runner.py"
    runner.write_text("\n".join(lines), "utf-8")
    return world.act("tune-on-request", "workflow_dispatch", dispatch(), FAKE_RUNNER=str(runner))


# An artifact that is another by the time it is taken. Any job of the run could do it: here the one that takes it.
# What is deleted and uploaded anew has the same name, and here even the same bytes, but the old number is nobody's.

IN_PLACE = 'echo " " >> "$(find "$FAKE_ARTIFACTS/{}" -type f | head -n 1)"'
BY_NAME = 'cd "$FAKE_NUMBERS" && echo deleted > "$(grep -lx {} *)"'


@pytest.mark.parametrize(
    ("artifact", "take", "replacing", "step"),
    [
        ("tuned", "Take the file and its record", IN_PLACE, "Check that it is what was handed on"),
        ("tuned", "Take the file and its record", BY_NAME, "Take the file and its record"),
        ("proposal", "Take the commit and its description", IN_PLACE, "Check that it is what was handed on"),
    ],
)
def test_what_was_replaced_on_its_way_is_not_taken(
    world: World,
    remote: GitRepository,
    github: FakeGitHub,
    tuned: Files,
    artifact: str,
    take: str,
    replacing: str,
    step: str,
) -> None:
    changed = Path(shutil.copytree(world.checkout, world.folder / "changed"))
    file, line = changed / ".github" / "workflows" / "tune-on-request.yml", f"      - name: {take}\n"
    text = file.read_text("utf-8")
    assert text.count(line) == 1
    file.write_text(text.replace(line, f"      - run: {replacing.format(artifact)}\n{line}"), "utf-8")
    run = _run_with(replace(world, checkout=changed), tuned)
    failed = {"tuned": "prepare", "proposal": "propose"}[artifact]
    assert run.jobs == {job: "success" for job in ALL if job < failed or job == "tune"} | {failed: "failure"}, run
    assert set(run.failed_steps) == {step}, run
    assert is_nothing_proposed(remote, github)
