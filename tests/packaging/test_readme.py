"""The README's commands and examples say what the code does."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest
import tomllib

from tools.checkout import CHECKOUT

README = (CHECKOUT / "README.md").read_text("utf-8")
REPOSITORY = tomllib.loads((CHECKOUT / "pyproject.toml").read_text("utf-8"))["project"]["urls"]["Repository"]


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("session", ["validate", "tests"])
def test_one_command_sets_up_and_runs_the_session(session: str) -> None:
    command = f"./nox -s {session}"
    assert f"{command}\n" in blocks("sh")
    assert (CHECKOUT / "nox").stat().st_mode & 0o111
    # Nothing before it in the README has made an environment.
    assert README.index(f"\n{command}\n") < README.index(".venv")


@pytest.mark.parametrize(
    "path", ["README.md", "CONTRIBUTING.md", "configs/README.md", ".github/pull_request_template.md"]
)
def test_nox_is_called_by_the_script_that_makes_its_environment(path: str) -> None:
    text = (CHECKOUT / path).read_text("utf-8")
    assert [line for line in text.splitlines() if re.search(r"(?<!\./)\bnox -|bin/nox", line)] == []


def test_python_example_prints_what_it_says() -> None:
    (example,) = blocks("python")
    promised = re.search(r"^# (\{.*\})$", example, re.MULTILINE)
    assert promised is not None
    code = f"{example}\nprint(config)\n"
    environment = {"PATH": "/usr/bin:/bin"}
    command = [sys.executable, "-c", code]
    result = subprocess.run(command, capture_output=True, text=True, cwd=CHECKOUT, env=environment, check=False)
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines()[-1] == promised[1]


@pytest.mark.parametrize("session", sorted(set(re.findall(r"nox -s (\w+)", README))))
def test_every_session_that_the_readme_names_exists(session: str) -> None:
    noxfile = (CHECKOUT / "noxfile.py").read_text("utf-8")
    assert re.search(rf'^def {session}\(session|name="{session}"', noxfile, re.MULTILINE)


LINKS = dict(re.findall(r"^\[(.+)\]: (\S+)$", README, re.MULTILINE))


@pytest.mark.parametrize("target", sorted(LINKS.values()))
def test_every_link_holds_on_a_package_index_and_leads_to_something(target: str) -> None:
    """The package's page shows this README far from the files beside it."""
    assert target.startswith("https://")
    if target.startswith(REPOSITORY):
        kind, _, path = target.removeprefix(f"{REPOSITORY}/").partition("/main/")
        assert (CHECKOUT / path).is_file() if kind == "blob" else kind == "tree" and (CHECKOUT / path).is_dir()


def test_every_link_is_defined_at_the_end() -> None:
    prose = re.sub(r"^```.*?^```$|`[^`\n]*`", "", README, flags=re.MULTILINE | re.DOTALL)
    text = re.sub(r"^\[.+\]: \S+$", "", prose, flags=re.MULTILINE)
    used = {name or shown for shown, name in re.findall(r"\[([^\]]+)\](?:\[([^\]]+)\])?", text)}
    assert used == set(LINKS)
    assert "](" not in text
