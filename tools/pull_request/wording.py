"""How foreign text is shown: on one line, cut, and where it is markdown, as nothing but itself."""

from __future__ import annotations

import re

from tools.store.files import printable

LONGEST = 160
"""Characters of a name that are shown. A tuned file's longest real name has about 130."""

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
