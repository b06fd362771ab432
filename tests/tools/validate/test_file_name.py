"""Names that some engine asks for; the grammar itself is tested with tools.store.workload."""

from __future__ import annotations

import os

import pytest

from tests.builders import NAME, Store
from tools.store.workload import Layout
from tools.validate.rules.file_name import RULE


@pytest.mark.parametrize(
    ("suffix", "layouts"),
    [
        ("", {Layout.REPO, Layout.VLLM, Layout.SGLANG}),
        (",dtype=fp8_w8a8", {Layout.REPO, Layout.VLLM, Layout.SGLANG}),
        (",dtype=fp8_w8a16", {Layout.REPO, Layout.VLLM}),
        (",dtype=int8_w8a8", {Layout.REPO, Layout.SGLANG}),
        (",dtype=fp8_w8a8,block_shape=[128,128]", {Layout.REPO, Layout.VLLM}),
        (",dtype=fp8_w8a8,block_shape=[128, 128]", {Layout.SGLANG}),
        (",dtype=int8_w8a8,per_channel_quant=True", {Layout.REPO, Layout.SGLANG}),
        ("_down", {Layout.REPO, Layout.SGLANG}),
        (",dtype=bf16", set()),
        (",dtype=float8", set()),
        (",block_shape=[128,128]", set()),
        (",dtype=fp8_w8a8,per_channel_quant=False", set()),
    ],
)
@pytest.mark.parametrize("layout", list(Layout))
def test_a_name_is_alive_where_an_engine_of_the_layout_asks_for_it(
    store: Store, suffix: str, layouts: set[Layout], layout: Layout
) -> None:
    folder = "triton_3_8_0" if layout is Layout.SGLANG else ""
    store.config(name=NAME.replace(".json", f"{suffix}.json"), folder=folder, record=False)
    assert (store.findings(RULE, layout=layout) == []) == (layout in layouts)


@pytest.mark.parametrize(
    "name",
    [
        "config.json",
        "E=8,N=1024.json",
        "E=8,N=1024,device_name=..,.json",
        "E=8,N=1024,device_name=..%2F..%2Fetc.json",
        "E=8\n,N=1024,device_name=NVIDIA_H200.json",
        "E=8,N=1024,device_name=NVIDIA_H200\n.json",
        f"E={'9' * 200},N=1024,device_name=NVIDIA_H200.json",
        "E=08,N=1024,device_name=NVIDIA_H200.json",
        "E=-8,N=1024,device_name=NVIDIA_H200.json",
        "E=8,N=1e3,device_name=NVIDIA_H200.json",
        "E=٨,N=1024,device_name=NVIDIA_H200.json",
        "E=8,N=1024,device_name=NVIDIA_H200\u202e.json",
        os.fsdecode(b"E=8,N=1024,device_name=NVIDIA_\xff\xfe.json"),
    ],
)
def test_odd_names_are_a_finding_on_one_printable_line(store: Store, name: str) -> None:
    store.config(name=name, record=False)
    findings = store.findings(RULE)
    assert findings
    assert all((f.path + f.message + f.fix).isprintable() for f in findings)


def test_every_fault_of_a_name_is_reported(store: Store) -> None:
    store.config(name="E=0,N=x,device_name=NVIDIA_H200,dtype=fp8_w8a8,block_shape=[1].json", record=False)
    assert len(store.findings(RULE)) == 3
