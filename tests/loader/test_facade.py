"""The package itself: the published names, each imported when it is first used."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import fused_moe_configs


def run(code):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()


def test_the_published_names_are_there():
    for name in fused_moe_configs.__all__:
        assert hasattr(fused_moe_configs, name)
    assert set(fused_moe_configs.__all__) <= {*dir(fused_moe_configs)}
    assert fused_moe_configs.where().is_dir()


def test_type_checkers_are_told_of_the_same_names():
    stub = ast.parse(Path(fused_moe_configs.__file__).with_suffix(".pyi").read_text("utf-8"))
    imported = {
        name.asname: node.module for node in stub.body if isinstance(node, ast.ImportFrom) for name in node.names
    }
    assert imported == fused_moe_configs._MODULES
    (listed,) = (node.value for node in stub.body if isinstance(node, ast.Assign))
    assert sorted(ast.literal_eval(listed)) == sorted(fused_moe_configs.__all__)


def test_another_name_is_no_attribute():
    with pytest.raises(AttributeError, match="no attribute 'get_configs'"):
        _ = fused_moe_configs.get_configs


def test_importing_pulls_in_nothing_slow():
    slow = "torch triton json re pathlib logging dataclasses typing importlib.metadata enum"
    code = f"""
import sys; before = set(sys.modules)
import fused_moe_configs; print([m for m in {slow.split()} if m in set(sys.modules) - before])"""
    assert run(code) == "[]"


def test_export_is_the_function_whatever_was_imported_before():
    code = """
import fused_moe_configs.exporting.layout, fused_moe_configs
print(fused_moe_configs.export.__name__, callable(fused_moe_configs.export))"""
    assert run(code) == "export True"
