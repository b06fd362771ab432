"""A class name means one thing in the whole tree."""

from __future__ import annotations

import ast

from tools.checkout import CHECKOUT

FOLDERS = ("fused_moe_configs", "kernels", "tools")


def test_no_two_modules_define_a_class_of_one_name() -> None:
    places: dict[str, list[str]] = {}
    for path in (path for folder in FOLDERS for path in sorted((CHECKOUT / folder).rglob("*.py"))):
        for node in ast.walk(ast.parse(path.read_bytes())):
            if isinstance(node, ast.ClassDef):
                places.setdefault(node.name, []).append(f"{path.relative_to(CHECKOUT)}:{node.lineno}")
    assert len(places) > 300
    assert {name: found for name, found in places.items() if len(found) > 1} == {}
