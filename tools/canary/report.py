"""What the canary found: handed on as JSON by the job that ran an engine's code, and rendered by the one that posts it.

The first job's machine is the engine's: whatever lies there may have been written by the wheel. So the second takes
nothing but the JSON, checks it by schema/canary.schema.json, and makes the markdown itself.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from tools.canary.check import LONGEST_TEXT, MOST_TOLD, Difference, EngineReport
from tools.errors import UserError
from tools.store import schemas
from tools.store.files import read_file
from tools.text import counted, printable, shown_path, table

SCHEMA_VERSION = 1

_MEANING = (
    "The engine's own look-up code, cut out of the package named here, was run on the folders that "
    "`fused-moe-configs export` writes, and its answers were compared with the loader's: entry by entry, and for every "
    "number of tokens up to 4096. What it runs without a file was run too, and compared with our table of it."
)
_WAY_OUT = (
    "Each difference means that an export doesn't give this engine what the loader promises: fix the export, the "
    "loader or, where the engine has changed how it names or reads files, `tools/store/workload.py` and "
    "`tools/canary`. "
    "One of `get_default_config` means that our files were measured against another heuristic than this engine's."
)


def to_bytes(reports: Sequence[EngineReport]) -> bytes:
    """As it is handed on."""
    document = {"schema_version": SCHEMA_VERSION, "reports": [report.to_json() for report in reports]}
    return (json.dumps(document, indent=1, allow_nan=False) + "\n").encode()


def read(path: Path) -> tuple[EngineReport, ...]:
    """Takes the file for hostile. UserError: unreadable, too large, or no reports."""
    content = read_file(path)
    faults = [str(fault) for fault in content.faults]
    faults = faults or [f"{fault.where}: {fault.message}" for fault in schemas.faults("canary", content.document)]
    if faults:
        raise UserError(
            f"{shown_path(path)}: expected the canary's JSON, found: {printable(faults[0])[:300]}. "
            "Fix: run the canary again; if it says so once more, look at what its job ran."
        )
    return tuple(map(EngineReport.read, content.document["reports"]))


def to_markdown(reports: Sequence[EngineReport]) -> str:
    """The whole report: a table of engines, then each one's differences, the first in full."""
    rows = [
        (
            each.engine,
            _code(each.version),
            *map(str, (each.files, each.asked, each.defaults, each.num_differences)),
        )
        for each in reports
    ]
    head = ("engine", "version", "files", "look-ups", "without a file", "differences")
    lines = ["# Engine canary", "", _MEANING, "", *table(head, rows)]
    if any(report.num_differences for report in reports):
        lines += ["", _WAY_OUT]
    for report in reports:
        if report.num_differences:
            lines += ["", f"## {report.engine} {printable(report.version)}", "", *_list(report)]
            lines += ["", f"Its code: {', '.join(map(_code, report.modules)) or 'could not be cut out'}."]
    return "\n".join(lines) + "\n"


def summary(report: EngineReport) -> str:
    """One line for the terminal."""
    differences = counted(report.num_differences, "difference")
    files, asked = counted(report.files, "exported file"), counted(report.asked, "look-up")
    without = f"{counted(report.defaults, 'workload')} without a file"
    return f"{report.engine} {printable(report.version)}: {files}, {asked}, {without}, {differences}"


def line(difference: Difference) -> str:
    """One difference on one line."""
    where = f"{printable(difference.where)}: " if difference.where else ""
    return _cut(f"{where}{printable(difference.message)}")


def _list(report: EngineReport) -> list[str]:
    lines = [
        f"- {_code(difference.where) + ': ' if difference.where else ''}{_code(difference.message)}"
        for difference in report.differences[:MOST_TOLD]
    ]
    left = report.num_differences - len(lines)
    return [*lines, f"- and {left} more"] if left > 0 else lines


def _code(text: str) -> str:
    """As markdown code on one line, whatever it holds: the engine's code wrote part of it."""
    return f"`{_cut(printable(text)).replace('`', chr(39)).replace('|', '¦')}`"


def _cut(text: str) -> str:
    return text if len(text) <= LONGEST_TEXT else f"{text[: LONGEST_TEXT - 1]}…"
