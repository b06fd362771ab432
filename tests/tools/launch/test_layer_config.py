"""What an engine launches for up and down, given the entries that it reads."""

from __future__ import annotations

from dataclasses import replace

import pytest

from kernels.launch_config import LaunchConfig
from kernels.problem import Flavour
from tools.launch.layer_config import LayerConfig, as_run
from tools.store.workload import Workload

BLOCKS = Workload(E=256, N=128, device_name="NVIDIA_H200", dtype="fp8_w8a8", block_shape=(128, 128))
UP = LaunchConfig(64, 128, 256, 8, 4, 3, USE_TMA=True)
DOWN = LaunchConfig(32, 256, 128, 1, 8, 2)


def test_vllm_runs_the_up_files_entry_clamped_and_reads_no_other() -> None:
    assert as_run(Flavour.VLLM, BLOCKS, UP, DOWN) == LayerConfig.of(replace(UP, BLOCK_SIZE_K=128))


def test_sglang_takes_downs_own_entry_with_the_tile_height_of_up() -> None:
    assert as_run(Flavour.SGLANG, BLOCKS, UP, DOWN) == LayerConfig(UP, replace(DOWN, BLOCK_SIZE_M=64))


def test_without_a_down_file_sglang_runs_ups_entry_for_both_tensor_descriptors_included() -> None:
    assert as_run(Flavour.SGLANG, BLOCKS, UP) == LayerConfig.of(UP)


def test_it_uses_descriptors_where_either_entry_says_so() -> None:
    plain, loads = replace(UP, USE_TMA=False), replace(DOWN, BLOCK_SIZE_M=64, USE_TMA=True)
    layers = [LayerConfig(up, down) for up in (UP, plain) for down in (loads, replace(loads, USE_TMA=None))]
    assert [layer.uses_descriptors for layer in layers] == [True, True, True, False]


def test_both_projections_run_over_one_alignment() -> None:
    with pytest.raises(ValueError, match=r"expected up's BLOCK_SIZE_M 64 for down, found 32\. Fix: the same"):
        LayerConfig(UP, DOWN)
