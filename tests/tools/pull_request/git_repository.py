"""Real git repositories for the tests, hostile ones too: made with plumbing, so that nothing touches a work tree."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tests.builders import Store

REGULAR, EXECUTABLE, SYMLINK, SUBMODULE, TREE = "100644", "100755", "120000", "160000", "40000"


@dataclass(frozen=True)
class Blob:
    """A file of a commit. sha: an object that is there already, instead of `data`."""

    data: bytes = b""
    mode: str = REGULAR
    sha: str | None = None


@dataclass(frozen=True)
class GitRepository:
    """A repository without work tree below tmp_path."""

    root: Path

    @classmethod
    def make(cls, root: Path) -> GitRepository:
        root.mkdir(parents=True)
        repository = cls(root)
        repository.git("init", "--quiet", "--initial-branch=main")
        return repository

    def git(self, *arguments: str, stdin: bytes = b"") -> str:
        env = {
            "PATH": os.environ["PATH"],
            "HOME": str(self.root),
            "GIT_CONFIG_NOSYSTEM": "1",
            **{f"GIT_{who}_{what}": "test" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")},
        }
        done = subprocess.run(
            ["git", "-C", str(self.root), *arguments], input=stdin, capture_output=True, env=env, check=True, timeout=60
        )
        return done.stdout.decode().strip()

    def blob(self, data: bytes) -> str:
        """The name of a blob with these bytes."""
        return self.git("hash-object", "-w", "--stdin", stdin=data)

    def object(self, kind: str, data: bytes) -> str:
        """The name of an object that git itself might not make."""
        return self.git("hash-object", "-w", "--literally", "--stdin", "-t", kind, stdin=data)

    def commit(self, files: Mapping[str, Blob | bytes | None], parent: str | None = None) -> str:
        """A commit on `parent` with these files changed; None removes one. Returns its whole name."""
        self.git("read-tree", *([parent] if parent else ["--empty"]))
        lines = [self._index_line(path, content) for path, content in files.items()]
        self.git("update-index", "-z", "--index-info", stdin=b"".join(lines))
        return self.commit_tree(self.git("write-tree", "--missing-ok"), parent)

    def commit_tree(self, tree: str, parent: str | None = None) -> str:
        """A commit of a tree that is there already."""
        return self.git("commit-tree", tree, "-m", "test", *(["-p", parent] if parent else []))

    def set_ref(self, name: str, sha: str) -> None:
        """Lets a reference stand at a commit."""
        self.git("update-ref", name, sha)

    def tree_of(self, *entries: tuple[str, bytes, str]) -> str:
        """A tree of (mode, name, object) that git's own commands would refuse to make."""
        raw = b"".join(f"{mode} ".encode() + name + b"\0" + bytes.fromhex(sha) for mode, name, sha in entries)
        return self.object("tree", raw)

    def _index_line(self, path: str, content: Blob | bytes | None) -> bytes:
        if content is None:
            return f"0 {'0' * 40}\t{path}\0".encode()
        blob = Blob(content) if isinstance(content, bytes) else content
        sha = blob.sha or self.blob(blob.data)
        return f"{blob.mode} {sha}\t".encode() + path.encode("utf-8", "surrogateescape") + b"\0"


def files_of(store: Store) -> dict[str, bytes]:
    """Every file of a store, by its path in a repository."""
    return {
        f"configs/{path.relative_to(store.root).as_posix()}": path.read_bytes()
        for path in sorted(store.root.rglob("*"))
        if path.is_file()
    }
