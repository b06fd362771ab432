"""python -m tools.bench: tuned files side by side (PATH…), or our kernel beside an engine's (--workload …).

Exit 0 good, 1 a row is slower, a record isn't written or a criterion failed, 2 bad use or impossible here.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from tools.bench import files_request, request
from tools.bench.request import RequestError
from tools.cli import run, say
from tools.errors import UserError
from tools.text import printable


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code."""
    given = sys.argv[1:] if arguments is None else list(arguments)
    try:
        is_good, text = _compare_kernels(given) if _names_a_workload(given) else _bench_files(given)
    except (RequestError, UserError) as error:
        _say(str(error))
        return 2
    print(text, end="")
    return 0 if is_good else 1


def _names_a_workload(arguments: Sequence[str]) -> bool:
    return any(argument.partition("=")[0] == "--workload" for argument in arguments)


def _compare_kernels(arguments: Sequence[str]) -> tuple[bool, str]:
    wanted = request.parse(arguments)
    # torch takes seconds to import: a mistyped flag shouldn't wait for it.
    from tools.bench.session import run as compare

    report, text = compare(wanted, ["tools.bench", *arguments], _say)
    return report.passed, text


def _bench_files(arguments: Sequence[str]) -> tuple[bool, str]:
    wanted = files_request.parse(arguments)
    from tools.bench.files_session import run as bench

    return bench(wanted, _say)


def _say(line: str) -> None:
    say(f"bench: {printable(line)}")


if __name__ == "__main__":
    run(main, "bench")
