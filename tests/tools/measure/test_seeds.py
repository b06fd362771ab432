"""No two draws share their numbers, whatever they are for."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tools.measure.panel import RoutingKind, max_blocks
from tools.measure.seeds import BLOCKS_A_SERIES, NUM_SERIES, Purpose, mixed, seed_of, seeds_of

ARGUMENTS = st.tuples(
    st.sampled_from(Purpose),
    st.integers(1, 65536),
    st.integers(0, 63),
    st.sampled_from(RoutingKind),
    st.integers(0, 100_000),
)


def test_the_purposes_ranges_are_disjoint_and_hold_their_seeds() -> None:
    ranges = [seeds_of(purpose) for purpose in Purpose]
    for one, other in itertools.combinations(ranges, 2):
        assert one.stop <= other.start or other.stop <= one.start
    assert all(seed_of(p, 65536, 63, kind, 100_000) in seeds_of(p) for p in Purpose for kind in RoutingKind)


@given(st.lists(ARGUMENTS, unique=True, max_size=50))
def test_different_draws_have_different_seeds(draws: list[tuple[Purpose, int, int, RoutingKind, int]]) -> None:
    seeds = [seed_of(*draw) for draw in draws]
    assert len(set(seeds)) == len(draws)
    assert all(0 <= seed < 1 << 63 for seed in seeds)


def test_all_that_one_run_may_ask_for_is_apart_after_mixing_too_even_in_32_bits() -> None:
    """What torch's generator on the CPU looks at."""
    sizes, kinds = (1, 8, 512, 16384), list(RoutingKind)
    draws = itertools.product(Purpose, sizes, range(2), kinds, range(32))
    low = [mixed(seed_of(*draw)) & 0xFFFFFFFF for draw in draws]
    assert len(set(low)) == len(low)


def test_seeds_do_not_change_from_one_release_to_the_next() -> None:
    """Records name them."""
    for number, purpose in enumerate((Purpose.SEARCH, Purpose.CHOICE, Purpose.JUDGEMENT, Purpose.CI)):
        assert seed_of(purpose, 512, 1, RoutingKind.UNIFORM, 7) == (number << 60 | 1 << 44 | 512 << 20 | 7)
    kinds = (RoutingKind.UNIFORM, RoutingKind.SKEW_1, RoutingKind.SKEW_03, RoutingKind.RECORDED)
    for number, kind in enumerate(kinds):
        assert seed_of(Purpose.SEARCH, 512, 1, kind, 7) == (number << 56 | 1 << 44 | 512 << 20 | 7)


def test_mixing_is_splitmix64s_own() -> None:
    """The first numbers of the published generator from the state 0, which grows by the golden gamma each time."""
    numbers = [mixed(count * 0x9E3779B97F4A7C15 & (1 << 64) - 1) for count in range(3)]
    assert numbers == [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F]


@pytest.mark.parametrize(
    ("num_tokens", "place", "block", "told"),
    [(1 << 24, 0, 0, "num_tokens"), (1, 4096, 0, "place"), (1, 0, 1 << 20, "block"), (1, 0, -1, "block")],
)
def test_a_number_that_would_run_into_the_next_range_is_refused(
    num_tokens: int, place: int, block: int, told: str
) -> None:
    with pytest.raises(ValueError, match=rf"^seed, {told}: expected from 0 to"):
        seed_of(Purpose.CI, num_tokens, place, RoutingKind.UNIFORM, block)


def test_series_share_no_block_and_all_have_seeds() -> None:
    assert max_blocks(1) <= BLOCKS_A_SERIES
    last = NUM_SERIES * BLOCKS_A_SERIES - 1
    assert seed_of(Purpose.JUDGEMENT, 64, 0, RoutingKind.UNIFORM, last) in seeds_of(Purpose.JUDGEMENT)
    with pytest.raises(ValueError, match="block"):
        seed_of(Purpose.JUDGEMENT, 64, 0, RoutingKind.UNIFORM, last + 1)
