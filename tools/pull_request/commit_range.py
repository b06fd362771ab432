"""Two commits and what lies between them, as git objects: what a diff describes and a push checks. The edge to git.

It imports the standard library and our own plain data only: the job that holds the app's key runs it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath

from tools.git import EXECUTABLE, REGULAR, Entry, Repository
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
    paths = tuned_paths(changed)
    before, after = (versions_at(repository, tree, paths) for tree in trees)
    versions = tuple((before[relative], after[relative]) for relative in paths)
    return CommitRange(base_sha, head_sha, trees, changed, versions)


def versions_at(
    repository: Repository, tree: Mapping[str, Entry], paths: Iterable[PurePosixPath]
) -> dict[PurePosixPath, Version]:
    """Tuned files of a tree with their records, by paths below configs/.

    A link, a submodule or what is too large has no content that could be compared. An executable file has: its mode
    is another finding.
    """
    wanted = list(paths)
    places = [path for relative in wanted for path in (config_path(relative), records_path(relative))]
    entries = [tree[path] for path in places if path in tree and tree[path].mode in (REGULAR, EXECUTABLE)]
    sizes = repository.sizes(entry.sha for entry in entries)
    blobs = repository.blobs(sha for sha, size in sizes.items() if size <= repository.limits.blob_bytes)

    def version(relative: PurePosixPath) -> Version:
        here = config_path(relative), records_path(relative)
        file, record = (blobs.get(tree[path].sha, b"") if path in tree else None for path in here)
        return Version(relative, file, record)

    return {relative: version(relative) for relative in wanted}
