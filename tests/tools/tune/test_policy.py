"""How a budget is split, and that an exhaustive run leaves nothing out."""

from __future__ import annotations

import dataclasses

import pytest

from tools.tune.policy import Budget, PanelPolicy, SearchPolicy


def test_the_search_leaves_the_panel_its_share() -> None:
    assert Budget(total_s=100.0, panel_share=0.4).search_s == pytest.approx(60.0)


@pytest.mark.parametrize(("shapes", "total_s"), [(1, 100.0), (2, 140.0), (4, 220.0)])
def test_each_further_shape_adds_two_fifths(shapes: int, total_s: float) -> None:
    of_all = Budget(total_s=100.0, panel_share=0.4).of_shapes(shapes)
    assert of_all.total_s == pytest.approx(total_s)
    assert of_all.panel_share == 0.4


def test_an_exhaustive_panel_plays_at_least_what_the_usual_one_does() -> None:
    usual, exhaustive = (dataclasses.asdict(policy) for policy in (PanelPolicy(), PanelPolicy.exhaustive()))
    assert [name for name in usual if exhaustive[name] < usual[name]] == []
    assert exhaustive != usual


def test_an_exhaustive_panel_screens_every_launch_config_under_skew_and_on_the_other_engine() -> None:
    """Else a usual search asks its recording for what isn't in it: it needn't know the best of all."""
    assert PanelPolicy.exhaustive().screened == SearchPolicy.exhaustive().carried > 10_000


def test_an_exhaustive_search_screens_every_kernel_at_every_batch_size() -> None:
    """No anchors apart, no kernel that isn't promising enough to compile, to try again or to carry over."""
    policy = SearchPolicy.exhaustive()
    assert policy.anchor_factor == 1.0
    assert min(policy.promise_limit, policy.climbing_limit, policy.shape_limit) == float("inf")
    assert min(policy.carried, policy.survivors) > 10_000
