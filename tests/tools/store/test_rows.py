"""One fault of many rows is one line, which says which rows."""

from __future__ import annotations

import pytest

from tests.builders import BATCH_SIZES
from tools.store.rows import rows_text


@pytest.mark.parametrize(
    ("rows", "text"),
    [
        ([64], "row 64"),
        ([4, 1], "rows 1 and 4"),
        ([1, 2, 4], "rows 1, 2 and 4"),
        (BATCH_SIZES, "rows 1 to 4096 (18 rows)"),
        ([2, 4, 8, 16], "rows 2 to 16 (4 rows)"),
        ([2, 4, 8, 64], "rows 2, 4, 8 and 64"),
    ],
)
def test_rows_are_named_one_by_one_unless_they_follow_one_another(rows: list[int], text: str) -> None:
    assert rows_text(rows, BATCH_SIZES) == text
