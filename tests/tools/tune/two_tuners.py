"""The tuner's own command on a landscape, again and again, at the same moments as another process does it.

    python two_tuners.py FOLDER TRIES OWN OTHER LANDSCAPE

At try N this process tunes batch size OWN into FOLDER/N, while the other tunes OTHER.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

from tools.tune import __main__ as command
from tools.tune import write


def meet(folder: Path, own: str, other: str) -> None:
    """Goes on when the other process is here too."""
    (folder / f"{own}.here").touch()
    while not (folder / f"{other}.here").exists():
        time.sleep(0.0005)


def main(folder: str, tries: str, own: str, other: str, landscape: str) -> int:
    root = Path(folder)
    deliver: Any = write.deliver
    place = root

    def deliver_together(*arguments: Any) -> Any:
        meet(place, own, other)
        return deliver(*arguments)

    command.session.deliver = deliver_together
    for number in range(int(tries)):
        place = root / "meetings" / str(number)
        place.mkdir(parents=True, exist_ok=True)
        flags = ["--replay", landscape, "--num-tokens", own, "--output", str(root / "out" / str(number))]
        if code := command.main(flags):
            return code
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
