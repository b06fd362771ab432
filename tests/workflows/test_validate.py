"""validate.yml, run: what a pull request shows its author."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.builders import H100, NAME, Store, signed, table
from tests.tools.pull_request.git_repository import GitRepository, files_of
from tests.workflows.act import REPOSITORY, Annotation, Run, World, annotation
from tests.workflows.repository import merged, propose
from tests.workflows.repository import snapshot as snapshot_of_main
from tools.store.files import canonical_config, canonical_record

INSIDE, INSIDE_RECORDS = f"configs/{NAME}", f"configs/records/{NAME}"


@pytest.fixture
def sound(tmp_path: Path) -> Mapping[str, bytes]:
    """A tuned file and its record, with one launch config throughout, so that it compiles fast."""
    store = Store(tmp_path / "sound")
    store.config()
    return files_of(store)


def validate(
    world: World,
    remote: GitRepository,
    files: Mapping[str, bytes],
    title: str = "Tune Mixtral",
    repository: str = "a-stranger/fused-moe-configs",
) -> Run:
    """The job that proves tuned files, on a pull request with these."""
    base = remote.git("rev-parse", "main")
    head = remote.commit(files, base)
    propose(remote, 12, head)
    return world.act("validate", "pull_request", event(base, head, title, repository), "--job", "configs")


def event(base: str, head: str, title: str, repository: str) -> dict[str, Any]:
    pull = {
        "number": 12,
        "title": title,
        "head": {"ref": title, "sha": head, "repo": {"full_name": repository}},
        "base": {"ref": "main", "sha": base},
    }
    return {"action": "opened", "number": 12, "pull_request": pull}


def test_a_sound_file_passes_and_is_described(world: World, remote: GitRepository, sound: Mapping[str, bytes]) -> None:
    run = validate(world, remote, sound)
    assert run.jobs == {"configs": "success"}, run
    assert f"- `{H100}`, default tier: `E=8,N=1024," in run.summary
    assert "files compiled    1" in run.log, "what did not change is not compiled again"


def test_a_bad_file_fails_with_a_line_beside_it(
    world: World, remote: GitRepository, sound: Mapping[str, bytes]
) -> None:
    entries = table()
    entries["64"]["BLOCK_SIZE_M"] = 48
    run = validate(world, remote, {**sound, INSIDE: canonical_config(entries)})
    assert run.jobs == {"configs": "failure"}
    assert "Prove every tuned file" in run.failed_steps
    (found,) = [line for line in run.annotations if line.title == "values"]
    assert (found.level, found.file) == ("error", INSIDE)
    assert "BLOCK_SIZE_M" in found.message
    assert "Fix: " in found.message


@pytest.mark.parametrize(("repository", "passes"), [(REPOSITORY, True), ("a-stranger/fused-moe-configs", False)])
def test_only_verifys_own_branch_may_say_verified(
    world: World, remote: GitRepository, sound: Mapping[str, bytes], repository: str, passes: bool
) -> None:
    main = remote.commit(sound, remote.git("rev-parse", "main"))
    remote.set_ref("refs/heads/main", main)
    record = json.loads(sound[INSIDE_RECORDS])
    proposal = canonical_record(signed({**record, "verified": None}, commit=main))
    run = validate(world, remote, {INSIDE_RECORDS: proposal}, f"verify/{main}", repository)
    assert run.jobs == {"configs": "success" if passes else "failure"}, run
    assert [line.file for line in run.annotations if line.title == "verified"] == ([] if passes else [INSIDE_RECORDS])


def judge(world: World, remote: GitRepository, files: Mapping[str, bytes | None], ref: str = "x") -> Run:
    """The check «Evidence», on a pull request from a branch of this repository."""
    base = remote.git("rev-parse", "main")
    head = remote.commit(files, base)
    propose(remote, 12, head)
    here = replace(world, checkout=merged(remote, 12, world.folder / head))
    return here.act("validate", "pull_request", event(base, head, ref, REPOSITORY), "--job", "evidence")


# A pull request whose own code finds nothing wrong with its own evidence.
CARELESS = {
    "tools/pull_request/changes.py": b"raise SystemExit(0)\n",
    "tools/pull_request/__main__.py": b"print('all is well')\n",
}


def test_evidence_is_judged_by_the_bases_code(world: World, remote: GitRepository, sound: Mapping[str, bytes]) -> None:
    forged = canonical_record(signed(json.loads(sound[INSIDE_RECORDS])))
    run = judge(world, remote, {**sound, INSIDE_RECORDS: forged, **CARELESS})
    assert run.jobs == {"evidence": "failure"}, run
    assert run.failed_steps == ["Judge the merge"]
    assert "all is well" not in run.log
    found = {line.title: line.file for line in run.annotations if line.level == "error"}
    assert found == {"verified": INSIDE_RECORDS, "own-judge": min(CARELESS)}


def test_what_python_would_take_before_a_judge_is_refused_beside_evidence(
    world: World, remote: GitRepository, sound: Mapping[str, bytes]
) -> None:
    """A package `floor/` beside floor.py lets any time pass where the pull request's own code proves it."""
    package = "tools/measure/floor/__init__.py"
    second = f"fused_moe_configs/configs/E=8,N=1024,device_name={H100}.json"
    run = judge(world, remote, {**sound, package: b"def least_us(*a): return 0.0\n", second: b"{}"})
    assert run.jobs == {"evidence": "failure"}, run
    found = {line.title: line.file for line in run.annotations if line.level == "error"}
    assert found == {"own-judge": package, "outside": second}


def test_honest_evidence_passes_its_judge(world: World, remote: GitRepository, sound: Mapping[str, bytes]) -> None:
    run = judge(world, remote, sound)
    assert run.jobs == {"evidence": "success"}, run
    assert f"- `{H100}`, default tier: `E=8,N=1024," in run.summary


def test_a_verify_branch_is_judged_as_a_whole(world: World, remote: GitRepository, sound: Mapping[str, bytes]) -> None:
    main = remote.commit(sound, remote.git("rev-parse", "main"))
    remote.set_ref("refs/heads/main", main)
    record = {**json.loads(sound[INSIDE_RECORDS]), "verified": None}
    word = {INSIDE_RECORDS: canonical_record(signed(record, commit=main))}
    assert judge(world, remote, word, f"verify/{main}").jobs == {"evidence": "success"}
    run = judge(world, remote, {**word, ".github/workflows/verify.yml": b"on: push\n"}, f"verify/{main}")
    assert run.jobs == {"evidence": "failure"}
    assert [line.file for line in run.annotations if line.level == "error"] == [".github/workflows/verify.yml"]


def test_a_name_cannot_forge_an_annotation(world: World, remote: GitRepository, sound: Mapping[str, bytes]) -> None:
    names = ("configs/a\n::error file=README.md::forged.json", "configs/##[error file=README.md;line=1]forged.json")
    run = validate(world, remote, {**sound, **dict.fromkeys(names, b"{}\n")})
    assert run.jobs == {"configs": "failure"}
    assert not [line for line in run.annotations if line.message == "forged.json" or line.file == "README.md"]
    assert "##[" not in str(run), "the runner's older commands stand anywhere in a line"


def shell_injection(canary: Path) -> str:
    return f'"; touch {canary}; echo "$(touch {canary})`touch {canary}`'


def test_a_title_is_never_run(world: World, remote: GitRepository, sound: Mapping[str, bytes], tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    assert validate(world, remote, sound, shell_injection(canary)).jobs == {"configs": "success"}
    assert not canary.exists()


def test_a_title_would_be_run_where_a_workflow_put_it_into_a_command(
    world: World, remote: GitRepository, sound: Mapping[str, bytes], tmp_path: Path
) -> None:
    """The test above can fail: the same event against the mistake it guards against."""
    careless = snapshot_of_main(tmp_path / "careless")
    file = careless / ".github" / "workflows" / "validate.yml"
    text = file.read_text("utf-8")
    right = "run: nox -s validate -- --format github"
    assert right in text
    file.write_text(text.replace(right, "run: 'echo \"${{ github.event.pull_request.title }}\"'"), "utf-8")
    canary = tmp_path / "canary"
    validate(replace(world, checkout=careless), remote, sound, shell_injection(canary))
    assert canary.exists()


def test_annotations_are_read_as_github_reads_them() -> None:
    read = annotation("::error file=a=1%2Cb.json,title=values::50%25 more%0A::\n")
    assert read == Annotation("error", "a=1,b.json", "values", "50% more\n::")
