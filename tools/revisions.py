"""Names of commits, as GitHub's events write them."""

from __future__ import annotations

import re

NOTHING = "0" * 40
"""What a push event calls the commit before a branch's first one: there was nothing, so everything is new."""

_SHA = re.compile(r"[0-9a-f]{40}")


def is_sha(text: object) -> bool:
    """Whether it is a commit's whole name, in lower case."""
    return isinstance(text, str) and _SHA.fullmatch(text) is not None
