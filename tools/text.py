"""How text is shown: foreign text on one line, cut and escaped, in a terminal, a log or markdown; tables, reports and
JSON."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

LONGEST = 160
"""Characters of a name that are shown. A tuned file's longest real name has about 130."""

MAX_BODY = 65_536
"""Characters that GitHub takes for an issue or a comment."""

MAX_REPORT = 60_000
"""Of them for a report; the rest is for its marker and what is added to it."""

_PLAIN = re.compile(r"[A-Za-z0-9 ._=,()\[\]+/:%-]+", re.ASCII)


def shown(text: str, longest: int = LONGEST) -> str:
    """Foreign text without control characters, cut where it is long."""
    safe = printable(text)
    return safe if len(safe) <= longest else f"{safe[: longest - 1]}…"


def code(text: str, longest: int = LONGEST) -> str:
    """Foreign text as code in markdown: no link, no mention, no tag and no end of the table's cell in it."""
    safe = shown(text, longest)
    if _PLAIN.fullmatch(safe) and safe == safe.strip():
        return f"`{safe}`"
    escaped = "".join(c if c.isalnum() or c in " .=" else f"&#{ord(c)};" for c in safe)
    return f"<code>{escaped}</code>"


def cell(text: str) -> str:
    """Text that can't end a table's cell or row; a compiler's messages have many lines."""
    return " ".join(text.split()).replace("|", r"\|")


def table(head: Sequence[str], rows: Iterable[Sequence[str]], right: int = 0) -> list[str]:
    """The lines of a markdown table. right: so many columns, the first ones, are aligned to the right.

    Cells are markdown: foreign text has been through `cell` or `code`.
    """
    rules = ["---:"] * right + ["---"] * (len(head) - right)
    return [f"| {' | '.join(cells)} |" for cells in (head, rules, *rows)]


def aligned(head: Sequence[str], rows: Iterable[Sequence[str]], right: int = 0) -> list[str]:
    """The lines of a plain table, which reads the same on a terminal and in a log. right: as in `table`."""
    lines = [head, *rows]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    formats = [f"{{:{'>' if place < right else '<'}{width}}}" for place, width in enumerate(widths)]
    return ["  ".join(formats).format(*cells).rstrip() for cells in lines]


def as_a_report(text: str) -> str:
    """Markdown for an issue or a comment: what is too long for one is cut at a line, and says so."""
    if len(text) <= MAX_REPORT:
        return text
    kept = text[:MAX_REPORT].rpartition("\n")[0]
    left_out = text[len(kept) :].removeprefix("\n").count("\n")
    return f"{kept}\n\n{counted(left_out, 'more line')} left out: what they say is in the artifacts of the run.\n"


_COMMAND = re.compile(r"^(\s*:):")
_OLD_COMMAND = re.compile(r"(?<=#)[#\[]")
"""`#[` and `##` alone too: what stands before or behind may bring the rest."""


def shown_path(path: Path) -> str:
    """The path as findings name it: relative to the working directory where it lies below it, on one line."""
    absolute = str(path.absolute())
    prefix = f"{Path.cwd()}{os.sep}"
    return printable(absolute.removeprefix(prefix))


def printable(text: str) -> str:
    """Text with control characters and undecodable bytes escaped, so that a name cannot forge output lines.

    Nor a command to GitHub's runner, which takes `::NAME …::` at the start of a line and `##[NAME …]` anywhere in it.
    """
    shown = "".join(c if c.isprintable() else c.encode("unicode_escape", "backslashreplace").decode() for c in text)
    shown = _OLD_COMMAND.sub(lambda sign: f"\\x{ord(sign[0]):02x}", shown)
    return _COMMAND.sub(r"\1\\x3a", shown)


def dumped(document: object) -> str:
    """JSON for a terminal, a pipe or a workflow's log, where `##[NAME …]` inside a line would be a command."""
    # ASCII, so that it stays JSON whatever the encoding. A # stands in texts only, where it may be written so.
    return json.dumps(document, indent=2).replace("#", "\\u0023")


def counted(count: int, noun: str) -> str:
    """«1 file», «2 files»."""
    return f"{count} {noun}{'' if count == 1 else 's'}"
