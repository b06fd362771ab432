"""What an engine runs without a tuned file, branch by branch, with the batch sizes on both sides of every limit."""

from __future__ import annotations

import pytest

from kernels.launch_config import LaunchConfig
from tools.launch.heuristics import UnknownHeuristicError, clamped, sglang_heuristic, vllm_heuristic
from tools.store.workload import Workload

H100 = "NVIDIA_H100_80GB_HBM3"
BF16 = Workload(8, 7168, H100)
MANY_EXPERTS = Workload(256, 128, H100)
FP8 = Workload(8, 7168, H100, "fp8_w8a8")
BLOCKS = Workload(256, 128, H100, "fp8_w8a8", (128, 128))
SMALL_SMEM_BYTES, LARGE_SMEM_BYTES = 99 << 10, 227 << 10


class TestVllm:
    @pytest.mark.parametrize(
        ("num_tokens", "config"),
        [
            (1, LaunchConfig(16, 64, 128, 1, 4, 4)),
            (32, LaunchConfig(16, 64, 128, 1, 4, 4)),
            (33, LaunchConfig(32, 64, 128, 1, 4, 3)),
            (64, LaunchConfig(32, 64, 128, 1, 4, 3)),
            (65, LaunchConfig(32, 128, 64, 1, 4, 3)),
            (96, LaunchConfig(32, 128, 64, 1, 4, 3)),
            (97, LaunchConfig(64, 128, 64, 1, 4, 3)),
            (128, LaunchConfig(64, 128, 64, 1, 4, 3)),
            (129, LaunchConfig(64, 128, 64, 1, 8, 3)),
            (512, LaunchConfig(64, 128, 64, 1, 8, 3)),
            (513, LaunchConfig(128, 128, 64, 1, 8, 3)),
            (1031, LaunchConfig(128, 128, 64, 1, 8, 3)),  # 1031 // 8 = 128
            (1032, LaunchConfig(128, 128, 64, 16, 8, 3)),
        ],
    )
    def test_sixteen_bits(self, num_tokens: int, config: LaunchConfig) -> None:
        assert vllm_heuristic(BF16, num_tokens) == config

    def test_the_group_depends_on_tokens_an_expert(self) -> None:
        assert vllm_heuristic(MANY_EXPERTS, 4096).GROUP_SIZE_M == 1
        assert vllm_heuristic(MANY_EXPERTS, 129 * 256).GROUP_SIZE_M == 16

    @pytest.mark.parametrize("per_channel_quant", [False, True])
    @pytest.mark.parametrize("num_tokens", [1, 64, 65, 4096])
    def test_fp8_without_blocks_keeps_the_wide_tile_along_k(self, per_channel_quant: bool, num_tokens: int) -> None:
        workload = Workload(8, 7168, H100, "fp8_w8a8", None, per_channel_quant)
        found, sixteen_bits = vllm_heuristic(workload, num_tokens), vllm_heuristic(BF16, num_tokens).to_entry()
        assert found.to_entry() == {**sixteen_bits, "BLOCK_SIZE_K": 128}

    @pytest.mark.parametrize("dtype", ["int8_w8a8", "int8_w8a16"])
    @pytest.mark.parametrize("num_tokens", [64, 65, 4096])
    def test_int8_runs_what_sixteen_bits_run(self, dtype: str, num_tokens: int) -> None:
        assert vllm_heuristic(Workload(8, 7168, H100, dtype), num_tokens) == vllm_heuristic(BF16, num_tokens)

    @pytest.mark.parametrize(("num_tokens", "stages"), [(1, 2), (32, 2), (33, 2), (4096, 2)])
    def test_rocm_has_two_stages(self, num_tokens: int, stages: int) -> None:
        assert vllm_heuristic(BF16, num_tokens, is_rocm=True).num_stages == stages

    @pytest.mark.parametrize(
        ("num_tokens", "config"),
        [
            (1, LaunchConfig(16, 64, 128, 1, 4, 4)),
            (4, LaunchConfig(16, 64, 128, 1, 4, 4)),
            (5, LaunchConfig(16, 64, 128, 1, 4, 3)),
            (8, LaunchConfig(16, 64, 128, 1, 4, 3)),
            (9, LaunchConfig(16, 128, 128, 1, 4, 3)),
            (16, LaunchConfig(16, 128, 128, 1, 4, 3)),
            (17, LaunchConfig(16, 128, 128, 32, 4, 3)),
            (64, LaunchConfig(16, 128, 128, 32, 4, 3)),
            (65, LaunchConfig(64, 128, 128, 32, 4, 3)),
            (4096, LaunchConfig(64, 128, 128, 32, 4, 3)),
        ],
    )
    def test_fp8_with_blocks(self, num_tokens: int, config: LaunchConfig) -> None:
        assert vllm_heuristic(BLOCKS, num_tokens) == config

    def test_a_block_that_64_does_not_divide_has_no_narrow_tile(self) -> None:
        workload = Workload(128, 96, H100, "fp8_w8a8", (32, 32))
        assert vllm_heuristic(workload, 1) == LaunchConfig(16, 32, 32, 1, 4, 3)

    @pytest.mark.parametrize(("num_tokens", "group"), [(1, 1), (8, 1), (17, 32)])
    def test_rocm_takes_whole_blocks_and_two_stages(self, num_tokens: int, group: int) -> None:
        assert vllm_heuristic(BLOCKS, num_tokens, is_rocm=True) == LaunchConfig(16, 128, 128, group, 4, 2)

    def test_a_block_narrower_than_deep_limits_the_tile_along_k_as_at_launch(self) -> None:
        workload = Workload(256, 128, H100, "fp8_w8a8", (64, 128))
        assert vllm_heuristic(workload, 16) == LaunchConfig(16, 64, 64, 1, 4, 3)

    def test_int8_with_blocks_is_no_block_fp8(self) -> None:
        workload = Workload(8, 7168, H100, "int8_w8a8", (128, 128))
        assert vllm_heuristic(workload, 1) == LaunchConfig(16, 64, 128, 1, 4, 4)
        small = Workload(8, 7168, H100, "int8_w8a8", (32, 32))
        assert vllm_heuristic(small, 1) == LaunchConfig(16, 64, 32, 1, 4, 4)


class TestSglang:
    @pytest.mark.parametrize("dtype", [None, "int8_w8a8", "int8_w8a16"])
    @pytest.mark.parametrize(
        ("num_tokens", "config"),
        [
            (1, LaunchConfig(16, 32, 64, 1, 4, 3)),
            (8, LaunchConfig(16, 32, 64, 1, 4, 3)),
            (9, LaunchConfig(64, 64, 32, 8, 4, 3)),
            (4096, LaunchConfig(64, 64, 32, 8, 4, 3)),
        ],
    )
    def test_sixteen_bits_and_int8(self, dtype: str | None, num_tokens: int, config: LaunchConfig) -> None:
        assert sglang_heuristic(Workload(8, 7168, H100, dtype), num_tokens) == config

    @pytest.mark.parametrize("smem_bytes", [None, 128 << 10, LARGE_SMEM_BYTES])
    @pytest.mark.parametrize(
        ("num_tokens", "is_rocm", "config"),
        [
            (8, False, LaunchConfig(64, 128, 128, 1, 4, 4)),
            (9, False, LaunchConfig(128, 256, 128, 32, 8, 4)),
            (8, True, LaunchConfig(64, 128, 128, 1, 4, 2)),
            (9, True, LaunchConfig(128, 256, 128, 32, 8, 2)),
        ],
    )
    def test_fp8_without_blocks(
        self, smem_bytes: int | None, num_tokens: int, is_rocm: bool, config: LaunchConfig
    ) -> None:
        assert sglang_heuristic(FP8, num_tokens, is_rocm=is_rocm, smem_bytes=smem_bytes) == config

    @pytest.mark.parametrize("smem_bytes", [SMALL_SMEM_BYTES, (128 << 10) - 1])
    @pytest.mark.parametrize(
        ("num_tokens", "config"), [(8, LaunchConfig(32, 64, 256, 1, 4, 4)), (9, LaunchConfig(64, 128, 256, 64, 4, 2))]
    )
    def test_fp8_without_blocks_where_shared_memory_is_small(
        self, smem_bytes: int, num_tokens: int, config: LaunchConfig
    ) -> None:
        assert sglang_heuristic(FP8, num_tokens, smem_bytes=smem_bytes) == config

    @pytest.mark.parametrize("num_tokens", [8, 9])
    def test_rocm_is_never_asked_for_its_shared_memory(self, num_tokens: int) -> None:
        found = sglang_heuristic(FP8, num_tokens, is_rocm=True, smem_bytes=64 << 10)
        assert found == sglang_heuristic(FP8, num_tokens, is_rocm=True)

    @pytest.mark.parametrize("num_tokens", [1, 256, 257, 4096])
    @pytest.mark.parametrize(("is_rocm", "stages"), [(False, 3), (True, 2)])
    def test_fp8_with_blocks_is_one_entry_for_all(self, num_tokens: int, is_rocm: bool, stages: int) -> None:
        found = sglang_heuristic(BLOCKS, num_tokens, is_rocm=is_rocm, smem_bytes=SMALL_SMEM_BYTES)
        assert found == LaunchConfig(64, 128, 128, 32, 4, stages)

    def test_the_tile_is_the_block(self) -> None:
        workload = Workload(128, 192, H100, "fp8_w8a8", (64, 32))
        assert sglang_heuristic(workload, 1) == LaunchConfig(64, 64, 32, 32, 4, 3)

    def test_int8_with_blocks_is_no_block_fp8(self) -> None:
        workload = Workload(8, 7168, H100, "int8_w8a8", (128, 128))
        assert sglang_heuristic(workload, 9) == LaunchConfig(64, 64, 32, 8, 4, 3)


@pytest.mark.parametrize("heuristic", [vllm_heuristic, sglang_heuristic])
@pytest.mark.parametrize("dtype", ["int4_w4a16", "fp8_w8a16", "float32", "mxfp4"])
def test_a_dtype_of_another_kernel_is_refused_by_name(heuristic: object, dtype: str) -> None:
    with pytest.raises(UnknownHeuristicError) as raised:
        heuristic(Workload(8, 7168, H100, dtype), 1)  # type: ignore[operator]
    assert str(raised.value) == (
        f"dtype {dtype}: expected one whose heuristic is known (bf16 and fp16, fp8_w8a8, int8_w8a16, int8_w8a8): "
        "the engines run another kernel for it. Fix: tune it with the engine's own tool."
    )


@pytest.mark.parametrize(
    ("block_shape", "block_size_k", "launched"),
    [(None, 256, 256), ((128, 128), 256, 128), ((128, 128), 64, 64), ((64, 128), 128, 64), ((128, 64), 128, 64)],
)
def test_vllm_launches_no_tile_deeper_than_the_scales_block(
    block_shape: tuple[int, int] | None, block_size_k: int, launched: int
) -> None:
    dtype = "fp8_w8a8" if block_shape else None
    config = LaunchConfig(16, 64, block_size_k, 1, 4, 3)
    assert clamped(config, Workload(8, 7168, H100, dtype, block_shape)) == LaunchConfig(16, 64, launched, 1, 4, 3)
