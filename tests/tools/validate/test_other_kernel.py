"""A file of another kernel in an engine's folder is one info that names the kernel, and no other finding."""

from __future__ import annotations

import pytest

from tests.builders import NAME, Store
from tools.findings import Severity
from tools.store.workload import Layout
from tools.validate.rules.other_kernel import RULE

FLYDSL = NAME.replace(".json", ",dtype=int4_w4a16,backend=flydsl.json")


@pytest.mark.parametrize(
    ("name", "kernel"),
    [
        ("NVIDIA_H200_SHRINK.json", "vLLM's LoRA kernels"),
        ("headdim=64,dstate=128,device_name=NVIDIA_B200,cache_dtype=float16.json", "vLLM's Mamba kernel"),
        ("N=1024,K=2048,device_name=NVIDIA_B200,dtype=fp8_w8a8.json", "the quantised linear layers' kernel"),
        (FLYDSL, "the backend flydsl"),
    ],
)
@pytest.mark.parametrize("folder", ["", "triton_3_8_0"])
@pytest.mark.parametrize("layout", [Layout.VLLM, Layout.SGLANG])
def test_it_is_one_info_that_names_the_kernel(
    store: Store, layout: Layout, folder: str, name: str, kernel: str
) -> None:
    path = store.file(b'{"1": {"tile_m": 16}}', name, folder=folder)
    (finding,) = store.findings(layout=layout)
    assert (finding.path, finding.rule, finding.severity) == (str(path), RULE.name, Severity.INFO)
    assert finding.message.startswith(f"not checked: a file of {kernel}")


def test_it_takes_no_workloads_place(store: Store) -> None:
    """Its name stands for the same workload as a tuned file's beside it."""
    store.config(name=NAME.replace(".json", ",dtype=int4_w4a16.json"), record=False)
    store.file(b"{}", FLYDSL)
    assert [finding.rule for finding in store.findings(layout=Layout.VLLM)] == [RULE.name]


def test_in_this_store_it_is_foreign(store: Store) -> None:
    store.file(b"{}", FLYDSL)
    (finding,) = store.findings()
    assert (finding.rule, finding.severity) == ("foreign-file", Severity.ERROR)
    assert "found a file of the backend flydsl, another MoE kernel" in finding.message
    assert finding.fix == "remove it: that kernel doesn't look here"
