"""Real git repositories: main is this checkout as it stands, pull requests are commits on top, honest or not."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from tests.workflows.act import REPOSITORY
from tools.store import CHECKOUT

_WHO = {
    **{f"GIT_{role}_NAME": "A Stranger" for role in ("AUTHOR", "COMMITTER")},
    **{f"GIT_{role}_EMAIL": "stranger@example.org" for role in ("AUTHOR", "COMMITTER")},
    **{f"GIT_{role}_DATE": "2026-01-01T00:00:00Z" for role in ("AUTHOR", "COMMITTER")},
}


@dataclass(frozen=True)
class Entry:
    """A path of a commit: as bytes, because a stranger's may be anything. content None: removed."""

    path: bytes
    content: bytes | None
    mode: str = "100644"


def snapshot(folder: Path) -> Path:
    """This checkout's files, tracked or new, as one commit of a repository of its own."""
    listed = git(CHECKOUT, "ls-files", "-z", "--cached", "--others", "--exclude-standard")
    for name in filter(None, listed.split("\0")):
        if (CHECKOUT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(CHECKOUT / name, folder / name)
    git(folder, "init", "--quiet", "--initial-branch=main", ".")
    git(folder, "remote", "add", "origin", f"https://github.com/{REPOSITORY}.git")
    git(folder, "add", "--all")
    git(folder, "commit", "--quiet", "--message=main")
    return folder


def commit(remote: Path, entries: Iterable[Entry], parent: str = "refs/heads/main", message: str = "Tune") -> str:
    """A commit in a bare repository, written as objects, so that it can hold what `git add` would refuse."""
    data = b"commit refs/tests/new\ncommitter A Stranger <stranger@example.org> 1767225600 +0000\n"
    data += b"data %d\n%s\n" % (len(message.encode()), message.encode())
    data += b"from %s\n" % git(remote, "rev-parse", parent).encode()
    for entry in entries:
        path = b'"' + b"".join(b"\\%03o" % byte for byte in entry.path) + b'"'
        if entry.content is None:
            data += b"D " + path + b"\n"
        elif entry.mode == "160000":
            data += b"M 160000 " + entry.content + b" " + path + b"\n"
        else:
            data += b"M " + entry.mode.encode() + b" inline " + path + b"\ndata %d\n" % len(entry.content)
            data += entry.content + b"\n"
    subprocess.run(["git", "fast-import", "--quiet", "--force"], cwd=remote, input=data, check=True, env=_environment())
    return git(remote, "rev-parse", "refs/tests/new")


def propose(remote: Path, number: int, head: str) -> str:
    """Makes a commit the head of a pull request, with the merge that GitHub tries. Returns the merge."""
    main = git(remote, "rev-parse", "refs/heads/main")
    git(remote, "update-ref", f"refs/pull/{number}/head", head)
    merge = git(remote, "commit-tree", f"{head}^{{tree}}", "-p", main, "-p", head, "-m", "Merge")
    git(remote, "update-ref", f"refs/pull/{number}/merge", merge)
    return merge


def git(folder: Path, *arguments: str) -> str:
    command = ["git", "-c", "gc.auto=0", *arguments]
    answer = subprocess.run(command, cwd=folder, env=_environment(), capture_output=True, text=True, check=True)
    return answer.stdout.strip()


def _environment() -> dict[str, str]:
    return {"PATH": os.environ["PATH"], "GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_NOSYSTEM": "1", **_WHO}
