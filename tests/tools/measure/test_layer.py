"""What a layer takes and moves, in numbers."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from kernels.launch_config import LaunchConfig
from kernels.problem import Flavour, QuantMode, Routing
from tools.launch.layer_config import LayerConfig
from tools.measure.inputs import RowInputs, make_weights
from tools.measure.kernels import OwnKernel
from tools.measure.layer import (
    CEILINGS_BYTES,
    DOWN,
    UP,
    LayerShape,
    Load,
    expected_load,
    mean_load,
    memory_bytes,
    row_bytes,
    row_operations,
)
from tools.measure.recorded_routing import RoutingSource
from tools.measure.row import RowBench
from tools.registry.devices import load_devices
from tools.store.workload import Shape, Workload

BLOCK = QuantMode("fp8_w8a8", block_shape=(128, 128))
MIXTRAL = LayerShape(8, 14336, 4096, 2, QuantMode())
DEEPSEEK = LayerShape(256, 2048, 7168, 8, BLOCK)
GIB = 1 << 30


class TestMemory:
    def test_weights_are_three_matrices_an_expert(self) -> None:
        assert MIXTRAL.weights_bytes == 3 * 8 * 14336 * 4096 * 2
        assert DEEPSEEK.weights_bytes == 3 * 256 * 2048 * 7168

    def test_a_layer_of_eleven_gib_takes_little_more_with_few_tokens(self) -> None:
        """Its weights were once made in fp32 all at once, and said to need 68.5 GiB."""
        assert DEEPSEEK.memory_bytes(1) < DEEPSEEK.weights_bytes + 2 * GIB

    def test_it_grows_with_the_tokens(self) -> None:
        needed = [DEEPSEEK.memory_bytes(num_tokens) for num_tokens in (1, 4096, 16384, 65536)]
        assert needed == sorted(needed)
        assert needed[-1] > needed[0] + 16 * GIB

    def test_the_peak_of_few_tokens_is_the_making_of_weights(self) -> None:
        """A GiB of them in fp32, beside a quarter GiB of scales, routings and alignments."""
        assert DEEPSEEK.memory_bytes(1) == DEEPSEEK.weights_bytes + GIB + GIB // 4

    def test_the_peak_of_many_8_bit_tokens_is_their_quantising(self) -> None:
        """28 bytes for each of the wider projection's activations: here up's."""
        assert DEEPSEEK.memory_bytes(16384) == DEEPSEEK.weights_bytes + 16384 * 8 * 2048 * 28 + GIB // 4
        wide = replace(DEEPSEEK, top_k=2)
        assert wide.memory_bytes(32768) == wide.weights_bytes + 32768 * 7168 * 28 + GIB // 4

    @pytest.mark.parametrize(
        ("quant", "checked_bytes"), [(QuantMode(), 16), (QuantMode("int8_w8a16", per_channel=True), 32)]
    )
    def test_the_peak_of_many_16_bit_tokens_is_the_check_of_one_expert(
        self, quant: QuantMode, checked_bytes: int
    ) -> None:
        layer = replace(MIXTRAL, quant=quant)
        pairs, up_columns = 65536 * 2, 2 * 14336
        rows = row_bytes(layer, 65536, Load(0.0, pairs, 65536))
        check = up_columns * 4096 * checked_bytes + pairs * up_columns
        assert layer.memory_bytes(65536) == layer.weights_bytes + rows + check + GIB // 4

    def test_weights_and_activations_stay_and_of_8_bit_ones_the_originals_too(self) -> None:
        for layer, originals in ((MIXTRAL, 0), (DEEPSEEK, 4096 * 7168 * 2)):
            activations = row_bytes(layer, 4096, Load(0.0, 4096 * layer.top_k, 4096))
            assert layer.resident_bytes(4096) == layer.weights_bytes + activations + originals

    def test_layers_of_one_width_share_what_they_hold(self) -> None:
        more = replace(MIXTRAL, top_k=4)
        assert memory_bytes([more, MIXTRAL], 4096) == memory_bytes([more], 4096) == more.memory_bytes(4096)

    def test_of_two_widths_both_stay_while_one_is_checked(self) -> None:
        narrow = replace(MIXTRAL, hidden_size=2048)
        checked = (
            MIXTRAL.memory_bytes(4096) + narrow.resident_bytes(4096),
            narrow.memory_bytes(4096) + MIXTRAL.resident_bytes(4096),
        )
        assert checked[0] != checked[1]
        assert memory_bytes([MIXTRAL, narrow], 4096) == memory_bytes([narrow, MIXTRAL], 4096) == max(checked)

    def test_the_smallest_layer_takes_what_the_ceilings_do(self) -> None:
        assert replace(MIXTRAL, num_experts=1, intermediate_size=64).memory_bytes(1) == CEILINGS_BYTES
        assert CEILINGS_BYTES == 4 * GIB + GIB // 4


EP8 = LayerShape(64, 1024, 4096, 10, BLOCK, ep=8)
PLAIN_EP8 = replace(EP8, quant=QuantMode("fp8_w8a8"))
FUSED = LayerShape(289, 256, 4096, 9, BLOCK, fused_shared_experts=1)


class TestPlacement:
    def test_a_layer_is_the_workloads_with_the_shapes_placement(self) -> None:
        workload = Workload(65, 128, "NVIDIA_H200", "fp8_w8a8", (128, 128))
        layer = LayerShape.of(workload, Shape(4096, 11, 8, 1), BLOCK)
        assert layer == LayerShape(65, 128, 4096, 11, BLOCK, 8, 1)
        assert layer.shape == Shape(4096, 11, 8, 1)
        assert (layer.layer_experts, layer.routed_experts, layer.routed_top_k) == (513, 64, 10)

    def test_both_engines_align_by_the_sizes_that_they_see(self) -> None:
        for flavour in Flavour:
            expected = Routing(16, 10, 512, has_expert_map=True, flavour=flavour, local_experts=64)
            assert EP8.routing(16, flavour) == expected
        assert replace(EP8, ep=2).routing(16).has_expert_map
        assert FUSED.routing(16) == Routing(16, 9, 289, local_experts=289)


class TestLoad:
    def test_uniform_routing_reaches_a_share_of_pairs_and_tokens(self) -> None:
        found = expected_load(EP8, 4096)
        assert found.local_pairs == 4096 * 10 / 8
        assert found.active_experts == pytest.approx(64)
        # A token misses all 64 of 512 experts ten times in a row.
        missed = math.prod((448 - i) / (512 - i) for i in range(10))
        assert found.local_tokens == pytest.approx(4096 * (1 - missed))

    def test_the_fused_expert_is_always_active_and_has_every_token(self) -> None:
        found = expected_load(FUSED, 1)
        assert (found.active_experts, found.local_pairs, found.local_tokens) == (pytest.approx(9), 9, 1)

    @pytest.mark.parametrize("sizes", [(1, 2, 1, 1), (1, 2, 4, 9), (8, 65, 8, 0), (8, 9, 1, 9)])
    def test_a_shape_that_no_layer_has_takes_bytes_all_the_same(self, sizes: tuple[int, int, int, int]) -> None:
        """A stranger's record may claim it; that it is refused is another rule's."""
        E, top_k, ep, fused = sizes
        layer = LayerShape(E, 32, 64, top_k, BLOCK, ep, fused)
        assert math.isfinite(row_bytes(layer, 16, expected_load(layer, 16)))

    def test_the_mean_of_several_is_of_each_figure_and_there_is_none_of_none(self) -> None:
        assert mean_load([Load(1.0, 10.0, 5.0), Load(3.0, 20.0, 6.0)]) == Load(2.0, 15.0, 5.5)
        with pytest.raises(ValueError, match="at least one"):
            mean_load([])

    def test_without_ranks_it_is_every_pair(self) -> None:
        assert expected_load(MIXTRAL, 1) == Load(pytest.approx(2.0), 2.0, 1.0)


class TestFloor:
    def test_active_experts_count_once_and_activations_once_each_way(self) -> None:
        mixtral = replace(MIXTRAL, intermediate_size=7168)
        weights = 2 * 3 * 7168 * 4096 * 2
        activations = 4096 * 2 + 2 * 7168 * 2 + 2 * (2 * 7168 + 4096) * 2
        assert row_bytes(mixtral, 1, Load(2.0, 2.0, 1.0)) == weights + activations

    def test_8_bit_operands_come_in_at_half_the_bytes_and_leave_at_16_bits(self) -> None:
        wide, narrow = MIXTRAL, replace(MIXTRAL, quant=QuantMode("fp8_w8a8"))
        load = Load(0.0, 2.0, 1.0)
        assert row_bytes(wide, 1, load) - row_bytes(narrow, 1, load) == 4096 + 2 * 14336

    def test_pairs_of_other_ranks_cost_vllm_nothing_and_sglang_their_zeros(self) -> None:
        load = Load(64.0, 5120.0, 3000.0)
        zeros = (40960 - 5120) * (2 * 1024 + 4096) * 2
        assert zeros == 440_401_920
        assert row_bytes(EP8, 4096, load, Flavour.SGLANG) - row_bytes(EP8, 4096, load) == zeros

    def test_so_they_do_in_vllm_where_activations_have_one_scale(self) -> None:
        load = Load(64.0, 5120.0, 3000.0)
        assert row_bytes(PLAIN_EP8, 4096, load) == row_bytes(EP8, 4096, load, Flavour.SGLANG)

    def test_only_local_pairs_are_multiplied(self) -> None:
        assert row_operations(EP8, Load(64.0, 5120.0, 3000.0)) == 6 * 5120 * 1024 * 4096


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU: torch.cuda.is_available() is False here")
@pytest.mark.parametrize(
    "shape",
    [
        MIXTRAL,
        DEEPSEEK,
        LayerShape(8, 7168, 4096, 2, QuantMode("fp8_w8a8")),
        LayerShape(128, 768, 2048, 8, QuantMode()),
    ],
    ids=["bf16", "block fp8", "per-tensor fp8", "many experts"],
)
@pytest.mark.parametrize("num_tokens", [64, 4096])
def test_memory_is_what_measuring_takes_at_its_peak(shape: LayerShape, num_tokens: int) -> None:
    """Less would run out of memory in the middle; far more would refuse what fits."""
    device = torch.device("cuda", torch.cuda.current_device())
    found = load_devices().find(torch.cuda.get_device_name())
    assert found.target is not None
    torch.cuda.empty_cache()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    weights = make_weights(shape, device)
    row = RowBench(
        shape, weights, RowInputs(shape, weights, num_tokens, 4, RoutingSource(), seed=0), found.target.kernel_arch
    )
    for projection in (UP, DOWN):
        row.check(OwnKernel(), LayerConfig.of(LaunchConfig(64, 128, 64, 8, 4, 3)), projection)
    peak = torch.cuda.max_memory_allocated() - before
    assert peak <= shape.memory_bytes(num_tokens) <= max(1.35 * peak, CEILINGS_BYTES)
