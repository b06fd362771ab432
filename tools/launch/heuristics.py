"""What an engine runs where no tuned file matches: the baselines that a tuned file must not be slower than.

As read from vLLM 0.33 (`get_default_config`) and SGLang 0.5.23, for their fused MoE Triton kernel. Batch size is
num_tokens (M), E the experts on the rank. Where an engine leaves warps and stages to Triton, its defaults are written.
Both know block scales for fp8 only: int8_w8a8 with blocks runs what 16-bit weights run.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType

from kernels.launch_config import TRITON_DEFAULTS, LaunchConfig
from tools.store.workload import Workload

TABLES: Mapping[str, str] = MappingProxyType({"vllm": "_vllm_table", "sglang": "_sglang_table"})
"""The function of this module that is our table of an engine's heuristic."""

_TRITON_WARPS = TRITON_DEFAULTS["num_warps"]
_TRITON_STAGES = TRITON_DEFAULTS["num_stages"]
_SMALL_SMEM_BYTES = 128 << 10


class UnknownHeuristicError(ValueError):
    """The engines run another kernel for this dtype, so that nothing here can be compared with it."""


def vllm_heuristic(workload: Workload, num_tokens: int, *, is_rocm: bool = False) -> LaunchConfig:
    """vLLM's launch config, `clamped`. UnknownHeuristicError: its Triton kernel doesn't run this dtype."""
    _check(workload)
    return _vllm_table(workload, num_tokens, is_rocm)


def sglang_heuristic(
    workload: Workload, num_tokens: int, *, is_rocm: bool = False, smem_bytes: int | None = None
) -> LaunchConfig:
    """SGLang's launch config. smem_bytes: shared memory of a block. UnknownHeuristicError as `vllm_heuristic`."""
    _check(workload)
    return _sglang_table(workload, num_tokens, is_rocm, smem_bytes)


def clamped(config: LaunchConfig, workload: Workload) -> LaunchConfig:
    """With BLOCK_SIZE_K as vLLM launches it: at most the smaller side of the scales' block."""
    if workload.block_shape is None:
        return config
    return replace(config, BLOCK_SIZE_K=min(config.BLOCK_SIZE_K, *workload.block_shape))


def _vllm_table(workload: Workload, num_tokens: int, is_rocm: bool) -> LaunchConfig:
    is_fp8 = workload.dtype == "fp8_w8a8"
    if workload.block_shape is not None and is_fp8:
        return clamped(_vllm_block(workload.block_shape, num_tokens, is_rocm), workload)
    config = LaunchConfig(
        BLOCK_SIZE_M=_band(num_tokens, ((32, 16), (96, 32), (512, 64)), 128),
        BLOCK_SIZE_N=64 if num_tokens <= 64 else 128,
        BLOCK_SIZE_K=128 if is_fp8 or num_tokens <= 64 else 64,
        GROUP_SIZE_M=16 if num_tokens // workload.E > 128 else 1,
        num_warps=4 if num_tokens <= 128 else 8,
        num_stages=2 if is_rocm else 4 if num_tokens <= 32 else 3,
    )
    return clamped(config, workload)


def _vllm_block(block_shape: tuple[int, int], num_tokens: int, is_rocm: bool) -> LaunchConfig:
    block_n, block_k = block_shape
    is_narrow = num_tokens <= 8 and block_n % 64 == 0
    if is_rocm:
        block_size_n, stages = block_n, 2
    else:
        block_size_n = 64 if is_narrow else block_n
        stages = 4 if is_narrow and num_tokens <= 4 else 3
    return LaunchConfig(
        BLOCK_SIZE_M=16 if num_tokens <= 64 else 64,
        BLOCK_SIZE_N=block_size_n,
        BLOCK_SIZE_K=block_k,
        GROUP_SIZE_M=1 if num_tokens <= 16 else 32,
        num_warps=4,
        num_stages=stages,
    )


def _band(num_tokens: int, bands: tuple[tuple[int, int], ...], beyond: int) -> int:
    """The value of the first band (most tokens, value) that holds num_tokens."""
    return next((value for most, value in bands if num_tokens <= most), beyond)


def _sglang_table(workload: Workload, num_tokens: int, is_rocm: bool, smem_bytes: int | None) -> LaunchConfig:
    is_decode = num_tokens <= workload.E
    is_fp8 = workload.dtype == "fp8_w8a8"
    if workload.block_shape is not None and is_fp8:
        block_n, block_k = workload.block_shape
        return LaunchConfig(64, block_n, block_k, 32, 4, 2 if is_rocm else 3)
    if is_fp8:
        # SGLang asks CUDA alone how much shared memory there is.
        if not is_rocm and smem_bytes is not None and smem_bytes < _SMALL_SMEM_BYTES:
            return LaunchConfig(32, 64, 256, 1, 4, 4) if is_decode else LaunchConfig(64, 128, 256, 64, 4, 2)
        stages = 2 if is_rocm else 4
        return LaunchConfig(64, 128, 128, 1, 4, stages) if is_decode else LaunchConfig(128, 256, 128, 32, 8, stages)
    if is_decode:
        return LaunchConfig(16, 32, 64, 1, _TRITON_WARPS, _TRITON_STAGES)
    return LaunchConfig(64, 64, 32, 8, _TRITON_WARPS, _TRITON_STAGES)


_KNOWN = frozenset({None, "fp8_w8a8", "int8_w8a8", "int8_w8a16"})


def _check(workload: Workload) -> None:
    if workload.dtype not in _KNOWN:
        known = ", ".join(sorted(dtype or "bf16 and fp16" for dtype in _KNOWN))
        raise UnknownHeuristicError(
            f"dtype {workload.dtype}: expected one whose heuristic is known ({known}): the engines run another kernel "
            "for it. Fix: tune it with the engine's own tool."
        )
