"""python -m tools.bench: tuned files side by side (files PATH…), or our kernel beside an engine's (kernels …).

Exit 0 good, 1 a row is slower, a record isn't written or a criterion failed, 2 bad use or impossible here.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from tools.bench import compare_files, compare_kernels
from tools.bench.request import FilesRequest, parse
from tools.cli import command, run, say
from tools.text import printable


@command("bench")
def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code."""
    given = sys.argv[1:] if arguments is None else list(arguments)
    request = parse(given)
    if isinstance(request, FilesRequest):
        is_good, text = compare_files.run(request, _say)
    else:
        is_good, text = compare_kernels.run(request, given, _say)
    print(text, end="")
    return 0 if is_good else 1


def _say(line: str) -> None:
    say(f"bench: {printable(line)}")


if __name__ == "__main__":
    run(main, "bench")
