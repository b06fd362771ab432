"""The space: which launch configs are tried on a GPU, and for each that is not, the constraint that it breaks."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest

from kernels.launch_config import LaunchConfig
from kernels.problem import Flavour, QuantMode
from tools.launch.axes import COMMON_GROUP_SIZE
from tools.registry.devices import load_devices
from tools.registry.models import Asked, load_models
from tools.registry.sharding import Engine
from tools.store.record import ShapeOfModels
from tools.store.workload import Shape
from tools.tune.protocol import Subject
from tools.tune.space import AMD, CONSTRAINTS, NVIDIA, Axes, candidates, why_no_descriptors, with_descriptors
from tools.tune.subject import ModelSource, Parallel, SizesSource, make_subject

KERNEL = LaunchConfig(64, 64, 64, 1, 4, 3)
BLOCKS = QuantMode("fp8_w8a8", block_shape=(128, 128))


def subject_of(model: str, tp: int, device_name: str = "NVIDIA H100 80GB HBM3") -> Subject:
    return make_subject(ModelSource(model, Parallel(tp)), device_name, load_models(), load_devices())


def why(name: str, config: LaunchConfig, subject: Subject) -> str | None:
    """What the constraint of that name says."""
    (constraint,) = (constraint for constraint in CONSTRAINTS if constraint.name == name)
    return constraint.why(config, subject)


@pytest.mark.parametrize(
    ("model", "tp", "kernels"),
    [
        ("mistralai/Mixtral-8x7B-v0.1", 2, 326),
        ("Qwen/Qwen3-30B-A3B", 1, 326),
        ("deepseek-ai/DeepSeek-V3", 16, 152),
    ],
)
def test_the_whole_space_of_an_h100(model: str, tp: int, kernels: int) -> None:
    space = candidates(subject_of(model, tp))
    assert len(space.kernels) == kernels
    assert space.group_sizes == (1, 8, 16, 32, 64)
    assert {rejected.constraint for rejected in space.rejected} == {"shared-memory"}


@pytest.mark.parametrize("device_name", ["NVIDIA H100 80GB HBM3", "NVIDIA GeForce RTX 4090", "AMD Instinct MI300X"])
def test_every_candidate_is_either_tried_or_rejected_for_a_reason(device_name: str) -> None:
    space = candidates(subject_of("Qwen/Qwen3-30B-A3B", 8, device_name))
    axes = AMD if device_name.startswith("AMD") else NVIDIA
    tried, rejected = set(space.kernels), {one.config for one in space.rejected}
    assert tried | rejected == set(axes.kernels())
    assert not tried & rejected
    assert all(one.message for one in space.rejected)


def test_what_uses_descriptors_has_the_rows_tile_and_low_k_tiles_under_block_scales_too() -> None:
    deepseek = subject_of("deepseek-ai/DeepSeek-V3", 16)
    found = with_descriptors(deepseek, 16)
    assert {config.BLOCK_SIZE_M for config in found} == {16}
    assert {config.BLOCK_SIZE_K for config in found} == {64, 128}
    assert {(config.USE_TMA, config.GROUP_SIZE_M, config.num_warps) for config in found} == {
        (True, COMMON_GROUP_SIZE, 4)
    }
    assert {config.num_warps for config in with_descriptors(deepseek, 64)} == {4, 8}


def test_of_what_uses_descriptors_all_fits_the_gpu() -> None:
    few = replace(subject_of("mistralai/Mixtral-8x7B-v0.1", 2), smem_bytes=100_000)
    assert (
        0 < len(with_descriptors(few, 128)) < len(with_descriptors(subject_of("mistralai/Mixtral-8x7B-v0.1", 2), 128))
    )


@pytest.mark.parametrize(
    ("device_name", "tries"),
    [
        ("NVIDIA H100 80GB HBM3", True),
        ("NVIDIA B200", True),
        ("NVIDIA GeForce RTX 4090", False),
        ("NVIDIA A100-SXM4-80GB", False),
        ("AMD Instinct MI300X", False),
    ],
)
def test_descriptors_are_tried_where_the_hardware_loads_by_them(device_name: str, tries: bool) -> None:
    mixtral = subject_of("mistralai/Mixtral-8x7B-v0.1", 2, device_name)
    assert (why_no_descriptors(mixtral) is None) is tries
    assert bool(with_descriptors(mixtral, 64)) is tries


@pytest.mark.parametrize(
    ("n", "dtype", "row_bytes"), [(360, "fp8_w8a8", 360), (364, None, 728), (360, None, None), (368, "fp8_w8a8", None)]
)
def test_descriptors_are_tried_where_every_row_of_w2_starts_as_they_need_it(
    n: int, dtype: str | None, row_bytes: int | None
) -> None:
    source = SizesSource(32, n, 2880, 4, Asked(dtype))
    subject = make_subject(source, "NVIDIA H200", load_models(), load_devices(), engine=Engine.SGLANG)
    told = None if row_bytes is None else f"expected rows of a multiple of 16 bytes for USE_TMA, found {row_bytes}"
    assert why_no_descriptors(subject) == told
    assert bool(with_descriptors(subject, 16)) is (told is None)


def test_descriptors_are_tried_where_sglang_reads_the_name() -> None:
    mixtral = subject_of("mistralai/Mixtral-8x7B-v0.1", 2)
    vllms = replace(mixtral, engines=((Flavour.VLLM,),))
    assert why_no_descriptors(vllms) == "SGLang, whose key it is, doesn't read this name"
    assert with_descriptors(vllms, 64) == ()


def test_group_size_makes_no_kernel_of_its_own() -> None:
    assert {kernel.GROUP_SIZE_M for kernel in NVIDIA.kernels()} == {COMMON_GROUP_SIZE}


def test_block_scales_leave_one_depth_of_tile() -> None:
    space = candidates(subject_of("deepseek-ai/DeepSeek-V3", 16))
    assert {kernel.BLOCK_SIZE_K for kernel in space.kernels} == {128}


def test_of_an_oblong_block_the_shorter_side_is_the_depth(subject: Subject) -> None:
    """vLLM clamps the tile to it."""
    quant = QuantMode("fp8_w8a8", block_shape=(64, 128))
    blocks = replace(subject, quant=quant, workload=replace(subject.workload, dtype="fp8_w8a8", block_shape=(64, 128)))
    assert {kernel.BLOCK_SIZE_K for kernel in candidates(blocks).kernels} == {64}


def test_amd_has_axes_of_its_own() -> None:
    kernels = candidates(subject_of("mistralai/Mixtral-8x7B-v0.1", 2, "AMD Instinct MI300X")).kernels
    values = {
        key: {getattr(kernel, key) for kernel in kernels}
        for key in ("num_warps", "num_stages", "waves_per_eu", "matrix_instr_nonkdim", "kpack")
    }
    assert values == {
        "num_warps": {2, 4, 8},
        "num_stages": {2},
        "waves_per_eu": {0, 1, 2},
        "matrix_instr_nonkdim": {16, 32},
        "kpack": {1, 2},
    }
    assert len(kernels) == 1206


def test_nvidia_has_none_of_amds_keys(subject: Subject) -> None:
    assert all(kernel.waves_per_eu is kernel.kpack is None for kernel in candidates(subject).kernels)


def test_the_first_broken_constraint_is_the_one_that_is_told(subject: Subject) -> None:
    """A tile over the scale block would not fit the memory either."""
    blocks = replace(
        subject, quant=BLOCKS, workload=replace(subject.workload, dtype="fp8_w8a8", block_shape=(128, 128))
    )
    axes = Axes((256,), (256,), (256,), num_warps=(8,), num_stages=(5,))
    assert [rejected.constraint for rejected in candidates(blocks, axes).rejected] == ["launch-rule"]
    assert Counter(r.constraint for r in candidates(subject, axes).rejected) == {"shared-memory": 1}


# ---------------------------------------------------------------
# Each constraint


def test_launch_rule(subject: Subject) -> None:
    blocks = replace(subject, quant=BLOCKS)
    assert why("launch-rule", replace(KERNEL, BLOCK_SIZE_K=128), blocks) is None
    told = why("launch-rule", replace(KERNEL, BLOCK_SIZE_K=256), blocks)
    assert told is not None
    assert "BLOCK_SIZE_K: expected a divisor of block_k 128" in told
    assert "expected no AMD keys on sm90" in str(why("launch-rule", replace(KERNEL, kpack=2), subject))


def test_shared_memory(subject: Subject) -> None:
    assert why("shared-memory", KERNEL, subject) is None
    told = why("shared-memory", LaunchConfig(16, 128, 256, 1, 4, 5), subject)
    assert told == "expected at most 232448 bytes, found 294912 = (16·2 + 128·2) · 256 · 4 buffers"
    assert why("shared-memory", LaunchConfig(16, 128, 256, 1, 4, 5), replace(subject, smem_bytes=294912)) is None


@pytest.mark.parametrize(("intermediate_size", "hidden_size"), [(48, 4096), (7168, 96)], ids=["up", "down"])
def test_tile_over_columns(subject: Subject, intermediate_size: int, hidden_size: int) -> None:
    narrow = replace(
        subject,
        workload=replace(subject.workload, N=intermediate_size),
        shapes=(*subject.shapes, ShapeOfModels(Shape(hidden_size, 2))),
    )
    assert why("tile-over-columns", KERNEL, narrow) is None
    told = why("tile-over-columns", replace(KERNEL, BLOCK_SIZE_N=128), narrow)
    assert told == "expected BLOCK_SIZE_N at most 96, the narrower product's columns, found 128"


def test_the_narrowest_tile_is_tried_however_narrow_the_product(subject: Subject) -> None:
    narrow = replace(subject, workload=replace(subject.workload, N=4))
    assert why("tile-over-columns", replace(KERNEL, BLOCK_SIZE_N=32), narrow) is None
    assert why("tile-over-columns", replace(KERNEL, BLOCK_SIZE_N=33), narrow) is not None


def test_matrix_instruction(subject: Subject) -> None:
    assert why("matrix-instruction", replace(KERNEL, BLOCK_SIZE_M=16), subject) is None
    assert why("matrix-instruction", replace(KERNEL, matrix_instr_nonkdim=32), subject) is None
    told = why("matrix-instruction", replace(KERNEL, BLOCK_SIZE_M=16, matrix_instr_nonkdim=32), subject)
    assert told == "expected a tile of at least 32 x 32 for the instruction, found 16 x 64"
