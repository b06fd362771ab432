"""A child that hangs, crashes or babbles is a reason, and leaves nothing behind."""

from __future__ import annotations

import os
import sys
import textwrap
import time
from pathlib import Path

import pytest

from tools.pull_request import measure
from tools.pull_request.measure import NotMeasuredError, run_tool


@pytest.fixture
def script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """`python -m child` runs what the test writes there."""
    monkeypatch.setattr(measure, "CHECKOUT", tmp_path)
    return tmp_path / "child.py"


def test_its_output_is_read_as_json(script: Path) -> None:
    script.write_text("import json, sys; print(json.dumps(sys.argv[1:])); print('to people', file=sys.stderr)")
    assert run_tool("child", ["a b", "$(c)"], 60) == ["a b", "$(c)"]


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("import sys; sys.exit(2)", "unsupported"),
        ("import sys; print('{}'); sys.exit(1)", "crashed"),
        ("import os; os.abort()", "crashed"),
        ("print('{')", "crashed"),
        ("pass", "crashed"),
        ("print('x' * (17 << 20))", "crashed"),
    ],
)
def test_every_other_end_is_a_reason(script: Path, body: str, reason: str) -> None:
    script.write_text(body)
    with pytest.raises(NotMeasuredError) as error:
        run_tool("child", [], 60)
    assert error.value.reason == reason


def test_an_exit_code_may_be_a_result(script: Path) -> None:
    script.write_text("import sys; print('{}'); sys.exit(1)")
    assert run_tool("child", [], 60, good=(0, 1)) == {}


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_a_child_that_hangs_is_ended_with_what_it_started(script: Path, tmp_path: Path) -> None:
    script.write_text(
        textwrap.dedent("""
            import pathlib, subprocess, sys, time
            inner = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
            pathlib.Path("inner.tmp").write_text(str(inner.pid))
            pathlib.Path("inner.tmp").rename("inner")
            time.sleep(600)
        """)
    )
    with pytest.raises(NotMeasuredError) as error:
        run_tool("child", [], 5)
    assert error.value.reason == "timeout"
    pid = int((tmp_path / "inner").read_text())
    deadline = time.monotonic() + 10
    while is_running(pid) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not is_running(pid)


def is_running(pid: int) -> bool:
    status = Path(f"/proc/{pid}/stat")
    return os.path.exists(status) and status.read_text().rpartition(")")[2].split()[0] != "Z"  # noqa: PTH110
