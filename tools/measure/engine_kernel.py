"""An engine's fused MoE kernel, cut out of its installed source without importing the engine.

The JIT function and those that it calls are found by syntax tree and written to a module of their own, because Triton
reads the source of what it compiles from a file. The engine's code is never kept in this repository.
"""

from __future__ import annotations

import ast
import contextlib
import functools
import hashlib
import importlib.util
import os
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from tools.errors import UserError
from tools.launch import source_cut
from tools.launch.engine_package import version_in
from tools.launch.source_cut import is_jit

KERNEL_NAME = "fused_moe_kernel"
_HEADER = "import triton\nimport triton.language as tl\n"
_PROVIDED = {"triton", "tl"}


class EngineKernelError(UserError):
    """The file holds no kernel that can be cut out. The message says what was expected and found."""


@dataclass(frozen=True)
class EngineSource:
    """A cut kernel: source text of its module, parameter names in order, those with a default, those compiled in."""

    text: str
    parameters: tuple[str, ...]
    optional: frozenset[str]
    constants: frozenset[str]

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.text.encode()).hexdigest()


_GIVE_IT = "Fix: give the file that holds the engine's kernel."


def cut(path: Path, name: str = KERNEL_NAME) -> EngineSource:
    """Cuts the JIT function `name` and every JIT function that it needs. EngineKernelError: it can't be done."""
    try:
        source = path.read_text("utf-8")
    except OSError as error:
        raise EngineKernelError(
            f"{path}: expected the engine's kernel there, found none ({error.strerror}). Fix: give its full path."
        ) from error
    except UnicodeDecodeError as error:
        raise EngineKernelError(f"{path}: expected Python source, found {error}. {_GIVE_IT}") from error
    try:
        found = source_cut.cut(lambda _: source, [str(path)], [name], _PROVIDED, source_cut.JIT_FUNCTIONS)
    except source_cut.NeededNameError as error:
        raise EngineKernelError(f"{path}: {_told(error, source)}") from error
    except source_cut.CutError as error:
        raise EngineKernelError(f"{error}. {_GIVE_IT}") from error
    function = found.taken[name]
    assert isinstance(function, ast.FunctionDef)
    return EngineSource(f"{_HEADER}\n\n\n{found.text}", *_parameters(function.args))


def _told(error: source_cut.NeededNameError, source: str) -> str:
    if error.needed_by is None:
        jit = [node.name for node in ast.parse(source).body if isinstance(node, ast.FunctionDef) and is_jit(node)]
        found = ", ".join(sorted(jit)) or "none"
        return f"expected a JIT function {error.name}, found {found}. {_GIVE_IT}"
    return (
        f"expected {error.needed_by} to use triton, tl and JIT functions of the same file only, found {error.name}. "
        "Fix: use a version of the engine that this project knows."
    )


def _parameters(arguments: ast.arguments) -> tuple[tuple[str, ...], frozenset[str], frozenset[str]]:
    """All by name in order, those with a default, and those that Triton compiles in."""
    positional = [*arguments.posonlyargs, *arguments.args]
    optional = positional[len(positional) - len(arguments.defaults) :]
    optional += [a for a, default in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True) if default]
    every = [*positional, *arguments.kwonlyargs]
    constants = [a for a in every if a.annotation is not None and "constexpr" in ast.unparse(a.annotation)]
    return tuple(a.arg for a in every), frozenset(a.arg for a in optional), frozenset(a.arg for a in constants)


def load(source: EngineSource, folder: Path | None = None) -> ModuleType:
    """Writes the module below `folder` (default: a folder for temporary files) and imports it, once a process."""
    name = f"engine_kernel_{source.sha256[:16]}"
    if name in sys.modules:
        return sys.modules[name]
    folder = folder or Path(tempfile.gettempdir()) / f"fused-moe-engine-kernels-{os.getuid()}"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    path = folder / f"{name}.py"
    if not path.exists() or path.read_text("utf-8") != source.text:
        partial = path.with_suffix(f".{os.getpid()}")
        partial.write_text(source.text, "utf-8")
        partial.replace(path)
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


@functools.cache
def load_kernel(path: Path) -> Any:
    """The JIT function of the engine's file, ready to launch."""
    return getattr(load(cut(path)), KERNEL_NAME)


def engine_version(path: Path, engine: str) -> str | None:
    """The version that the package's metadata states beside an installed or unpacked package. None: there is none."""
    for folder in path.resolve().parents:
        for metadata in sorted(folder.glob(f"{engine}-*.dist-info/METADATA")):
            with contextlib.suppress(OSError):
                if version := version_in(metadata.read_text("utf-8", errors="replace")):
                    return version
    return None
