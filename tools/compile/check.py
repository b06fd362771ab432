"""The compile check: plans the distinct kernels of tuned files, compiles them, and says what is wrong with whom."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from tools.checkout import reference_triton
from tools.compile.outcome import Outcome, Status
from tools.compile.plan import Kernel, Note, Plan, Rejected, make_plan
from tools.compile.pool import CompilePool
from tools.compile.rules import judge, rows_text
from tools.findings import Finding, Report, Severity, ordered
from tools.registry.devices import DeviceRegistry
from tools.registry.models import ModelRegistry
from tools.store.config_file import ConfigFile
from tools.store.files import version_folder
from tools.store.tiers import version_of_folder
from tools.text import shown_path

Progress = Callable[[int, int], None]
"""Called with the kernels done and the kernels in all."""


@dataclass(frozen=True)
class Registries:
    """What the check knows of devices and models."""

    devices: DeviceRegistry
    models: ModelRegistry


@dataclass(frozen=True)
class Summary:
    """The table at the end: files, distinct kernels, wall seconds, outcomes by status."""

    files: int
    kernels: int
    seconds: float
    outcomes: dict[str, int]


@dataclass(frozen=True)
class Result:
    """All findings, and the summary."""

    report: Report
    summary: Summary


def split_by_triton(
    files: Iterable[ConfigFile], triton_version: str
) -> tuple[list[ConfigFile], list[tuple[ConfigFile, str]]]:
    """The files whose own Triton is `triton_version`, and the others with theirs.

    A file's own Triton is its folder's; the default and legacy tiers and flat layouts run the reference.
    """
    wanted = version_folder(triton_version)
    own: list[ConfigFile] = []
    others: list[tuple[ConfigFile, str]] = []
    for file in files:
        folder = file.found.folder
        if version_of_folder(folder) is None:
            folder = version_folder(reference_triton())
        if folder == wanted:
            own.append(file)
        else:
            others.append((file, folder.removeprefix("triton_").replace("_", ".")))
    return own, others


def check(
    files: list[ConfigFile],
    registries: Registries,
    pool: CompilePool,
    on_progress: Progress,
) -> Result:
    """Compiles every distinct kernel of the files."""
    started = time.monotonic()
    plan = make_plan(files, registries.devices, registries.models)
    findings = [*map(_note, plan.notes), *_rejections(plan)]
    outcomes: Counter[str] = Counter()
    if plan.rejected:
        outcomes[Status.CONSTRAINTS] = len({(r.row.file.found.path, r.message) for r in plan.rejected})
    on_progress(0, len(plan.kernels))
    judged: list[tuple[Kernel, Outcome]] = []
    for index, outcome in pool.run(kernel.task for kernel in plan.kernels):
        outcomes[outcome.status] += 1
        judged.append((plan.kernels[index], outcome))
        on_progress(len(judged), len(plan.kernels))
    findings += judge(judged, registries.devices)
    summary = Summary(len(files), len(plan.kernels), time.monotonic() - started, dict(sorted(outcomes.items())))
    return Result(Report(len(files), ordered(findings)), summary)


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


def _note(note: Note) -> Finding:
    rule = "assumed" if note.message.startswith("assumed") else "not-compiled"
    return Finding(shown_path(note.file.found.path), rule, Severity.INFO, note.message, note.fix)


def _rejections(plan: Plan) -> Iterable[Finding]:
    groups: dict[tuple[str, str], list[Rejected]] = {}
    for rejected in plan.rejected:
        groups.setdefault((shown_path(rejected.row.file.found.path), rejected.message), []).append(rejected)
    for (path, message), group in groups.items():
        rows = rows_text([rejected.row for rejected in group])
        yield Finding(path, "constraints", Severity.ERROR, f"{rows}: {message}", "tune the entry again")
