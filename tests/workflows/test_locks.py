"""locks/: what CI installs beside a token or builds with, by version and hash."""

from __future__ import annotations

import re
from importlib import metadata
from pathlib import Path
from types import ModuleType

import nox
import pytest
import tomllib
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.workflows.parsed import read, workflows
from tools.checkout import CHECKOUT

GROUPS = ("build", "nox", "site", "validate")
LINE = re.compile(r"(?P<name>[a-z0-9-]+)==(?P<version>[0-9][0-9a-z.]*)(?: --hash=sha256:[0-9a-f]{64})+")
PROJECT = tomllib.loads((CHECKOUT / "pyproject.toml").read_text("utf-8"))


def text(group: str) -> str:
    return (CHECKOUT / "locks" / f"{group}.txt").read_text("utf-8")


def packages(group: str) -> dict[str, str]:
    """Version by package. A line may go on after a backslash, as Dependabot writes it."""
    lines = re.sub(r" *\\\n *", " ", text(group)).splitlines()
    matches = [LINE.fullmatch(line) for line in lines if not line.startswith("#")]
    assert all(matches), lines
    return {match["name"]: match["version"] for match in matches if match}


def test_these_locks_and_no_others() -> None:
    assert {path.stem for path in (CHECKOUT / "locks").iterdir()} == set(GROUPS)


@pytest.mark.parametrize("group", GROUPS)
def test_a_lock_holds_what_its_group_asks_for(group: str) -> None:
    found = packages(group)
    for requirement in map(Requirement, nox.project.dependency_groups(PROJECT, group)):
        version = found.get(canonicalize_name(requirement.name))
        assert version is not None, f"{requirement}: ./nox -s lock"
        assert requirement.specifier.contains(version), f"{requirement}, locked {version}: ./nox -s lock"


@pytest.mark.parametrize("group", GROUPS)
def test_a_lock_holds_what_its_packages_need(group: str) -> None:
    """By the metadata of the packages that are installed beside these tests."""
    found = packages(group)
    for name in found:
        needed = [Requirement(line) for line in metadata.requires(name) or []]
        missing = {
            str(requirement)
            for requirement in needed
            if (requirement.marker is None or requirement.marker.evaluate({"extra": "", "python_version": "3.11"}))
            and canonicalize_name(requirement.name) not in found
        }
        assert not missing, name


@pytest.mark.parametrize("group", GROUPS)
def test_a_lock_names_no_address_and_nothing_but_hashed_packages(group: str) -> None:
    assert "://" not in text(group)
    assert not re.search(r"--(?!hash=)", text(group)), "no index, no link, no other option"
    assert list(packages(group)) == sorted(packages(group))


@pytest.mark.parametrize("group", GROUPS)
def test_no_lock_holds_pytorch_or_triton(group: str) -> None:
    """CPU builds of PyTorch have other hashes than those for CUDA."""
    assert not {"torch", "triton", "numpy"} & set(packages(group))


def test_packages_of_two_locks_have_one_version() -> None:
    every = {pair for group in GROUPS for pair in packages(group).items()}
    assert len({name for name, _ in every}) == len(every)


def test_nox_comes_by_its_lock_everywhere() -> None:
    action = read(CHECKOUT / ".github" / "actions" / "setup" / "action.yml")
    commands = [step["run"] for step in action.tree["runs"]["steps"] if "run" in step]
    assert commands == ["python -m pip install --require-hashes --requirement locks/nox.txt"]
    assert not any("pip install" in found.text for found in workflows())


def test_dependabot_keeps_them_fresh_and_lets_releases_rest() -> None:
    (update,) = [
        update
        for update in read(CHECKOUT / ".github" / "dependabot.yml").tree["updates"]
        if update["package-ecosystem"] == "pip"
    ]
    assert update["directory"] == "/locks"
    assert update["cooldown"]["default-days"] >= 7


# What writes them: pip's report becomes a lock.

REPORT = """{"install": [
{"metadata": {"name": "b_c.D", "version": "2"}, "download_info": {"url": "https://example.org/b.whl",
 "archive_info": {"hashes": {"sha256": "22"}}}},
{"metadata": {"name": "a", "version": "1.0"}, "download_info": {"url": "file:///a.whl",
 "archive_info": {"hashes": {"sha256": "11"}}}}]}"""


def test_a_report_becomes_a_line_a_package_without_its_address(noxfile: ModuleType) -> None:
    assert noxfile.locked(REPORT) == "a==1.0 --hash=sha256:11\nb-c-d==2 --hash=sha256:22\n"


def test_these_are_the_locks_that_the_session_writes(noxfile: ModuleType) -> None:
    assert set(noxfile.LOCKED_GROUPS) == set(GROUPS)
    assert (CHECKOUT / noxfile.LOCKS).samefile(Path(CHECKOUT / "locks"))
