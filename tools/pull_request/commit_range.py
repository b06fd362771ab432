"""Two commits and what lies between them, as git objects: what a diff describes and a push checks. The edge to git.

It imports the standard library and our own plain data only: the job that holds the app's key runs it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from tools.git import REGULAR, Entry, Repository
from tools.pull_request.changes import Change, Version, changes, config_path, records_path, tuned_paths


@dataclass(frozen=True)
class CommitRange:
    """Two commits and what lies between them. trees: the earlier one's and the later one's."""

    base: str
    head: str
    trees: tuple[Mapping[str, Entry], Mapping[str, Entry]]
    changed: tuple[Change, ...]
    versions: tuple[tuple[Version, Version], ...]


def compare(base: str, head: str, repository: Repository) -> CommitRange:
    """From where `head` left `base` to `head`. CommitError: not in the repository, not related, beyond the limits."""
    head_sha = repository.commit(head)
    base_sha = repository.merge_base(repository.commit(base), head_sha)
    trees = repository.tree(base_sha), repository.tree(head_sha)
    changed = changes(*trees)
    return CommitRange(base_sha, head_sha, trees, changed, _versions(repository, trees, tuned_paths(changed)))


def _versions(
    repository: Repository, trees: tuple[Mapping[str, Entry], Mapping[str, Entry]], paths: Sequence[PurePosixPath]
) -> tuple[tuple[Version, Version], ...]:
    """Both sides of each path. What is no regular file, or too large, has no content that could be compared."""
    wanted = [path for relative in paths for path in (config_path(relative), records_path(relative))]
    entries = [tree[path] for tree in trees for path in wanted if path in tree and tree[path].mode == REGULAR]
    sizes = repository.sizes(entry.sha for entry in entries)
    blobs = repository.blobs(sha for sha, size in sizes.items() if size <= repository.limits.blob_bytes)

    def version(relative: PurePosixPath, tree: Mapping[str, Entry]) -> Version:
        places = config_path(relative), records_path(relative)
        file, record = (blobs.get(tree[path].sha, b"") if path in tree else None for path in places)
        return Version(relative, file, record)

    before, after = trees
    return tuple((version(relative, before), version(relative, after)) for relative in paths)
