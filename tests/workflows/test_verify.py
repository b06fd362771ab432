"""verify.yml, run: what was merged is measured once more, and what held is proposed as verified."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from fused_moe_configs.evidence import evidence_sha256
from tests.builders import halved, signed
from tests.tools.pull_request.git_repository import GitRepository
from tests.workflows.act import REPOSITORY, Run, World
from tests.workflows.fake_github import FakeGitHub
from tests.workflows.repository import TUNED
from tools.store.files import canonical_record

PATH, RECORD = f"configs/{TUNED}", f"configs/records/{TUNED}"
APP = f"token-of-the-{'app'}"
CONFIRMED = {"plan": "success", "measure": "success", "confirm": "success"}
ALL = {**CONFIRMED, "propose": "success"}

Files = Mapping[str, bytes]


def merge(world: World, remote: GitRepository, files: Mapping[str, bytes | None], *options: str) -> tuple[Run, str]:
    """The run after main moved on by these files, and main's new commit."""
    before = remote.git("rev-parse", "main")
    after = remote.commit(files, before)
    remote.set_ref("refs/heads/main", after)
    push = {"ref": "refs/heads/main", "before": before, "after": after, "deleted": False}
    return world.act("verify", "push", push, *options), after


def record_at(remote: GitRepository, revision: str) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(remote.git("show", f"{revision}:{RECORD}"))
    return document


def test_what_holds_is_proposed_as_verified(
    world: World, remote: GitRepository, github: FakeGitHub, tuned: Files
) -> None:
    run, main = merge(world, remote, tuned)
    assert run.jobs == ALL, run
    proposed = f"verify/{main}"
    assert remote.git("rev-parse", f"{proposed}^") == main
    assert remote.git("diff", "--name-only", main, proposed).split("\n") == [RECORD]
    before, after = record_at(remote, main), record_at(remote, proposed)
    verified = after.pop("verified")
    assert after == {key: value for key, value in before.items() if key != "verified"}
    assert verified["commit"] == main
    assert verified["runner"] == "gpu"
    assert verified["evidence_sha256"] == evidence_sha256(before)
    assert verified["run_url"].startswith(f"https://github.com/{REPOSITORY}/actions/runs/")
    (pull,) = github.pulls.values()
    assert (pull["head"], pull["base"], pull["title"]) == (proposed, "main", "Verify what was merged")
    assert "New evidence" in pull["body"]
    assert github.writes == [("POST", f"/repos/{REPOSITORY}/pulls", APP)]


def test_what_it_proposed_does_not_start_it_again(
    world: World, remote: GitRepository, github: FakeGitHub, tuned: Files
) -> None:
    before = remote.git("rev-parse", "main")
    merged = remote.commit(tuned, before)
    remote.set_ref("refs/heads/main", merged)
    run, _ = merge(world, remote, {RECORD: canonical_record(signed(json.loads(tuned[RECORD]), commit=merged))})
    assert run.jobs == {"plan": "success"}, run
    assert github.writes == []


def test_figures_that_changed_under_mains_word_lose_it(
    world: World, remote: GitRepository, github: FakeGitHub, tuned: Files, boasted: Files
) -> None:
    """However they got past the check: the record alone changed, and it kept what verify had written."""
    word = signed(json.loads(tuned[RECORD]))["verified"]
    merge_of = {**tuned, RECORD: canonical_record({**json.loads(tuned[RECORD]), "verified": word})}
    remote.set_ref("refs/heads/main", remote.commit(merge_of, remote.git("rev-parse", "main")))
    forged = {**json.loads(boasted[RECORD]), "verified": word}
    run, main = merge(world, remote, {RECORD: canonical_record(forged)})
    assert run.jobs == ALL, run
    assert f"verify: {TUNED}: verified no more, M=" in run.log
    assert record_at(remote, f"verify/{main}")["verified"] is None
    (pull,) = github.pulls.values()
    assert "taken away" not in pull["body"], "it never was main's word on these figures"


def test_what_else_was_merged_with_it_does_no_harm(
    world: World, remote: GitRepository, github: FakeGitHub, tuned: Files
) -> None:
    run, _ = merge(world, remote, {**tuned, "CHANGELOG.md": b"News\n"})
    assert run.jobs == ALL, run
    assert len(github.pulls) == 1


@pytest.fixture
def boasted(tuned: Files) -> Files:
    """The same file under a record that claims half the times."""
    record = json.loads(tuned[RECORD])
    record["rows"] = {num_tokens: halved(row) for num_tokens, row in record["rows"].items()}
    return {**tuned, RECORD: canonical_record(record)}


def test_what_does_not_hold_is_named_and_nothing_is_proposed(
    world: World, remote: GitRepository, github: FakeGitHub, boasted: Files
) -> None:
    run, _ = merge(world, remote, boasted)
    assert run.jobs == CONFIRMED, run
    assert f"verify: {TUNED}: not verified, M=" in run.log
    assert remote.git("for-each-ref", "refs/heads/verify") == ""
    assert github.writes == []


def test_a_device_without_a_runner_is_named_and_nothing_is_proposed(
    world: World, remote: GitRepository, github: FakeGitHub, tuned: Files
) -> None:
    run, _ = merge(world, remote, tuned, "--var", "GPU_DEVICES=NVIDIA_H200")
    assert run.jobs == {"plan": "success", "confirm": "success"}, run
    assert f"verify: {TUNED}: not verified, not measured (its runner sent no results)" in run.log
    assert github.writes == []


def test_code_alone_measures_nothing(world: World, remote: GitRepository, github: FakeGitHub) -> None:
    run, _ = merge(world, remote, {"CHANGELOG.md": b"News\n"})
    assert run.jobs == {"plan": "success"}, run
    assert github.writes == []


REPLACED_PLAN = """
import json, os, pathlib, subprocess, sys
measure = ["-m", "tools.pull_request", "measure", "--plan", "plan.json", "--device", os.environ["DEVICE"]]
subprocess.run([sys.executable, *measure, "--out", "results", "--replay", os.environ["FAKE_LANDSCAPES"]], check=True)
artifact = pathlib.Path(os.environ["FAKE_ARTIFACTS"], "plan")
plan = json.loads((artifact / "plan.json").read_text())
plan["legs"][0]["workloads"][0]["record"] = None
"""
IN_PLACE = '(artifact / "plan.json").write_text(json.dumps(plan))'
BY_NAME = f"""{IN_PLACE}
numbers = pathlib.Path(os.environ["FAKE_NUMBERS"])
(number,) = (path for path in numbers.iterdir() if path.read_text() == "plan\\n")
number.write_text("deleted")
"""


@pytest.mark.parametrize(
    ("replace", "step"), [(IN_PLACE, "Check that it is what was handed on"), (BY_NAME, "Take the plan")]
)
def test_a_plan_that_a_runner_replaced_confirms_nothing(
    world: World, remote: GitRepository, github: FakeGitHub, boasted: Files, tmp_path: Path, replace: str, step: str
) -> None:
    """Without its claims, figures that don't hold would be verified."""
    runner = tmp_path / "runner.py"
    runner.write_text(REPLACED_PLAN + replace, "utf-8")
    before = remote.git("rev-parse", "main")
    after = remote.commit(boasted, before)
    remote.set_ref("refs/heads/main", after)
    push = {"ref": "refs/heads/main", "before": before, "after": after, "deleted": False}
    run = world.act("verify", "push", push, FAKE_RUNNER=str(runner))
    assert run.jobs == {**CONFIRMED, "confirm": "failure"}, run
    assert set(run.failed_steps) == {step}, run
    assert github.writes == []
