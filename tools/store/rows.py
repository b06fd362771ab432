"""How findings name rows: one fault of many rows is one line."""

from __future__ import annotations

from collections.abc import Iterable

_LISTED = 3
"""So many rows are named one by one; more of them, where they follow one another, by the first and the last."""


def rows_text(batch_sizes: Iterable[int], every: Iterable[int]) -> str:
    """«row 64», «rows 1, 2 and 64», «rows 1 to 4096 (18 rows)». every: those of the file."""
    chosen, rows = sorted(set(batch_sizes)), sorted(set(every))
    if len(chosen) == 1:
        return f"row {chosen[0]}"
    start = rows.index(chosen[0])
    if len(chosen) > _LISTED and rows[start : start + len(chosen)] == chosen:
        return f"rows {chosen[0]} to {chosen[-1]} ({len(chosen)} rows)"
    return f"rows {', '.join(map(str, chosen[:-1]))} and {chosen[-1]}"
