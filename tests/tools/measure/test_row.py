"""What a check of a launch config takes as right, with pairs of other ranks among the rows."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from kernels.launch import Launch, Pointers
from kernels.launch_config import LaunchConfig
from kernels.problem import NO_DESCRIPTORS, Flavour, Problem, QuantMode
from tests.tools.measure.torch_kernel import TorchKernel
from tools.launch.layer_config import LayerConfig
from tools.measure.inputs import RowInputs, make_weights
from tools.measure.kernels import problems_of
from tools.measure.layer import DOWN, UP, LayerShape
from tools.measure.panel import RoutingKind
from tools.measure.recorded_routing import RoutingSource
from tools.measure.row import RowBench

WHOLE = LayerShape(8, 32, 64, 2, QuantMode())
SPREAD = LayerShape(4, 32, 64, 4, QuantMode(), ep=4)
SHARED = LayerShape(5, 32, 64, 4, QuantMode(), ep=2, fused_shared_experts=1)
LONELY = LayerShape(1, 32, 64, 1, QuantMode(), ep=64)
CONFIG = LayerConfig.of(LaunchConfig(16, 32, 32, 1, 4, 3))
BOTH = pytest.mark.parametrize("projection", [UP, DOWN])
VLLM, SGLANG = Flavour.VLLM, Flavour.SGLANG


def bench(shape: LayerShape, num_tokens: int = 24, seed: int = 1) -> RowBench:
    weights = make_weights(shape, torch.device("cpu"))
    inputs = RowInputs(shape, weights, num_tokens, 3, RoutingSource(), seed)
    return RowBench(shape, weights, inputs, "sm90", num_checked=16)


@BOTH
@pytest.mark.parametrize("flavour", list(Flavour))
@pytest.mark.parametrize("shape", [WHOLE, SPREAD, SHARED, LONELY])
@pytest.mark.parametrize("num_tokens", [1, 24])
def test_a_right_kernel_passes_block_after_block(
    shape: LayerShape, flavour: Flavour, num_tokens: int, projection: int
) -> None:
    row = bench(shape, num_tokens)
    for seed in (2, 3):
        row.check(TorchKernel(flavour), CONFIG, projection)
        row.inputs.deal(RoutingSource(RoutingKind.SKEW_03), seed)


@BOTH
def test_wrong_numbers_are_found_after_a_deal_too(projection: int) -> None:
    row = bench(SPREAD)
    row.check(TorchKernel(), CONFIG, projection)
    row.inputs.deal(RoutingSource(), 2)
    row.inputs.a[projection].mul_(1.5)  # the reference of the new block is made of it
    row.check(TorchKernel(), CONFIG, projection)
    row.inputs.a[projection].mul_(1.5)
    with pytest.raises(AssertionError, match="beyond the max bound"):
        row.check(TorchKernel(), CONFIG, projection)


def foreign_row(row: RowBench) -> int:
    """A pair of another rank in the routing that is checked, the one with most pairs on this rank."""
    ids = max(row.inputs.topk_ids, key=lambda ids: int((ids >= 0).sum())).flatten()
    return int((ids < 0).nonzero()[0])


@BOTH
def test_zeros_for_other_ranks_must_be_zeros(projection: int) -> None:
    with pytest.raises(AssertionError, match="expected zeros for experts of other ranks, found something else"):
        bench(SPREAD).check(TorchKernel(SGLANG, foreign_value=1.0), CONFIG, projection)


@BOTH
def test_where_sglang_stores_zeros_an_unwritten_row_is_wrong(projection: int) -> None:
    with pytest.raises(AssertionError, match="expected zeros for experts of other ranks"):
        bench(SPREAD).check(TorchKernel(SGLANG, foreign_value=float("nan")), CONFIG, projection)


@BOTH
def test_where_vllm_leaves_a_row_out_a_written_one_is_wrong(projection: int) -> None:
    row = bench(SPREAD)
    with pytest.raises(AssertionError, match="expected the rows of other ranks' experts left alone"):
        row.check(TorchKernel(VLLM, stray_row=foreign_row(row)), CONFIG, projection)


def test_what_is_checked_is_on_this_rank() -> None:
    """Some tokens of a spread layer have no expert here: their rows would prove nothing."""
    row = bench(replace(SPREAD, top_k=1), num_tokens=64)
    row.check(TorchKernel(), CONFIG, UP)
    ((_, expected),) = row._expected.values()
    ids = row.inputs.topk_ids[expected.routing].flatten()
    assert bool((ids[expected.pairs] >= 0).all())
    assert len(expected.pairs) == min(16, int((ids >= 0).sum()))


UP_TMA = LayerConfig(CONFIG.up, replace(CONFIG.down, USE_TMA=True))
"""Up stores in the alignment's order, down reads so."""


@BOTH
@pytest.mark.parametrize("shape", [WHOLE, SPREAD, SHARED, LONELY])
@pytest.mark.parametrize("num_tokens", [1, 24])
def test_rows_in_the_alignments_order_are_compared_pair_by_pair(
    shape: LayerShape, num_tokens: int, projection: int
) -> None:
    row = bench(shape, num_tokens)
    for seed in (2, 3):
        row.check(TorchKernel(SGLANG), UP_TMA, projection)
        row.inputs.deal(RoutingSource(RoutingKind.SKEW_03), seed)
        row.check(TorchKernel(SGLANG), CONFIG, projection)  # as it does without


@BOTH
def test_rows_left_in_another_order_are_found(projection: int) -> None:
    class Unaware(TorchKernel):
        """Stores and reads by pair, whatever is asked of it."""

        def bind(self, problem: Problem, pointers: Pointers) -> Launch:
            return super().bind(replace(problem, descriptors=NO_DESCRIPTORS), pointers)

    with pytest.raises(AssertionError, match=r"found NaN|beyond the max bound"):
        bench(WHOLE).check(Unaware(SGLANG), UP_TMA, projection)


def test_what_is_launched_over_sorted_rows_keeps_its_buffers_from_block_to_block() -> None:
    row = bench(WHOLE)
    problem = problems_of(TorchKernel(SGLANG), WHOLE, 24, UP_TMA, "sm90")[DOWN]
    before = row.inputs.pointers(DOWN, problem, 1)
    row.inputs.deal(RoutingSource(), 2)
    row.check(TorchKernel(SGLANG), UP_TMA, DOWN)
    now = row.inputs.pointers(DOWN, problem, 1)
    assert now.a is before.a
    assert len(now.a) == problem.rows_of_a == 48 + 9 * 15
