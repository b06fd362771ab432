"""The nox session that runs these tests: what is named after `--` takes the place of the whole folder."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tools.checkout import CHECKOUT


@pytest.mark.parametrize(
    ("arguments", "files"),
    [
        ([], {path.name for path in (CHECKOUT / "tests" / "workflows").glob("test_*.py")}),
        (["tests/workflows/test_linters.py"], {"test_linters.py"}),
        (["tests/workflows/test_linters.py::test_zizmor_has_no_complaint"], {"test_linters.py"}),
        (["-k", "zizmor"], {"test_linters.py"}),
    ],
)
def test_a_path_replaces_the_folder(arguments: list[str], files: set[str]) -> None:
    command = [sys.executable, "-m", "nox", "--no-venv", "-s", "workflows", "--", "--collect-only", "-q", *arguments]
    answer = subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True, check=True)
    tests = [line for line in answer.stdout.splitlines() if "::" in line]
    assert {line.partition("::")[0].removeprefix("tests/workflows/") for line in tests} == files
