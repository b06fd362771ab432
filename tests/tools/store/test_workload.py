"""File names: what they say, how each engine writes them, and every way in which one can be dead."""

from __future__ import annotations

import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fused_moe_configs.lookup import packed_size, unpacked_size
from tools.checkout import CHECKOUT
from tools.store import schemas
from tools.store.workload import (
    BLOCK_QUANTISED,
    LOOKED_UP_DTYPES,
    MAX_DIMENSION,
    Layout,
    Shape,
    Workload,
    is_device_name,
    parse_file_name,
)

H200 = Workload(8, 1024, "NVIDIA_H200")
PLAIN = "E=8,N=1024,device_name=NVIDIA_H200"


@st.composite
def workloads(draw: st.DrawFn, layout: Layout) -> Workload:
    """Workloads that an engine of the layout looks up."""
    dtype = draw(st.none() | st.sampled_from(sorted(LOOKED_UP_DTYPES[layout])))
    blocks = st.tuples(st.integers(1, 999_999), st.integers(1, 999_999)) if dtype in BLOCK_QUANTISED else st.none()
    whole = st.booleans() if dtype in BLOCK_QUANTISED and layout is not Layout.VLLM else st.just(False)
    N = draw(st.integers(1, MAX_DIMENSION))
    if layout is Layout.SGLANG and dtype == "int4_w4a16":
        N = 2 * draw(st.integers(1, MAX_DIMENSION))  # packed: twice what the name says
    return Workload(
        draw(st.integers(1, MAX_DIMENSION)),
        N,
        draw(st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._()+-]{0,30}", fullmatch=True)),
        dtype,
        draw(st.none() | blocks),
        draw(whole),
        draw(st.booleans()) if layout is not Layout.VLLM else False,
    )


class TestRoundTrip:
    @pytest.mark.parametrize("layout", list(Layout))
    @given(data=st.data())
    def test_every_live_workload_comes_back_from_its_name(self, layout: Layout, data: st.DataObject) -> None:
        workload = data.draw(workloads(layout))
        parsed = parse_file_name(workload.file_name(layout), layout)
        assert (parsed.workload, parsed.faults) == (workload, ())

    @given(
        st.text() | st.text("E=N,device_nam8[]. \n_dwojsp0", max_size=60).map(lambda t: f"{PLAIN}{t}.json"),
        st.sampled_from(Layout),
    )
    def test_any_text_is_read_without_a_crash_and_a_faultless_name_is_the_workloads_own(
        self, name: str, layout: Layout
    ) -> None:
        parsed = parse_file_name(name, layout)
        assert parsed.workload is not None or parsed.faults
        if not parsed.faults:
            assert parsed.workload is not None
            assert parsed.workload.file_name(layout) == name


def test_json_says_it_all_as_the_schema_has_it() -> None:
    workload = Workload(8, 1024, "NVIDIA_H200", "fp8_w8a8", (128, 64), down=True)
    document = workload.to_json()
    assert schemas.faults("workload", document) == []
    assert document["block_shape"] == [128, 64]
    assert Workload.read(json.loads(json.dumps(document))) == workload
    assert Workload.read(H200.to_json()) == H200


class TestSpelling:
    @pytest.mark.parametrize(
        ("workload", "vllm", "sglang"),
        [
            (H200, f"{PLAIN}.json", f"{PLAIN}.json"),
            (
                Workload(8, 1024, "NVIDIA_H200", "fp8_w8a8", (128, 64)),
                f"{PLAIN},dtype=fp8_w8a8,block_shape=[128,64].json",
                f"{PLAIN},dtype=fp8_w8a8,block_shape=[128, 64].json",
            ),
            (
                Workload(8, 2048, "NVIDIA_H200", "int4_w4a16"),
                "E=8,N=2048,device_name=NVIDIA_H200,dtype=int4_w4a16.json",
                f"{PLAIN},dtype=int4_w4a16.json",
            ),
        ],
    )
    def test_the_engines_differ_in_a_space_and_in_packed_weights(
        self, workload: Workload, vllm: str, sglang: str
    ) -> None:
        assert workload.file_name(Layout.VLLM) == workload.file_name() == vllm
        assert workload.file_name(Layout.SGLANG) == sglang
        assert parse_file_name(vllm, Layout.VLLM).workload == parse_file_name(sglang, Layout.SGLANG).workload

    def test_every_part_has_its_place(self) -> None:
        workload = Workload(8, 1024, "NVIDIA_H200", "fp8_w8a8", (128, 128), True, True)
        assert workload.file_name(Layout.SGLANG) == (
            f"{PLAIN},dtype=fp8_w8a8,block_shape=[128, 128],per_channel_quant=True_down.json"
        )

    def test_the_wrong_space_is_a_fault_and_the_workload_is_still_known(self) -> None:
        for layout, text in ((Layout.VLLM, "[128, 128]"), (Layout.SGLANG, "[128,128]"), (Layout.REPO, "[128, 128]")):
            parsed = parse_file_name(f"{PLAIN},dtype=fp8_w8a8,block_shape={text}.json", layout)
            assert parsed.workload == Workload(8, 1024, "NVIDIA_H200", "fp8_w8a8", (128, 128))
            (fault,) = parsed.faults
            assert fault.message.startswith("block_shape: ")

    def test_an_empty_device_name_is_read_and_a_fault(self) -> None:
        parsed = parse_file_name("E=8,N=1024,device_name=.json")
        assert parsed.workload == Workload(8, 1024, "")
        assert len(parsed.faults) == 1


class TestFaults:
    @pytest.mark.parametrize(
        "name",
        [
            "",
            ".json",
            "x.json",
            f"{PLAIN}",
            f"{PLAIN}.JSON",
            "N=1024,E=8,device_name=NVIDIA_H200.json",
            "E=8,N=1024.json",
            "E=8,N=1024,device=NVIDIA_H200.json",
            f" {PLAIN}.json",
        ],
    )
    def test_what_has_not_the_three_first_parts_is_no_workload(self, name: str) -> None:
        parsed = parse_file_name(name)
        assert parsed.workload is None
        assert len(parsed.faults) == 1

    @pytest.mark.parametrize(
        "number", ["0", "-1", "+1", "08", "1.0", "1e3", "", " 8", "8 ", "٨", "8\n", str(MAX_DIMENSION + 1), "9" * 5000]
    )
    def test_sizes_are_plain_decimals_that_fit_32_bits(self, number: str) -> None:
        for name in (f"E={number},N=8,device_name=x.json", f"E=8,N={number},device_name=x.json"):
            parsed = parse_file_name(name)
            assert parsed.workload is None
            (fault,) = parsed.faults
            assert f"expected a decimal number from 1 to {MAX_DIMENSION}" in fault.message
            assert len(fault.message) < 200

    @pytest.mark.parametrize("device", ["..", "_x", "a b", "a/b", "a\nb", "größe", "a,b", "a=b", "-a"])
    def test_device_names_are_what_a_file_name_can_carry(self, device: str) -> None:
        assert not is_device_name(device)
        assert (
            "device_name: expected letters" in parse_file_name(f"E=8,N=8,device_name={device}.json").faults[0].message
        )

    @pytest.mark.parametrize("device", ["NVIDIA_H200", "Intel(R)_Arc(TM)_Pro_B60_Graphics", "A", "0", "a.b+c-d"])
    def test_names_that_drivers_report_are_fine(self, device: str) -> None:
        assert is_device_name(device)
        assert parse_file_name(f"E=8,N=8,device_name={device}.json").faults == ()

    @pytest.mark.parametrize(
        ("suffix", "message"),
        [
            (",dtype=bf16", "dtype=bf16: expected a dtype that an engine looks up"),
            (",dtype=float8", "dtype=float8: expected a dtype that an engine looks up"),
            (",dtype=", "dtype=: expected a dtype that an engine looks up"),
            (",dtype=fp8_w8a8,dtype=fp8_w8a8", "dtype: expected once, found 2 times"),
            (",block_shape=[128,128]", "block_shape with dtype absent (bf16, fp16): "),
            (",dtype=int8_w8a16,block_shape=[128,128]", "block_shape with dtype int8_w8a16: "),
            (",dtype=fp8_w8a8,block_shape=[128]", "block_shape: expected [n,k], found '[128]'"),
            (",dtype=fp8_w8a8,block_shape=[0,128]", "block_shape: expected [n,k], found '[0,128]'"),
            (",dtype=fp8_w8a8,block_shape=[128,  128]", "block_shape: expected [n,k]"),
            (",dtype=fp8_w8a8,block_shape=None", "block_shape: expected [n,k], found 'None'"),
            (",per_channel_quant=True", "per_channel_quant with dtype absent (bf16, fp16): "),
            (",dtype=fp8_w8a8,per_channel_quant=False", "per_channel_quant: expected True, found 'False'"),
            (",block_shape=[128,128],dtype=fp8_w8a8", "expected the parts in the order E, N, device_name, dtype"),
            (",backend=cutlass", "backend=: a file of another kernel"),
            (",use_tma=True", "use_tma=: expected E=…"),
        ],
    )
    def test_each_dead_part_is_named(self, suffix: str, message: str) -> None:
        parsed = parse_file_name(f"{PLAIN}{suffix}.json")
        assert len(parsed.faults) == 1
        assert parsed.faults[0].message.startswith(message)
        assert parsed.faults[0].fix

    @pytest.mark.parametrize(
        ("suffix", "layout"),
        [
            (",dtype=int8_w8a8", Layout.VLLM),
            (",dtype=fp8_w8a16", Layout.SGLANG),
            (",dtype=fp8_w8a8,per_channel_quant=True", Layout.VLLM),
            ("_down", Layout.VLLM),
        ],
    )
    def test_a_part_may_be_dead_in_one_engine_alone(self, suffix: str, layout: Layout) -> None:
        assert len(parse_file_name(f"{PLAIN}{suffix}.json", layout).faults) == 1
        assert parse_file_name(f"{PLAIN}{suffix}.json").faults == ()


class TestShape:
    @pytest.mark.parametrize(
        ("shape", "document"),
        [
            (Shape(4096, 2), {"K": 4096, "top_k": 2}),
            (Shape(4096, 10, ep=8), {"K": 4096, "top_k": 10, "ep": 8}),
            (Shape(7168, 9, fused_shared_experts=1), {"K": 7168, "top_k": 9, "fused_shared_experts": 1}),
            (Shape(4096, 11, 8, 1), {"K": 4096, "top_k": 11, "ep": 8, "fused_shared_experts": 1}),
        ],
    )
    def test_the_placement_is_written_where_there_is_one(self, shape: Shape, document: dict[str, int]) -> None:
        assert shape.to_json() == document
        assert Shape.read({**document, "models": []}) == shape

    @pytest.mark.parametrize(
        ("E", "shape", "experts"),
        [
            (8, Shape(4096, 2), 8),
            (64, Shape(4096, 10, ep=8), 512),
            (257, Shape(7168, 9, fused_shared_experts=1), 257),
            (65, Shape(4096, 11, 8, 1), 513),
        ],
    )
    def test_a_layer_has_the_ranks_routed_experts_once_a_rank_and_the_shared_ones_once(
        self, E: int, shape: Shape, experts: int
    ) -> None:
        assert shape.layer_experts(E) == experts
        assert shape.fault(E) == ""

    @pytest.mark.parametrize(
        ("E", "shape", "fault"),
        [
            (8, Shape(1, 9), "top_k: expected at most E=8, the experts of a rank, found 9"),
            (8, Shape(1, 17, ep=2), "top_k: expected at most E=8 on each of 2 ranks, found 17"),
            (1, Shape(1, 2, 4, 1), "expected fewer than E=1 and top_k=2"),
            (8, Shape(1, 1, 1, 1), "expected fewer than E=8 and top_k=1"),
        ],
    )
    def test_what_no_layer_can_be_is_said(self, E: int, shape: Shape, fault: str) -> None:
        assert fault in shape.fault(E)

    def test_people_read_where_it_runs(self) -> None:
        assert [str(Shape(4096, 2)), str(Shape(4096, 11, 8, 1))] == [
            "K=4096, top_k=2",
            "K=4096, top_k=11, 1 of them shared, ep=8",
        ]


def test_int4s_packed_size_is_one_rule() -> None:
    """Halving stands once: everything else asks it."""
    sources = [path for room in ("fused_moe_configs", "tools") for path in (CHECKOUT / room).rglob("*.py")]
    halves = re.compile(r"\bN\)? // 2|\"N\"\] // 2|2 \* \w*N\b.*int4")
    found = {path.name for path in sources for line in path.read_text().splitlines() if halves.search(line)}
    assert found == {"lookup.py"}
    assert (packed_size(256, "int4_w4a16"), unpacked_size(128, "int4_w4a16")) == (128, 256)
    assert (packed_size(256, None), unpacked_size(256, "fp8_w8a8")) == (256, 256)
