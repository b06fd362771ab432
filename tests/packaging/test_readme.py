"""The README's commands and examples say what the code does."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

from tools.checkout import CHECKOUT

README = (CHECKOUT / "README.md").read_text("utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("session", ["validate", "tests"])
def test_one_command_sets_up_and_runs_the_session(session: str) -> None:
    commands = [block for block in blocks("sh") if block.rstrip().endswith(f"nox -s {session}")]
    set_up = [command for command in commands if "pip install nox" in command]
    assert len(set_up) == 1
    assert len(set_up[0].strip().splitlines()) == 1


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


@pytest.mark.parametrize("target", sorted(set(re.findall(r"\]\(([^)#]+)\)", README))))
def test_every_link_leads_to_a_file(target: str) -> None:
    assert (CHECKOUT / target).exists()
