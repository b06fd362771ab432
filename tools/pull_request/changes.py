"""What a pull request changes against its merge base, and which of it is data at all. Pure.

Only regular files below configs/ under names of the store's grammar are data. Everything else is refused by its name
and mode, before a byte of it is read.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from tools.findings import Finding, Severity
from tools.git import EXECUTABLE, REGULAR, SUBMODULE, SYMLINK, Entry
from tools.store.tiers import RECORDS, REGISTRY, Role, role_in_repo
from tools.store.workload import parse_file_name
from tools.text import shown

ROOT = "configs"

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
    if len(changed) > MAX_CHANGED_FILES:
        message = f"expected at most {MAX_CHANGED_FILES} changed files, found {len(changed)}"
        return [refused(ROOT, "count", message, "split the change over several pull requests")]
    outside = [change for change in changed if change.path.partition("/")[0] != ROOT]
    if outside:
        message = f"expected changes below {ROOT}/ only, found {len(outside)} outside"
        fix = "open a pull request of its own for code, which is reviewed by itself"
        return [refused(outside[0].path, "outside", message, fix)]
    return [finding for change in changed for finding in _faults(change)]


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
        fix = "see configs/README.md for what lies where; remove the others"
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
