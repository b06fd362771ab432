"""What makes code another code: its syntax, not how it is written down."""

from __future__ import annotations

import ast

import pytest

from tools.launch.syntax_hash import sha256_of_code

CODE = "def kernel(x, y=1):\n    return x + y\n"


def hashed(source: str) -> str:
    return sha256_of_code(ast.parse(source).body)


@pytest.mark.parametrize(
    "source",
    [
        "def kernel(x, y=1):\n    # why\n    return (x\n            + y)\n",
        'def kernel(x, y=1):\n    """What it is."""\n    return x + y\n',
        "def kernel(x, y=0x1):\n\n    return x + y;\n",
    ],
    ids=["comment and layout", "docstring", "spelling of a number"],
)
def test_how_it_is_written_is_no_matter(source: str) -> None:
    assert hashed(source) == hashed(CODE)


@pytest.mark.parametrize(
    "source",
    [
        "def kernel(x, y=1):\n    return x - y\n",
        "def kernel(x, y=2):\n    return x + y\n",
        "def kernel(x, y=True):\n    return x + y\n",
        "def kernel(x, z=1):\n    return x + z\n",
        "def kernel(x, y=1):\n    'a'\n    'b'\n    return x + y\n",
        "@jit\ndef kernel(x, y=1):\n    return x + y\n",
        f"{CODE}{CODE}",
    ],
    ids=["operator", "constant", "its type", "name", "a string that is no docstring", "decorator", "twice"],
)
def test_what_it_does_is(source: str) -> None:
    assert hashed(source) != hashed(CODE)


def test_a_docstring_inside_is_none_either() -> None:
    inner = "def outer():\n    def inner():\n{}        return 1\n    return inner\n"
    assert hashed(inner.format('        """Why."""\n')) == hashed(inner.format(""))


def test_order_counts() -> None:
    assert hashed("a = 1\nb = 2\n") != hashed("b = 2\na = 1\n")


def test_a_field_that_only_newer_pythons_have_is_skipped_where_it_is_empty() -> None:
    (older,) = ast.parse(CODE).body
    (newer,) = ast.parse(CODE).body
    newer._fields = (*newer._fields, "type_params_of_tomorrow")  # type: ignore[misc]
    newer.type_params_of_tomorrow = []  # type: ignore[attr-defined]
    assert sha256_of_code([newer]) == sha256_of_code([older])
