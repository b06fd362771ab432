"""Compiles every other JIT function for sm90 without a GPU; run like `compile_child.py`. stdout: JSON, name to size."""

from __future__ import annotations

import json
import sys
from typing import Any

import triton.language as tl

from kernels import activation_kernel, align_kernel, quantization_kernel
from kernels.launch import StandIn
from tools.compile.no_gpu import activate
from tools.registry.devices import Target


def pointer(dtype: tl.dtype) -> StandIn:
    return StandIn(dtype, 1 << 20)


I32, F32, BF16, FP8, INT8 = map(pointer, (tl.int32, tl.float32, tl.bfloat16, tl.float8e4nv, tl.int8))
ALIGNED: tuple[Any, ...] = (I32, I32, I32)
CASES: dict[str, tuple[Any, tuple[Any, ...], int]] = {
    "align_few": (align_kernel.align_few_kernel, (I32, None, *ALIGNED, 512, 64, 64, 128, 512), 4),
    "align_few_map": (align_kernel.align_few_kernel, (pointer(tl.int64), I32, *ALIGNED, 512, 64, 64, 128, 512), 4),
    "count": (align_kernel.count_kernel, (I32, I32, 32768, 1024, 512, 1024), 4),
    "scatter": (
        align_kernel.scatter_kernel,
        (I32, I32, I32, I32, *ALIGNED, 32768, 256, 1024, 32, 64, 512, 1024, 16),
        8,
    ),
    "silu": (activation_kernel.activation_kernel, (BF16, BF16, 768, "silu", 1024), 4),
    "gelu": (activation_kernel.activation_kernel, (BF16, BF16, 768, "gelu", 1024), 4),
    "swiglu": (activation_kernel.activation_kernel, (BF16, BF16, 768, "swiglu_clamped", 1024), 4),
    "sum": (activation_kernel.moe_sum_kernel, (BF16, BF16, 2048, 8, 1024), 4),
    "fp8_group": (quantization_kernel.quantize_groups_kernel, (BF16, FP8, F32, 768, 6, 128, 448.0, "silu", 8, 128), 4),
    "int8_token": (
        quantization_kernel.quantize_groups_kernel,
        (BF16, INT8, F32, 14336, 1, 14336, 127.0, None, 1, 16384),
        16,
    ),
    "absmax": (quantization_kernel.absmax_kernel, (BF16, F32, 512, 768, "silu", 1024), 4),
    "fp8_tensor": (
        quantization_kernel.quantize_tensor_kernel,
        (BF16, FP8, F32, F32, 512, 768, 448.0, "silu", 512, 1024),
        4,
    ),
    "fp8_given": (
        quantization_kernel.quantize_tensor_kernel,
        (BF16, FP8, F32, None, 0, 768, 448.0, None, 1, 1024),
        4,
    ),
}

if __name__ == "__main__":
    activate(Target("cuda", 90, 32))
    results = {
        name: len(kernel.warmup(*args, grid=(1,), num_warps=num_warps).asm["cubin"])
        for name, (kernel, args, num_warps) in CASES.items()
    }
    json.dump(results, sys.stdout)
