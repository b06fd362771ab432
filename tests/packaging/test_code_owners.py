"""Who reviews what runs beside a token: the file of code owners knows it all."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterable

import pytest

from tools.checkout import CHECKOUT
from tools.pull_request.changes import decides

LINES = (CHECKOUT / ".github" / "CODEOWNERS").read_text("utf-8").splitlines()
RULES = [line.split() for line in LINES if line and not line.startswith("#")]
ADMINS = "@fused-moe-configs/admins"


def owner(path: str) -> str:
    """By the last line that matches, as GitHub reads the file; a line without a slash in front is of any folder."""
    rooted = f"/{path}"
    return [who for pattern, who in RULES if rooted.startswith(pattern.rstrip("*")) or f"/{pattern}" in rooted][-1]


def imported() -> list[str]:
    """Our modules that `python -m tools.github` loads, and whatever is not Python's own."""
    program = (
        "import sys, tools.github.__main__\n"
        "own = set(sys.stdlib_module_names) | {'__main__'}\n"
        "print(*sorted(m for m in sys.modules if m.partition('.')[0] not in own))"
    )
    command = [sys.executable, "-S", "-c", program]  # without site-packages: nothing installed may be needed
    return subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True, check=True).stdout.split()


def files_of(modules: Iterable[str]) -> list[str]:
    places = [module.replace(".", "/") for module in modules]
    return [file for place in places for file in (f"{place}.py", f"{place}/__init__.py") if (CHECKOUT / file).is_file()]


def reached(*modules: str) -> set[str]:
    """The files that these modules import, and what those import, by their text: also what a function imports later."""
    found: set[str] = set()
    left = files_of(modules)
    while left:
        file = left.pop()
        if file in found:
            continue
        found.add(file)
        tree = ast.parse((CHECKOUT / file).read_text("utf-8"))
        names = {name for node in ast.walk(tree) for name in names_of(node, file)}
        parents = {".".join(name.split(".")[:count]) for name in names for count in range(1, name.count(".") + 2)}
        left += files_of(parents)
    return found


def names_of(node: ast.AST, file: str) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom):
        # `from .lookup import x` in fused_moe_configs/serving.py is of fused_moe_configs.lookup.
        package = file.split("/")[: -node.level] if node.level else []
        module = ".".join([*package, *([node.module] if node.module else [])])
        return [module, *(f"{module}.{alias.name}" for alias in node.names)]
    return []


GATE = reached("tools.pull_request.__main__", "tools.validate.__main__")
"""What judges evidence: the diff's gate, which the check «Evidence» runs, and the validator."""


def test_what_runs_beside_the_token_is_ours_and_the_admins() -> None:
    modules = imported()
    assert all(module.partition(".")[0] in ("tools", "kernels", "fused_moe_configs") for module in modules)
    files = files_of(modules)
    assert "tools/store/files.py" in files
    assert {file: owner(file) for file in files if owner(file) != ADMINS} == {}


def test_what_judges_evidence_is_the_admins() -> None:
    assert {"tools/store/schemas.py", "tools/validate/rules/verified.py", "tools/git.py"} <= GATE
    assert "fused_moe_configs/lookup.py" in GATE  # by a relative import
    assert {file: owner(file) for file in sorted(GATE) if owner(file) != ADMINS} == {}


def test_a_change_to_what_judges_evidence_is_known_as_one() -> None:
    read = ("schema/record.schema.json", "pyproject.toml", "noxfile.py", "nox", ".github/workflows/validate.yml")
    assert [file for file in sorted(GATE | {*read}) if not decides(file)] == []


@pytest.mark.parametrize("end", ["/__init__.py", "/__init__.abi3.so", ".abi3.so", ".cpython-313-x86_64-linux-gnu.so"])
def test_what_python_takes_before_a_judge_is_one_and_the_admins(end: str) -> None:
    """A folder evidence/ beside evidence.py is the module then, and so is what was compiled."""
    for file in sorted(GATE):
        instead = f"{file.removesuffix('.py')}{end}"
        assert (decides(instead), owner(instead)) == (True, ADMINS)


@pytest.mark.parametrize(
    "path", ["kernels/__pycache__/problem.cpython-313.pyc", "fused_moe_configs/.gitattributes", "tests/.gitattributes"]
)
def test_what_puts_other_code_into_a_checkout_is_the_admins(path: str) -> None:
    assert (decides(path), owner(path)) == (True, ADMINS)


@pytest.mark.parametrize("name", ["devices", "engines", "models"])
def test_every_registry_stands_behind_shapes_and_is_the_admins(name: str) -> None:
    path = f"configs/registry/{name}.json"
    assert (decides(path), owner(path)) == (True, ADMINS)


@pytest.mark.parametrize(
    "path",
    [
        ".github/workflows/measure.yml",
        "schema/plan.schema.json",
        "noxfile.py",
        "locks/nox.txt",
        "hatch_build.py",
        "fused_moe_configs/index.py",
    ],
)
def test_what_decides_what_runs_is_the_admins(path: str) -> None:
    assert owner(path) == ADMINS


def test_a_tuned_file_wants_a_maintainer() -> None:
    assert owner("configs/E=8.json") == "@fused-moe-configs/maintainers"


def test_every_line_is_of_something_that_is_there() -> None:
    rooted = [pattern for pattern, _ in RULES if pattern.startswith("/")]
    assert [pattern for pattern in rooted if not list(CHECKOUT.glob(pattern.strip("/")))] == []
