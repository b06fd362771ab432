"""get_config_file_name: one workload, one name, never a path."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fused_moe_configs import get_config_file_name
from tools.registry.devices import normalise_device_name


@pytest.mark.parametrize(
    ("arguments", "options", "name"),
    [
        ((8, 3584, "NVIDIA A100-SXM4-80GB"), {}, "E=8,N=3584,device_name=NVIDIA_A100-SXM4-80GB.json"),
        ((8, 1, " AMD  Instinct / MI300X\n"), {}, "E=8,N=1,device_name=AMD_Instinct___MI300X.json"),
        ((8, 1, "NVIDIA_H200_NVL"), {}, "E=8,N=1,device_name=NVIDIA_H200_NVL.json"),
        ((8, 1, "D", "fp8_w8a8", [128, 128]), {}, "E=8,N=1,device_name=D,dtype=fp8_w8a8,block_shape=[128,128].json"),
        ((8, 1, "D", "fp8_w8a8", (0, 128)), {}, "E=8,N=1,device_name=D,dtype=fp8_w8a8.json"),
        (
            (8, 1, "D", "int8_w8a8", (64, 32)),
            {"per_channel_quant": True, "down": True},
            "E=8,N=1,device_name=D,dtype=int8_w8a8,block_shape=[64,32],per_channel_quant=True_down.json",
        ),
    ],
)
def test_spells_names_as_vllm_does(arguments, options, name):
    assert get_config_file_name(*arguments, **options) == name


@pytest.mark.parametrize("dtype", [None, "bf16", "bfloat16", "fp16", "float16", "half"])
def test_bf16_and_fp16_have_no_dtype_part(dtype):
    assert get_config_file_name(8, 1, "D", dtype) == "E=8,N=1,device_name=D.json"


@pytest.mark.parametrize("dtype", ["float8", "fp8", "", "FP8_W8A8", 8, "fp8_w8a8,x=1"])
def test_a_dtype_that_no_engine_asks_for_names_those_that_one_does(dtype):
    with pytest.raises(ValueError, match=r"dtype: expected one of fp8_w8a8.*float32.*found"):
        get_config_file_name(8, 1, "D", dtype)


@pytest.mark.parametrize("value", [0, -1, 2**31, pytest.param(10**5000, id="huge"), True, 8.0, "8", None])
@pytest.mark.parametrize("which", ["E", "N"])
def test_sizes_are_positive_integers(which, value):
    with pytest.raises(ValueError, match=f"{which}: expected an integer from 1 .*found"):
        get_config_file_name(**{"E": 8, "N": 1, "device_name": "D"} | {which: value})


@pytest.mark.parametrize(
    "device", ["", " ", "/", "..", "../../etc/passwd", "a\nb", "a\tb", "a\0b", "a\\b", "D,dtype=x", "E=1", None, 3,
               "\ud800", "D_down", ".", "_"],
)  # fmt: skip
def test_a_device_that_no_file_name_can_hold_is_named(device):
    with pytest.raises(ValueError, match=r"device_name: expected .* found") as raised:
        get_config_file_name(8, 1, device)
    assert ascii(device) in str(raised.value)


@given(st.text("aZ9-_ /\u3000\t\n"))
def test_a_device_is_spelt_as_in_the_registry(device):
    try:
        name = get_config_file_name(8, 1, device)
    except ValueError:
        return
    assert name == f"E=8,N=1,device_name={normalise_device_name(device)}.json"


def test_a_name_is_at_most_255_bytes():
    assert len(get_config_file_name(1, 1, "ü" * 114 + "d").encode()) <= 255
    with pytest.raises(ValueError, match="255 bytes"):
        get_config_file_name(1, 1, "ü" * 120)


@pytest.mark.parametrize("block_shape", [128, "12", [128], [1, 2, 3], [-1, 128], [1.5, 2], ["1", "2"], {1, 2}])
def test_a_block_shape_is_two_sizes(block_shape):
    with pytest.raises(ValueError, match=r"block_shape: expected .* found"):
        get_config_file_name(8, 1, "D", "fp8_w8a8", block_shape)


_anything = st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.lists(st.integers(-1, 256))


@given(_anything, _anything, _anything, _anything, _anything, st.booleans(), st.booleans())
def test_anything_gives_a_plain_file_name_or_a_value_error(E, N, device, dtype, block_shape, per_channel, down):
    try:
        name = get_config_file_name(E, N, device, dtype, block_shape, per_channel_quant=per_channel, down=down)
    except ValueError:
        return
    assert "/" not in name
    assert "\\" not in name
    assert len(name.encode()) <= 255


@given(st.integers(1, 2**31 - 1), st.text(min_size=1))
def test_any_device_gives_a_plain_file_name_or_a_value_error(E, device):
    try:
        name = get_config_file_name(E, E, device)
    except ValueError:
        return
    assert re.fullmatch(rf"E={E},N={E},device_name=[^/\\,\x00-\x1f]+\.json", name)
    assert ".." not in name
