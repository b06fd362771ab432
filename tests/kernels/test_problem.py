"""What a launch computes, and which launches are refused before there is one."""

from __future__ import annotations

import pytest

from kernels.launch_config import LaunchConfig
from kernels.problem import Flavour, Problem, QuantMode, Routing, check_launch, up_and_down

ENTRY = {
    "BLOCK_SIZE_M": 64,
    "BLOCK_SIZE_N": 128,
    "BLOCK_SIZE_K": 64,
    "GROUP_SIZE_M": 1,
    "num_warps": 4,
    "num_stages": 3,
}
FP8_BLOCK = QuantMode("fp8_w8a8", block_shape=(128, 128))


SGLANG = Flavour.SGLANG


def config_of(**entry: int) -> LaunchConfig:
    return LaunchConfig.from_entry(ENTRY | entry)


@pytest.mark.parametrize(
    ("routing", "block_size_m", "rows"),
    [
        (Routing(1, 2, 8), 16, 32),
        (Routing(1, 2, 8, has_expert_map=True), 16, 32),
        (Routing(2, 2, 8), 16, 64),
        (Routing(100, 2, 8), 16, 200 + 8 * 15),
        (Routing(100, 2, 8), 128, 200 + 8 * 127),
        (Routing(20, 2, 64), 64, 40 * 64),
        (Routing(1, 2, 8, flavour=SGLANG), 16, 32),
        (Routing(2, 4, 8, flavour=SGLANG), 16, 8 * 16),
        (Routing(3, 3, 8, flavour=SGLANG), 16, 144),
        (Routing(100, 2, 8, flavour=SGLANG), 16, 336),
        (Routing(20, 2, 8, flavour=SGLANG), 64, 608),
    ],
    ids=[
        *("naive", "few-pairs", "few-tokens", "many", "tile-over-tokens", "pairs-under-experts"),
        *("sglang-never-naive", "sglang-pairs-under-buckets", "sglang-a-pair-a-bucket", "sglang-in-fours"),
        "sglang-tile-over-tokens",
    ],
)
def test_rows_that_the_grid_covers(routing: Routing, block_size_m: int, rows: int) -> None:
    assert routing.rows(block_size_m) == rows


@pytest.mark.parametrize(
    ("routing", "naive"),
    [
        (Routing(8, 8, 256), True),
        (Routing(9, 8, 256), False),
        (Routing(4, 8, 128), True),
        (Routing(1, 2, 8), True),
        (Routing(2, 2, 8), False),
        (Routing(1, 2, 8, has_expert_map=True), False),
        (Routing(1, 2, 8, allow_naive=False), False),
        (Routing(1, 8, 256, flavour=SGLANG), False),
    ],
)
def test_naive_mode_condition(routing: Routing, naive: bool) -> None:
    assert routing.is_naive is naive


@pytest.mark.parametrize(
    ("quant", "m", "n", "arch", "swaps"),
    [
        (FP8_BLOCK, 32, 64, "sm90", True),
        (QuantMode("fp8_w8a8"), 16, 128, "sm90", True),
        (FP8_BLOCK, 64, 64, "sm90", False),
        (FP8_BLOCK, 32, 32, "sm90", False),
        (FP8_BLOCK, 32, 64, "sm100", False),
        (QuantMode(), 32, 64, "sm90", False),
        (QuantMode("int8_w8a8", per_channel=True), 32, 64, "sm90", False),
    ],
)
def test_operand_swap_rule(quant: QuantMode, m: int, n: int, arch: str, swaps: bool) -> None:
    config = config_of(BLOCK_SIZE_M=m, BLOCK_SIZE_N=n)
    assert Problem(up_and_down(8, 256, 512, 2)[0], Routing(64, 2, 8), quant, config, arch).swaps_operands is swaps


@pytest.mark.parametrize(
    ("num_tokens", "arch", "up", "down"),
    [
        (256, "sm90", "early", "early"),
        (257, "sm90", "early", "late"),
        (512, "sm90", "early", "late"),
        (513, "sm90", "late", "late"),
        (1, "sm120", "early", "early"),
        (1, "sm89", "none", "none"),
        (1, "gfx942", "none", "none"),
        (1, "cpu", "none", "none"),
    ],
)
def test_sglang_launches_dependents_by_the_rows_of_a(num_tokens: int, arch: str, up: str, down: str) -> None:
    routing = Routing(num_tokens, 2, 8, flavour=SGLANG)
    problems = [Problem(p, routing, QuantMode(), config_of(), arch) for p in up_and_down(8, 256, 512, 2)]
    assert [problem.gdc for problem in problems] == [up, down]
    assert [problem.options.get("launch_pdl", False) for problem in problems] == [up != "none"] * 2


def test_vllm_launches_no_dependents_and_masks_k() -> None:
    problem = Problem(up_and_down(8, 256, 512, 2)[0], Routing(1, 2, 8), QuantMode(), config_of(), "sm90")
    assert (problem.gdc, problem.has_even_ks, "launch_pdl" in problem.options) == ("none", False, False)


@pytest.mark.parametrize(("k", "even"), [(512, True), (576, False)])
def test_sglang_drops_the_mask_where_tiles_divide_k(k: int, even: bool) -> None:
    projection, routing = up_and_down(8, 256, k, 2)[0], Routing(64, 2, 8, flavour=SGLANG)
    assert Problem(projection, routing, QuantMode(), config_of(BLOCK_SIZE_K=128), "sm90").has_even_ks is even


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        (ENTRY | {"USE_TMA": True}, r"found \['USE_TMA'\]"),
        (ENTRY | {"SPLIT_K": 2}, r"found \['SPLIT_K'\]"),
        (ENTRY | {"BLOCK_SIZE_N": 48}, r"BLOCK_SIZE_N: expected a power of two, found 48"),
        (ENTRY | {"num_stages": 0}, r"num_stages: expected an integer >= 1, found 0"),
        (ENTRY | {"waves_per_eu": -1}, r"waves_per_eu: expected an integer >= 0, found -1"),
        (ENTRY | {"num_warps": "4"}, r"num_warps: expected int, found '4'"),
        ({"BLOCK_SIZE_M": 16}, r"found no \['BLOCK_SIZE_N', 'BLOCK_SIZE_K', 'GROUP_SIZE_M', "),
    ],
)
def test_a_bad_entry_is_named(entry: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_launch(QuantMode(), LaunchConfig.from_entry(entry), "gfx942")


def test_a_problem_that_breaks_a_rule_can_not_be_made() -> None:
    up = up_and_down(8, 256, 512, 2)[0]
    quant = QuantMode("fp8_w8a8", block_shape=(64, 64))
    with pytest.raises(ValueError, match=r"BLOCK_SIZE_K: expected a divisor of block_k 64, at most 64 .*found 128"):
        Problem(up, Routing(64, 2, 8), quant, config_of(BLOCK_SIZE_K=128), "sm90")


def test_amd_keys_pass_through_on_amd() -> None:
    config = config_of(waves_per_eu=0, matrix_instr_nonkdim=16, kpack=2)
    check_launch(QuantMode(), config, "gfx942")
    assert dict(config.options)["matrix_instr_nonkdim"] == 16


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"dtype": "fp8"}, "found 'fp8'"),
        ({"compute_type": "fp32"}, "found 'fp32'"),
        ({"dtype": "int8_w8a16"}, "expected per_channel=True for int8_w8a16"),
        ({"block_shape": (128, 128)}, "expected fp8_w8a8 or int8_w8a8"),
        ({"dtype": "fp8_w8a8", "block_shape": (0, 128)}, r"found \(0, 128\)"),
    ],
)
def test_a_bad_mode_is_named(fields: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        QuantMode(**fields)
