"""The identity of Python code: its syntax trees, without docstrings, comments and formatting. Pure.

Fields that are empty are skipped, so that Python versions that add such fields agree.
"""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Iterable


def sha256_of_code(statements: Iterable[ast.stmt]) -> str:
    """Lower-case hexadecimal SHA-256 of the statements in their order."""
    return hashlib.sha256("\n".join(map(_dump, statements)).encode()).hexdigest()


def _dump(node: object) -> str:
    if isinstance(node, list):
        return f"[{','.join(map(_dump, node))}]"
    if not isinstance(node, ast.AST):
        return repr(node)
    values = {name: getattr(node, name, None) for name in node._fields}
    if isinstance(node, ast.FunctionDef) and ast.get_docstring(node, clean=False) is not None:
        values["body"] = node.body[1:]
    inner = ",".join(f"{name}={_dump(value)}" for name, value in values.items() if value not in (None, []))
    return f"{type(node).__name__}({inner})"
