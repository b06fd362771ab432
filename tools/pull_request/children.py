"""Our own commands as child processes: what hangs or crashes in one workload must not take the others with it."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from typing import Any

from tools.checkout import CHECKOUT
from tools.pull_request.site import NotMeasuredError
from tools.store.strict_json import parse

MAX_OUTPUT_BYTES = 16 << 20
_IMPOSSIBLE = 2


def run_tool(module: str, arguments: Sequence[str], limit_s: float, *, good: Sequence[int] = (0,)) -> Any:
    """The JSON that `python -m MODULE …` prints; what it tells people goes to our stderr.

    NotMeasuredError: «timeout» after limit_s, with everything it started; «unsupported» where it says impossible here
    (exit 2); «crashed» for any other end, and where it printed no JSON.
    """
    command = [sys.executable, "-m", module, *arguments]
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=output, cwd=CHECKOUT, start_new_session=True
        )
        try:
            code = process.wait(max(0.0, limit_s))
        except subprocess.TimeoutExpired as error:
            raise NotMeasuredError("timeout") from error
        finally:
            _end(process)
        if code not in good:
            raise NotMeasuredError("unsupported" if code == _IMPOSSIBLE else "crashed")
        output.seek(0)
        document, faults = parse(output.read(MAX_OUTPUT_BYTES))
    if faults:
        raise NotMeasuredError("crashed")
    return document


def _end(process: subprocess.Popen[bytes]) -> None:
    """With its whole group; what has a group of its own (tools.child_process) dies with its parent."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
