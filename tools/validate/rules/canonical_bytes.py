"""One way to write a file, so that a diff shows what changed and a record's hash signs the bytes."""

from __future__ import annotations

from collections.abc import Iterator

from tools.store import schemas
from tools.store.config_file import ConfigFile
from tools.store.files import canonical_config
from tools.validate.model import REPO_ONLY, Context, FileRule, Issue


def fixed(file: ConfigFile) -> bytes | None:
    """The canonical bytes of the file, None where they can't be known or would change a value."""
    document = file.content.document
    if file.content.faults or not isinstance(document, dict) or not schemas.is_valid("tuned_config", document):
        return None
    return canonical_config(document)


def check(file: ConfigFile, context: Context) -> Iterator[Issue]:
    """The bytes are those that the store writes."""
    expected, found = fixed(file), file.content.data
    if expected is None or found is None or expected == found:
        return
    yield Issue(
        f"expected the store's canonical bytes, found a difference at {difference(expected, found)}", "run with --fix"
    )


def difference(expected: bytes, found: bytes) -> str:
    """Where two forms of one document differ first."""
    lines = zip(expected.splitlines(), found.splitlines(), strict=False)
    line = next((number for number, (a, b) in enumerate(lines, 1) if a != b), None)
    return "line ends or the end of the file" if line is None else f"line {line}"


RULE = FileRule("canonical-bytes", "The bytes are the ones the store writes.", check, layouts=REPO_ONLY)
