"""The plan: what a GPU runner may measure of a pull request, as numbers and members of enumerations.

Every launch config is read with the core and written anew. Shapes come from main's registry; one that only the pull
request's record names is taken within bounds and marked so.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import PurePosixPath

from fused_moe_configs.lookup import up_of
from kernels.problem import QuantMode
from tools.errors import UserError
from tools.findings import Finding, Severity
from tools.git import CommitError, Entry, Repository
from tools.measure.layer import LayerShape, memory_bytes
from tools.pull_request.changes import (
    ROOT,
    Change,
    Version,
    below_root,
    changes,
    config_path,
    has_same_evidence,
    oversized,
    path_refusals,
    records_path,
    refused,
    touches_registry,
    tuned_paths,
    unearned,
    writes_verified,
)
from tools.pull_request.commit_range import versions_at
from tools.pull_request.documents import MERGED, FileId, Leg, Plan, PlannedFile, PlannedShape
from tools.pull_request.served import Shelf
from tools.registry.devices import Device, DeviceRegistry
from tools.registry.models import ModelRegistry
from tools.registry.shapes import assumed_shape, quant_mode_of, registered_shapes, shapes_fault, why_not_measured
from tools.scratch import Scratch
from tools.store import schemas
from tools.store.workload import Layout, Shape, Workload
from tools.text import shown, shown_path
from tools.validate import runner
from tools.validate.exceptions import Exceptions
from tools.validate.model import Context
from tools.validate.rules.verified import NAME as VERIFIED_RULE

MEMORY_SHARE = 0.95
"""Of the registry's nominal size; driver and context take the rest."""

UNKNOWN_MEMORY_GIB = 32
"""Of a device whose memory the registry doesn't give."""

NO_RUNNERS = "none"
"""In place of the names of devices: none of them has a runner."""


@dataclass(frozen=True)
class Rules:
    """What decides besides the code: main's registries and exceptions, whatever the pull request does to them."""

    devices: DeviceRegistry
    models: ModelRegistry
    exceptions: Exceptions


@dataclass(frozen=True)
class Changed:
    """One tuned file as the pull request would leave it on main, and as main has it.

    today: what its readers get on main, which is another file where main has none of this path.
    """

    claimed: Version
    main: Version
    today: Version

    @property
    def workload(self) -> Workload | None:
        return self.claimed.workload

    @property
    def is_there(self) -> bool:
        """Whether there is anything to measure: a file on either side that isn't main's already, evidence and all.

        What only gained or lost main's own word is measured already, or verify would never come to rest; a word that
        names other evidence is none.
        """
        is_claimed = self.claimed.record.get("verified") is None
        same = has_same_evidence(self.main, self.claimed) and (is_claimed or self.claimed.is_signed)
        return not same and (self.claimed.exists or self.main.exists)


def legs(files: Iterable[Changed], rules: Rules) -> tuple[Leg, ...]:
    """The files by device, in the order of the devices' names. They have passed `plan_refusals`."""
    by_device: defaultdict[str, list[PlannedFile]] = defaultdict(list)
    for file in files:
        device = _device(file, rules)
        if file.workload is None or device is None or not file.is_there:
            continue
        if why_not_measured(file.workload, rules.models):  # one that goes
            continue
        by_device[device.name].append(
            PlannedFile(
                FileId(file.workload, file.claimed.tier),
                planned_shapes(file.workload, _recorded(file.claimed), rules.models),
                file.claimed.entries,
                file.today.entries,
                file.claimed.medians_us() if file.claimed.exists else {},
            )
        )
    return tuple(Leg(name, tuple(by_device[name])) for name in sorted(by_device))


def plan_refusals(files: Iterable[Changed], rules: Rules) -> list[Finding]:
    """Why files that the validator accepts are still not measured. Empty: every one of them may be."""
    return [finding for file in files if file.is_there for finding in _faults(file, rules)]


def unearned_evidence(files: Iterable[Changed]) -> list[Finding]:
    """A refusal for each record of a pull request that says `verified` by itself."""
    return [unearned(records_path(f.claimed.relative)) for f in files if writes_verified(f.main, f.claimed)]


def planned_shapes(workload: Workload, recorded: Sequence[Shape], models: ModelRegistry) -> tuple[PlannedShape, ...]:
    """The shapes that the record speaks of, so that its figures can be compared; else the registry's; else one."""
    known = [served.shape for served in registered_shapes(workload, models)]
    chosen = list(dict.fromkeys(recorded)) or known or [assumed_shape(workload.E)]
    return tuple(PlannedShape(shape, shape in known) for shape in chosen)


def _faults(file: Changed, rules: Rules) -> Iterator[Finding]:
    workload, device = file.workload, _device(file, rules)
    path = config_path(file.claimed.relative)
    if workload is None or device is None:
        message = "expected a workload on a device of main's registry, found another name"
        yield refused(path, "device", message, "add the device in a pull request of its own first")
        return
    if file.claimed.exists and (why := why_not_measured(workload, rules.models)):
        fix = "leave the file out, or add the model with a gate that has these sizes in a pull request of its own first"
        yield refused(path, "gate", why, fix)
        return
    if found := list(_record_faults(file, workload, rules.models)):
        yield from found  # shapes out of bounds say nothing about memory
        return
    most = int(MEMORY_SHARE * (device.memory_gib or UNKNOWN_MEMORY_GIB) * 2**30)
    largest = max([*file.claimed.entries, *file.today.entries], default=1)
    shapes = planned_shapes(workload, _recorded(file.claimed), rules.models)
    quant = quant_mode_of(workload) or QuantMode()  # of a dtype without a kernel, which nothing measures
    layers = [LayerShape.of(workload, planned.shape, quant) for planned in shapes]
    needed = memory_bytes(layers, largest)
    if needed > most:
        message = (
            f"expected it to be measured in at most {_gib(most)} of GPU memory ({MEMORY_SHARE:.0%} of {device.name}), "
            f"found {_gib(needed)} at batch size {largest}"
        )
        yield refused(path, "memory", message, "correct E and N in the name, or leave the largest batch sizes out")


def _record_faults(file: Changed, workload: Workload, models: ModelRegistry) -> Iterator[Finding]:
    if fault := shapes_fault(workload, _recorded(file.claimed), models):
        yield refused(records_path(file.claimed.relative), "shape", fault.message, fault.fix)


def _recorded(version: Version) -> tuple[Shape, ...]:
    """The record's shapes; what has none that can be read is refused by the validator."""
    shapes = version.record.get("shapes") if version.exists else None
    objects = [s for s in shapes if isinstance(s, dict)] if isinstance(shapes, list) else []
    named = [Shape.read(s) for s in objects if {"K", "top_k"} <= s.keys()]
    return tuple(shape for shape in named if all(type(size) is int for size in vars(shape).values()))


def _device(file: Changed, rules: Rules) -> Device | None:
    return None if file.workload is None else rules.devices.get(file.workload.device_name)


def _gib(num_bytes: int) -> str:
    return f"{num_bytes / 2**30:,.1f} GiB" if num_bytes < 2**70 else "over 2^40 GiB"


# The edge: from a commit to its checked plan. Reads the objects, has them proved, gathers every refusal.

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
class PlanOutcome:
    """The plan, or why there is none. Beside a plan of what main has already: why files are left out of it."""

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
    today = _today(repository, main, tuned_paths(changed), rules.devices)
    files = [contents.changed(relative, today[relative]) for relative in tuned_paths(changed)]
    found = prove(contents.merged, rules)
    if request.number == MERGED:
        # A word that names other evidence came with a merge, or past the gate: it is measured, then signed or removed.
        found = [finding for finding in found if finding.rule != VERIFIED_RULE]
        found += plan_refusals(_without(files, found), rules)
        if any(not any(_is_about(finding, file) for file in files) for finding in found):
            return PlanOutcome(None, tuple(found))
        # One that no runner may measure keeps no other, merged with it, from its measurement.
        files = _without(files, found)
    elif found := unearned_evidence(files) or found or plan_refusals(files, rules):
        return PlanOutcome(None, tuple(_with_hint(found, changed)))
    plan = Plan(request.number, request.head_sha, request.base_sha, legs(files, rules))
    if why := plan.why_too_large:
        if request.number != MERGED:
            return PlanOutcome(None, (refused(ROOT, "size", why, "split the change over several pull requests"),))
        plan, beyond = plan.fitting()
        fix = "touch its record in a later change: then it is planned again"
        found += [refused(config_path(file.id.relative), "size", why, fix) for file in beyond]
    for fault in schemas.faults("plan", plan.to_json()):
        raise CommitError("plan", shown(f"{fault.where}: {fault.message}"), "report it with this commit")
    return PlanOutcome(plan, tuple(found))


def _without(files: Iterable[Changed], found: Sequence[Finding]) -> list[Changed]:
    return [file for file in files if not any(_is_about(finding, file) for finding in found)]


def _is_about(finding: Finding, file: Changed) -> bool:
    """Whether it is about that tuned file, its record, or the folder that one of them lies in."""
    paths = config_path(file.claimed.relative), records_path(file.claimed.relative)
    return any(f"{shown(path)}/".startswith(f"{finding.path}/") for path in paths)


def check_head(request: PlanRequest, repository: Repository) -> None:
    """CommitError: the head isn't a commit of this repository, or the pull request was pushed to since."""
    is_merged = request.number == MERGED
    where = "main" if is_merged else f"pull request {request.number}"
    reference = "refs/heads/main" if is_merged else f"refs/pull/{request.number}/head"
    here = None if is_merged else repository.ref(reference)  # main may go on: each push has a run of its own
    if here is not None and here != request.head_sha:
        message = f"expected its head at {request.head_sha[:12]}, found {shown(here[:12])}"
        fix = "it was pushed to since: review the new commit and start again with it"
        raise CommitError(where, message, fix)
    if not repository.has_commit(request.head_sha):
        message = f"expected the commit {request.head_sha[:12]} in this repository, found none"
        fix = f"git fetch origin +{reference}:{reference}; if it was pushed to since, start again with its head"
        raise CommitError(where, message, fix)


def neighbourhood(changed: Sequence[Change], paths: set[str]) -> set[str]:
    """The paths that the rules look at together with the changed ones: records, twins, the same name in all tiers."""
    names = {_up_name(change.path) for change in changed}
    return {path for path in paths if _up_name(path) in names}


def _up_name(path: str) -> str:
    return up_of(PurePosixPath(path).name)


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

    def changed(self, relative: PurePosixPath, today: Version) -> Changed:
        claimed, main = (
            Version(relative, files.get(config_path(relative)), files.get(records_path(relative)))
            for files in (self.merged, self.main)
        )
        return Changed(claimed, main, today)


def _today(
    repository: Repository, main: Tree, paths: Sequence[PurePosixPath], devices: DeviceRegistry
) -> dict[PurePosixPath, Version]:
    """By each changed file's path what its readers get on main: that very file, else what the loader's chain serves."""
    shelf = Shelf.of(main, devices)
    places = {path: path if path in shelf.paths else shelf.instead_of(path) or path for path in paths}
    read = versions_at(repository, main, set(places.values()))
    return {path: read[place] for path, place in places.items()}


def _with_hint(found: Sequence[Finding], changed: Sequence[Change]) -> list[Finding]:
    """An unknown device is most likely one that the same pull request adds to the registry."""
    if not touches_registry(changed):
        return list(found)
    fix = "the registry counts as main has it: add the device in a pull request of its own first"
    return [replace(finding, fix=fix) if finding.rule == "device" else finding for finding in found]


# The validator's rules on files that lie nowhere yet: they are written to a temporary tree and proved there.


def prove(files: Mapping[str, bytes], rules: Rules) -> list[Finding]:
    """Every error that the rules find in these files, by paths from the root of the repository.

    The paths have passed `path_refusals`: they are names of the grammar below configs/.
    """
    with Scratch("fused-moe-configs-") as folder:
        root = folder.resolve()
        for path, data in files.items():
            target = root / path
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(data)
        if not files:
            return []
        context = Context(Layout.REPO, rules.devices, rules.models)
        report = runner.validate([root / "configs"], context, rules.exceptions)
        prefix = f"{shown_path(root)}/"
        return [
            replace(finding, path=shown(finding.path.removeprefix(prefix)), message=_short(finding.message, prefix))
            for finding in report.findings
            if finding.severity is Severity.ERROR
        ]


def _short(message: str, prefix: str) -> str:
    return shown(message.replace(prefix, ""), 500)


# Which devices have a runner, as the variable GPU_DEVICES of the repository says it.


class RunnersError(UserError):
    """A device that the registry doesn't know."""


def with_runner(text: str, devices: DeviceRegistry) -> frozenset[str]:
    """The devices' names as the registry writes them, from names or aliases with commas.

    Empty: every device has one. `none`: no device has one, as in a repository without runners of its own.
    RunnersError: one that isn't in the registry.
    """
    names = [name.strip() for name in text.split(",") if name.strip()]
    if not names:
        return frozenset(device.name for device in devices)
    if names == [NO_RUNNERS]:
        return frozenset()
    found = {name: devices.get(name) for name in names}
    unknown = [name for name, device in found.items() if device is None]
    if unknown:
        found_name = shown(unknown[0], 60)
        raise RunnersError(
            f"--runners: expected names of configs/registry/devices.json with commas, found {found_name!r}. "
            "Fix: correct the repository's variable GPU_DEVICES."
        )
    return frozenset(device.name for device in found.values() if device is not None)
