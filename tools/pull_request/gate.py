"""What the required check refuses of a change to configs/: evidence that isn't main's own, and files that aren't plain.

`plan` refuses it too, but no merge waits for a plan. Pure.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from tools.findings import Finding
from tools.git import is_sha
from tools.pull_request.changes import Change, mode_fault, records_path, refused
from tools.pull_request.files import Version
from tools.store.strict_json import Json

OWN_BRANCHES = "verify/"
"""Where verify.yml pushes what it proposes, under the name of the commit that it measured."""


def verified_commit(head: str, home: str) -> str | None:
    """The commit that verify.yml measured, where `head` is its own branch; None: the branch is anybody's.

    head: OWNER/NAME:BRANCH, as GitHub tells of a pull request's head. home: OWNER/NAME of this repository. In a fork a
    branch may have any name; in this repository only who may write to it makes one.
    """
    repository, _, branch = head.partition(":")
    commit = branch.removeprefix(OWN_BRANCHES)
    is_own = bool(home) and repository == home and branch.startswith(OWN_BRANCHES) and is_sha(commit)
    return commit if is_own else None


def merge_refusals(
    changed: Iterable[Change], versions: Iterable[tuple[Version, Version]], commit: str | None
) -> list[Finding]:
    """A finding for each file that may not be merged. commit: as `verified_commit` has it."""
    modes = filter(None, map(mode_fault, changed))
    return [*modes, *(finding for pair in versions for finding in _evidence(*pair, commit))]


def writes_verified(before: Version, after: Version) -> bool:
    """Main's own evidence may stay where it is, as long as it speaks of the same bytes; taken away it may be too."""
    said = after.record.get("verified")
    return said is not None and (said != before.record.get("verified") or after.data != before.data)


def unearned(path: str) -> Finding:
    """Of a record that says `verified`, by its path."""
    message = "verified: expected null, found evidence that only main's own run may write"
    return refused(path, "verified", message, "set it to null: it is written after the merge")


def _evidence(before: Version, after: Version, commit: str | None) -> Iterator[Finding]:
    if writes_verified(before, after) and not (commit and _is_of(commit, before, after)):
        yield unearned(records_path(after.relative))


def _is_of(commit: str, before: Version, after: Version) -> bool:
    """Whether nothing but the evidence changes, and it says that this very commit was measured."""
    said = after.record.get("verified")
    is_named = isinstance(said, dict) and said.get("commit") == commit
    return is_named and before.data == after.data and _rest(before.record) == _rest(after.record)


def _rest(record: Mapping[str, Json]) -> dict[str, Json]:
    return {key: value for key, value in record.items() if key != "verified"}
