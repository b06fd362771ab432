"""The compile check: plans the distinct kernels of tuned files, compiles them, and says which rows are wrong."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from tools.checkout import reference_triton
from tools.compile.outcome import SPILL_LIMIT_BYTES, CompileOutcome, Resources, Status
from tools.compile.plan import Binary, CompilePlan, FileRow, Note, RejectedRow, Unread, make_plan, unread_of
from tools.compile.pool import CompilePool
from tools.findings import Finding, Report, Severity, ordered
from tools.registry.devices import Device, DeviceRegistry
from tools.registry.models import ModelRegistry
from tools.store.config_file import ConfigFile
from tools.store.files import version_folder
from tools.store.tiers import Found, Role, version_of_folder
from tools.text import shown_path

OnProgress = Callable[[int, int], None]
"""Called with the kernels done and the kernels in all."""


@dataclass(frozen=True)
class Registries:
    """What the check knows of devices and models."""

    devices: DeviceRegistry
    models: ModelRegistry


@dataclass(frozen=True)
class CheckSummary:
    """The table at the end: files, distinct kernels, wall seconds, outcomes by status."""

    files: int
    kernels: int
    seconds: float
    outcomes: dict[str, int]


@dataclass(frozen=True)
class CheckResult:
    """All findings, and the summary."""

    report: Report
    summary: CheckSummary


def split_by_triton(
    files: Iterable[ConfigFile], triton_version: str
) -> tuple[list[ConfigFile], list[tuple[ConfigFile, str]]]:
    """The files whose own Triton is `triton_version`, and the others with theirs.

    A file's own Triton is its folder's; the default and legacy tiers and flat layouts run the reference. One that
    can't be read is among the first, whatever its folder: that is said of it under every Triton.
    """
    wanted = version_folder(triton_version)
    own: list[ConfigFile] = []
    others: list[tuple[ConfigFile, str]] = []
    for file in files:
        folder = file.found.folder
        if version_of_folder(folder) is None:
            folder = version_folder(reference_triton())
        if folder == wanted or unread_of(file):
            own.append(file)
        else:
            others.append((file, folder.removeprefix("triton_").replace("_", ".")))
    return own, others


def check(
    files: list[ConfigFile],
    registries: Registries,
    pool: CompilePool,
    on_progress: OnProgress,
) -> CheckResult:
    """Compiles every distinct kernel of the files."""
    started = time.monotonic()
    plan = make_plan(files, registries.devices, registries.models)
    findings = [*map(_unreadable, plan.unread), *map(_note, plan.notes), *_rejections(plan)]
    outcomes: Counter[str] = Counter()
    if plan.rejected:
        outcomes[Status.CONSTRAINTS] = len({(r.row.file.found.path, r.message) for r in plan.rejected})
    on_progress(0, len(plan.binaries))
    judged: list[tuple[Binary, CompileOutcome]] = []
    for index, outcome in pool.run(binary.task for binary in plan.binaries):
        outcomes[outcome.status] += 1
        judged.append((plan.binaries[index], outcome))
        on_progress(len(judged), len(plan.binaries))
    findings += judge(judged, registries.devices)
    compiled = {row.file.found.path for binary in plan.binaries for row in binary.rows}
    summary = CheckSummary(
        len(compiled), len(plan.binaries), time.monotonic() - started, dict(sorted(outcomes.items()))
    )
    return CheckResult(Report(len(files), ordered(findings)), summary)


def unchecked(others: Iterable[tuple[ConfigFile, str]], triton_version: str) -> list[Finding]:
    """One info for each file whose own Triton is another than the one that is installed."""
    return [
        Finding(
            shown_path(file.found.path),
            "another-triton",
            Severity.INFO,
            f"not compiled: it is for Triton {own}, this is {triton_version}",
            f"nox -s compile -- --triton {own}",
        )
        for file, own in others
    ]


def _unreadable(unread: Unread) -> Finding:
    return Finding(shown_path(unread.file.found.path), "unreadable", Severity.ERROR, unread.message, unread.fix)


def closed_folders(others: Iterable[Found]) -> list[Finding]:
    """An error for each folder that can't be listed: its files are not compiled."""
    message = "not compiled: expected a folder that can be listed, found one that can't be read"
    return [
        Finding(shown_path(found.path), "unreadable", Severity.ERROR, message, "make it readable")
        for found in others
        if found.role is Role.UNREADABLE
    ]


def _note(note: Note) -> Finding:
    rule = "assumed" if note.message.startswith("assumed") else "not-compiled"
    return Finding(shown_path(note.file.found.path), rule, Severity.INFO, note.message, note.fix)


def _rejections(plan: CompilePlan) -> Iterable[Finding]:
    groups: dict[tuple[str, str], list[RejectedRow]] = {}
    for rejected in plan.rejected:
        groups.setdefault((shown_path(rejected.row.file.found.path), rejected.message), []).append(rejected)
    for (path, message), group in groups.items():
        rows = rows_text([rejected.row for rejected in group])
        yield Finding(path, "constraints", Severity.ERROR, f"{rows}: {message}", "tune the entry again")


# ---------------------------------------------------------------
# What a compiled kernel's figures mean for the file: fits, does not fit, spills

GAVE_UP_REGISTERS = 32
GAVE_UP_FRAME_BYTES = 1024
"""ptxas that finds no allocation leaves 32 registers and a frame of kilobytes: it gave up."""


@dataclass(frozen=True)
class KernelFault:
    """One fault of a kernel, to be said once for each file that runs it."""

    rule: str
    severity: Severity
    message: str
    fix: str


def judge(judged: Iterable[tuple[Binary, CompileOutcome]], devices: DeviceRegistry) -> Iterator[Finding]:
    """The findings of compiled kernels: one a file and fault, naming every batch size and projection that runs it."""
    groups: dict[tuple[str, str, KernelFault], list[FileRow]] = {}
    for binary, outcome in judged:
        for row in binary.rows:
            workload = row.file.workload
            device = None if workload is None else devices.get(workload.device_name)
            for fault in _faults(outcome, device):
                groups.setdefault((shown_path(row.file.found.path), _config(binary), fault), []).append(row)
    for (path, config, fault), rows in groups.items():
        message = f"{rows_text(rows)} ({config}): {fault.message}"
        yield Finding(path, fault.rule, fault.severity, message, fault.fix)


def _faults(outcome: CompileOutcome, device: Device | None) -> Iterator[KernelFault]:
    if outcome.status is not Status.OK or outcome.resources is None:
        yield KernelFault(
            "does-not-compile" if outcome.status is Status.COMPILE else outcome.status.value,
            Severity.ERROR,
            f"expected a kernel, found {outcome.status}: {_first_line(outcome.message)}",
            "tune the entry again; the tuner never writes what doesn't compile",
        )
        return
    resources = outcome.resources
    limit = None if device is None else device.smem_bytes_per_block
    if device is not None and limit is not None and resources.smem_bytes > limit:
        yield KernelFault(
            "over-shared-memory",
            Severity.ERROR,
            f"expected at most {limit} bytes of shared memory a block on {device.name}, found {resources.smem_bytes} "
            f"({resources.smem_bytes - limit} too many)",
            "fewer stages or a smaller tile; tune the entry on this device",
        )
    yield from _spills(resources)


def _spills(resources: Resources) -> Iterator[KernelFault]:
    frame, registers = resources.frame_bytes or 0, resources.registers or 0
    if frame >= GAVE_UP_FRAME_BYTES and 0 < registers <= GAVE_UP_REGISTERS:
        yield KernelFault(
            "spills",
            Severity.ERROR,
            f"the assembler gave up: {registers} registers and {frame} bytes of stack a thread",
            "more warps or a smaller tile",
        )
    elif resources.spills:
        yield KernelFault(
            "spills",
            Severity.WARNING,
            f"expected at most {SPILL_LIMIT_BYTES} bytes of stack a thread, found {frame} ({registers} registers)",
            "more warps or a smaller tile; bench the entry against its neighbours",
        )


def rows_text(rows: list[FileRow]) -> str:
    """The batch sizes of the rows by projection."""
    by_projection: dict[str, list[int]] = {}
    for row in rows:
        by_projection.setdefault(row.projection, []).append(row.num_tokens)
    parts = [f"{name} {', '.join(map(str, sorted(set(sizes))))}" for name, sizes in sorted(by_projection.items())]
    return f"batch sizes {'; '.join(parts)}"


def _config(binary: Binary) -> str:
    config = binary.task.problem.config
    options = ", ".join(f"{key} {value}" for key, value in config.options)
    return f"{config.BLOCK_SIZE_M}×{config.BLOCK_SIZE_N}×{config.BLOCK_SIZE_K}, {options}"


def _first_line(message: str) -> str:
    lines = [line for line in message.splitlines() if line.strip()]
    return lines[0][:300] if lines else "no message"
