"""pages.yml, run: the site of main is built by one job and published by another."""

from __future__ import annotations

import json
from typing import Any

from tests.tools.pull_request.git_repository import GitRepository
from tests.workflows.act import World

ON_MAIN: dict[str, Any] = {"ref": "refs/heads/main"}


def test_a_push_to_main_publishes_its_site(world: World, remote: GitRepository) -> None:
    run = world.act("pages", "push", ON_MAIN)
    assert run.jobs == {"build": "success", "deploy": "success"}, run
    published = world.folder / "run-0" / "published"
    manifest = json.loads((published / "site.json").read_text("utf-8"))
    assert manifest["revision"] == remote.git("rev-parse", "main")
    assert sorted({*manifest["files"], "site.json"}) == sorted(
        path.relative_to(published).as_posix() for path in published.rglob("*") if path.is_file()
    )
    assert "<h1>Is my model on my GPU covered?</h1>" in (published / "index.html").read_text("utf-8")


def test_another_branch_publishes_nothing(world: World) -> None:
    run = world.act("pages", "workflow_dispatch", {"ref": "refs/heads/mine"})
    assert run.jobs == {}, run
