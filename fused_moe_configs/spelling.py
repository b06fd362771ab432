"""What may be meant by a name that isn't known here: of a device, a model, a dtype or an engine."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

MOST_NAMED = 3


def like(asked: str, known: Iterable[str]) -> list[str]:
    """At most `MOST_NAMED` names that may be meant, the likeliest first.

    Those that hold what was asked; else similar ones, and those in it. Case, spaces and punctuation are no matter.
    """
    import difflib  # a match needs no near ones

    names = list(dict.fromkeys(known))
    if len(wanted := folded(asked)) < 2:  # a letter is a part of anything
        return []
    if holding := [name for name in names if wanted in folded(name)]:
        # H20 is NVIDIA_H20 before it is a part of NVIDIA_H200.
        holding.sort(key=lambda name: (folded(name) != wanted, wanted not in map(folded, re.split(r"[\W_]+", name))))
        return holding[:MOST_NAMED]
    # A model's id is known by its part behind the slash too.
    by_fold = {folded(part): name for name in reversed(names) for part in (name, name.rpartition("/")[2])}
    close = [by_fold[near] for near in difflib.get_close_matches(wanted, by_fold, 2 * MOST_NAMED)]
    held = [name for name in names if folded(name) in wanted]
    return list(dict.fromkeys([*close, *held]))[:MOST_NAMED]


def folded(text: str) -> str:
    return re.sub(r"[\W_]+", "", text).casefold()


def question(meant: Sequence[str]) -> str:
    """«did you mean A, B or C?»"""
    *others, last = meant
    return f"did you mean {', '.join(others)} or {last}?" if others else f"did you mean {last}?"


def did_you_mean(asked: str, known: Iterable[str]) -> str:
    """The names that may be meant, as a question with a space after it, to go before a fix; empty: none may."""
    meant = like(asked, known)
    return f"D{question(meant)[1:]} " if meant else ""
