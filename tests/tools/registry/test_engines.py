"""The registry of engines: what its reader refuses that a schema can't say."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tools.registry.engines import load_engines
from tools.registry.reading import REGISTRY_FOLDER, RegistryError

RULE = {
    "kinds": ["bf16"],
    "archs": ["sm_90"],
    "backend": "TRITON",
    "reads_tuned_files": True,
    "reason": "It comes first.",
    "source": [{"file": "vllm/a.py", "line": 1, "symbol": "TRITON"}],
}


def registry(tmp_path: Path, *engines: dict[str, Any]) -> Path:
    real = json.loads((REGISTRY_FOLDER / "engines.json").read_text("utf-8"))["engines"][0]
    path = tmp_path / "engines.json"
    document = {"schema_version": 1, "engines": [{**real, "rules": [RULE], **engine} for engine in engines]}
    path.write_text(json.dumps(document), "utf-8")
    return path


def test_both_engines_are_known_and_each_kind_of_answer_stands() -> None:
    releases = {each.name: each for each in load_engines()}
    assert releases.keys() == {"sglang", "vllm"}
    for release in releases.values():
        assert {True, False} <= {rule.reads_tuned_files for rule in release.rules}
        assert all(rule.reason.endswith(".") and rule.source for rule in release.rules)


def test_releases_are_in_order_by_number(tmp_path: Path) -> None:
    versions = [{"name": "vllm", "version": version} for version in ("0.9.0", "0.33.0", "0.33.10")]
    assert len(load_engines(registry(tmp_path, *versions))) == 3
    with pytest.raises(RegistryError, match="expected sorted entries"):
        load_engines(registry(tmp_path, *reversed(versions)))
    with pytest.raises(RegistryError, match=r"expected each name once, found 'vllm 0\.9\.0' twice"):
        load_engines(registry(tmp_path, versions[0], versions[0]))


@pytest.mark.parametrize(
    ("first", "second", "is_covered"),
    [
        ({}, {}, True),
        ({"archs": ["sm_89", "sm_90"]}, {"parallelism": "ep"}, True),
        ({"archs": ["sm_89"]}, {}, False),
        ({"kinds": ["fp8_block"]}, {}, False),
        ({"parallelism": "ep"}, {}, False),
        ({"gated": False}, {"gated": True}, False),
        ({"gated": False}, {}, False),
        ({"block_shape": [128, 128]}, {}, False),
        ({"models": ["openai/*"]}, {}, False),
        ({}, {"models": ["openai/*"]}, True),
        ({"models": ["openai/*", "a/b"]}, {"models": ["a/b"]}, True),
    ],
)
def test_a_rule_that_can_never_answer_is_refused(
    tmp_path: Path, first: dict[str, Any], second: dict[str, Any], is_covered: bool
) -> None:
    path = registry(tmp_path, {"name": "vllm", "version": "0.33.0", "rules": [{**RULE, **first}, {**RULE, **second}]})
    if not is_covered:
        assert len(load_engines(path)[0].rules) == 2
        return
    told = (
        r"vllm 0\.33\.0 / rules / 2: expected a rule that can answer, found one that rule 1 covers wholly\. Fix: move"
    )
    with pytest.raises(RegistryError, match=told):
        load_engines(path)


def test_a_fault_by_the_schema_names_the_engine(tmp_path: Path) -> None:
    with pytest.raises(RegistryError, match=r"vllm / rules / 0 / kinds / 0: expected .*, found \"fp8\""):
        load_engines(registry(tmp_path, {"name": "vllm", "rules": [{**RULE, "kinds": ["fp8"]}]}))
