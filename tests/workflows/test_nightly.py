"""nightly.yml, run: what is measured tonight, and the issue where a figure no longer holds."""

from __future__ import annotations

import json
from collections.abc import Mapping

from tests.tools.pull_request.git_repository import GitRepository
from tests.workflows.act import TOKEN, Run, World
from tests.workflows.fake_github import FakeGitHub
from tests.workflows.repository import TUNED

DISPATCH = {"ref": "refs/heads/main", "inputs": {"all": "true"}}
RECORD = f"configs/records/{TUNED}"


def night(world: World, remote: GitRepository, files: Mapping[str, bytes]) -> Run:
    """After these files were merged."""
    remote.set_ref("refs/heads/main", remote.commit(files, remote.git("rev-parse", "main")))
    return world.act("nightly", "workflow_dispatch", DISPATCH, "--job", "drift")


def test_figures_that_hold_open_no_issue(
    world: World, remote: GitRepository, github: FakeGitHub, tuned: Mapping[str, bytes]
) -> None:
    run = night(world, remote, tuned)
    assert set(run.jobs.values()) == {"success"}, run
    assert github.writes == []


def test_figures_that_no_longer_hold_are_one_issue(
    world: World, remote: GitRepository, github: FakeGitHub, tuned: Mapping[str, bytes]
) -> None:
    record = json.loads(tuned[RECORD])
    for row in record["rows"].values():
        row["latency_us"] = {name: us / 2 for name, us in row["latency_us"].items() if name != "samples"} | {
            "samples": row["latency_us"]["samples"]
        }
    run = night(world, remote, {**tuned, RECORD: json.dumps(record).encode()})
    assert run.failed_steps == ["Compare with the records"], run
    assert [(method, path.rpartition("/")[2], token) for method, path, token in github.writes] == [
        ("POST", "issues", TOKEN)
    ]
