"""`--fix`: rewrites what differs from the store's canonical bytes in form alone, and the hash that signs the bytes."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from tools.findings import Finding, Report, Severity, ordered
from tools.store.config_file import ConfigFile, load
from tools.store.files import canonical_record, discover, lock, read_file, record_path, sha256, write_file
from tools.store.workload import Layout
from tools.text import shown_path
from tools.validate.rules import canonical_bytes


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
    """Rewrites every tuned file that needs it. No value changes, and a file that can't be written stops no other."""
    rewritten: list[Path] = []
    failures: list[Finding] = []
    for file in load(discover(paths, layout), layout).configs:
        data = canonical_bytes.fixed(file)
        if data is None or file.content.data is None or data == file.content.data:
            continue
        try:
            with lock(file.found.root):
                if read_file(file.found.path).data != file.content.data:
                    continue  # another process has written it since
                _rewrite(file, file.content.data, data)
            rewritten.append(file.found.path)
        except OSError as error:
            failures.append(_failure(file.found.path, error))
    return Fixed(tuple(rewritten), tuple(failures))


def _rewrite(file: ConfigFile, old: bytes, new: bytes) -> None:
    """Both the file and the record that signs its bytes, or neither.

    The record first: where a kill falls between the two, the next --fix writes the bytes that it signs.
    """
    record = record_path(file.found.root, file.found.relative)
    signed = _signed_anew(record, old, new)
    before = None if signed is None else record.read_bytes()
    if signed is not None:
        write_file(record, signed)
    try:
        write_file(file.found.path, new)
    except BaseException:  # Ctrl-C too
        if before is not None:
            write_file(record, before)
        raise


def _signed_anew(record: Path, old: bytes, new: bytes) -> bytes | None:
    """The record with the hash of the new bytes; None where it doesn't sign the old ones, which stays to be said."""
    content = read_file(record)
    document = content.document
    if content.faults or record.is_symlink() or not isinstance(document, dict):
        return None
    if document.get("config_sha256") != sha256(old):
        return None
    return canonical_record({**document, "config_sha256": sha256(new)})


def _failure(path: Path, error: OSError) -> Finding:
    where = shown_path(Path(error.filename or path))
    message = f"expected the store's canonical bytes, and --fix can't write {where}: {error.strerror}"
    return Finding(shown_path(path), canonical_bytes.RULE.name, Severity.ERROR, message, "make it writable")
