"""One way to write a record too: what a person reads in a diff is all that changed."""

from __future__ import annotations

from collections.abc import Iterator

from fused_moe_configs.evidence import is_signed
from tools.store import schemas
from tools.store.config_file import ConfigFile
from tools.store.files import record_path
from tools.store.record import Record
from tools.store.strict_json import Json
from tools.validate.model import REPO_ONLY, Context, FileRule, Issue
from tools.validate.rules.canonical_bytes import difference


def fixed(document: Json) -> bytes | None:
    """The canonical bytes of the record, None where they can't be known or would be of other evidence.

    Keys that are left out are written, which main's word on the record as it is doesn't cover.
    """
    canonical = _canonical(document)
    return None if canonical is None or _loses_word(document) else canonical


def check(file: ConfigFile, context: Context) -> Iterator[Issue]:
    """The record's bytes are those that the store writes."""
    path = record_path(file.found.root, file.found.relative)
    content = file.record
    expected = None if content.faults else _canonical(content.document)
    if expected is None or content.data is None or expected == content.data:
        return
    where = difference(expected, content.data)
    fix = "set verified to null, then run with --fix" if _loses_word(content.document) else "run with --fix"
    yield Issue(f"expected the store's canonical bytes, found a difference at {where}", fix, path=path)


def _canonical(document: Json) -> bytes | None:
    return Record.read(document).to_bytes() if schemas.is_valid("record", document) else None


def _loses_word(document: Json) -> bool:
    return is_signed(document) and not is_signed(Record.read(document).to_json())


RULE = FileRule("canonical-record", "The record's bytes are the ones the store writes.", check, layouts=REPO_ONLY)
