"""tune.yml, run: plan → measure → report, with a recorded landscape in the GPU's place and a fake GitHub's API."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.builders import entry, signed
from tests.tools.pull_request.git_repository import EXECUTABLE, SUBMODULE, SYMLINK, TREE, Blob, GitRepository
from tests.workflows.act import REPOSITORY, TOKEN, World
from tests.workflows.fake_github import FakeGitHub
from tests.workflows.repository import TUNED, propose
from tools.store.files import canonical_config, canonical_record

GOLDEN = Path(__file__).parent / "comment.golden.md"
H100 = "NVIDIA_H100_80GB_HBM3"
NUMBER, STRANGER, BRANCH = 12, "a-stranger", "deepseek-on-h100"
PATH, RECORD = f"configs/{TUNED}", f"configs/records/{TUNED}"
ALL = dict.fromkeys(("plan", "measure", "report", "comment"), "success")

Files = Mapping[str, bytes]


def dispatch(head: str) -> dict[str, Any]:
    """A maintainer's go."""
    return {"ref": "refs/heads/main", "inputs": {"number": str(NUMBER), "head_sha": head}}


def validated(head: str, conclusion: str = "success", event: str = "pull_request") -> dict[str, Any]:
    """What GitHub tells once validate is through; for a fork, its list of pull requests is empty."""
    repository = {"full_name": f"{STRANGER}/fused-moe-configs", "owner": {"login": STRANGER}}
    run = {"id": 1, "name": "validate", "event": event, "conclusion": conclusion, "head_sha": head}
    run |= {"head_branch": BRANCH, "head_repository": repository, "pull_requests": []}
    return {"action": "completed", "workflow_run": run, "repository": {"full_name": REPOSITORY}}


def proposed(head: str, repository: str, branch: str) -> dict[str, Any]:
    """validate is through for a pull request from this repository's branch."""
    event = validated(head)
    event["workflow_run"] |= {"head_branch": branch, "head_repository": {"full_name": repository}}
    return event


@pytest.fixture
def offered(remote: GitRepository, github: FakeGitHub) -> Callable[[str], str]:
    """Makes a commit the head of the pull request."""

    def offer(head: str) -> str:
        propose(remote, NUMBER, head)
        github.open_pull(NUMBER, BRANCH, head, owner=STRANGER)
        return head

    return offer


@pytest.fixture
def head(remote: GitRepository, offered: Callable[[str], str], tuned: Files) -> str:
    """The head of an honest pull request that adds a tuned file and its record."""
    return offered(remote.commit(tuned, remote.git("rev-parse", "main")))


def test_a_maintainers_go_ends_in_one_comment(world: World, github: FakeGitHub, head: str) -> None:
    run = world.act("tune", "workflow_dispatch", dispatch(head))
    assert run.jobs == ALL, run
    (comment,) = github.comments
    assert comment["issue"] == NUMBER
    assert comment["body"].replace(head, "HEAD_SHA") == GOLDEN.read_text("utf-8")
    assert github.writes == [("POST", f"/repos/{REPOSITORY}/issues/{NUMBER}/comments", TOKEN)]


def test_after_validate_the_same_comment_is_edited(world: World, github: FakeGitHub, head: str) -> None:
    for _ in range(2):
        run = world.act("tune", "workflow_run", validated(head))
        assert run.jobs == ALL, run
    assert len(github.comments) == 1
    assert [method for method, *_ in github.writes] == ["POST", "PATCH"]


@pytest.mark.parametrize(
    ("conclusion", "event"), [("failure", "pull_request"), ("cancelled", "pull_request"), ("success", "push")]
)
def test_nothing_starts_where_validate_said_no_or_was_asked_by_a_push(
    world: World, github: FakeGitHub, head: str, conclusion: str, event: str
) -> None:
    assert world.act("tune", "workflow_run", validated(head, conclusion, event)).jobs == {}
    assert github.writes == []


def test_a_newer_push_wants_a_new_go(
    world: World, github: FakeGitHub, remote: GitRepository, offered: Callable[[str], str], head: str
) -> None:
    offered(remote.commit({PATH: None, RECORD: None}, head))
    for event, payload in (("workflow_dispatch", dispatch(head)), ("workflow_run", validated(head))):
        run = world.act("tune", event, payload)
        assert run.jobs == {"plan": "failure"}
        assert run.failed_steps == ["Find the pull request"]
    assert github.writes == []


def test_a_push_between_the_look_up_and_the_fetch_stops_at_the_plan(
    world: World, github: FakeGitHub, remote: GitRepository, head: str
) -> None:
    """The older commit is still there, behind the newer one: what stops it is where the pull request's head stands."""
    propose(remote, NUMBER, remote.commit({PATH: None, RECORD: None}, head))
    run = world.act("tune", "workflow_dispatch", dispatch(head))
    assert run.jobs == {"plan": "failure"}, run
    assert run.failed_steps == ["Check and plan"], run
    assert "it was pushed to since: review the new commit" in run.log
    assert github.writes == []


def test_a_push_while_it_runs_gets_no_comment_on_the_older_commit(world: World, github: FakeGitHub, head: str) -> None:
    github.push_once_seen[NUMBER] = "f" * 40
    run = world.act("tune", "workflow_dispatch", dispatch(head))
    assert run.jobs == {**ALL, "comment": "failure"}
    assert run.failed_steps == ["Put it on the pull request"]
    assert github.writes == []


def test_a_device_without_a_runner_is_reported_as_not_measured(world: World, github: FakeGitHub, head: str) -> None:
    """Nothing waits for a machine that doesn't exist, and nothing fails for want of its results."""
    run = world.act("tune", "workflow_dispatch", dispatch(head), "--var", "GPU_DEVICES=NVIDIA_H200, NVIDIA_L4")
    assert run.jobs == {"plan": "success", "report": "success", "comment": "success"}, run
    (comment,) = github.comments
    assert "**Verdict: not measured: no runner sent results.**" in comment["body"]
    assert "- `NVIDIA_H100_80GB_HBM3`: not measured (its runner sent no results)." in comment["body"]


def with_names(data: bytes, names: Mapping[str, str]) -> bytes:
    for old, new in names.items():
        data = data.replace(old.encode(), new.encode())
    return data


def test_a_device_without_a_runner_takes_its_own_leg_along_alone(
    world: World, github: FakeGitHub, remote: GitRepository, offered: Callable[[str], str], tuned: Files
) -> None:
    """A machine that was lost looks the same to the report; there act goes no further, and GitHub does."""
    h200 = "NVIDIA_H200"
    told = {H100: h200, "NVIDIA H100 80GB HBM3": "NVIDIA H200"}
    other = {path.replace(H100, h200): with_names(data, told) for path, data in tuned.items()}
    head = offered(remote.commit({**tuned, **other}, remote.git("rev-parse", "main")))
    run = world.act("tune", "workflow_dispatch", dispatch(head), "--var", f"GPU_DEVICES=NVIDIA_L4,{H100}")
    assert run.jobs == ALL, run
    (comment,) = github.comments
    assert f"- `{h200}`: not measured (its runner sent no results)." in comment["body"]
    assert "**Promote: faster than the heuristic in " in comment["body"]


# Commits that are refused


def bad_path(name: str) -> Callable[[GitRepository, str, Files], str]:
    return lambda remote, main, tuned: remote.commit({**tuned, name: tuned[PATH]}, main)


def changed(change: Callable[[dict[str, Any]], object]) -> Callable[[GitRepository, str, Files], str]:
    def make(remote: GitRepository, main: str, tuned: Files) -> str:
        document = json.loads(tuned[PATH])
        change(document)
        return remote.commit({**tuned, PATH: canonical_config(document)}, main)

    return make


def raw(replace: Callable[[bytes], bytes]) -> Callable[[GitRepository, str, Files], str]:
    return lambda remote, main, tuned: remote.commit({**tuned, PATH: replace(tuned[PATH])}, main)


def with_mode(mode: str, data: bytes | None = None) -> Callable[[GitRepository, str, Files], str]:
    return lambda remote, main, tuned: remote.commit({**tuned, PATH: Blob(data or tuned[PATH], mode)}, main)


def submodule(remote: GitRepository, main: str, tuned: Files) -> str:
    return remote.commit({**tuned, "configs/sub": Blob(mode=SUBMODULE, sha=main)}, main)


def dot_dot(remote: GitRepository, main: str, tuned: Files) -> str:
    inner = remote.tree_of(("100644", b"evil.json", remote.blob(tuned[PATH])))
    configs = remote.tree_of((TREE, b"..", inner))
    return remote.commit_tree(remote.tree_of((TREE, b"configs", configs)), main)


def ten_thousand_files(remote: GitRepository, main: str, tuned: Files) -> str:
    sha = remote.blob(tuned[PATH])
    return remote.commit({f"configs/{number}.json": Blob(sha=sha) for number in range(10_000)}, main)


def mi300x(remote: GitRepository, main: str, tuned: Files) -> str:
    document = {key: entry(waves_per_eu=2, matrix_instr_nonkdim=16) for key in json.loads(tuned[PATH])}
    return remote.commit({**tuned, PATH: canonical_config(document)}, main)


def verified(remote: GitRepository, main: str, tuned: Files) -> str:
    record = canonical_record(signed(json.loads(tuned[RECORD])))
    return remote.commit({**tuned, RECORD: record}, main)


HOSTILE: dict[str, Callable[[GitRepository, str, Files], str]] = {
    "code beside it": bad_path("noxfile.py"),
    "a workflow beside it": bad_path(".github/workflows/tune.yml"),
    "a symbolic link": with_mode(SYMLINK, b"/etc/passwd"),
    "a submodule": submodule,
    "an executable": with_mode(EXECUTABLE),
    "a path that leads out": dot_dot,
    "a new line in a name": bad_path("configs/E=8\n::error file=a::forged.json"),
    "a quote in a name": bad_path("configs/E=8'\".json"),
    "a command in a name": bad_path("configs/$(touch was-run)`touch was-run`.json"),
    "10,000 files": ten_thousand_files,
    "100 MB": raw(lambda data: data + b" " * 100_000_000),
    "a key twice": raw(lambda data: data.replace(b'"2": {', b'"1": {', 1)),
    "NaN": raw(lambda data: data.replace(b'"num_warps": 4', b'"num_warps": NaN', 1)),
    "a huge integer": changed(lambda document: document["1"].update(num_stages=10**400)),
    "another vendor's keys": mi300x,
    "verified by itself": verified,
}


@pytest.mark.parametrize("what", HOSTILE)
def test_a_hostile_commit_stops_at_the_plan(
    world: World, github: FakeGitHub, remote: GitRepository, offered: Callable[[str], str], tuned: Files, what: str
) -> None:
    offered(HOSTILE[what](remote, remote.git("rev-parse", "main"), tuned))
    run = world.act("tune", "workflow_dispatch", dispatch(github.pulls[NUMBER]["head"]["sha"]))
    assert run.jobs == {"plan": "failure"}, run
    assert run.failed_steps == ["Check and plan"], run
    assert "refused: " in run.log
    assert not any(line.message == "forged.json" for line in run.annotations)
    assert not list(world.folder.rglob("was-run"))
    assert github.writes == []


# A runner that was taken over

MEASURE = """
import json, os, pathlib, subprocess, sys
measure = ["-m", "tools.pull_request", "measure", "--plan", "plan.json", "--device", os.environ["DEVICE"]]
subprocess.run([sys.executable, *measure, "--out", "results", "--replay", os.environ["FAKE_LANDSCAPES"]], check=True)
file = pathlib.Path("results/results.json")
results = json.loads(file.read_text())
"""
WRITE = """
file.write_text(json.dumps(results))
"""
LIES = {
    "another pull request": 'results["number"] += 1',
    "HTML": 'results["environment"]["driver"] = "<img src=x onerror=alert(1)>"',
}
"""What only a whole run shows. The others are told in tests/tools/pull_request: test_report.py, test_documents.py."""


def taken_over(folder: Path, program: str) -> str:
    """Instead of measuring, the machine runs this."""
    script = folder / "runner.py"
    script.write_text(program, "utf-8")
    return str(script)


def test_an_honest_runner_of_that_kind_passes(world: World, github: FakeGitHub, head: str, tmp_path: Path) -> None:
    run = world.act("tune", "workflow_dispatch", dispatch(head), FAKE_RUNNER=taken_over(tmp_path, MEASURE + WRITE))
    assert run.jobs == ALL, run


@pytest.mark.parametrize("lie", LIES)
def test_what_a_runner_sends_is_checked_like_a_strangers(
    world: World, github: FakeGitHub, head: str, tmp_path: Path, lie: str
) -> None:
    runner = taken_over(tmp_path, MEASURE + LIES[lie] + WRITE)
    run = world.act("tune", "workflow_dispatch", dispatch(head), FAKE_RUNNER=runner)
    assert run.jobs == {"plan": "success", "measure": "success", "report": "failure"}, run
    assert run.failed_steps == ["Write the report"], run
    assert github.writes == []


A_FILE_MORE = """
path = pathlib.Path(os.environ["FAKE_ARTIFACTS"], "plan", "plan.json")
plan = json.loads(path.read_text())
files = plan["legs"][0]["workloads"]
added = json.loads(json.dumps(files[0]))
added["workload"]["E"] *= 2
files.append(added)
path.write_text(json.dumps(plan))
"""


def test_a_plan_that_a_runner_replaced_is_not_reported(
    world: World, github: FakeGitHub, head: str, tmp_path: Path
) -> None:
    """One that asks for a file more looks like a plan."""
    runner = taken_over(tmp_path, MEASURE + A_FILE_MORE + WRITE)
    run = world.act("tune", "workflow_dispatch", dispatch(head), FAKE_RUNNER=runner)
    assert run.jobs == {"plan": "success", "measure": "success", "report": "failure"}, run
    assert run.failed_steps == ["Check that it is what was handed on"], run
    assert github.writes == []


SEARCH = """
import os, pathlib, sys
seen = [repr(dict(os.environ)), *(path.read_text("latin-1") for path in pathlib.Path().rglob("*") if path.is_file())]
sys.exit("a secret" if any("-of-the-" + owner in text for text in seen for owner in ("workflow", "app")) else "nothing")
"""


def test_a_runner_has_no_token(world: World, head: str, tmp_path: Path) -> None:
    run = world.act("tune", "workflow_dispatch", dispatch(head), FAKE_RUNNER=taken_over(tmp_path, SEARCH))
    assert run.jobs["measure"] == "failure"
    assert "nothing\n" in run.log
    assert "a secret" not in run.log


def test_what_verify_proposes_is_not_measured_again(world: World, head: str) -> None:
    assert world.act("tune", "workflow_run", proposed(head, REPOSITORY, "verify/1234")).jobs == {}


def test_a_strangers_branch_of_that_name_is(world: World, head: str) -> None:
    # The API knows of no such pull request here: it is looked for, and that is as far as it gets.
    run = world.act("tune", "workflow_run", proposed(head, f"{STRANGER}/fused-moe-configs", "verify/1234"))
    assert run.failed_steps == ["Find the pull request"], run
