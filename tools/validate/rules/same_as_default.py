"""A version file that says what the default says only makes the store larger."""

from __future__ import annotations

from collections.abc import Iterator

from tools.findings import Severity
from tools.store.config_file import ConfigFile
from tools.store.files import TUNED_FILE, read_file
from tools.store.tiers import version_of_folder
from tools.validate.model import REPO_ONLY, Context, FileRule, Issue


def check(file: ConfigFile, context: Context) -> Iterator[Issue]:
    """A file in triton_X_Y_Z/ differs from the default tier's."""
    if version_of_folder(file.found.folder) is None or file.content.document is None:
        return
    default = file.found.root / file.found.path.name
    if read_file(default, TUNED_FILE).document == file.content.document:
        yield Issue(
            "expected a version file to differ from the default file, found the same launch configs",
            "remove it and its record: the chain falls back to the default file, whose record can name the version in "
            "verified_with",
            Severity.WARNING,
        )


RULE = FileRule("same-as-default", "A version file differs from the default.", check, layouts=REPO_ONLY)
