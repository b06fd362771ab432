"""Engines take the nearest batch size without limit, so a hole is filled with an entry tuned for something else.

The bound is a factor of 4 between neighbours: then no batch runs an entry tuned for one 2.5 times smaller or 1.6 times
larger. Over 338 published files, BLOCK_SIZE_M moves by more than one step between entries a factor of 2 apart in 3 %
of the cases, 4 apart in 13 %, 8 apart in 22 %, 16 apart in 35 %. All engines' tuners write a factor of 2 at most.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

from tools.store.config_file import ConfigFile
from tools.validate.model import Context, FileRule, Issue

FIRST_AT_MOST = 1
LAST_AT_LEAST = 4096
LARGEST_FACTOR = 4


def check(file: ConfigFile, context: Context) -> Iterator[Issue]:
    """Batch sizes reach from 1 to at least 4096 with no gap over a factor of 4."""
    keys = sorted(set(file.batch_sizes))
    if not keys:
        return
    if keys[0] > FIRST_AT_MOST:
        yield Issue(
            f"batch sizes: expected to start at {FIRST_AT_MOST}, found {keys[0]}, which serves all smaller ones",
            "tune the missing batch sizes",
        )
    if keys[-1] < LAST_AT_LEAST:
        yield Issue(
            f"batch sizes: expected to reach {LAST_AT_LEAST}, found {keys[-1]}, which serves all larger ones",
            "tune the missing batch sizes",
        )
    for smaller, larger in pairwise(keys):
        if larger > LARGEST_FACTOR * smaller:
            yield Issue(
                f"batch sizes: expected neighbours within a factor of {LARGEST_FACTOR}, "
                f"found a hole from {smaller} to {larger} ({larger / smaller:.3g} times)",
                f"tune batch sizes between {smaller} and {larger}, each at most {LARGEST_FACTOR} times its neighbour",
            )


RULE = FileRule("coverage", "Batch sizes reach from 1 to 4096 without a hole.", check)
