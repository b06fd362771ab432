"""Which numbers a draw of routing comes from: one seed for each purpose, batch size, place, kind and block. Pure.

A file that is judged on the draws that chose it looks better than it is. So each purpose has a range of seeds of its
own, and within it no two draws share one.
"""

from __future__ import annotations

import enum

from tools.measure.panel import RoutingKind


class Purpose(enum.IntEnum):
    """What the draws are for. The values are in records: new ones come at the end."""

    SEARCH = 0
    CHOICE = 1
    JUDGEMENT = 2
    CI = 3


_BITS = {"purpose": 3, "kind": 4, "place": 12, "num_tokens": 24, "block": 20}
"""Of a seed, from the highest down; 63 in all. The purpose on top makes a purpose's seeds one range."""

_KINDS = {RoutingKind.UNIFORM: 0, RoutingKind.SKEW_1: 1, RoutingKind.SKEW_03: 2, RoutingKind.RECORDED: 3}


BLOCKS_A_SERIES = 64
"""At least as many as a part ever gets: `panel.MAX_DRAWS` blocks of one draw."""

NUM_SERIES = (1 << _BITS["block"]) // BLOCKS_A_SERIES


def seed_of(purpose: Purpose, num_tokens: int, place: int, kind: RoutingKind, block: int) -> int:
    """Different for different arguments, from 0 to 2^63 - 1.

    place: of the workload's shapes, or of its parts. block: of fresh draws, from 0. ValueError: a number too large.
    """
    values = {"purpose": purpose, "kind": _KINDS[kind], "place": place, "num_tokens": num_tokens, "block": block}
    seed = 0
    for name, bits in _BITS.items():
        if not 0 <= values[name] < 1 << bits:
            raise ValueError(f"seed, {name}: expected from 0 to {(1 << bits) - 1}, found {values[name]}.")
        seed = seed << bits | values[name]
    return seed


def seeds_of(purpose: Purpose) -> range:
    """All that the purpose's draws can have."""
    below = sum(_BITS.values()) - _BITS["purpose"]
    return range(purpose << below, purpose + 1 << below)


def mixed(seed: int) -> int:
    """A bijection of 64 bits whose low half depends on all of them (SplitMix64's finaliser).

    torch's generator on the CPU takes the low 32 bits of a seed and drops the others.
    """
    mask = (1 << 64) - 1
    seed = (seed + 0x9E3779B97F4A7C15) & mask
    seed = (seed ^ seed >> 30) * 0xBF58476D1CE4E5B9 & mask
    seed = (seed ^ seed >> 27) * 0x94D049BB133111EB & mask
    return seed ^ seed >> 31
