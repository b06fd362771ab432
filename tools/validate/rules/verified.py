"""`verified` is the main branch's own word on figures and bytes: of others it says nothing."""

from __future__ import annotations

from collections.abc import Iterator

from fused_moe_configs.evidence import evidence_sha256
from tools.store.config_file import ConfigFile
from tools.store.files import record_path
from tools.validate.model import REPO_ONLY, Context, FileRule, Issue

NAME = "verified"
FIX = "set verified to null: main measures the file after the merge, and writes it anew"


def check(file: ConfigFile, context: Context) -> Iterator[Issue]:
    """What names other evidence is claimed. Whether main wrote it, the gate checks; other bytes, the record rule."""
    path = record_path(file.found.root, file.found.relative)
    document = file.record.document
    said = document.get("verified") if isinstance(document, dict) else None
    if not isinstance(said, dict):
        return
    signed, found = said.get("evidence_sha256"), evidence_sha256(document)
    if signed != found:
        yield Issue(
            f"verified.evidence_sha256: expected {found}, the hash of this record's evidence, found {signed!s:.64}",
            FIX,
            path=path,
        )


RULE = FileRule(NAME, "`verified` names the evidence that lies there.", check, layouts=REPO_ONLY)
