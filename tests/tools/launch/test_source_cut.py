"""Code is cut out of a package with all that it needs and nothing else."""

from __future__ import annotations

import ast
import re

import pytest

from tools.launch.source_cut import JIT_FUNCTIONS, CutError, NeededNameError, cut, first_line, free_names


def cut_from(modules: dict[str, str], *wanted: str, stubs: tuple[str, ...] = ()) -> str:
    return cut(modules.get, ["e/a.py"], wanted or ("f",), stubs).text


def test_functions_come_after_what_they_need_and_without_annotations() -> None:
    source = "LIMIT: int = 3\ndef g(a: Kind = LIMIT) -> Kind:\n    b: Kind = a\n    return b\n@g\ndef f(x): return x"
    assert cut_from({"e/a.py": source}) == (
        "LIMIT = 3\n\n\ndef g(a=LIMIT):\n    b = a\n    return b\n\n\n@g\ndef f(x):\n    return x\n"
    )


def test_names_are_followed_through_the_engines_modules() -> None:
    modules = {
        "e/a.py": "from e.b import g\ndef f(): return g()",
        "e/b/__init__.py": "from .c import g",
        "e/b/c.py": "import os.path\ndef g(): return os.path.sep",
    }
    assert cut_from(modules) == "import os.path\n\n\ndef g():\n    return os.path.sep\n\n\ndef f():\n    return g()\n"


def test_imports_inside_a_function_are_followed_too() -> None:
    modules = {"e/a.py": "def f():\n    from e.b import g, h\n    return g(h)", "e/b.py": "def g(x): return x"}
    assert "def g(x)" in cut_from(modules, stubs=("h",))
    assert "import" not in cut_from(modules, stubs=("h",))


def test_functions_that_call_each_other_are_cut_once() -> None:
    assert cut_from({"e/a.py": "def f(): return g()\ndef g(): return f()"}).count("def ") == 2


@pytest.mark.parametrize(
    ("modules", "message"),
    [
        ({}, "expected a module e/a.py, found none"),
        (
            {"e/a.py": ""},
            "expected this project to need only what can be cut out or has a stand-in, found f (nothing of",
        ),
        ({"e/a.py": "def f(:"}, "e/a.py: expected Python source"),
        ({"e/a.py": "import torch\ndef f(): return torch.x"}, "expected f to need only what can be cut"),
        ({"e/a.py": "from e.b import g\ndef f(): return g"}, "found g (from e.b import g)"),
        (
            {"e/a.py": "from e.b import h as g\ndef f(): return g", "e/b.py": "h = 1"},
            "found g (from e.b import h as g)",
        ),
        ({"e/a.py": "class f: pass"}, "found f (class f:)"),
        ({"e/a.py": "from e.a import f"}, "found f (from e.a import f)"),
        (
            {"e/a.py": "from e.b import g\nh = 1\ndef f(): return g(h)", "e/b.py": "h = 2\ndef g(x): return h"},
            "h: expected one in all that is cut, found e/b.py, line 1 and e/a.py, line 2",
        ),
    ],
)
def test_what_is_not_as_known_is_said(modules: dict[str, str], message: str) -> None:
    with pytest.raises(CutError, match=re.escape(message)):
        cut_from(modules)


KERNELS = """import triton
from triton import jit

LIMIT = 3

# Not of the function.
@jit
def helper(x):  # rounds up
    return tl.cdiv(x, 2)

def host(): return other()

@triton.jit(do_not_specialize=["n"])
def kernel(n, BLOCK: tl.constexpr):
    return helper(n)
"""


def test_jit_functions_are_cut_as_they_are_written_and_in_the_files_order() -> None:
    found = cut({"a.py": KERNELS}.get, ["a.py"], ["kernel"], {"tl", "triton", "jit"}, JIT_FUNCTIONS)
    assert found.text == (
        "@jit\ndef helper(x):  # rounds up\n    return tl.cdiv(x, 2)\n\n\n"
        '@triton.jit(do_not_specialize=["n"])\ndef kernel(n, BLOCK: tl.constexpr):\n    return helper(n)\n'
    )
    assert set(found.taken) == {"helper", "kernel"}


def test_a_form_feed_ends_no_line() -> None:
    """As Python's own parser counts them: a function that is kept as it is written is kept whole."""
    source = "import triton\n\x0c\n@triton.jit\ndef f(x):\n    return x\n"
    found = cut({"a.py": source}.get, ["a.py"], ["f"], {"triton"}, JIT_FUNCTIONS)
    assert "@triton.jit\ndef f(x):\n    return x\n" in found.text


@pytest.mark.parametrize(
    ("source", "wanted", "needed_by", "name"),
    [
        (KERNELS, "host", None, "host"),
        (KERNELS.replace("helper(n)", "helper(LIMIT)"), "kernel", "kernel", "LIMIT"),
        (KERNELS.replace("helper(n)", "host(n)"), "kernel", "kernel", "host"),
        (KERNELS, "helper", "helper", "tl"),
    ],
    ids=["no JIT function", "a constant", "a function of the host", "what isn't provided"],
)
def test_what_is_no_jit_function_is_not_cut_with_them(
    source: str, wanted: str, needed_by: str | None, name: str
) -> None:
    with pytest.raises(NeededNameError) as caught:
        cut({"a.py": source}.get, ["a.py"], [wanted], {"triton", "jit"} | ({"tl"} - {name}), JIT_FUNCTIONS)
    assert (caught.value.needed_by, caught.value.name) == (needed_by, name)


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
