"""`kernels.launch` is enough to compile for GPUs that aren't there, and its key tells Triton's binaries apart.

In a child process each: here the kernels are interpreted.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).parent
ENTRY = {
    "BLOCK_SIZE_M": 64,
    "BLOCK_SIZE_N": 128,
    "BLOCK_SIZE_K": 64,
    "GROUP_SIZE_M": 1,
    "num_warps": 4,
    "num_stages": 4,
}
NARROW = ENTRY | {"BLOCK_SIZE_M": 16, "num_stages": 3}
MIXTRAL = [8, 7168, 4096, 2]
DEEPSEEK = [256, 128, 7168, 8]


def case(
    arch: str,
    dtype: str | None = None,
    *,
    per_channel: bool = False,
    block_shape: tuple[int, int] | None = None,
    layer: list[int] = MIXTRAL,
    bias: bool = False,
    projection: int = 0,
    num_tokens: int = 64,
    flavour: str = "vllm",
    config: dict[str, int] = ENTRY,
) -> dict[str, Any]:
    return dict(locals())


def run_child(script: str, text: str, cache: Path) -> Any:
    env = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    env |= {"TRITON_CACHE_DIR": str(cache), "PYTHONPATH": str(HERE.parents[1])}
    child = subprocess.run(
        [sys.executable, str(HERE / script)],
        input=text,
        capture_output=True,
        text=True,
        env=env,
        timeout=300,
        check=False,
    )
    assert child.returncode == 0, child.stderr[-4000:]
    return json.loads(child.stdout)


def compile_all(cases: list[dict[str, Any]], cache: Path) -> list[dict[str, Any]]:
    return run_child("compile_child.py", json.dumps(cases), cache)


EVERY_MODE = {
    "sm90": [
        case("sm90", config=ENTRY),
        case("sm90", "fp8_w8a8", layer=DEEPSEEK, config=NARROW),
        case("sm90", "fp8_w8a8", per_channel=True, layer=DEEPSEEK, bias=True, projection=1),
        case("sm90", "fp8_w8a8", block_shape=(128, 128), layer=DEEPSEEK, config=NARROW),
        case("sm90", "fp8_w8a8", block_shape=(64, 64), layer=DEEPSEEK, num_tokens=1, config=NARROW),
        case("sm90", "int8_w8a8", per_channel=True),
        case("sm90", "int8_w8a8", block_shape=(64, 64), projection=1),
        case("sm90", "int8_w8a16", per_channel=True),
    ],
    "sm90, SGLang's flavour": [
        case("sm90", flavour="sglang", config=ENTRY),
        case("sm90", "fp8_w8a8", flavour="sglang", layer=DEEPSEEK, config=NARROW),
        case("sm90", "fp8_w8a8", flavour="sglang", per_channel=True, layer=DEEPSEEK, projection=1, num_tokens=4096),
        case("sm90", "fp8_w8a8", flavour="sglang", block_shape=(128, 128), layer=DEEPSEEK, config=NARROW),
        case("sm90", "fp8_w8a8", flavour="sglang", block_shape=(64, 64), layer=DEEPSEEK, num_tokens=1, config=NARROW),
        case("sm90", "int8_w8a8", flavour="sglang", per_channel=True),
        case("sm90", "int8_w8a16", flavour="sglang", per_channel=True),
    ],
    "sm80": [case("sm80"), case("sm80", "int8_w8a8", per_channel=True), case("sm80", "int8_w8a16", per_channel=True)],
    "gfx942": [
        case("gfx942", config=ENTRY | {"num_stages": 2, "waves_per_eu": 0, "matrix_instr_nonkdim": 16, "kpack": 1}),
        case("gfx942", "fp8_w8a8", block_shape=(128, 128), layer=DEEPSEEK, config=ENTRY | {"num_stages": 2}),
    ],
}


@pytest.mark.parametrize("cases", EVERY_MODE.values(), ids=EVERY_MODE)
def test_compiles_without_a_gpu(cases: list[dict[str, Any]], tmp_path: Path) -> None:
    results = compile_all(cases, tmp_path)
    assert all(result["smem_bytes"] > 0 for result in results)
    assert len({result["hash"] for result in results}) == len(results)


def test_divisibility_reaches_the_compiler(tmp_path: Path) -> None:
    """With it: 4 stages of (64 + 128) x 64 x 2 bytes. Without it nothing is staged and it reads 24576."""
    assert compile_all([case("sm90")], tmp_path)[0]["smem_bytes"] == 4 * (64 + 128) * 64 * 2


def test_the_key_is_equal_exactly_where_triton_compiles_once(tmp_path: Path) -> None:
    cases = [
        case("sm90"),
        case("sm90", num_tokens=4096),
        case("sm90", num_tokens=1001),
        case("sm90", config=ENTRY | {"GROUP_SIZE_M": 16}),
        # Other sizes of the same divisibility and top_k are the same kernel; up and down differ by the routed weight.
        case("sm90", layer=[64, 768, 2048, 2]),
        case("sm90", layer=[8, 7168, 4096, 1]),
        case("sm90", layer=[8, 7168, 4096, 1], projection=1),
        case("sm90", layer=[8, 7168, 4096, 1], projection=1, num_tokens=4096),
        case("sm90", layer=[8, 7160, 4100, 2]),
        case("sm90", num_tokens=1),
        case("sm90", bias=True),
        case("sm90", config=ENTRY | {"num_stages": 3}),
    ]
    cases += [{**one, "flavour": "sglang"} for one in cases]
    results = compile_all(cases, tmp_path)
    seen: set[str] = set()
    for one, result in zip(cases, results, strict=True):
        seen.add(result["key"])
        assert result["cached"] == len(seen), f"the key and Triton disagree at {one}"
    assert results[5]["key"] != results[6]["key"], "the routed weight is a constant"
    assert results[6]["key"] == results[7]["key"], "the number of tokens is none"
    # SGLang has no naive mode; where A has few rows, it lets the next launch start early.
    assert len(seen) == 7 + 8


def test_the_other_kernels_compile_too(tmp_path: Path) -> None:
    sizes = run_child("compile_helpers_child.py", "", tmp_path)
    assert sizes
    assert all(sizes.values())
