"""The linters, offline: zizmor at its strictest, actionlint with shellcheck, and the schemas of each kind of file."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from tests.workflows.parsed import ACTIONS, FOLDER, workflows
from tools.checkout import CHECKOUT

GITHUB = CHECKOUT / ".github"
ZIZMOR = ("zizmor", "--offline", "--no-progress", "--quiet", "--persona", "auditor", "--strict-collection")
SCHEMAS = {
    "vendor.github-workflows": sorted(FOLDER.glob("*.yml")),
    "custom.github-workflows-require-timeout": sorted(FOLDER.glob("*.yml")),
    "vendor.github-actions": sorted(ACTIONS.glob("*/action.yml")),
    "vendor.github-issue-forms": sorted((GITHUB / "ISSUE_TEMPLATE").glob("[0-9]*.yml")),
    "vendor.github-issue-config": [GITHUB / "ISSUE_TEMPLATE" / "config.yml"],
    "vendor.dependabot": [GITHUB / "dependabot.yml"],
}


def run(*command: str) -> subprocess.CompletedProcess[str]:
    """With the linters that stand beside this Python."""
    program = Path(sys.executable).parent / command[0]
    return subprocess.run([program, *command[1:]], cwd=CHECKOUT, capture_output=True, text=True, check=False)


def test_zizmor_has_no_complaint() -> None:
    result = run(*ZIZMOR, ".")
    assert result.returncode == 0, result.stdout


def test_every_ignore_of_zizmor_is_needed() -> None:
    rules = YAML(typ="safe").load(GITHUB / "zizmor.yml")["rules"]
    ignored = {(rule, name) for rule, options in rules.items() for name in options.get("ignore", [])}
    disabled = {rule for rule, options in rules.items() if options.get("disable")}
    findings = json.loads(run(*ZIZMOR, "--no-config", "--format", "json", ".").stdout)
    found = {(finding["ident"], _file(finding)) for finding in findings}
    assert {pair for pair in found if pair[0] not in disabled} == ignored
    assert disabled <= {rule for rule, _ in found}


def _file(finding: Mapping[str, Any]) -> str:
    location = finding["locations"][0]
    return Path(location["symbolic"]["key"]["Local"]["verbatim_path"]).name


def test_actionlint_and_shellcheck_have_no_complaint() -> None:
    result = run("actionlint", "-shellcheck", str(Path(sys.executable).parent / "shellcheck"))
    assert result.returncode == 0, result.stdout


def test_shellcheck_has_no_complaint_about_our_scripts() -> None:
    stubs = [str(path) for path in (CHECKOUT / "tests" / "workflows" / "stubs" / "bin").iterdir()]
    result = run("shellcheck", "nox", ".ci/run", *stubs)
    assert result.returncode == 0, result.stdout


def test_hooks_run_offline_from_the_lint_environment() -> None:
    (repository,) = YAML(typ="safe").load(CHECKOUT / ".pre-commit-config.yaml")["repos"]
    assert repository["repo"] == "local"
    assert {hook["language"] for hook in repository["hooks"]} == {"system"}
    entries = [hook["entry"].split() for hook in repository["hooks"]]
    assert [entry[0] for entry in entries] == [".nox/lint/bin/ruff", ".nox/lint/bin/ruff", ".nox/lint/bin/python"]
    assert [entry[1] for entry in entries[:2]] == ["check", "format"], "what the lint session asks of ruff"


def test_actionlint_asks_shellcheck(tmp_path: Path) -> None:
    """Without it, actionlint says nothing about commands, and says nothing about that either."""
    careless = tmp_path / "careless.yml"
    careless.write_text("on: push\njobs: {a: {runs-on: ubuntu-24.04, steps: [{run: echo $HOME}]}}\n", "utf-8")
    result = run("actionlint", "-shellcheck", str(Path(sys.executable).parent / "shellcheck"), str(careless))
    assert "SC2086" in result.stdout


@pytest.mark.parametrize("schema", SCHEMAS)
def test_files_fit_their_schema(schema: str) -> None:
    files = list(map(str, SCHEMAS[schema]))
    assert files
    result = run("check-jsonschema", "--builtin-schema", schema, *files)
    assert result.returncode == 0, result.stdout


def test_no_file_is_left_out() -> None:
    known = {path for paths in SCHEMAS.values() for path in paths}
    others = {"actionlint.yaml", "zizmor.yml"}
    assert {path for path in GITHUB.rglob("*.y*ml") if path.name not in others} == known
    assert len(workflows()) == len(SCHEMAS["vendor.github-workflows"])
