"""Who reviews what runs beside a token: the file of code owners knows it all."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tools.checkout import CHECKOUT

LINES = (CHECKOUT / ".github" / "CODEOWNERS").read_text("utf-8").splitlines()
RULES = [line.split() for line in LINES if line and not line.startswith("#")]
ADMINS = "@fused-moe-configs/admins"


def owner(path: str) -> str:
    """By the last line that matches, as GitHub reads the file; these lines are folders and files."""
    matching = [who for pattern, who in RULES if pattern == "*" or f"/{path}".startswith(pattern)]
    return matching[-1]


def imported() -> list[str]:
    """Our modules that `python -m tools.github` loads, and whatever is not Python's own."""
    program = (
        "import sys, tools.github.__main__\n"
        "own = set(sys.stdlib_module_names) | {'__main__'}\n"
        "print(*sorted(m for m in sys.modules if m.partition('.')[0] not in own))"
    )
    command = [sys.executable, "-S", "-c", program]  # without site-packages: nothing installed may be needed
    return subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True, check=True).stdout.split()


def test_what_runs_beside_the_token_is_ours_and_the_admins() -> None:
    modules = imported()
    assert all(module.partition(".")[0] in ("tools", "kernels") for module in modules)
    places = [module.replace(".", "/") for module in modules]
    files = [
        file for place in places for file in (f"{place}.py", f"{place}/__init__.py") if (CHECKOUT / file).is_file()
    ]
    assert "tools/store/files.py" in files
    assert {file: owner(file) for file in files if owner(file) != ADMINS} == {}


@pytest.mark.parametrize(
    "path", [".github/workflows/measure.yml", "schema/plan.schema.json", "noxfile.py", "locks/nox.txt"]
)
def test_what_decides_what_runs_is_the_admins(path: str) -> None:
    assert owner(path) == ADMINS


def test_a_tuned_file_wants_a_maintainer() -> None:
    assert owner("configs/E=8.json") == "@fused-moe-configs/maintainers"


def test_every_line_is_of_something_that_is_there() -> None:
    assert [pattern for pattern, _ in RULES if pattern != "*" and not (CHECKOUT / pattern.strip("/")).exists()] == []
