"""An engine finds a file by its name alone, so a name that no engine writes is a file that nobody reads."""

from __future__ import annotations

from collections.abc import Iterator

from tools.store.config_file import ConfigFile
from tools.text import printable
from tools.validate.model import Context, FileRule, Issue


def check(file: ConfigFile, context: Context) -> Iterator[Issue]:
    """Every fault of the name's grammar, and names for which no engine of the layout asks."""
    for fault in file.name.faults:
        yield Issue(printable(fault.message), context.renamed(printable(fault.fix)))


RULE = FileRule("file-name", "The name follows the grammar and some engine looks it up.", check)
