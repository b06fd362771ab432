"""Known findings that are tolerated for now: schema/exceptions.json. The list may only shrink."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tools.checkout import CONFIGS
from tools.errors import UserError
from tools.findings import Finding, Severity
from tools.store import schemas
from tools.store.files import read_file, record_path
from tools.store.tiers import RECORDS, Found
from tools.text import shown_path

EXCEPTIONS_FILE = schemas.SCHEMA_FOLDER / "exceptions.json"


class ExceptionsError(UserError):
    """The list of exceptions cannot be used; the message says where and why."""


@dataclass(frozen=True)
class Exceptions:
    """(path below configs/, rule) of every tolerated finding."""

    entries: frozenset[tuple[str, str]]
    source: Path = EXCEPTIONS_FILE

    @classmethod
    def load(cls, path: Path = EXCEPTIONS_FILE) -> Exceptions:
        """Reads the list. Raises ExceptionsError for a broken one."""
        content = read_file(path)
        for fault in content.faults:
            raise ExceptionsError(f"{path}: {fault}. Fix: {fault.fix}")
        for schema_fault in schemas.faults("exceptions", content.document):
            where = f"{path}: {schema_fault.where}"
            raise ExceptionsError(f"{where}: {schema_fault.message}. Fix: see schema/exceptions.schema.json")
        return cls(frozenset((e["path"], e["rule"]) for e in content.document["exceptions"]), path)

    def apply(self, findings: Iterable[Finding], files: Sequence[Found]) -> list[Finding]:
        """The findings that are not excepted, plus an error for each exception on these files that nothing needs."""
        inside = {shown_path(file.path): file.relative.as_posix() for file in files}
        # a record's faults are found through its tuned file, also where the record itself isn't among the files
        for file in files:
            inside.setdefault(
                shown_path(record_path(file.root, file.relative)), f"{RECORDS}/{file.relative.as_posix()}"
            )
        kept: list[Finding] = []
        used = set()
        for finding in findings:
            key = (inside.get(finding.path, finding.path), finding.rule)
            if key in self.entries:
                used.add(key)
            else:
                kept.append(finding)
        present = set(inside.values())
        for path, rule in sorted(self.entries - used):
            if path in present or not (CONFIGS / path).exists():
                kept.append(
                    Finding(
                        shown_path(self.source),
                        "exceptions",
                        Severity.ERROR,
                        f"expected every exception to be needed, found none of {rule} on {path}",
                        "remove the entry: the list only shrinks",
                    )
                )
        return kept
