"""What a layer takes and moves, in numbers."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from kernels.launch_config import LaunchConfig
from kernels.problem import QuantMode
from tools.measure.inputs import RowInputs, make_weights
from tools.measure.kernels import OwnKernel
from tools.measure.layer import CEILINGS_BYTES, DOWN, UP, LayerShape
from tools.measure.row import RowBench
from tools.registry.devices import load_devices

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

    def test_the_smallest_layer_takes_what_the_ceilings_do(self) -> None:
        assert replace(MIXTRAL, num_experts=1, intermediate_size=64).memory_bytes(1) == CEILINGS_BYTES


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
    row = RowBench(shape, weights, RowInputs(shape, weights, num_tokens, 4), found.target.kernel_arch)
    for projection in (UP, DOWN):
        row.check(OwnKernel(), LaunchConfig(64, 128, 64, 8, 4, 3), projection)
    peak = torch.cuda.max_memory_allocated() - before
    assert peak <= shape.memory_bytes(num_tokens) <= max(1.35 * peak, CEILINGS_BYTES)
