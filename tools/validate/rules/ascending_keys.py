"""Nearest-M ties go to the key that comes first in the file, so the order decides what runs."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

from tools.store.config_file import ConfigFile
from tools.validate.model import Context, FileRule, Issue


def check(file: ConfigFile, context: Context) -> Iterator[Issue]:
    """Batch sizes ascend."""
    keys = [int(key) for key in file.document or () if key.isascii() and key.isdigit() and len(key) <= 7]
    for earlier, later in pairwise(keys):
        if later <= earlier:
            yield Issue(
                f"batch sizes: expected ascending order, found {later} after {earlier}",
                "sort the batch sizes" + ", or run with --fix" * context.has_records,
            )
            return


RULE = FileRule("ascending-keys", "Batch sizes ascend.", check)
