"""A small landscape with a known optimum, made from a formula: strategies are judged on it, and on a recorded one."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import pytest

from kernels.launch_config import LaunchConfig
from kernels.problem import QuantMode
from tools.compile.outcome import Status
from tools.registry.devices import Target
from tools.store.record import ShapeOfModels
from tools.store.workload import Shape, Workload
from tools.tune.journal import Journal, JournalEntry, JournalHeader
from tools.tune.protocol import Compiled, CompileJob, Screened, ScreenJob, Subject
from tools.tune.space import Space, candidates
from tools.tune.tuner import baselines

BATCH_SIZES = (1, 4, 16, 64, 256, 1024)


@pytest.fixture
def subject() -> Subject:
    """Mixtral 8x7B TP2 in bf16 on an H100."""
    return Subject(
        Workload(8, 7168, "NVIDIA_H100_80GB_HBM3"),
        (ShapeOfModels(Shape(4096, 2), ("mistralai/Mixtral-8x7B-v0.1 tp=2",)),),
        QuantMode(),
        Target("cuda", 90, 32),
        "sm_90",
        232448,
    )


@pytest.fixture
def space(subject: Subject) -> Space:
    return candidates(subject)


@pytest.fixture
def batch_sizes() -> tuple[int, ...]:
    return BATCH_SIZES


def model_us(num_tokens: int, config: LaunchConfig) -> tuple[float, float]:
    """Up and down. A bowl: the best tile grows with the batch, every step away from it costs."""
    wanted_m = min(128, max(16, num_tokens // 4))
    wanted_n = 64 if num_tokens <= 16 else 128
    steps = (
        abs(math.log2(config.BLOCK_SIZE_M / wanted_m)),
        abs(math.log2(config.BLOCK_SIZE_N / wanted_n)),
        abs(math.log2(config.BLOCK_SIZE_K / 128)),
        abs(config.num_stages - 4) / 3,
        0.5 * (config.num_warps != 4),
        0.1 * abs(math.log2(config.GROUP_SIZE_M / 8)),
    )
    up = (50.0 + num_tokens) * (1.0 + 0.2 * sum(steps))
    return round(up, 4), round(up / 2, 4)


@pytest.fixture
def make_landscape(subject: Subject, space: Space) -> Callable[..., Journal]:
    """The whole space at every batch size, under each shape; `spoil` replaces events."""

    def make(
        batch_sizes: tuple[int, ...] = BATCH_SIZES,
        of: Subject = subject,
        times: Callable[[int, int, LaunchConfig], tuple[float, float]] = lambda m, shape, config: model_us(m, config),
        spoil: Callable[[Screened], Screened] = lambda event: event,
    ) -> Journal:
        entries: list[JournalEntry] = []
        kernels = dict.fromkeys(space.kernels)
        extra = {c for m in batch_sizes for c in baselines(of, m)}
        kernels |= dict.fromkeys(replace(c, GROUP_SIZE_M=1) for c in extra)
        for shape in range(len(of.shapes)):
            for kernel in kernels:
                for is_naive in (False, True):
                    entries.append(JournalEntry(Compiled(CompileJob(kernel, shape, is_naive), Status.OK, 1.0, 2), 0.0))
                for num_tokens in batch_sizes:
                    groups = {*space.group_sizes, *(c.GROUP_SIZE_M for c in extra)}
                    for config in (replace(kernel, GROUP_SIZE_M=group) for group in sorted(groups)):
                        up_us, down_us = times(num_tokens, shape, config)
                        job = ScreenJob(num_tokens, shape, config)
                        entries.append(JournalEntry(spoil(Screened(job, Status.OK, 0.004, up_us, down_us)), 0.0))
        return Journal(JournalHeader(of, {}, {"triton": "3.8.0"}), tuple(entries))

    return make
