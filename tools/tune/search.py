"""From a space to a ranking of every row: kernels at anchors, then neighbours' winners, then group sizes.

Kernels are what costs time (each must be compiled), so a strategy chooses them one by one while the GPU screens those
that are ready at a few anchor batch sizes. Then every row tries what was good at the anchors beside it, then other
group sizes of its best, then what its neighbours found.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from kernels.launch_config import LaunchConfig
from tools.tune.desk import Desk
from tools.tune.model import Subject, kernel_of
from tools.tune.policy import Budget, Policies, SearchPolicy
from tools.tune.space import Space
from tools.tune.strategy import NeighboursFirst, Regime, Strategy, neighbours_in, representatives


def search(
    subject: Subject,
    space: Space,
    batch_sizes: Sequence[int],
    wanted: Mapping[int, Sequence[LaunchConfig]],
    strategy: Strategy,
    policies: Policies,
    desk: Desk,
) -> bool:
    """Fills the desk's landscape. wanted: what is measured in any case, by batch size (baselines, incumbents).

    Returns whether the clock ended it while the strategy still had kernels to propose.
    """
    regimes = _regimes(subject, space, batch_sizes, policies.search.anchor_factor)
    for num_tokens in batch_sizes:
        desk.screen(num_tokens, wanted.get(num_tokens, ()))
    is_cut_short = _screen_kernels(regimes, strategy, policies.budget, desk)
    anchors = sorted(itertools.chain.from_iterable(regime.anchors for regime in regimes))
    is_naive = {m: _mode(subject, m) for m in batch_sizes}
    for num_tokens in batch_sizes:
        beside = _beside(num_tokens, [m for m in anchors if is_naive[m] == is_naive[num_tokens]])
        for anchor in beside:
            desk.screen(num_tokens, desk.landscape.ranking(anchor)[: policies.search.carried])
    _finish_measuring(desk)
    for num_tokens in batch_sizes:
        best = _kernels(desk.landscape.ranking(num_tokens))[: policies.search.survivors]
        desk.screen(num_tokens, [replace(k, GROUP_SIZE_M=size) for k in best for size in space.group_sizes])
    _finish_measuring(desk)
    for num_tokens in batch_sizes:
        like = [m for m in batch_sizes if is_naive[m] == is_naive[num_tokens] and m != num_tokens]
        for near in _beside(num_tokens, like):
            desk.screen(num_tokens, desk.landscape.ranking(near)[:2])
    _finish_measuring(desk)
    return is_cut_short


def usual_strategy(space: Space, wanted: Iterable[LaunchConfig], policy: SearchPolicy) -> NeighboursFirst:
    """What the tuner runs: baselines and incumbents first, one kernel of each tile, then their neighbours."""
    first = [kernel_of(config) for config in wanted]
    known = set(space.kernels)
    seeds = {
        is_naive: [*(k for k in dict.fromkeys(first) if k in known), *representatives(space.kernels, is_naive=is_naive)]
        for is_naive in (False, True)
    }
    return NeighboursFirst(seeds, neighbours_in(space.kernels), policy.promise_limit)


def anchors_of(batch_sizes: Sequence[int], factor: float) -> tuple[int, ...]:
    """The first, then each that is `factor` above the anchor before, and the last."""
    found = list(batch_sizes[:1])
    for num_tokens in batch_sizes[1:]:
        if num_tokens >= factor * found[-1]:
            found.append(num_tokens)
    if batch_sizes and found[-1] != batch_sizes[-1]:
        found.append(batch_sizes[-1])
    return tuple(found)


def _regimes(subject: Subject, space: Space, batch_sizes: Sequence[int], factor: float) -> list[Regime]:
    by_mode: dict[tuple[bool, ...], list[int]] = {}
    for num_tokens in batch_sizes:
        by_mode.setdefault(_mode(subject, num_tokens), []).append(num_tokens)
    return [
        Regime(anchors_of(sizes, factor), all(mode), dict.fromkeys(space.kernels)) for mode, sizes in by_mode.items()
    ]


def _mode(subject: Subject, num_tokens: int) -> tuple[bool, ...]:
    return tuple(subject.routing(num_tokens, shape).is_naive for shape in range(len(subject.shapes)))


def _screen_kernels(regimes: Sequence[Regime], strategy: Strategy, budget: Budget, desk: Desk) -> bool:
    while desk.clock_s < budget.search_s:
        while desk.has_free_slot and (offer := strategy.propose(regimes, desk.landscape)) is not None:
            regime, kernel = offer
            del regime.pending[kernel]
            for anchor in regime.anchors:
                desk.screen(anchor, [kernel])
        if not (desk.is_compiling or desk.is_measuring):
            return False
        desk.step()
    desk.forget_compiling()
    return strategy.propose(regimes, desk.landscape) is not None


def _finish_measuring(desk: Desk) -> None:
    while desk.is_measuring:
        desk.step()


def _beside(num_tokens: int, others: Sequence[int]) -> list[int]:
    """The nearest below and above (itself, if it is among them)."""
    below = [m for m in others if m <= num_tokens]
    above = [m for m in others if m >= num_tokens]
    return list(dict.fromkeys([*below[-1:], *above[:1]]))


def _kernels(configs: Iterable[LaunchConfig]) -> list[LaunchConfig]:
    return list(dict.fromkeys(kernel_of(config) for config in configs))
