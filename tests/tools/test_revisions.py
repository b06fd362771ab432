"""Which texts are a commit's whole name."""

from __future__ import annotations

import pytest

from tools.revisions import NOTHING, is_sha


def test_forty_lower_case_hexadecimal_digits_are_one() -> None:
    assert is_sha("0123456789abcdef" * 2 + "01234567")
    assert is_sha(NOTHING)


@pytest.mark.parametrize("text", ["", "main", "a" * 39, "a" * 41, "A" * 40, "a" * 40 + "\n", "\n" + "a" * 40, None, 7])
def test_nothing_else_is(text: object) -> None:
    assert not is_sha(text)
