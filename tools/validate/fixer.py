"""`--fix`: rewrites what differs from the store's canonical bytes in form alone, and the hash that signs the bytes."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from tools.findings import Finding, Report, Severity, ordered
from tools.store.config_file import ConfigFile, load
from tools.store.files import (
    RECORD,
    Content,
    discover,
    lock,
    read_file,
    record_path,
    sha256,
    tuned_files_of_records,
    write_file,
)
from tools.store.files import canonical_record as canonical_of
from tools.store.workload import Layout
from tools.text import shown_path
from tools.validate.rules import canonical_bytes, canonical_record


@dataclass(frozen=True)
class Fixed:
    """What was rewritten, and a finding for each file that could not be."""

    rewritten: tuple[Path, ...]
    failures: tuple[Finding, ...]

    def add_to(self, report: Report) -> Report:
        """The report with the failures in place of the findings that they explain."""
        explained = {(finding.path, finding.rule) for finding in self.failures}
        others = [finding for finding in report.findings if (finding.path, finding.rule) not in explained]
        return dataclasses.replace(report, findings=ordered([*others, *self.failures]))


def fix(paths: Iterable[Path], layout: Layout) -> Fixed:
    """Rewrites every tuned file and record that needs it. No value changes, and one that can't be written stops no
    other."""
    rewritten: list[Path] = []
    failures: list[Finding] = []
    found = discover(paths, layout)
    todo = [(file, canonical_bytes.fixed(file)) for file in load(found, layout).configs]
    # records named without their tuned files, which then stay as they are
    todo += [(file, None) for file in load(tuned_files_of_records(found), layout).configs]
    for file, canonical in todo:
        if file.content.data is None:
            continue
        try:
            with lock(file.found.root):
                if read_file(file.found.path).data == file.content.data:  # or another process has written it since
                    rewritten += _rewrite(file, file.content.data, canonical or file.content.data)
        except OSError as error:
            failures.append(_failure(file, error))
    return Fixed(tuple(rewritten), tuple(failures))


def _rewrite(file: ConfigFile, old: bytes, new: bytes) -> list[Path]:
    """Both the file and the record that signs its bytes, or neither; what was written.

    The record first: where a kill falls between the two, the next --fix writes the bytes that it signs.
    """
    path, record = file.found.path, record_path(file.found.root, file.found.relative)
    content = read_file(record, RECORD)
    anew = None if record.is_symlink() else _record_anew(content, old, new)
    if anew is not None:
        write_file(record, anew)
    if new == old:
        return [] if anew is None else [record]
    try:
        write_file(path, new)
    except BaseException:  # Ctrl-C too
        if anew is not None and content.data is not None:
            write_file(record, content.data)
        raise
    return [path]


def _record_anew(content: Content, old: bytes, new: bytes) -> bytes | None:
    """The record in canonical bytes, with the hash of the new bytes where it signs the old ones; None: as it is.

    Where it doesn't sign the old ones, that stays to be said.
    """
    document = content.document
    if content.faults or not isinstance(document, dict):
        return None
    if new != old and document.get("config_sha256") == sha256(old):
        document = {**document, "config_sha256": sha256(new)}
    anew = canonical_record.fixed(document)
    if anew is None and document is not content.document:
        anew = canonical_of(document)
    return None if anew == content.data else anew


def _failure(file: ConfigFile, error: OSError) -> Finding:
    record = record_path(file.found.root, file.found.relative)
    named = Path(error.filename or file.found.path)
    is_of_record = canonical_bytes.fixed(file) in (None, file.content.data) and named == record
    rule, path = (canonical_record.RULE, record) if is_of_record else (canonical_bytes.RULE, file.found.path)
    message = f"expected the store's canonical bytes, and --fix can't write {shown_path(named)}: {error.strerror}"
    return Finding(shown_path(path), rule.name, Severity.ERROR, message, "make it writable")
