"""Real git repositories: main is this checkout as it stands, pull requests are commits on top of it."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

from fused_moe_configs.lookup import down_of
from tests.tools.pull_request.git_repository import GitRepository
from tests.workflows.act import REPOSITORY
from tools.checkout import CHECKOUT

TUNED = "E=256,N=128,device_name=NVIDIA_H100_80GB_HBM3,dtype=fp8_w8a8,block_shape=[128,128].json"
"""What the tests' pull requests bring."""


def snapshot(folder: Path) -> Path:
    """This checkout's files, tracked or new, as one commit of a repository of its own.

    Without the tuned file that the tests bring, its `_down` twin and their records: re-tuning it must not change what
    they show.
    """
    folder.mkdir(exist_ok=True)
    listed = git(CHECKOUT, "ls-files", "-z", "--cached", "--others", "--exclude-standard")
    brought = (TUNED, down_of(TUNED))
    for name in filter(None, listed.split("\0")):
        if (CHECKOUT / name).is_file() and Path(name).name not in brought:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(CHECKOUT / name, folder / name)
    git(folder, "init", "--quiet", "--initial-branch=main", ".")
    git(folder, "remote", "add", "origin", f"https://github.com/{REPOSITORY}.git")
    git(folder, "add", "--all")
    git(folder, "commit", "--quiet", "--message=main")
    return _for_act(folder)


def merged(remote: GitRepository, number: int, folder: Path) -> Path:
    """A checkout of the merge that GitHub tries: a run reads its workflow files there, and names its commit."""
    git(remote.root, "clone", "--quiet", "--no-checkout", str(remote.root), str(folder))
    git(folder, "fetch", "--quiet", "origin", f"refs/pull/{number}/merge")
    git(folder, "checkout", "--quiet", "--detach", "FETCH_HEAD")
    git(folder, "remote", "set-url", "origin", f"https://github.com/{REPOSITORY}.git")
    return _for_act(folder)


def _for_act(folder: Path) -> Path:
    """act refuses keys that it doesn't know, and these are new; test_rules.py asserts them. Jobs clone the commit."""
    for file in (folder / ".github" / "workflows").glob("*.yml"):
        file.write_text(re.sub(r"(?m)^(cache-mode|  queue): .*\n", "", file.read_text("utf-8")), "utf-8")
    return folder


def propose(remote: GitRepository, number: int, head: str) -> None:
    """Makes a commit the head of a pull request, with the merge that GitHub tries."""
    remote.set_ref(f"refs/pull/{number}/head", head)
    main = remote.git("rev-parse", "main")
    merge = remote.git("commit-tree", f"{head}^{{tree}}", "-p", main, "-p", head, "-m", "Merge")
    remote.set_ref(f"refs/pull/{number}/merge", merge)


def git(folder: Path, *arguments: str) -> str:
    who = {f"GIT_{role}_{what}": "main" for role in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
    environment = {"PATH": os.environ["PATH"], "GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_NOSYSTEM": "1", **who}
    command = ["git", "-c", "gc.auto=0", *arguments]
    answer = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=True)
    return answer.stdout.strip()
