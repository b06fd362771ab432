"""Commands end quietly when their reader or user has had enough."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tools.console import run
from tools.store import CHECKOUT


def test_exit_code_is_that_of_the_command() -> None:
    with pytest.raises(SystemExit) as end:
        run(lambda: 2)
    assert end.value.code == 2


def test_ctrl_c_is_no_traceback() -> None:
    def interrupted() -> int:
        raise KeyboardInterrupt

    with pytest.raises(SystemExit) as end:
        run(interrupted)
    assert end.value.code == 130


def test_closed_pipe_is_no_traceback() -> None:
    code = "from tools.console import run\nrun(lambda: print('x' * 200_000) or 0)"
    command = f"{sys.executable} -c '{code.replace(chr(39), chr(34))}' | head -c 1"
    result = subprocess.run(["bash", "-c", command], capture_output=True, text=True, cwd=CHECKOUT, check=False)
    assert result.stdout == "x"
    assert result.stderr == ""
