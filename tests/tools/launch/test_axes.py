"""The axes of a search."""

from __future__ import annotations

import math
from dataclasses import fields

import pytest

from kernels.launch_config import KEY_VENDOR, REQUIRED_KEYS
from tools.launch.axes import AMD, COMMON_GROUP_SIZE, NVIDIA, Axes


def test_group_sizes_share_their_kernels() -> None:
    kernels = list(NVIDIA.kernels())
    counts = (len(getattr(NVIDIA, key)) for key in REQUIRED_KEYS if key != "GROUP_SIZE_M")
    assert len(set(kernels)) == len(kernels) == math.prod(counts) == 480
    assert {kernel.GROUP_SIZE_M for kernel in kernels} == {COMMON_GROUP_SIZE}


def test_amd_has_keys_of_its_own_on_every_kernel() -> None:
    kernels = list(AMD.kernels())
    assert len(set(kernels)) == len(kernels)
    assert {KEY_VENDOR[name] for name, _ in AMD.extra} == {"amd"}
    for name, values in AMD.extra:
        assert {getattr(kernel, name) for kernel in kernels} == set(values)
    assert {kernel.num_stages for kernel in kernels} == {2}


def test_nvidia_has_none() -> None:
    assert NVIDIA.extra == ()
    assert all(kernel.waves_per_eu is None for kernel in NVIDIA.kernels())


@pytest.mark.parametrize("axes", [NVIDIA, AMD], ids=["nvidia", "amd"])
def test_tiles_and_warps_are_powers_of_two_as_triton_takes_them(axes: Axes) -> None:
    names = ("BLOCK_SIZE_M", "BLOCK_SIZE_N", "BLOCK_SIZE_K", "num_warps", "matrix_instr_nonkdim", "kpack")
    values = {**vars(axes), **dict(axes.extra)}
    for name in names:
        assert all(value.bit_count() == 1 for value in values.get(name, ())), name


@pytest.mark.parametrize("axes", [NVIDIA, AMD], ids=["nvidia", "amd"])
def test_a_kernel_stands_for_its_group_sizes_with_one_of_them(axes: Axes) -> None:
    assert COMMON_GROUP_SIZE in axes.GROUP_SIZE_M


def test_the_axes_are_the_keys_of_every_entry() -> None:
    assert tuple(field.name for field in fields(Axes))[:-1] == REQUIRED_KEYS
