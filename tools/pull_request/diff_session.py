"""From two revisions to their semantic diff: reads the objects. The diff's edge."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from tools.git import REGULAR, Entry, Repository
from tools.pull_request.changes import ROOT, Change, below_root, changes, config_path, records_path, tuned_paths
from tools.pull_request.diff import Diff, ModeChange, coverage, file_changes, grouped
from tools.pull_request.files import Version
from tools.registry.devices import DeviceRegistry
from tools.registry.models import ModelRegistry
from tools.store.tiers import Role, role_in_repo


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


def make_diff(found: CommitRange, models: ModelRegistry, devices: DeviceRegistry) -> Diff:
    """Pure."""
    before, after = (coverage(_tuned(tree), models, devices) for tree in found.trees)
    return Diff(
        base=found.base,
        head=found.head,
        groups=grouped(file_changes(found.versions)),
        gained=tuple(sorted(after - before)),
        lost=tuple(sorted(before - after)),
        covered=len(after),
        others=tuple(change.path for change in found.changed if not _is_told(change)),
        modes=tuple(filter(None, map(_mode, below_root(found.changed)))),
    )


def _mode(change: Change) -> ModeChange | None:
    """None: it is a plain file as it was, or is none any more."""
    before, after = (None if side is None else side.mode for side in (change.before, change.after))
    return None if after is None or (before or REGULAR) == after else ModeChange(change.path, before, after)


def _is_told(change: Change) -> bool:
    return change.role in (Role.CONFIG, Role.RECORD)


def _tuned(tree: Mapping[str, Entry]) -> list[PurePosixPath]:
    places = (Change(path, None, entry) for path, entry in tree.items() if path.startswith(f"{ROOT}/"))
    return [place.relative for place in places if place.relative and role_in_repo(place.relative) is Role.CONFIG]


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
