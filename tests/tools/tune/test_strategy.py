"""In which order kernels are tried: seeds, then what promises most, and nothing that promises too little."""

from __future__ import annotations

from dataclasses import replace

from kernels.launch_config import LaunchConfig
from tools.tune.desk import Landscape, Times
from tools.tune.strategy import InOrder, NeighboursFirst, Regime, neighbours_in, representatives

MIDDLE = LaunchConfig(16, 64, 64, 1, 4, 3)
DEEPER, SHALLOWER = replace(MIDDLE, num_stages=4), replace(MIDDLE, num_stages=2)
WIDER = replace(MIDDLE, BLOCK_SIZE_N=128)
KERNELS = (SHALLOWER, MIDDLE, DEEPER, WIDER)


def regime(*pending: LaunchConfig, anchors: tuple[int, ...] = (64,), is_naive: bool = False) -> Regime:
    return Regime(anchors, is_naive, dict.fromkeys(pending))


def known(**total_us: float) -> Landscape:
    """A landscape of one batch size, 64."""
    by_name = {"shallower": SHALLOWER, "middle": MIDDLE, "deeper": DEEPER, "wider": WIDER}
    landscape = Landscape(1)
    for name, us in total_us.items():
        landscape.add(64, 0, by_name[name], Times(us, 0.0))
    return landscape


def strategy(*seeds: LaunchConfig, promise_limit: float = 1.15) -> NeighboursFirst:
    return NeighboursFirst({False: seeds, True: ()}, neighbours_in(KERNELS), promise_limit)


# ---------------------------------------------------------------
# Neighbours first


def test_seeds_come_first_in_their_order() -> None:
    row = regime(*KERNELS)
    assert strategy(WIDER, MIDDLE).propose([row], known()) == (row, WIDER)
    row = regime(SHALLOWER, MIDDLE, DEEPER)
    assert strategy(WIDER, MIDDLE).propose([row], known(wider=1.0)) == (row, MIDDLE)


def test_then_the_neighbour_of_the_best() -> None:
    both = replace(WIDER, num_stages=4)
    around = NeighboursFirst({False: (), True: ()}, neighbours_in((*KERNELS, both)), 1.15)
    row = regime(both, SHALLOWER)
    assert around.propose([row], known(middle=10.0, wider=11.0)) == (row, SHALLOWER)
    assert around.propose([row], known(middle=11.0, wider=10.0)) == (row, both)


def test_below_the_limit_nothing_is_compiled() -> None:
    row = regime(DEEPER)
    slow_middle = known(middle=12.0, wider=10.0)
    assert strategy(promise_limit=1.15).propose([row], slow_middle) is None
    assert strategy(promise_limit=1.25).propose([row], slow_middle) == (row, DEEPER)


def test_without_knowledge_there_is_no_promise() -> None:
    assert strategy().propose([regime(*KERNELS)], known()) is None


def test_a_promise_at_one_anchor_is_enough() -> None:
    landscape = known(middle=30.0, wider=10.0)
    landscape.add(4096, 0, MIDDLE, Times(5.0, 0.0))
    row = regime(DEEPER, anchors=(64, 4096))
    assert strategy().propose([row], landscape) == (row, DEEPER)


def test_anchors_take_turns() -> None:
    """A row where many kernels are equal (64) must not use up the time of one with a steep way to its best (4096)."""
    landscape = known(middle=10.0, wider=10.0)
    steep = replace(MIDDLE, BLOCK_SIZE_M=128)
    landscape.add(4096, 0, steep, Times(50.0, 0.0))
    landscape.add(4096, 0, MIDDLE, Times(100.0, 0.0))
    landscape.add(64, 0, steep, Times(100.0, 0.0))
    flat = [SHALLOWER, DEEPER, replace(WIDER, num_stages=4), replace(WIDER, num_stages=2)]
    steps = [replace(steep, num_stages=4), replace(steep, num_stages=2)]
    around = NeighboursFirst({False: (), True: ()}, neighbours_in([MIDDLE, WIDER, steep, *flat, *steps]), 1.15)
    row = regime(*flat, *steps, anchors=(64, 4096))
    taken = []
    for _ in range(4):
        offer = around.propose([row], landscape)
        assert offer is not None
        taken.append(offer[1])
        del row.pending[offer[1]]
    assert [kernel in steps for kernel in taken].count(True) == 2


def test_an_anchor_without_ideas_leaves_its_turn_to_the_others() -> None:
    landscape = known(middle=10.0)
    landscape.add(4096, 0, MIDDLE, Times(100.0, 0.0))
    landscape.add(4096, 0, WIDER, Times(50.0, 0.0))
    row = regime(SHALLOWER, DEEPER, anchors=(64, 4096))
    for _ in range(2):
        offer = strategy().propose([row], landscape)
        assert offer is not None
        del row.pending[offer[1]]
    assert strategy().propose([row], landscape) is None


def test_each_mode_has_seeds_of_its_own() -> None:
    naive, grouped = regime(*KERNELS, is_naive=True), regime(*KERNELS)
    both = NeighboursFirst({True: (DEEPER,), False: (WIDER,)}, neighbours_in(KERNELS), 1.15)
    assert both.propose([naive, grouped], known()) == (naive, DEEPER)
    del naive.pending[DEEPER]
    assert both.propose([naive, grouped], known()) == (grouped, WIDER)


def test_nothing_pending_is_the_end() -> None:
    assert strategy(*KERNELS).propose([regime()], known(middle=1.0)) is None
    assert strategy(*KERNELS).propose([], known()) is None


# ---------------------------------------------------------------
# In order


def test_in_order_goes_through_everything_whatever_was_measured() -> None:
    row = regime(*KERNELS)
    order = InOrder({kernel: place for place, kernel in enumerate(reversed(KERNELS))})
    found = []
    while (offer := order.propose([row], known(middle=1.0))) is not None:
        found.append(offer[1])
        del row.pending[offer[1]]
    assert found == list(reversed(KERNELS))


def test_in_order_takes_the_first_of_any_mode() -> None:
    one, other = regime(DEEPER), regime(MIDDLE, is_naive=True)
    order = InOrder({MIDDLE: 0, DEEPER: 1})
    assert order.propose([one, other], known()) == (other, MIDDLE)


def test_a_shuffle_is_told_by_its_seed() -> None:
    first, again, other = (InOrder.shuffled(KERNELS, seed).order for seed in (1, 1, 2))
    assert first == again
    assert first != other
    assert sorted(first.values()) == [0, 1, 2, 3]
    assert set(first) == set(KERNELS)


# ---------------------------------------------------------------
# Neighbours and representatives (their sizes on a real space: test_search)


def test_a_neighbour_is_one_step_along_one_axis() -> None:
    assert set(neighbours_in(KERNELS)[MIDDLE]) == {SHALLOWER, DEEPER, WIDER}
    assert neighbours_in(KERNELS)[WIDER] == (MIDDLE,)
    assert set(neighbours_in(KERNELS)[DEEPER]) == {MIDDLE}


def test_axes_of_one_vendor_are_axes_too() -> None:
    amd = [replace(MIDDLE, kpack=kpack, waves_per_eu=waves) for kpack in (1, 2) for waves in (0, 1, 2)]
    around = neighbours_in(amd)[replace(MIDDLE, kpack=1, waves_per_eu=1)]
    assert {(kernel.kpack, kernel.waves_per_eu) for kernel in around} == {(2, 1), (1, 0), (1, 2)}


def test_a_tiles_representative_is_the_middle_of_its_options() -> None:
    options = [replace(MIDDLE, num_warps=warps, num_stages=stages) for warps in (4, 8) for stages in (2, 3, 4, 5)]
    large = [replace(kernel, BLOCK_SIZE_M=128, BLOCK_SIZE_N=128) for kernel in options]
    assert representatives([*large, *options], is_naive=False) == [MIDDLE, replace(large[0], num_warps=8, num_stages=3)]


def test_no_kernels_have_no_representatives() -> None:
    assert representatives([], is_naive=True) == []
    assert neighbours_in([]) == {}
