"""What may be meant by a name that isn't known."""

from __future__ import annotations

import pytest

from fused_moe_configs.spelling import did_you_mean, like, question
from tests.loader.conftest import H100

NAMES = [H100, "NVIDIA_H20", "NVIDIA_H200", "NVIDIA_H100_PCIe", "NVIDIA_GH200_480GB", "AMD_Instinct_MI300X"]


@pytest.mark.parametrize(
    ("asked", "names"),
    [
        ("H100", [H100, "NVIDIA_H100_PCIe"]),
        ("h20", ["NVIDIA_H20", "NVIDIA_H200", "NVIDIA_GH200_480GB"]),  # the whole word before parts of one
        ("H200", ["NVIDIA_H200", "NVIDIA_GH200_480GB"]),
        ("nvidia h100 80gb hbm3", [H100]),
        ("MI300X", ["AMD_Instinct_MI300X"]),
        ("AMD Instinct MI300X OAM", ["AMD_Instinct_MI300X"]),  # holds a name
        ("NVIDIA_H010_80GB_HBM3", [H100]),  # mistyped
        ("Apple", []), ("", []), ("_", []), ("q", []),
    ],
)  # fmt: skip
def test_names_that_may_be_meant_likeliest_first(asked, names):
    assert like(asked, NAMES)[: len(names) or None] == names


def test_at_most_three_are_named():
    assert len(like("NVIDIA", NAMES)) == 3


def test_the_question_reads_as_one():
    assert question(["A"]) == "did you mean A?"
    assert question(["A", "B", "C"]) == "did you mean A, B or C?"
    assert did_you_mean("h20", NAMES[:2]) == "Did you mean NVIDIA_H20? "
    assert did_you_mean("Apple", NAMES) == ""
