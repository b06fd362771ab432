"""Reading back what a file's name says."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fused_moe_configs import get_config_file_name
from fused_moe_configs.index import IndexedShape
from fused_moe_configs.lookup import DTYPES
from fused_moe_configs.naming import ENGINES, ParsedFileName, by_number, parse, shape_text, spelled
from tests.loader.conftest import H100
from tools.checkout import CONFIGS
from tools.registry.sharding import Engine
from tools.store.workload import Layout, Shape, parse_file_name

SIZES = st.integers(1, 10**9 - 1)
WORKLOADS = st.builds(
    ParsedFileName, SIZES, SIZES, st.sampled_from([H100, "NVIDIA_A100-SXM4-80GB", "Intel(R)_Arc(TM)_Pro_B60", "D.E"]),
    st.sampled_from([None, *DTYPES]), st.none() | st.tuples(SIZES, SIZES), st.booleans(), st.booleans(),
)  # fmt: skip


@given(WORKLOADS)
def test_it_is_the_inverse_of_the_names_own_function(workload):
    assert parse(workload.file_name) == workload


def test_it_reads_every_file_of_this_repository_as_the_tools_do():
    names = [path.name for pattern in ("E=*.json", "*_*/E=*.json") for path in CONFIGS.glob(pattern)]
    assert names
    for name in names:
        workload = parse_file_name(name).workload
        parsed = parse(name)
        assert parsed._asdict() == {key: vars(workload)[key] for key in parsed._fields}


@pytest.mark.parametrize(
    ("dtype", "block_shape", "N"), [("fp8_w8a8", (128, 128), 768), ("int4_w4a16", None, 384), (None, None, 768)]
)
def test_sglangs_spelling_is_read_as_the_tools_read_it(dtype, block_shape, N):
    spelled = f"E=8,N={N},device_name={H100}" + (f",dtype={dtype}" if dtype else "")
    spelled += f",block_shape=[{block_shape[0]}, {block_shape[1]}]" if block_shape else ""
    parsed = parse(f"{spelled}.json", "sglang")
    assert parsed.N == 768
    assert parsed.file_name == parse_file_name(f"{spelled}.json", Layout.SGLANG).workload.file_name(Layout.REPO)


@pytest.mark.parametrize(
    ("arguments", "options", "quantisation"),
    [
        ((8, 1, "D"), {}, ""),
        ((8, 1, "D", "fp8_w8a8", (64, 64)), {}, "dtype=fp8_w8a8,block_shape=[64,64]"),
        ((8, 1, "D", "int8_w8a8"), {"per_channel_quant": True, "down": True}, "dtype=int8_w8a8,per_channel_quant=True"),
    ],
)
def test_what_stands_behind_the_device_is_said_alone(arguments, options, quantisation):
    assert parse(get_config_file_name(*arguments, **options)).quantisation == quantisation


@pytest.mark.parametrize(
    "name",
    ["", "E=8.json", "E=0,N=1,device_name=D.json", "E=8,N=1,device_name=.json", "E=8,N=1,device_name=D.txt",
     "E=8,N=1,device_name=D,dtype=float8.json", "E=8,N=1,device_name=D,dtype=int4_w4a16,backend=flydsl.json",
     "E=8,N=1,device_name=\udcff.json", "E=٨,N=1,device_name=D.json", "N=1,K=2,device_name=D.json",
     "E=9999999999,N=1,device_name=D.json", "E=8,N=1,device_name=../D.json"],
)  # fmt: skip
def test_what_names_no_tuned_file_is_none(name):
    assert parse(name) is None


@given(WORKLOADS)
def test_an_engines_spelling_is_read_back(workload):
    even = workload._replace(N=2 * (workload.N // 2) or 2)
    assert parse(spelled(even.file_name, "sglang"), "sglang") == even
    assert spelled(workload.file_name, "vllm") == workload.file_name


def test_sglang_writes_half_of_int4s_n_and_a_space():
    name = f"E=8,N=14,device_name={H100},dtype={{}}.json"
    assert spelled(name.format("int4_w4a16"), "sglang") == f"E=8,N=7,device_name={H100},dtype=int4_w4a16.json"
    blocks = name.format("fp8_w8a8,block_shape=[128,64]")
    assert spelled(blocks, "sglang") == blocks.replace("[128,64]", "[128, 64]")
    with pytest.raises(ValueError, match="half of int4's N, found the odd 7"):
        spelled(f"E=8,N=7,device_name={H100},dtype=int4_w4a16.json", "sglang")


def test_the_engines_are_those_of_the_tools():
    assert list(ENGINES) == list(Engine)


def test_numbers_in_names_are_in_order_as_numbers():
    ordered = ["E=8,N=1792", "E=8,N=14336", "E=16,N=1", "triton_3_6_0", "triton_3_10_0"]
    assert sorted(ordered, key=by_number) == ordered


@pytest.mark.parametrize(
    ("sizes", "text"),
    [
        ((4096, 2, 1, 0), "K=4096, top_k=2"),
        ((7168, 8, 16, 0), "K=7168, top_k=8, ep=16"),
        ((7168, 9, 8, 1), "K=7168, top_k=9, 1 of them shared, ep=8"),
    ],
)
def test_what_the_name_does_not_say_reads_alike_in_the_loader_and_the_tools(sizes, text):
    shape = {"K": sizes[0], "top_k": sizes[1], "ep": sizes[2], "fused_shared_experts": sizes[3], "models": []}
    assert shape_text(*sizes) == str(Shape(*sizes)) == str(IndexedShape.of(shape, {})) == text
