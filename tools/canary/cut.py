"""An engine's look-up code, cut out of its package by syntax tree without importing the engine. Pure.

From the functions that are wanted, every free name is followed: to a function or constant of the same module, to the
standard library, or through the engine's own imports into its other modules. It ends at the names that stand-ins are
given for (logger, settings, the GPU's name). Whatever else is needed is said, never guessed: then the engine has
changed how it looks files up, and a person must read how.
"""

from __future__ import annotations

import ast
import functools
import sys
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from types import MappingProxyType

from tools.launch.syntax_tree import free_names

Import = ast.Import | ast.ImportFrom
Read = Callable[[str], str | None]

_NO_IMPORTS: Mapping[str, Import] = MappingProxyType({})
_MAX_HOPS = 8
"""Modules that hand a name on before the one that defines it."""


class CutError(ValueError):
    """The engine's code is not as known. The message says what was expected and found."""


@dataclass(frozen=True)
class Cut:
    """text: a module with the wanted functions and what they need. modules: the files that they come from."""

    text: str
    modules: tuple[str, ...]


@dataclass(frozen=True)
class Module:
    """A module of the engine: its path inside the package, and what each name of its top level is bound by."""

    path: str
    bound: Mapping[str, ast.stmt]


def cut(read: Read, places: Sequence[str], wanted: Iterable[str], stand_ins: Collection[str]) -> Cut:
    """Cuts `wanted` out of the first of `places` that the package has. CutError: it can't be done."""
    cutter = _Cutter(read, frozenset(stand_ins))
    module = next((module for place in places if (module := cutter.module(place))), None)
    if module is None:
        raise CutError(f"expected the look-up in {' or '.join(places)}, found no such module")
    for name in wanted:
        cutter.take(module, name, "the canary")
    return Cut("\n\n\n".join(cutter.texts) + "\n", tuple(sorted(cutter.modules)))


class _Cutter:
    """One cut at work. texts: definitions, each after what it needs."""

    def __init__(self, read: Read, stand_ins: frozenset[str]) -> None:
        self.module = functools.cache(lambda path: _parse(read, path))
        self.stand_ins = stand_ins
        self.places: dict[str, str] = {}
        self.modules: set[str] = set()
        self.texts: list[str] = []

    def take(self, module: Module, name: str, needed_by: str, local: Mapping[str, Import] = _NO_IMPORTS) -> None:
        """Adds `name` as `module` knows it, after all that it needs. local: imports inside the one that needs it."""
        if name in self.stand_ins or name == "__file__":
            return
        module, found = self.find(module, name, needed_by, local.get(name) or module.bound.get(name))
        is_import = isinstance(found, Import)
        place = ast.unparse(found) if is_import else f"{module.path}, line {found.lineno}"
        if name in self.places:
            if self.places[name] != place:
                raise CutError(f"{name}: expected one in all that is cut, found {self.places[name]} and {place}")
            return
        self.places[name] = place
        if not is_import:
            self.modules.add(module.path)
            found, inner = _plain(found)
            for free in sorted(free_names(found)):
                self.take(module, free, name, inner)
        self.texts.append(ast.unparse(found))

    def find(self, module: Module, name: str, needed_by: str, found: ast.stmt | None) -> tuple[Module, ast.stmt]:
        """The module and the statement that define `name`, through whatever modules import it from one another."""
        start = module.path
        for _ in range(_MAX_HOPS):
            if isinstance(found, ast.FunctionDef | ast.Assign | ast.AnnAssign):
                return module, found
            if not isinstance(found, Import):
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
        raise CutError(
            f"{start}: expected {needed_by} to need only what can be cut out or has a stand-in, found {name} ({what})"
        )


def _parse(read: Read, path: str) -> Module | None:
    source = read(path)
    if source is None:
        return None
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError) as error:
        raise CutError(f"{path}: expected Python source, found {error}") from error
    return Module(path, {name: statement for statement in tree.body for name in _bound_by(statement)})


def _bound_by(statement: ast.stmt) -> Iterator[str]:
    if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        yield statement.name
    elif isinstance(statement, Import):
        yield from map(_binds, statement.names)
    elif isinstance(statement, ast.Assign | ast.AnnAssign):
        targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
        yield from (target.id for target in targets if isinstance(target, ast.Name))


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
