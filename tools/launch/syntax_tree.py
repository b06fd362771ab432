"""What a function needs from around it, read off its syntax tree: for code that is cut out of an engine's source."""

from __future__ import annotations

import ast
import builtins
from collections.abc import Iterator

Function = ast.FunctionDef | ast.AsyncFunctionDef


def free_names(node: ast.AST) -> set[str]:
    """Names that `node` uses and neither binds itself nor finds among the builtins.

    A name that is bound anywhere inside counts as bound everywhere inside: arguments of nested functions and lambdas,
    loop and comprehension variables, imports, `except … as`.
    """
    used = {each.id for each in ast.walk(node) if isinstance(each, ast.Name) and isinstance(each.ctx, ast.Load)}
    return used - {name for each in ast.walk(node) for name in _bound_by(each)} - set(dir(builtins))


def _bound_by(node: ast.AST) -> Iterator[str]:
    if isinstance(node, ast.arg):
        yield node.arg
    elif isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Load):
        yield node.id
    elif isinstance(node, ast.alias):
        yield node.asname or node.name.split(".")[0]
    elif isinstance(node, ast.ExceptHandler) and node.name:
        yield node.name


def first_line(function: Function) -> int:
    """The line on which the function starts, its decorators included, counted from 1."""
    return min([function.lineno, *(decorator.lineno for decorator in function.decorator_list)])
