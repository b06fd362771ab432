"""python -m tools.bench: exit 0 all criteria met, 1 one failed, 2 bad use or impossible here."""

from __future__ import annotations

import sys

from tools.bench.request import RequestError, parse


def main(arguments: list[str]) -> int:
    try:
        request = parse(arguments)
        # torch takes seconds to import: a mistyped flag shouldn't wait for it.
        from tools.bench.session import run

        report, text = run(request, sys.argv, lambda line: print(line, file=sys.stderr, flush=True))
    except RequestError as error:
        print(f"bench: {error}", file=sys.stderr)
        return 2
    print(text, end="")
    return 0 if report.passed else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
