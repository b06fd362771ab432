"""Code cut out of an engine's package by syntax tree, without importing the engine. Pure.

From what is wanted, every free name is followed: to a definition of the same module and, where the form says so, to the
standard library or through the engine's own imports into its other modules. It ends at the names that are provided.
Whatever else is needed is said, never guessed: then the engine has changed, and a person must read how.
"""

from __future__ import annotations

import ast
import builtins
import functools
import sys
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from types import MappingProxyType

Import = ast.Import | ast.ImportFrom
Read = Callable[[str], str | None]
"""A module's source by its path inside the package. None: there is no such module."""

_NO_IMPORTS: Mapping[str, Import] = MappingProxyType({})
_MAX_HOPS = 8
"""Modules that hand a name on before the one that defines it."""


class CutError(ValueError):
    """The engine's code is not as known. The message says what was expected and found."""


class NeededNameError(CutError):
    """`name`, which `needed_by` needs (None: it is itself wanted), is none that the form takes and none provided."""

    def __init__(self, place: str, needed_by: str | None, name: str, found: str) -> None:
        asker = needed_by or "this project"
        super().__init__(
            f"{place}: expected {asker} to need only what can be cut out or has a stand-in, found {name} ({found})"
        )
        self.needed_by, self.name = needed_by, name


@dataclass(frozen=True)
class Form:
    """What is taken and how it is written, where those who ask differ on purpose.

    takes: whether a statement of a module's top level may be taken. follows_imports: also into other modules of the
    package and to the standard library. is_verbatim: as in the source and in its order, comments included; else
    without comments and annotations, each definition after what it needs.
    """

    takes: Callable[[ast.stmt], bool]
    follows_imports: bool
    is_verbatim: bool


def is_jit(statement: ast.stmt) -> bool:
    """Whether it is a function that Triton compiles."""
    return isinstance(statement, ast.FunctionDef) and any(
        "jit" in ast.unparse(decorator).split("(")[0].split(".") for decorator in statement.decorator_list
    )


def _is_definition(statement: ast.stmt) -> bool:
    return isinstance(statement, ast.FunctionDef | ast.Assign | ast.AnnAssign)


JIT_FUNCTIONS = Form(is_jit, follows_imports=False, is_verbatim=True)
"""To be compiled by Triton, which reads its functions from a file, and to be identified by the text's hash."""

PLAIN_FUNCTIONS = Form(_is_definition, follows_imports=True, is_verbatim=False)
"""To be run without the engine: annotations would need its types."""


@dataclass(frozen=True)
class Cut:
    """text: a module with what is wanted and what that needs. modules: the files that it comes from.

    taken: every definition by its name, as the source has it.
    """

    text: str
    modules: tuple[str, ...]
    taken: Mapping[str, ast.stmt]


@dataclass(frozen=True)
class Module:
    """A module of the engine: its path inside the package, and what each name of its top level is bound by."""

    path: str
    source: str
    bound: Mapping[str, ast.stmt]


def cut(
    read: Read, places: Sequence[str], wanted: Iterable[str], provided: Collection[str], form: Form = PLAIN_FUNCTIONS
) -> Cut:
    """Cuts `wanted` out of the first of `places` that the package has. CutError: it can't be done."""
    cutter = _Cutter(read, frozenset(provided), form)
    module = next((module for place in places if (module := cutter.module(place))), None)
    if module is None:
        raise CutError(f"expected a module {' or '.join(places)}, found none")
    for name in wanted:
        cutter.take(module, name, None)
    return Cut("\n\n\n".join(cutter.texts()) + "\n", tuple(sorted(cutter.modules)), cutter.taken)


class _Cutter:
    """One cut at work."""

    def __init__(self, read: Read, provided: frozenset[str], form: Form) -> None:
        self.module = functools.cache(lambda path: _parse(read, path))
        self.modules: set[str] = set()
        self.taken: dict[str, ast.stmt] = {}
        self._provided, self._form = provided, form
        self._places: dict[str, str] = {}
        self._texts: list[tuple[int, str]] = []

    def texts(self) -> list[str]:
        """The definitions in the form's order."""
        pieces = sorted(self._texts) if self._form.is_verbatim else self._texts
        return [text for _, text in pieces]

    def take(self, module: Module, name: str, needed_by: str | None, local: Mapping[str, Import] = _NO_IMPORTS) -> None:
        """Adds `name` as `module` knows it, after all that it needs. local: imports inside the one that needs it."""
        if name in self._provided or name == "__file__":
            return
        module, found = self._find(module, name, needed_by, local.get(name) or module.bound.get(name))
        is_import = isinstance(found, Import)
        place = ast.unparse(found) if is_import else f"{module.path}, line {found.lineno}"
        if name in self._places:
            if self._places[name] != place:
                raise CutError(f"{name}: expected one in all that is cut, found {self._places[name]} and {place}")
            return
        self._places[name] = place
        written, inner = found, _NO_IMPORTS
        if not is_import:
            self.modules.add(module.path)
            self.taken[name] = found
            if not self._form.is_verbatim:
                written, inner = _plain(found)
            for free in sorted(free_names(written)):
                self.take(module, free, name, inner)
        text = _lines(module, found) if self._form.is_verbatim else ast.unparse(written)
        self._texts.append((first_line(found) if self._form.is_verbatim else 0, text))

    def _find(
        self, module: Module, name: str, needed_by: str | None, found: ast.stmt | None
    ) -> tuple[Module, ast.stmt]:
        """The module and the statement that define `name`, through whatever modules import it from one another."""
        start = module.path
        for _ in range(_MAX_HOPS):
            if found is not None and self._form.takes(found):
                return module, found
            if not isinstance(found, Import) or not self._form.follows_imports:
                break
            alias = next(alias for alias in found.names if _binds(alias) == name)
            if _is_standard(found, alias):
                return module, _only(found, alias)
            if isinstance(found, ast.Import) or alias.name != name:
                break
            target = next((each for path in _paths(module.path, found) if (each := self.module(path))), None)
            if target is None:
                break
            module, found = target, target.bound.get(name)
        what = "nothing of that name" if found is None else ast.unparse(found).partition("\n")[0][:80]
        raise NeededNameError(start, needed_by, name, what)


def _parse(read: Read, path: str) -> Module | None:
    source = read(path)
    if source is None:
        return None
    try:
        tree = ast.parse(source)
    except SyntaxError as error:
        where = f" in line {error.lineno}" if error.lineno else ""
        raise CutError(f"{path}: expected Python source, found {error.msg}{where}") from error
    except ValueError as error:
        raise CutError(f"{path}: expected Python source, found {error}") from error
    return Module(path, source, {name: statement for statement in tree.body for name in _bound_at_top(statement)})


def _bound_at_top(statement: ast.stmt) -> Iterator[str]:
    if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        yield statement.name
    elif isinstance(statement, Import):
        yield from map(_binds, statement.names)
    elif isinstance(statement, ast.Assign | ast.AnnAssign):
        targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
        yield from (target.id for target in targets if isinstance(target, ast.Name))


# ---------------------------------------------------------------
# Imports


def _binds(alias: ast.alias) -> str:
    return alias.asname or alias.name.split(".")[0]


def _is_standard(statement: Import, alias: ast.alias) -> bool:
    if isinstance(statement, ast.Import):
        return alias.name.split(".")[0] in sys.stdlib_module_names
    return statement.level == 0 and (statement.module or "").split(".")[0] in sys.stdlib_module_names


def _only(statement: Import, alias: ast.alias) -> Import:
    if isinstance(statement, ast.Import):
        return ast.Import([alias])
    return ast.ImportFrom(statement.module, [alias], 0)


def _paths(path: str, statement: ast.ImportFrom) -> tuple[str, str]:
    """Where the module lies that `statement`, in the module at `path`, imports from."""
    folder = PurePosixPath(*PurePosixPath(path).parts[: -statement.level]) if statement.level else PurePosixPath()
    module = (folder / (statement.module or "").replace(".", "/")).as_posix()
    return f"{module}.py", f"{module}/__init__.py"


# ---------------------------------------------------------------
# What a function needs from around it


def free_names(node: ast.AST) -> set[str]:
    """Names that `node` uses and neither binds itself nor finds among the builtins.

    A name that is bound anywhere inside counts as bound everywhere inside: arguments of nested functions and lambdas,
    loop and comprehension variables, imports, `except … as`.
    """
    used = {each.id for each in ast.walk(node) if isinstance(each, ast.Name) and isinstance(each.ctx, ast.Load)}
    return used - {name for each in ast.walk(node) for name in _bound_inside(each)} - set(dir(builtins))


def _bound_inside(node: ast.AST) -> Iterator[str]:
    if isinstance(node, ast.arg):
        yield node.arg
    elif isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Load):
        yield node.id
    elif isinstance(node, ast.alias):
        yield _binds(node)
    elif isinstance(node, ast.ExceptHandler) and node.name:
        yield node.name


# ---------------------------------------------------------------
# How it is written


def first_line(statement: ast.stmt) -> int:
    """The line on which the statement starts, decorators included, counted from 1."""
    decorators: Sequence[ast.expr] = getattr(statement, "decorator_list", ())
    return min([statement.lineno, *(decorator.lineno for decorator in decorators)])


def _lines(module: Module, statement: ast.stmt) -> str:
    return "\n".join(module.source.split("\n")[first_line(statement) - 1 : statement.end_lineno])


def _plain(statement: ast.stmt) -> tuple[ast.stmt, Mapping[str, Import]]:
    """A copy without annotations and without imports of what isn't in the standard library; and those imports."""
    plain = _Plain()
    copy = plain.visit(ast.parse(ast.unparse(statement)).body[0])
    return copy, plain.imports


class _Plain(ast.NodeTransformer):
    def __init__(self) -> None:
        self.imports: dict[str, Import] = {}

    def visit_arg(self, node: ast.arg) -> ast.arg:
        node.annotation = None
        return node

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.FunctionDef:
        node.returns = None
        self.generic_visit(node)
        node.body = node.body or [ast.Pass()]
        return node

    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.stmt:
        self.generic_visit(node)
        return ast.Assign([node.target], node.value, lineno=node.lineno) if node.value else ast.Pass()

    def visit_Import(self, node: ast.Import) -> ast.stmt | None:
        return self._import(node)

    def visit_ImportFrom(self, node: ast.ImportFrom) -> ast.stmt | None:
        return self._import(node)

    def _import(self, node: Import) -> ast.stmt | None:
        if all(_is_standard(node, alias) for alias in node.names):
            return node
        self.imports |= {_binds(alias): node for alias in node.names}
        return None
