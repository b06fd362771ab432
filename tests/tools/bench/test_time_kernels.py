"""Which launch configs a comparison of kernels leaves out."""

from __future__ import annotations

from kernels.launch_config import LaunchConfig
from tools.bench.comparison import CompiledKernels, NotTimed
from tools.bench.time_kernels import not_timed
from tools.launch.layer_config import LayerConfig

A, B, C = (LaunchConfig(16, 64, 128, 1, 4, stages) for stages in (3, 4, 5))
of = LayerConfig.of
CRASHES, SPILLS = (
    NotTimed("vllm", "crash", "of the compiler"),
    NotTimed("ours", "spills", "1504 bytes of stack a thread"),
)


def test_what_fails_or_spills_at_one_batch_size_is_timed_at_none() -> None:
    compiled = CompiledKernels({}, {1: {of(A): CRASHES}, 256: {}}, {1: {}, 256: {of(B): SPILLS}})
    assert not_timed(compiled) == {A: CRASHES, B: SPILLS}


def test_a_failure_counts_more_than_a_spill() -> None:
    assert not_timed(CompiledKernels({}, {1: {}, 256: {of(C): CRASHES}}, {1: {of(C): SPILLS}, 256: {}})) == {C: CRASHES}
