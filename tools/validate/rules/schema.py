"""The shape of the file: batch sizes to launch configs, each with its six keys, and nothing else."""

from __future__ import annotations

from collections.abc import Iterator

from tools.store import schemas
from tools.store.config_file import ConfigFile
from tools.validate.model import Context, FileRule, Issue


def check(file: ConfigFile, context: Context) -> Iterator[Issue]:
    """The document validates against schema/tuned_config.schema.json."""
    if file.document is None:
        return
    for fault in schemas.faults("tuned_config", file.document):
        yield Issue(f"{fault.where}: {fault.message}", "see schema/README.md; engines put every key through int()")


RULE = FileRule("schema", "The document has the shape of a tuned config.", check)
