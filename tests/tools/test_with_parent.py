"""What a process started ends with it, also where it is killed and can't end anything."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.tools.processes import wait_until_dead
from tools.checkout import CHECKOUT
from tools.with_parent import bound

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a child of its parent's death")

SLEEPS = [sys.executable, "-c", "import os, time; print(os.getpid(), flush=True); time.sleep(600)"]


def parent(body: str) -> subprocess.Popen[str]:
    """A process that runs this, with our modules at hand."""
    code = f"import os, subprocess, sys, time; sys.path.insert(0, {str(CHECKOUT)!r})\n{body}"
    return subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)


def test_it_is_the_command_itself_with_its_arguments_environment_and_exit_code() -> None:
    code = "import os, sys; print(os.getpid(), sys.argv[1:], os.environ['WORD']); sys.exit(7)"
    process = subprocess.Popen(
        bound([sys.executable, "-c", code, "a b", "$(c)"]), stdout=-1, env={**os.environ, "WORD": "x y"}, text=True
    )
    said, _ = process.communicate(timeout=60)
    assert said == f"{process.pid} ['a b', '$(c)'] x y\n"
    assert process.returncode == 7


def test_a_killed_parent_takes_it_along() -> None:
    killed = parent(
        f"from tools.with_parent import bound\nsubprocess.Popen(bound({SLEEPS!r}), start_new_session=True)\n"
        "time.sleep(600)\n"
    )
    assert killed.stdout is not None
    pid = int(killed.stdout.readline())
    killed.kill()
    killed.communicate()
    wait_until_dead([pid])


def test_one_whose_parent_died_before_it_could_ask_ends_at_once() -> None:
    """Between the start of a process and its first line of Python lie milliseconds, and seconds of imports."""
    done = subprocess.run(
        [sys.executable, "-c", "from tools.with_parent import end_with; end_with(1 << 21); print('alive')"],
        cwd=CHECKOUT,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert (done.returncode, done.stdout) == (-9, "")
