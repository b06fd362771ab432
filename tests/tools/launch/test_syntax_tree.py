"""Free names: what a function needs from around it."""

from __future__ import annotations

import ast

import pytest

from tools.launch.syntax_tree import first_line, free_names


@pytest.mark.parametrize(
    ("source", "free"),
    [
        ("def f(a, *, b=LIMIT): return a + b + outer(c)", {"LIMIT", "outer", "c"}),
        ("def f(m): return min(KEYS, key=lambda x: abs(x - m))", {"KEYS"}),
        ("def f(): return [each for each in THINGS if each]", {"THINGS"}),
        ("def f():\n    import os.path as p, sys\n    return p, sys, re", {"re"}),
        ("def f():\n    try: return 1\n    except Fault as fault: return fault", {"Fault"}),
        ("@cache\ndef f(a: Kind) -> Other: return len(a)", {"cache", "Kind", "Other"}),
    ],
)
def test_free_names_are_those_that_come_from_outside(source: str, free: set[str]) -> None:
    assert free_names(ast.parse(source)) == free


def test_a_function_starts_at_its_first_decorator() -> None:
    function = ast.parse("\n@one\n@two\ndef f(): ...").body[0]
    assert isinstance(function, ast.FunctionDef)
    assert first_line(function) == 2
