"""The shape of the file: batch sizes to launch configs, each with its six keys, and nothing else."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

from tools.findings import Severity
from tools.store import schemas
from tools.store.config_file import ConfigFile, silent_rows
from tools.store.rows import rows_text
from tools.validate.model import Context, FileRule, Issue

_FIX = "write each row as schema/README.md has it, and no other key at the top: engines put every one through int()"


def check(file: ConfigFile, context: Context) -> Iterator[Issue]:
    """The document validates against schema/tuned_config.schema.json; a fault of many rows is one issue.

    A warning where rows in an engine's folder leave out keys for which Triton has defaults: they run.
    """
    if file.document is None or file.as_run is None:
        return
    of_rows: defaultdict[tuple[str, str], list[int]] = defaultdict(list)
    rows = set(map(str, file.batch_sizes))
    for fault in schemas.faults("tuned_config", file.as_run):
        row, _, inner = fault.where.partition(" / ")
        if row in rows:
            of_rows[inner, fault.message].append(int(row))
        else:
            yield Issue(f"{fault.where}: {fault.message}", context.rewritten(_FIX))
    for (inner, message), batch_sizes in of_rows.items():
        where = rows_text(batch_sizes, file.batch_sizes) + (f", {inner}" if inner else "")
        yield Issue(f"{where}: {message}", context.rewritten(_FIX))
    yield from _silent(file)


def _silent(file: ConfigFile) -> Iterator[Issue]:
    groups: defaultdict[tuple[str, ...], list[int]] = defaultdict(list)
    for num_tokens, keys in silent_rows(file.document or {}, file.implied).items():
        groups[keys].append(num_tokens)
    for keys, batch_sizes in groups.items():
        what_runs = " and ".join(f"{key} {file.implied[key]}" for key in keys)
        yield Issue(
            f"{rows_text(batch_sizes, file.batch_sizes)}: expected {' and '.join(keys)}, found none: Triton's own run, "
            + what_runs,
            f"write {what_runs} there, which changes nothing",
            Severity.WARNING,
        )


RULE = FileRule("schema", "The document has the shape of a tuned config.", check)
