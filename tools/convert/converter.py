"""From an engine's folder of tuned files to this store: names, keys, canonical bytes, and a record for each.

No value changes. Rows that leave Triton its defaults for num_warps and num_stages get them written, which runs the same
and is said. What can't be taken, a name with further parts (`backend=`) among it, is a finding. So is what `validate`
would refuse where it is to lie: it is left out, and stays where it came from.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path, PurePosixPath

from tools.checkout import reference_triton
from tools.findings import Finding, Severity
from tools.registry.models import ModelRegistry
from tools.registry.shapes import registered_shapes
from tools.scratch import Scratch
from tools.store import schemas
from tools.store.config_file import MAY_BE_SILENT, filled_in, silent_rows
from tools.store.files import (
    TUNED_FILE,
    canonical_config,
    discover,
    lock,
    read_file,
    record_path,
    sha256,
    version_folder,
    write_file,
)
from tools.store.other_kernels import other_kernel
from tools.store.record import Record, Source
from tools.store.rows import rows_text
from tools.store.strict_json import Json
from tools.store.tiers import LEGACY, Found, Role, version_of_folder, why_no_version_tier, why_skipped
from tools.store.workload import Layout, Workload, parse_file_name
from tools.text import shown_path
from tools.validate import runner
from tools.validate.exceptions import Exceptions
from tools.validate.model import Context

RULE = "convert"


@dataclass(frozen=True)
class Taken:
    """A file ready to be written: where below the configs folder, its bytes, its record.

    filled_in: what was written into rows that were silent, in words; empty where none was. is_explained: a registered
    model has its E and N on a rank.
    """

    source: Path
    relative: PurePosixPath
    config: bytes
    record: bytes
    filled_in: str = ""
    is_explained: bool = True

    @property
    def name(self) -> str:
        return self.relative.name


@dataclass(frozen=True)
class Attribution:
    """Where files come from and whom their records name."""

    layout: Layout
    attribution: str
    day: date


def convert(
    found: Iterable[Found], source: Attribution, models: ModelRegistry
) -> tuple[tuple[Taken, ...], tuple[Finding, ...]]:
    """Every file that can be taken over, and a finding for each that can't. Pure but for reading the files.

    An info where a file is another kernel's, and where rows were filled in: nothing of ours was left behind.
    """
    taken: dict[PurePosixPath, Taken] = {}
    findings: list[Finding] = []
    for file in found:
        if file.role is Role.UNREADABLE:
            findings.append(_refused(file.path, "a folder that can't be read", "make it readable"))
        if file.role is Role.SKIPPED:
            findings.append(_refused(file.path, *why_skipped(file, source.layout), Severity.WARNING))
        if file.role is Role.OTHER_KERNEL:
            findings.append(_other_kernels(file.path))
        if file.role is not Role.CONFIG:
            continue
        result = _convert_file(file, source, models)
        if isinstance(result, Finding):
            findings.append(result)
        elif (earlier := taken.get(result.relative)) is not None and earlier.config != result.config:
            other = shown_path(earlier.source)
            findings.append(_refused(file.path, f"stands for the same workload as {other!r}", "keep one of them"))
        else:
            taken[result.relative] = result
            if result.filled_in:
                findings.append(_refused(file.path, result.filled_in, "nothing to do: the same runs", Severity.INFO))
    return tuple(taken.values()), tuple(findings)


def hidden_by(file: Taken, destination: Path) -> Path | None:
    """The destination's default file, which the loader reads in place of an older figure; None: nothing hides it."""
    default = destination / file.name
    return default if file.relative.parts[0] == LEGACY and os.path.lexists(default) else None


def its_own_source(taken: Iterable[Taken], destination: Path) -> Path | None:
    """The first source that would be written onto itself, or into the very folder that it came from."""
    folder = destination.resolve()
    for file in taken:
        source = file.source.resolve()
        if source == folder / file.relative or source.parent == folder:
            return file.source
    return None


def write(taken: Iterable[Taken], destination: Path) -> tuple[tuple[Taken, ...], tuple[Finding, ...]]:
    """Writes records and configs below `destination`; returns what lies there now, and a finding for each that doesn't.

    Files that are there with other bytes are left alone. An info where a record that names another source is.
    """
    written: list[Taken] = []
    findings: list[Finding] = []
    for file in taken:
        try:
            with lock(destination):
                finding = _write_one(file, destination)
        except OSError as error:
            where = shown_path(Path(error.filename or destination))
            finding = _refused(file.source, f"{where} can't be written: {error.strerror}", "make room for it there")
        if finding is None or finding.severity is Severity.INFO:
            written.append(file)
        if finding is not None:
            findings.append(finding)
    return tuple(written), tuple(findings)


def refused_by_validate(
    taken: Iterable[Taken], destination: Path, context: Context, exceptions: Exceptions
) -> dict[Taken, tuple[Finding, ...]]:
    """What `validate` would say against files and their records once they lay below `destination`; nothing is written.

    An error names the source, or the record that is there already. OSError: no room for a copy of the store.
    """
    refused: dict[Taken, tuple[Finding, ...]] = {}
    with Scratch("convert-") as copy:
        _copy_store(destination, copy)
        left, _ = write(taken, copy)
        # Again without what was refused: a `_down` file can't stay without its up file.
        while errors := _errors(left, destination, copy, context, exceptions):
            refused |= errors
            left = tuple(file for file in left if file not in errors)
            for file in errors:
                (copy / file.relative).unlink()
                record_path(copy, file.relative).unlink()
    return refused


def _copy_store(store: Path, copy: Path) -> None:
    """Tuned files and records, for rules that look at several at once. Those that can't be read are left to `write`."""
    for file in discover([store], Layout.REPO) if store.exists() else ():
        if file.role in (Role.CONFIG, Role.RECORD):
            (copy / file.relative).parent.mkdir(parents=True, exist_ok=True)
            with contextlib.suppress(PermissionError, IsADirectoryError):
                shutil.copyfile(file.path, copy / file.relative)


def _errors(
    taken: Collection[Taken], destination: Path, copy: Path, context: Context, exceptions: Exceptions
) -> dict[Taken, tuple[Finding, ...]]:
    """On files that lie in a copy of the store."""
    places: dict[str, tuple[Taken, Path]] = {}
    for file in taken:
        there = record_path(destination, file.relative)
        places[shown_path(copy / file.relative)] = file, file.source
        places[shown_path(record_path(copy, file.relative))] = file, there if there.exists() else file.source
    folders: dict[str, list[Taken]] = {}
    for file in taken:
        folders.setdefault(shown_path((copy / file.relative).parent), []).append(file)
    errors: dict[Taken, tuple[Finding, ...]] = {}
    for finding in runner.validate([copy], context, exceptions).findings:
        if finding.severity is not Severity.ERROR:
            continue
        at = [places[finding.path]] if finding.path in places else []
        # What is wrong with a folder is wrong with each file that would go there.
        at += [(file, file.source) for file in folders.get(finding.path, ())]
        for file, path in at:
            errors[file] = (*errors.get(file, ()), replace(finding, path=shown_path(path)))
    return errors


def _write_one(file: Taken, destination: Path) -> Finding | None:
    """None, an info, or why it isn't written.

    The record first, so that no config is ever without one; it goes again where the config can't be written.
    """
    path, record = destination / file.relative, record_path(destination, file.relative)
    if path.exists() and read_file(path).data != file.config:
        return _refused(file.source, f"{shown_path(path)} is there with other figures", _fix_of_two(record))
    if record.exists() and not _signs(record, file.config):
        where = shown_path(record)
        return _refused(file.source, f"{where} is there and speaks of other figures", "remove it first")
    is_new = not record.exists()
    if is_new:
        write_file(record, file.record)
    try:
        if not path.exists():
            write_file(path, file.config)
    except BaseException:  # Ctrl-C too
        if is_new:
            record.unlink()
        raise
    return None if is_new else _other_source(file, record)


def _fix_of_two(record: Path) -> str:
    """record: of the file that is there. Measured figures give way to measured ones alone."""
    document = read_file(record).document
    if isinstance(document, dict) and document.get("source") == Source.MEASURED:
        return "leave yours out: that one has a measurement, which only another (nox -s tune) may replace"
    return "remove one of them first"


def _signs(record: Path, config: bytes) -> bool:
    document = read_file(record).document
    return isinstance(document, dict) and document.get("config_sha256") == sha256(config)


def _other_source(file: Taken, record: Path) -> Finding | None:
    """An info where the record that stays says another thing of where the figures come from."""
    kept, given = (
        data if isinstance(data, dict) else {} for data in (read_file(record).document, json.loads(file.record))
    )
    if all(kept.get(key) == given.get(key) for key in ("source", "attribution")):
        return None
    whose = f"attribution {kept['attribution']!r}" if kept.get("attribution") else f"source {kept.get('source')!r}"
    message = f"{shown_path(record)} is there and stays as it is, with {whose}: this attribution isn't written"
    return _refused(file.source, message, "to have it there, remove that record first", Severity.INFO)


def _convert_file(file: Found, source: Attribution, models: ModelRegistry) -> Taken | Finding:
    content = read_file(file.path, TUNED_FILE)
    for fault in content.faults:
        return _refused(file.path, str(fault), fault.fix)
    name = parse_file_name(file.path.name, source.layout)
    workload = name.workload
    reasons = "; ".join(fault.message for fault in name.faults)
    fixes = "; ".join(fault.fix for fault in name.faults)
    if workload is None:
        return _refused(file.path, f"the name stands for no workload: {reasons}", fixes)
    if _spelling(workload.file_name(source.layout)) != _spelling(file.path.name):
        expected = workload.file_name(source.layout)
        return _refused(file.path, f"the name says more than {expected!r}, which would be lost: {reasons}", fixes)
    if not isinstance(content.document, dict):
        return _refused(file.path, "expected an object at the top level", "write {batch size: launch config}")
    version = content.document.get("triton_version")
    said = {key: value for key, value in content.document.items() if key != "triton_version"}
    rows = filled_in(said)
    for schema_fault in schemas.faults("tuned_config", rows):
        fix = "write the file as schema/README.md has it"
        return _refused(file.path, f"{schema_fault.where}: {schema_fault.message}", fix)
    try:
        folder = _folder(file, source.layout, version)
    except ValueError as error:
        return _refused(file.path, str(error), "name the Triton release by its three numbers")
    data = canonical_config(rows)
    record = _record(workload, data, source, models)
    relative = PurePosixPath(folder, workload.file_name())
    filled, explained = _what_was_filled_in(said), bool(record.shapes)
    return Taken(file.path, relative, data, record.to_bytes(), filled, explained)


def _what_was_filled_in(rows: Mapping[str, Json]) -> str:
    silent = silent_rows(rows)
    if not silent:
        return ""
    keys = [key for key in MAY_BE_SILENT if any(key in names for names in silent.values())]
    values = " and ".join(f"{key} {MAY_BE_SILENT[key]}" for key in keys)
    return f"{rows_text(silent, map(int, rows))}: {values} filled in, Triton's own, which ran there unsaid"


def _other_kernels(path: Path) -> Finding:
    message = f"not taken: a file of {other_kernel(path.name)}, not of the fused MoE Triton kernel"
    return _refused(path, message, "nothing to do: leave it to its kernel", Severity.INFO)


def _spelling(name: str) -> str:
    """A name without the space that the engines disagree on."""
    return name.replace(" ", "")


def _folder(file: Found, layout: Layout, version: Json) -> str:
    """The tier's folder. vLLM's files without a version are older figures, so they go to the legacy tier."""
    if layout is Layout.SGLANG:
        if version_of_folder(file.folder) is None:
            raise ValueError(f"expected a folder named triton_X_Y_Z, found {file.folder!r}")
        if refused := why_no_version_tier(file.folder):
            raise ValueError(refused[0])
        return _tier(file.folder)
    if version is None:
        return LEGACY
    if not isinstance(version, str):
        raise ValueError(f"triton_version: expected a string, found {version!r}")
    return _tier(version_folder(version))


def _tier(folder: str) -> str:
    """The default tier is the reference's."""
    return "" if folder == version_folder(reference_triton()) else folder


def _record(workload: Workload, data: bytes, source: Attribution, models: ModelRegistry) -> Record:
    shapes = sorted(registered_shapes(workload, models), key=lambda served: (served.shape.K, served.shape.top_k))
    day = source.day.isoformat()
    return Record(workload, tuple(shapes), Source.PUBLISHED, sha256(data), day, source.attribution)


def _refused(path: Path, message: str, fix: str, severity: Severity = Severity.ERROR) -> Finding:
    return Finding(shown_path(path), RULE, severity, message, fix)
