"""From a commit to its checked plan: reads the objects, has them proved, gathers every refusal. The plan's edge."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import PurePosixPath

from tools.findings import Finding
from tools.git import CommitError, Entry, Repository
from tools.pull_request import plan as planning
from tools.pull_request.changes import (
    ROOT,
    Change,
    below_root,
    changes,
    config_path,
    oversized,
    path_refusals,
    records_path,
    refused,
    touches_registry,
    tuned_paths,
)
from tools.pull_request.documents import MERGED, why_too_large
from tools.pull_request.files import Version
from tools.pull_request.plan import Changed, Plan, Registries
from tools.pull_request.proof import prove
from tools.store import schemas
from tools.text import shown
from tools.validate.exceptions import Exceptions

Tree = Mapping[str, Entry]


@dataclass(frozen=True)
class PlanRequest:
    """Which commit of which pull request is to be measured against which commit of main. All are whole names.

    number 0: no pull request; the commit is main's own, and base_sha is where main stood before.
    """

    number: int
    head_sha: str
    base_sha: str


@dataclass(frozen=True)
class Rules:
    """What decides besides the code: main's registries and the findings it tolerates."""

    registries: Registries
    exceptions: Exceptions


@dataclass(frozen=True)
class PlanOutcome:
    """The plan, or why there is none."""

    plan: Plan | None
    refusals: tuple[Finding, ...]


def make_plan(request: PlanRequest, repository: Repository, rules: Rules) -> PlanOutcome:
    """Reads the commit as data. CommitError: it isn't here, has moved on, or is beyond every limit."""
    check_head(request, repository)
    left_at = repository.merge_base(request.base_sha, request.head_sha)
    head = repository.tree(request.head_sha)
    changed = changes(repository.tree(left_at), head)
    if request.number == MERGED:
        changed = below_root(changed)  # the rest is main's own code, reviewed and merged
    if found := path_refusals(changed):
        return PlanOutcome(None, tuple(found))
    sizes = repository.sizes(change.after.sha for change in changed if change.after is not None)
    if found := oversized(changed, sizes, repository.limits.blob_bytes):
        return PlanOutcome(None, tuple(found))
    main = {path: entry for path, entry in repository.tree(request.base_sha).items() if path.startswith(f"{ROOT}/")}
    merged = _merged(main, changed)
    contents = _Contents.read(repository, main, merged, neighbourhood(changed, {*main, *merged}))
    files = [contents.changed(relative) for relative in tuned_paths(changed)]
    found = prove(contents.merged, rules.registries.devices, rules.exceptions)
    found = found or planning.plan_refusals(files, rules.registries)
    if found:
        return PlanOutcome(None, tuple(_with_hint(found, changed)))
    plan = Plan(request.number, request.head_sha, request.base_sha, planning.legs(files, rules.registries))
    document = plan.to_json()
    if why := why_too_large(document):
        return PlanOutcome(None, (refused(ROOT, "size", why, "split the change over several pull requests"),))
    for fault in schemas.faults("plan", document):
        raise CommitError("plan", shown(f"{fault.where}: {fault.message}"), "report it with this commit")
    return PlanOutcome(plan, ())


def check_head(request: PlanRequest, repository: Repository) -> None:
    """CommitError: the head isn't a commit of this repository, or the pull request was pushed anew since."""
    is_merged = request.number == MERGED
    where = "main" if is_merged else f"pull request {request.number}"
    reference = "refs/heads/main" if is_merged else f"refs/pull/{request.number}/head"
    here = None if is_merged else repository.ref(reference)  # main may go on: each push has a run of its own
    if here is not None and here != request.head_sha:
        message = f"expected its head at {request.head_sha[:12]}, found {shown(here[:12])}"
        fix = "it was pushed anew: look at the new commit and start again with it"
        raise CommitError(where, message, fix)
    if not repository.has_commit(request.head_sha):
        message = f"expected the commit {request.head_sha[:12]} in this repository, found none"
        fix = f"git fetch origin +{reference}:{reference}; if it was pushed anew, start again with its head"
        raise CommitError(where, message, fix)


def neighbourhood(changed: Sequence[Change], paths: set[str]) -> set[str]:
    """The paths that the rules look at together with the changed ones: records, twins, the same name in all tiers."""
    names = {_stem(change.path) for change in changed}
    return {path for path in paths if _stem(path) in names}


def _stem(path: str) -> str:
    return PurePosixPath(path).stem.removesuffix("_down")


def _merged(main: Tree, changed: Sequence[Change]) -> Tree:
    """Main's files with the pull request's changes: what a merge would leave."""
    removed = {change.path for change in changed if change.after is None}
    kept = {path: entry for path, entry in main.items() if path not in removed}
    return {**kept, **{change.path: change.after for change in changed if change.after is not None}}


@dataclass(frozen=True)
class _Contents:
    """The bytes of the files in question, as main has them and as they would be merged."""

    main: Mapping[str, bytes]
    merged: Mapping[str, bytes]

    @classmethod
    def read(cls, repository: Repository, main: Tree, merged: Tree, paths: set[str]) -> _Contents:
        blobs = repository.blobs(tree[path].sha for path in sorted(paths) for tree in (main, merged) if path in tree)
        before, after = ({path: blobs[tree[path].sha] for path in paths & tree.keys()} for tree in (main, merged))
        return cls(before, after)

    def changed(self, relative: PurePosixPath) -> Changed:
        claimed, main = (
            Version(relative, files.get(config_path(relative)), files.get(records_path(relative)))
            for files in (self.merged, self.main)
        )
        return Changed(claimed, main)


def _with_hint(found: Sequence[Finding], changed: Sequence[Change]) -> list[Finding]:
    """An unknown device is most likely one that the same pull request adds to the registry."""
    if not touches_registry(changed):
        return list(found)
    fix = "the registry counts as main has it: add the device in a pull request of its own first"
    return [replace(finding, fix=fix) if finding.rule == "device" else finding for finding in found]
