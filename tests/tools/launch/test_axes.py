"""The axes of a search."""

from __future__ import annotations

import math
from dataclasses import fields

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


def test_the_axes_are_the_keys_of_every_entry() -> None:
    assert tuple(field.name for field in fields(Axes))[:-1] == REQUIRED_KEYS
