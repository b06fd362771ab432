"""The formula against the compiler: what Triton 3.8.0 reserves for this project's kernel, compiled without a GPU."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kernels.launch_config import LaunchConfig
from tools.launch.shared_memory import loop_bytes

# arch, dtype, block scales, BLOCK_SIZE_M, N, K, warps, stages, bytes that the compiler reserves
COMPILED = [
    ("sm_80", None, False, 64, 128, 64, 4, 4, 73728),
    ("sm_80", None, False, 16, 64, 64, 4, 3, 20480),
    ("sm_80", None, False, 128, 128, 64, 8, 1, 32768),
    ("sm_90", None, False, 64, 128, 64, 4, 4, 98304),
    ("sm_90", None, False, 16, 64, 64, 4, 3, 20480),
    ("sm_90", None, False, 128, 128, 64, 8, 1, 32768),
    ("sm_100", None, False, 32, 128, 64, 4, 3, 40960),
    ("sm_120", None, False, 64, 128, 64, 4, 4, 73728),
    ("sm_120", None, False, 16, 64, 64, 4, 3, 20480),
    ("gfx942", None, False, 64, 128, 64, 4, 2, 24576),
    ("gfx942", None, False, 64, 64, 64, 4, 3, 32768),
    ("sm_89", "fp8_w8a8", False, 16, 32, 128, 4, 4, 18432),
    ("sm_89", "fp8_w8a8", False, 16, 128, 128, 4, 4, 55296),
    ("sm_89", "fp8_w8a8", False, 128, 128, 128, 8, 3, 65536),
    ("sm_90", "fp8_w8a8", False, 16, 128, 128, 4, 4, 73728),  # swapped operands read shared memory
    ("sm_90", "fp8_w8a8", False, 16, 32, 128, 4, 4, 18432),  # too narrow to swap
    ("sm_90", "fp8_w8a8", False, 128, 128, 128, 8, 3, 98304),
    ("sm_89", "fp8_w8a8", True, 64, 128, 128, 4, 3, 49664),
    ("sm_89", "fp8_w8a8", True, 32, 64, 128, 4, 3, 24576),
    ("sm_89", "fp8_w8a8", True, 256, 128, 64, 4, 3, 50176),
    ("sm_90", "fp8_w8a8", True, 64, 128, 128, 4, 3, 74240),
    ("sm_90", "fp8_w8a8", True, 32, 64, 128, 4, 3, 36864),
    ("sm_90", "fp8_w8a8", True, 256, 128, 64, 4, 3, 74752),
    ("sm_80", "int8_w8a16", False, 64, 64, 64, 4, 3, 24576),
    ("sm_90", "int8_w8a16", False, 64, 64, 64, 4, 3, 40960),  # the weights are converted into one more tile
    ("sm_90", "int8_w8a16", False, 16, 64, 128, 4, 3, 24576),
    ("sm_80", "int8_w8a8", False, 64, 64, 128, 4, 3, 32768),
]


@pytest.mark.parametrize(("arch", "dtype", "blocks", "m", "n", "k", "warps", "stages", "compiled_bytes"), COMPILED)
def test_the_formula_gives_what_the_compiler_reserves(
    arch: str, dtype: str | None, blocks: bool, m: int, n: int, k: int, warps: int, stages: int, compiled_bytes: int
) -> None:
    needed = loop_bytes(LaunchConfig(m, n, k, 1, warps, stages), arch=arch, dtype=dtype, block_quantised=blocks)
    assert needed is not None
    assert needed.total_bytes == compiled_bytes


def test_it_is_a_lower_bound_where_the_compiler_adds_barriers() -> None:
    needed = loop_bytes(LaunchConfig(64, 128, 64, 1, 4, 3), arch="sm_100", dtype=None)
    assert needed is not None
    assert needed.total_bytes == 73744 - 16


@pytest.mark.parametrize("dtype", ["int4_w4a16", "bf16", ""])
def test_other_kernels_dtypes_have_no_formula(dtype: str) -> None:
    assert loop_bytes(LaunchConfig(64, 64, 64, 1, 4, 3), arch="sm_90", dtype=dtype) is None


def test_a_tile_takes_the_bytes_of_its_elements() -> None:
    """BLOCK_SIZE_M 64 and N 128 at K 64, of one buffer; of dtypes whose compiled figures aren't kept here."""
    found = {
        dtype: loop_bytes(LaunchConfig(64, 128, 64, 1, 4, 2), arch="sm_80", dtype=dtype)
        for dtype in ("fp8_w8a16", "float32")
    }
    assert {dtype: needed.total_bytes for dtype, needed in found.items() if needed is not None} == {
        "fp8_w8a16": (64 * 2 + 128) * 64,
        "float32": (64 + 128) * 4 * 64,
    }


@given(
    st.sampled_from(["sm_80", "sm_90", "sm_120", "gfx942"]),
    st.sampled_from([None, "fp8_w8a8", "int8_w8a16", "float32"]),
    st.lists(st.integers(1, 512), min_size=3, max_size=3),
    st.integers(0, 8),
    st.booleans(),
)
def test_the_explanation_adds_up_and_more_stages_never_need_less(
    arch: str, dtype: str | None, tile: list[int], stages: int, blocks: bool
) -> None:
    totals = []
    for depth in (stages, stages + 1):
        needed = loop_bytes(LaunchConfig(*tile, 1, 4, depth), arch=arch, dtype=dtype, block_quantised=blocks)
        assert needed is not None
        sum_of_parts = 0
        for part in needed.explanation.replace("·", "*").split(" + "):
            sum_of_parts += 0 if "(" in part or ")" in part else _product(part)
        head = needed.explanation.partition(" buffer")[0].replace("·", "*")
        assert needed.total_bytes == eval(head) + sum_of_parts
        totals.append(needed.total_bytes)
    assert totals[0] <= totals[1]


def _product(part: str) -> int:
    result = 1
    for factor in part.partition(" for ")[0].split("*"):
        result *= int(factor)
    return result
