"""What a pull request changes against its merge base, which of it is data at all, and what may not be merged. Pure.

Only regular files below configs/ under names of the store's grammar are data. Everything else is refused by its name
and mode, before a byte of it is read.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath

from fused_moe_configs.evidence import evidence_sha256, is_signed
from kernels.launch_config import LaunchConfig
from tools.findings import Finding, Severity
from tools.git import EXECUTABLE, REGULAR, SUBMODULE, SYMLINK, Entry, is_sha
from tools.store.config_file import ConfigFile
from tools.store.files import RECORD, TUNED_FILE, Content, content_of, sha256
from tools.store.record import Source
from tools.store.strict_json import Json
from tools.store.tiers import DEFAULT_TIER, LEGACY, RECORDS, REGISTRY, Found, Role, role_in_repo
from tools.store.workload import Workload, parse_file_name
from tools.text import counted, shown

ROOT = "configs"

WHEELS_ROOT = "fused_moe_configs/configs"
"""Where the build puts the data into a wheel. In a checkout the loader would read what lies there instead of main's."""

MAX_CHANGED_FILES = 1000
"""Files that one pull request may change: files and records of about 500 workloads."""

LONGEST_NAME = 200
"""Characters of a file's name. The longest real one has about 130."""

KINDS: Mapping[str, str] = {
    REGULAR: "a plain file",
    SYMLINK: "a symbolic link",
    SUBMODULE: "a submodule",
    EXECUTABLE: "an executable file",
}
"""What each mode of a tree's entry stands for."""


@dataclass(frozen=True)
class Change:
    """A path and what stands there before and after; None: nothing."""

    path: str
    before: Entry | None
    after: Entry | None

    @property
    def relative(self) -> PurePosixPath | None:
        """The path below configs/, None outside it or where the path isn't spelt plainly."""
        parts = self.path.split("/")
        if parts[0] != ROOT or len(parts) < 2 or not all(parts) or {".", ".."} & set(parts):
            return None
        return PurePosixPath(*parts[1:])

    @property
    def role(self) -> Role:
        """What the file is for, by its place."""
        return Role.FOREIGN if self.relative is None else role_in_repo(self.relative)


def changes(before: Mapping[str, Entry], after: Mapping[str, Entry]) -> tuple[Change, ...]:
    """Every path whose mode or content differs, sorted. A rename is a removal and an addition."""
    paths = sorted(path for path in before.keys() | after.keys() if before.get(path) != after.get(path))
    return tuple(Change(path, before.get(path), after.get(path)) for path in paths)


def below_root(changed: Iterable[Change]) -> tuple[Change, ...]:
    """Those below configs/, or in its very place."""
    return tuple(filter(_is_below_root, changed))


def tuned_paths(changed: Iterable[Change]) -> tuple[PurePosixPath, ...]:
    """The tuned files, below configs/, that a change touches itself or by their records; each once, sorted."""
    found = {
        PurePosixPath(*relative.parts[1:]) if change.role is Role.RECORD else relative
        for change in changed
        if (relative := change.relative) is not None and change.role in (Role.CONFIG, Role.RECORD)
    }
    return tuple(sorted(found))


def touches_registry(changed: Iterable[Change]) -> bool:
    """Whether a registry is changed: what it says counts only once it is on main."""
    return any(change.relative is not None and change.relative.parts[0] == REGISTRY for change in changed)


def path_refusals(changed: Sequence[Change]) -> list[Finding]:
    """Why a pull request's files are no data, by their number, places, modes and names. Empty: they may be read."""
    if found := count_refusals(changed):
        return found
    outside = [change for change in changed if change.path.partition("/")[0] != ROOT]
    if outside:
        message = f"expected changes below {ROOT}/ only, found {len(outside)} outside"
        fix = "open a pull request of its own for code, which is reviewed by itself"
        return [refused(outside[0].path, "outside", message, fix)]
    return [finding for change in changed for finding in _faults(change)]


def count_refusals(changed: Sequence[Change]) -> list[Finding]:
    """Why there are more files than one pull request may change. Empty: there aren't."""
    if len(changed) <= MAX_CHANGED_FILES:
        return []
    message = f"expected at most {MAX_CHANGED_FILES} changed files, found {len(changed)}"
    return [refused(ROOT, "count", message, "split the change over several pull requests")]


def oversized(changed: Iterable[Change], sizes: Mapping[str, int], most: int) -> list[Finding]:
    """The files that are larger than `most` bytes, by the sizes of their blobs."""
    return [
        refused(
            change.path,
            "size",
            f"expected at most {most} bytes, found {sizes[change.after.sha]}",
            "make it smaller: nothing larger is read",
        )
        for change in changed
        if change.after is not None and sizes[change.after.sha] > most
    ]


def refused(path: str, rule: str, message: str, fix: str) -> Finding:
    """An error about a path that may be hostile: it is shown on one line, and cut."""
    return Finding(shown(path), rule, Severity.ERROR, shown(message, 500), shown(fix, 500))


def mode_fault(change: Change) -> Finding | None:
    """What is wrong with a file below configs/ that isn't plain; None: it is, it goes, or it lies elsewhere."""
    after = change.after
    if after is None or (after.mode, after.kind) == (REGULAR, "blob") or not _is_below_root(change):
        return None
    found = KINDS.get(after.mode, f"mode {shown(after.mode, 10)}")
    message = f"expected a regular file (mode {REGULAR}), found {found}"
    return refused(change.path, "mode", message, "commit it as a plain file")


def _second_root_fault(change: Change) -> Finding | None:
    """What is wrong with data beside main's own, which nothing proves and every reader would get. None: it is none."""
    if change.after is None or not f"{change.path}/".startswith(f"{WHEELS_ROOT}/"):
        return None
    message = f"expected data below {ROOT}/ only, found a file where the build puts it into a wheel"
    return refused(change.path, "outside", message, f"move it to {ROOT}/, or remove it")


def _is_below_root(change: Change) -> bool:
    return change.path.partition("/")[0] == ROOT


def _faults(change: Change) -> Iterator[Finding]:
    if change.after is None:
        return  # what is taken away can do no harm
    if found := mode_fault(change):
        yield found
        return
    relative = change.relative
    if relative is None or change.role is Role.FOREIGN:
        message = "expected a tuned file, a record or a registry, found another path"
        fix = "configs/README.md says which files belong where; remove the others"
        yield refused(change.path, "foreign-file", message, fix)
        return
    if change.role is Role.KNOWN:
        return
    if len(relative.name) > LONGEST_NAME:
        message = f"expected a name of at most {LONGEST_NAME} characters, found {len(relative.name)}"
        yield refused(change.path, "file-name", message, "name it by the grammar in configs/README.md")
        return
    for fault in parse_file_name(relative.name).faults[:1]:
        yield refused(change.path, "file-name", fault.message, fault.fix)


def records_path(relative: PurePosixPath) -> str:
    """From the root of the repository, the path of the record of the tuned file `relative`."""
    return f"{ROOT}/{RECORDS}/{relative}"


def config_path(relative: PurePosixPath) -> str:
    """From the root of the repository, the path of the tuned file `relative`."""
    return f"{ROOT}/{relative}"


# Both sides of a changed file: bytes that lie nowhere, read with the same core as files on disk.

_LARGEST = 1e300
"""A record may hold an integer that no float can."""

_BATCH_SIZE = re.compile(r"[1-9][0-9]{0,6}", re.ASCII)


@dataclass(frozen=True)
class Version:
    """A tuned file and its record as one side of a change has them. data None: there is no file."""

    relative: PurePosixPath
    data: bytes | None
    record_data: bytes | None

    @cached_property
    def file(self) -> ConfigFile:
        """The file, read; without bytes it has no entries."""
        content = Content(None, None, ()) if self.data is None else content_of(self.data, TUNED_FILE)
        found = Found(Path(self.relative), Path(), self.relative, Role.CONFIG)
        return ConfigFile(found, parse_file_name(self.relative.name), content)

    @property
    def exists(self) -> bool:
        return self.data is not None

    @property
    def workload(self) -> Workload | None:
        return self.file.workload

    @property
    def entries(self) -> Mapping[int, LaunchConfig]:
        return self.file.launch_configs

    @property
    def tier(self) -> str:
        return tier_of(self.relative)

    @cached_property
    def record(self) -> Mapping[str, Json]:
        """The record's fields; empty where there is none that can be read."""
        document = None if self.record_data is None else content_of(self.record_data, RECORD).document
        return document if isinstance(document, dict) else {}

    @property
    def is_measured(self) -> bool:
        """Whether the record says that the file was measured with this project's tuner."""
        return self.exists and self.record.get("source") == Source.MEASURED

    @property
    def is_signed(self) -> bool:
        """Whether the record's `verified` names this very evidence and these bytes of the file."""
        bytes_sha256 = None if self.data is None else sha256(self.data)
        return is_signed(self.record) and self.record.get("config_sha256") == bytes_sha256

    @property
    def rows(self) -> Mapping[int, Mapping[str, Json]]:
        """The record's rows by batch size, as far as they are rows of batch sizes."""
        rows = self.record.get("rows")
        found = rows.items() if isinstance(rows, dict) else ()
        return {int(key): row for key, row in found if _BATCH_SIZE.fullmatch(key) and isinstance(row, dict)}

    def medians_us(self, figure: str = "latency_us") -> Mapping[int, float]:
        """Median of one of the record's figures by batch size, where it has that figure; on vLLM's kernel if it says.

        As a bench measures it: `RecordedRow.on_benchs_kernel`.
        """
        medians = {num_tokens: _median_us(_on_benchs_kernel(row).get(figure)) for num_tokens, row in self.rows.items()}
        return {num_tokens: median for num_tokens, median in medians.items() if median is not None}


def tier_of(relative: PurePosixPath) -> str:
    """`default`, `legacy_configs` or `triton_X_Y_Z`."""
    return DEFAULT_TIER if len(relative.parts) == 1 else relative.parts[0]


def _on_benchs_kernel(row: Mapping[str, Json]) -> Mapping[str, Json]:
    by_engine = row.get("by_engine")
    found = by_engine.get("vllm") if isinstance(by_engine, dict) else None
    return {**row, **found} if isinstance(found, dict) else row


def _median_us(latency: Json) -> float | None:
    median = latency.get("median") if isinstance(latency, dict) else None
    if not isinstance(median, int | float) or isinstance(median, bool) or median <= 0:
        return None
    return float(min(median, _LARGEST))


# What the required check refuses of a change to configs/: evidence that isn't main's own, and files that aren't plain.
# `plan` refuses it too, but no merge waits for a plan.

OWN_BRANCHES = "verify/"
"""Where verify.yml pushes what it proposes, under the name of the commit that it measured."""


def verified_commit(head: str, home: str) -> str | None:
    """The commit that verify.yml measured, where `head` is its own branch; None: it is any other branch.

    head: OWNER/NAME:BRANCH, as GitHub gives it for a pull request's head. home: OWNER/NAME of this repository. In a
    fork a branch may have any name; in this repository only who may write to it makes one.
    """
    repository, _, branch = head.partition(":")
    commit = branch.removeprefix(OWN_BRANCHES)
    is_own = bool(home) and repository == home and branch.startswith(OWN_BRANCHES) and is_sha(commit)
    return commit if is_own else None


BESIDE = (
    "configs/",
    "docs/",
    "fused_moe_configs/",
    "kernels/",
    "tests/",
    "tools/canary/",
    "tools/convert/",
    "tools/github/",
    "tools/nightly/",
    "tools/release/",
    "tools/tune/",
)
"""What one pull request may change together with evidence, beside texts: nothing here decides whether evidence passes.

Whatever is not named here does, also a path that nobody has thought of yet: Python finds `json.py` before its own. So
do the bench and what takes the times, by which main's own run signs what was merged with them; of the kernel, each
record has the hash.
"""

JUDGES = frozenset(
    {
        "configs/registry/devices.json",
        "configs/registry/engines.json",
        "configs/registry/models.json",
        "fused_moe_configs/__init__.py",
        "fused_moe_configs/backends.py",
        "fused_moe_configs/evidence.py",
        "fused_moe_configs/lookup.py",
        "fused_moe_configs/naming.py",
        "fused_moe_configs/registry.py",
        "fused_moe_configs/serving.py",
        "fused_moe_configs/spelling.py",
        "kernels/__init__.py",
        "kernels/launch_config.py",
        "kernels/problem.py",
    }
)
"""What this gate and the validator read or import from those folders: whose GPU it was, how fast that is, how models
are split over ranks, and which shapes stand behind a name.

tests/packaging/test_code_owners.py proves the imports whole.
"""

_IN_PLACE_OF_JUDGES = tuple(f"{judge.removesuffix('.py')}{end}" for judge in sorted(JUDGES) for end in ("/", "."))
"""How the paths begin that Python takes for such a module before its file: a package, or one that was compiled."""


def decides(path: str) -> bool:
    """Whether a file belongs to what judges evidence: the gate, all that it imports, and what runs it.

    Also what is read in its place: a package `evidence/` or a compiled `evidence.abi3.so` beside evidence.py, Python's
    own cache, and git's attributes, by which a checkout holds other bytes than the commit.
    """
    is_text = "/" not in path and path.endswith(".md")
    folders, name = path.split("/")[:-1], path.rpartition("/")[2]
    is_instead = path.startswith(_IN_PLACE_OF_JUDGES) or "__pycache__" in folders or name == ".gitattributes"
    return path in JUDGES or is_instead or not (is_text or path.startswith(BESIDE))


def merge_refusals(
    changed: Iterable[Change], versions: Iterable[tuple[Version, Version]], commit: str | None
) -> list[Finding]:
    """A finding for each file that may not be merged. commit: as `verified_commit` has it.

    A change is judged as a whole: verify's own branch, whose word is taken, may bring nothing but that word.
    """
    plain, found = [], []
    for change in changed:
        fault = mode_fault(change) or _second_root_fault(change)
        found += [fault] if fault else []
        plain += [] if fault else [change]
    if commit is not None:
        found += [beyond_word(change.path) for change in plain if not _is_kept_record(change)]
    found += [finding for pair in versions for finding in _evidence(*pair, commit)]
    if commit is None:
        found += _judge_and_judged(plain)
    return list(dict.fromkeys(found))


def queue_refusals(versions: Iterable[tuple[Version, Version]]) -> list[Finding]:
    """The same for a merge queue, whose pull requests have passed one by one: main's word must name what they leave.

    Two that were sound alone may together put it on evidence that nobody measured.
    """
    after = [version for _, version in versions]
    stale = [version for version in after if version.record.get("verified") is not None and not version.is_signed]
    return [unearned(records_path(version.relative)) for version in stale]


def figure_refusals(
    versions: Iterable[tuple[Version, Version]], standing: Mapping[PurePosixPath, Sequence[Version]]
) -> list[Finding]:
    """A finding for each file whose readers would lose measured figures for others', and for measured legacy files.

    standing: of each file that changed, what its readers get without it. Two pull requests that were sound alone may
    do this together, so a merge queue asks too.
    """
    return [finding for pair in versions for finding in _figures(*pair, standing.get(pair[1].relative, ()))]


def _figures(before: Version, after: Version, standing: Sequence[Version]) -> Iterator[Finding]:
    if not (after.exists and after.record):
        return  # what has no record that can be read is the validator's
    path, is_added = records_path(after.relative), not before.exists
    if after.is_measured:
        if is_added and after.tier == LEGACY:
            message = "expected figures of another project among the legacy ones, found measured ones"
            yield refused(
                path, "figures", message, "leave the file in the tier of the Triton that it was measured with"
            )
    elif before.is_measured:
        message = "source: expected measured, as main's record of this file has it, found other figures in their place"
        yield refused(path, "figures", message, "measure the file (nox -s tune), or leave main's as it is")
    elif is_added and (lost := next((version for version in standing if version.is_measured), None)):
        message = (
            f"source: expected measured, since {config_path(lost.relative)} is, which its readers get without it, "
            "found other figures"
        )
        yield refused(path, "figures", message, "measure the file (nox -s tune), or leave it out")


def _judge_and_judged(changed: Sequence[Change]) -> list[Finding]:
    """A change that brings evidence and what judges it is judged by nobody."""
    judges = [change.path for change in changed if decides(change.path)]
    evidence = [change.path for change in changed if change.role in (Role.CONFIG, Role.RECORD)]
    if not (judges and evidence):
        return []
    files = "tuned file or record" if len(evidence) == 1 else "tuned files or records"
    message = (
        f"expected no change to what judges evidence beside {len(evidence)} changed {files}, "
        f"found {counted(len(judges), 'file')} of it"
    )
    return [refused(judges[0], "own-judge", message, "open a pull request of its own for it, which goes first")]


def beyond_word(path: str) -> Finding:
    """Of what a branch of verify's changes besides `verified`."""
    message = f"expected a branch {OWN_BRANCHES}… to change `verified` alone, found another change"
    return refused(path, "verified", message, "propose it from a branch of its own, with another name")


def _is_kept_record(change: Change) -> bool:
    return change.role is Role.RECORD and change.before is not None and change.after is not None


def writes_verified(before: Version, after: Version) -> bool:
    """Main's own word may stay as it is, as long as it names what lies there; taken away it may be too."""
    said = after.record.get("verified")
    return said is not None and (said != before.record.get("verified") or not after.is_signed)


def has_same_evidence(before: Version, after: Version) -> bool:
    """Whether nothing differs that was measured: `verified` and the models' names may."""
    return (
        before.data == after.data
        and (before.record_data is None) == (after.record_data is None)
        and evidence_sha256(before.record) == evidence_sha256(after.record)
        and (bool(before.record) or before.record_data == after.record_data)
    )


def unearned(path: str) -> Finding:
    """Of a record that says `verified`, by its path."""
    message = "verified: expected null, found evidence that only main's own run may write"
    return refused(path, "verified", message, "set it to null: it is written after the merge")


def _evidence(before: Version, after: Version, commit: str | None) -> Iterator[Finding]:
    path = records_path(after.relative)
    if commit is not None and before.record_data != after.record_data and not _has_new_word_only(before, after):
        yield beyond_word(path)
    elif writes_verified(before, after) and not (commit and _is_of(commit, after)):
        yield unearned(path)


def _is_of(commit: str, after: Version) -> bool:
    """Whether main's word says that this very commit was measured, and names what lies here."""
    said = after.record.get("verified")
    return isinstance(said, dict) and said.get("commit") == commit and after.is_signed


def _has_new_word_only(before: Version, after: Version) -> bool:
    """Whether `verified` is all that differs, models' names not excepted."""
    return bool(before.record) and before.data == after.data and _rest(before.record) == _rest(after.record)


def _rest(record: Mapping[str, Json]) -> dict[str, Json]:
    return {key: value for key, value in record.items() if key != "verified"}
