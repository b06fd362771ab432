"""What holds for every rule."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.builders import Store
from tools.store.workload import Layout
from tools.validate import rules
from tools.validate.rules import RULES

MODULES = sorted(path.stem for path in Path(rules.__file__).parent.glob("*.py") if path.stem != "__init__")


def test_every_rule_module_is_listed_once() -> None:
    assert sorted(rule.name.replace("-", "_") for rule in RULES) == MODULES


@pytest.mark.parametrize("module", MODULES)
def test_every_rule_has_its_test(module: str) -> None:
    assert (Path(__file__).parent / f"test_{module}.py").is_file()


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.name)
def test_a_rule_says_what_it_wants(rule: rules.Rule) -> None:
    assert rule.description.endswith(".")
    assert rule.layouts


def test_a_sound_store_has_no_finding(store: Store) -> None:
    store.config(folder="legacy_configs")
    store.measured(store.config())
    assert store.findings() == []


@pytest.mark.parametrize(("layout", "folder"), [(Layout.VLLM, ""), (Layout.SGLANG, "triton_3_8_0")])
def test_a_sound_engines_folder_has_no_finding(store: Store, layout: Layout, folder: str) -> None:
    store.config(folder=folder, record=False)
    assert store.findings(layout=layout) == []


def test_an_empty_store_has_no_finding(store: Store) -> None:
    assert store.findings() == []
