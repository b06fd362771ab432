"""The tuner's own command on a landscape, as one of two processes that write one file.

    python two_tuners.py first|second FOLDER NUM_TOKENS LANDSCAPE

The first stops in the middle of writing, when it has read what stands there, until the second waits for it, or has
written meanwhile as if nobody else were at it. Both write to FOLDER/out.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from tests.tools.processes import wait_until
from tools.store import existing, files
from tools.tune import __main__ as command
from tools.tune import write


def main(role: str, folder: str, num_tokens: str, landscape: str) -> int:
    root = Path(folder)
    writes, waits, wrote = (root / name for name in ("writes", "waits", "wrote"))
    write_file, deliver = existing.write_file, write.deliver

    def write_late(path: Path, data: bytes) -> None:
        writes.touch()
        wait_until(lambda: waits.exists() or wrote.exists(), "the second tuner")
        write_file(path, data)

    def deliver_late(*arguments: Any) -> Any:
        wait_until(writes.exists, "the first tuner")
        summary = deliver(*arguments)
        wrote.touch()
        return summary

    def sleep(seconds: float) -> None:
        waits.touch()
        time.sleep(seconds)

    if role == "first":
        existing.write_file = write_late  # type: ignore[assignment]
    else:
        command.session.deliver = deliver_late  # type: ignore[attr-defined]
        files.time = SimpleNamespace(monotonic=time.monotonic, sleep=sleep)  # type: ignore[assignment]
    return command.main(["--replay", landscape, "--num-tokens", num_tokens, "--output", str(root / "out")])


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
