"""An engine's look-up is cut out with all that it needs and nothing else."""

from __future__ import annotations

import re

import pytest

from tools.canary.child import stand_ins
from tools.canary.cut import CutError, cut
from tools.canary.engines import ENGINES, WANTED

from .conftest import engine


def cut_from(modules: dict[str, str], *wanted: str, stubs: tuple[str, ...] = ()) -> str:
    return cut(modules.get, ["e/a.py"], wanted or ("f",), stubs).text


@pytest.mark.parametrize("name", ["vllm", "sglang"])
def test_a_whole_look_up_needs_nothing_of_its_engine(name: str) -> None:
    found = cut(engine(name).modules.get, ENGINES[name].places, WANTED, stand_ins(name, "", "", ""))
    assert set(WANTED) <= set(re.findall(r"^def (\w+)", found.text, re.MULTILINE))
    imports = set(re.findall(r"^\s*(?:from|import) (\w+)", found.text, re.MULTILINE))
    assert imports <= {"functools", "json", "os"}
    assert found.modules == tuple(sorted(engine(name).modules))
    assert "unrelated" not in found.text


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
        ({}, "expected the look-up in e/a.py, found no such module"),
        ({"e/a.py": ""}, "expected the canary to need only what can be cut out or has a stand-in, found f (nothing of"),
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
