"""What the canary found, as the markdown of an issue. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from tools.canary.check import Difference, EngineReport
from tools.text import counted, printable, table

MOST_SHOWN = 25
"""Of an engine: an issue takes 65536 characters."""
_MOST_CHARACTERS = 600

_MEANING = (
    "The engine's own look-up code, cut out of the package named here, was run on the folders that "
    "`fused-moe-configs export` writes, and its answers were compared with the loader's: entry by entry, and for every "
    "number of tokens up to 4096."
)
_WAY_OUT = (
    "Each difference means that an export doesn't give this engine what the loader promises: fix the export, the "
    "loader or, where the engine has changed how it names or reads files, `tools/store/workload.py` and `tools/canary`."
)


def to_markdown(reports: Sequence[EngineReport]) -> str:
    """The whole report: a table of engines, then each one's differences, the first in full."""
    rows = [
        (each.engine, _code(each.version), str(each.files), str(each.asked), str(len(each.differences)))
        for each in reports
    ]
    head = ("engine", "version", "files", "look-ups", "differences")
    lines = ["# Engine canary", "", _MEANING, "", *table(head, rows)]
    if any(report.differences for report in reports):
        lines += ["", _WAY_OUT]
    for report in reports:
        if report.differences:
            lines += ["", f"## {report.engine} {printable(report.version)}", "", *_list(report.differences)]
            lines += ["", f"Its code: {', '.join(map(_code, report.modules)) or 'could not be cut out'}."]
    return "\n".join(lines) + "\n"


def summary(report: EngineReport) -> str:
    """One line for the terminal."""
    differences = counted(len(report.differences), "difference")
    files, asked = counted(report.files, "exported file"), counted(report.asked, "look-up")
    return f"{report.engine} {printable(report.version)}: {files}, {asked}, {differences}"


def line(difference: Difference) -> str:
    """One difference on one line."""
    where = f"{printable(difference.where)}: " if difference.where else ""
    return _cut(f"{where}{printable(difference.message)}")


def _list(differences: Sequence[Difference]) -> list[str]:
    lines = [
        f"- {_code(difference.where) + ': ' if difference.where else ''}{_code(difference.message)}"
        for difference in differences[:MOST_SHOWN]
    ]
    left = len(differences) - MOST_SHOWN
    return [*lines, f"- and {left} more"] if left > 0 else lines


def _code(text: str) -> str:
    """As markdown code on one line, whatever it holds: the engine's code wrote part of it."""
    return f"`{_cut(printable(text)).replace('`', chr(39)).replace('|', '¦')}`"


def _cut(text: str) -> str:
    return text if len(text) <= _MOST_CHARACTERS else f"{text[: _MOST_CHARACTERS - 1]}…"
