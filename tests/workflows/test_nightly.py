"""nightly.yml, run: what is measured tonight, and the issues: a figure no longer holds, or an engine reads otherwise.

The job that finds it fails, and one that holds the token and installs nothing posts it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.builders import halved
from tests.tools.pull_request.git_repository import GitRepository
from tests.workflows.act import REPOSITORY, TOKEN, Run, World
from tests.workflows.fake_github import FakeGitHub
from tests.workflows.repository import TUNED
from tools.canary.check import Difference, EngineReport
from tools.canary.report import SCHEMA_VERSION

DISPATCH = {"ref": "refs/heads/main", "inputs": {"all": "true"}}
RECORD = f"configs/records/{TUNED}"


def night(world: World, remote: GitRepository, files: Mapping[str, bytes], **environment: str) -> Run:
    """After these files were merged."""
    remote.set_ref("refs/heads/main", remote.commit(files, remote.git("rev-parse", "main")))
    return world.act("nightly", "workflow_dispatch", DISPATCH, "--job", "drift-issue", **environment)


def test_figures_that_hold_open_no_issue(
    world: World, remote: GitRepository, github: FakeGitHub, tuned: Mapping[str, bytes]
) -> None:
    run = night(world, remote, tuned)
    assert run.jobs == {"sample": "success", "measure": "success", "drift": "success"}, run
    assert github.writes == []


def test_figures_that_no_longer_hold_are_one_issue(
    world: World, remote: GitRepository, github: FakeGitHub, tuned: Mapping[str, bytes]
) -> None:
    record = json.loads(tuned[RECORD])
    record["rows"] = {num_tokens: halved(row) for num_tokens, row in record["rows"].items()}
    run = night(world, remote, {**tuned, RECORD: json.dumps(record).encode()})
    assert run.jobs == {"sample": "success", "measure": "success", "drift": "failure", "drift-issue": "success"}, run
    assert run.failed_steps == ["Compare with the records"], run
    assert github.writes == [("POST", f"/repos/{REPOSITORY}/issues", TOKEN)]
    (issue,) = github.issues
    assert issue["title"] == "Tuned files have drifted"
    assert f"`{TUNED}`" in issue["body"]


CRASHED = """
import json, os, pathlib, subprocess, sys
measure = ["-m", "tools.pull_request", "measure", "--plan", "plan.json", "--device", os.environ["DEVICE"]]
subprocess.run([sys.executable, *measure, "--out", "results", "--replay", "schema"], check=True)
file = pathlib.Path("results", "results.json")
file.write_text(file.read_text().replace("unsupported", "crashed"))
"""
"""Every file: the folder has no landscape."""


def test_a_runner_that_measures_nothing_is_no_drift(
    world: World, remote: GitRepository, github: FakeGitHub, tuned: Mapping[str, bytes], tmp_path: Path
) -> None:
    runner = tmp_path / "runner.py"
    runner.write_text(CRASHED, "utf-8")
    run = night(world, remote, tuned, FAKE_RUNNER=str(runner))
    assert run.jobs == {"sample": "success", "measure": "success", "drift": "failure", "drift-issue": "success"}, run
    (issue,) = github.issues
    assert issue["title"] == "Tuned files were not measured"
    assert f"`{TUNED}`: crashed" in issue["body"]


# An engine's wheel that took the job over: it writes what is handed on, and ends the job as it likes.

DIFFERENCE = "@everyone <img src=x onerror=alert(1)> [here](https://example.org) `` ` ``"


def canary(world: World, document: Mapping[str, Any]) -> Run:
    """The run after a wheel's code wrote this."""
    wheel = world.folder / "wheel.py"
    wheel.write_text(f"import sys\nopen('canary.json', 'w').write({json.dumps(document)!r})\nsys.exit(1)\n", "utf-8")
    return world.act("nightly", "workflow_dispatch", DISPATCH, "--job", "canary-issue", FAKE_RUNNER=str(wheel))


def told_by_a_wheel(**report: Any) -> dict[str, Any]:
    told = EngineReport("vllm", "0.33.0", ("vllm/x.py",), 98, 196, (Difference("a file", DIFFERENCE),))
    return {"schema_version": SCHEMA_VERSION, "reports": [{**told.to_json(), **report}]}


def test_what_a_wheel_wrote_is_quoted_and_nothing_else(world: World, github: FakeGitHub) -> None:
    run = canary(world, told_by_a_wheel())
    assert run.jobs == {"canary": "failure", "canary-report": "success", "canary-issue": "success"}, run
    assert github.writes == [("POST", f"/repos/{REPOSITORY}/issues", TOKEN)]
    (issue,) = github.issues
    assert issue["title"] == "An engine reads our files or runs without them differently"
    assert [line for line in issue["body"].split("\n") if "@everyone" in line] == [
        f"- `a file`: `{DIFFERENCE.replace('`', chr(39))}`"
    ], "code, which GitHub renders as it stands"


def test_what_no_canary_hands_on_is_not_posted(world: World, github: FakeGitHub) -> None:
    run = canary(world, told_by_a_wheel(markdown="@everyone"))
    assert run.jobs == {"canary": "failure", "canary-report": "failure"}, run
    assert "Check and render them" in run.failed_steps, run
    assert github.writes == []
